package dnsserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/musterhq/muster/catalog"
)

// savedFormat is the number of the format that Save writes. Another one is refused by Load.
const savedFormat = 1

// saved is what was known about one name, as JSON on a line of its own.
type saved struct {
	Key       string
	Instances []*catalog.Instance `json:",omitempty"`
	Node      *catalog.Node       `json:",omitempty"`
	Query     *QueryAnswer        `json:",omitempty"`
	Index     uint64              `json:",omitempty"`
}

type savedHeader struct{ Format int }

// Save writes what is known about names that exist, for Load after a restart.
func (f *FollowSource) Save(w io.Writer) error {
	f.mu.RLock()
	list := make([]saved, 0, len(f.items))
	for key, it := range f.items {
		v := it.now.Load()
		switch {
		case v == nil || v.missing || v.names != nil:
		case v.query != nil:
			list = append(list, saved{Key: key, Query: v.query})
		case v.answer != nil:
			list = append(list, saved{Key: key, Instances: v.answer.Instances, Index: v.answer.Index})
		case v.node != nil:
			list = append(list, saved{Key: key, Node: v.node})
		}
	}
	f.mu.RUnlock()
	enc := json.NewEncoder(w)
	if err := enc.Encode(savedHeader{savedFormat}); err != nil {
		return fmt.Errorf("dns: save names: %w", err)
	}
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			return fmt.Errorf("dns: save names: %w", err)
		}
	}
	return nil
}

// Load takes over what Save wrote, marked stale, for names about which nothing is known yet. Names are only followed
// once they are asked for. On an error the names read before it are kept.
func (f *FollowSource) Load(r io.Reader) error {
	dec := json.NewDecoder(r)
	var h savedHeader
	if err := dec.Decode(&h); err != nil {
		return fmt.Errorf("dns: load names: %w", err)
	}
	if h.Format != savedFormat {
		return fmt.Errorf("dns: load names: format %d, this program reads %d", h.Format, savedFormat)
	}
	for n := 1; ; n++ {
		var s saved
		err := dec.Decode(&s)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dns: load names: record %d: %w", n, err)
		}
		it, v, err := s.restore()
		if err != nil {
			return fmt.Errorf("dns: load names: record %d: %w", n, err)
		}
		f.add(it).now.CompareAndSwap(nil, &v)
	}
}

// restore checks a record and makes the item and its value of it.
func (s *saved) restore() (*item, value, error) {
	v := value{stale: true}
	it := newItem(s.Key)
	switch {
	case it == nil || !it.follow && !strings.HasPrefix(s.Key, followQuery) || strings.HasPrefix(s.Key, followDirectory):
		return nil, v, fmt.Errorf("key %q is of no known kind", s.Key)
	case strings.HasPrefix(s.Key, followNode):
		if v.node = s.Node; v.node == nil {
			return nil, v, fmt.Errorf("key %q without a node", s.Key)
		}
		return it, v, nil
	}
	if strings.HasPrefix(s.Key, followQuery) {
		if v.query = s.Query; v.query == nil {
			return nil, v, fmt.Errorf("key %q without what the query found", s.Key)
		}
		s.Instances = v.query.Instances
	}
	for _, in := range s.Instances {
		if in == nil || in.Node == nil || in.Service == nil {
			return nil, v, fmt.Errorf("key %q with an incomplete instance", s.Key)
		}
	}
	if v.query != nil {
		return it, v, nil
	}
	v.answer = &Answer{Instances: s.Instances, Index: s.Index, Stale: true}
	return it, v, nil
}
