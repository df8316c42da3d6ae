package dnsserver

import (
	"context"
	"encoding/json"
	"strings"

	"golang.org/x/time/rate"
)

// Names that are not being followed may each cost the cluster a question, but only so many: newNames a second, after
// a first burst. Beyond that somebody makes names up, and they are looked for in the list of all names, which is
// followed like a name while that lasts. So a storm of unknown names stays on this machine.
const (
	newNames      = 10
	newNamesBurst = 100
)

// Keys of the lists of all names.
const (
	followDirectory = "d/"
	allServices     = followDirectory + "services"
	allNodes        = followDirectory + "nodes"
)

func newNewcomers() *rate.Limiter { return rate.NewLimiter(newNames, newNamesBurst) }

// directoryOf is the list that the name of key would stand in, "" for kinds of which there is none.
func directoryOf(key string) (list, name string) {
	switch kind, name := key[:min(2, len(key))], key[min(2, len(key)):]; kind {
	case followService:
		return allServices, name
	case followNode:
		return allNodes, name
	}
	return "", ""
}

// stranger answers for a name that is not followed and must not be asked about, because too many such are asked for.
// Without an answer and an error the name exists, or may be asked about.
func (f *FollowSource) stranger(ctx context.Context, key string) (*value, error) {
	list, name := directoryOf(key)
	switch {
	case list == "" && !strings.HasPrefix(key, followQuery), f.newcomers.Allow():
		return nil, nil
	case list == "":
		return nil, ErrUnreachable // of queries there is no list, and templates have no end of names
	}
	all, err := f.get(ctx, list)
	switch {
	case err != nil:
		return nil, err
	case all.names[name]:
		return nil, nil
	case all.stale:
		return nil, ErrUnreachable // it may have come since
	}
	return &value{answer: all.answer, missing: true}, nil
}

// decodeServiceNames reads the answer of /v1/catalog/services.
func decodeServiceNames(body []byte, index uint64) (value, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return value{}, err
	}
	v := value{answer: &Answer{Index: index}, names: make(map[string]bool, len(all))}
	for name := range all {
		v.names[strings.ToLower(name)] = true
	}
	return v, nil
}

// decodeNodeNames reads the answer of /v1/catalog/nodes.
func decodeNodeNames(body []byte, index uint64) (value, error) {
	var all []struct{ Node string }
	if err := json.Unmarshal(body, &all); err != nil {
		return value{}, err
	}
	v := value{answer: &Answer{Index: index}, names: make(map[string]bool, len(all))}
	for _, n := range all {
		v.names[strings.ToLower(n.Node)] = true
	}
	return v, nil
}
