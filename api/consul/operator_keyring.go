package consul

import (
	"net/http"
	"strconv"
)

// Keyring are the keys of the gossip. Every agent can ask for a change: gossip carries it to all members.
type Keyring interface {
	Keys() ([]KeyringPool, error)
	InstallKey(key string) error
	UseKey(key string) error
	RemoveKey(key string) error
}

// ErrKeyringEmpty: gossip is not encrypted. Clients look for this text.
var ErrKeyringEmpty = serverError("1 error occurred:\n\t* Keyring is empty (encryption not enabled)\n\n")

// KeyringPool is one gossip pool in operator/keyring. Keys and PrimaryKeys count the members that have a key.
type KeyringPool struct {
	WAN         bool
	Datacenter  string
	Segment     string
	Messages    map[string]string `json:",omitempty"`
	Keys        map[string]int
	PrimaryKeys map[string]int
	NumNodes    int
}

// maxRelayFactor is the largest ?relay-factor.
const maxRelayFactor = 5

// operatorKeyring is /v1/operator/keyring.
func (a *API) operatorKeyring(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	read := r.Method == http.MethodGet
	if err := a.allow(r, "keyring", "", !read); err != nil {
		return err
	}
	if s := p.get("relay-factor"); s != "" {
		if n, err := strconv.ParseUint(s, 10, 8); err != nil {
			return badRequest("Error parsing relay factor: %v", err)
		} else if n > maxRelayFactor {
			return badRequest("relay-factor %d must be in range [0, %d]", n, maxRelayFactor)
		}
	}
	if s, ok := p.lookup("local-only"); ok {
		if !read {
			return badRequest("Error parsing local-only: local-only cannot be used with a write operation")
		}
		if s != "" {
			if _, err := strconv.ParseBool(s); err != nil {
				return badRequest("Error parsing local-only: %v", err)
			}
		}
	}
	if read {
		pools, err := a.cfg.Keyring.Keys()
		if err != nil {
			return err
		}
		return writeJSON(w, r, orEmpty(pools))
	}
	var body struct{ Key string }
	if err := decodeBody(r, &body, true); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodPost:
		err = a.cfg.Keyring.InstallKey(body.Key)
	case http.MethodPut:
		err = a.cfg.Keyring.UseKey(body.Key)
	default:
		err = a.cfg.Keyring.RemoveKey(body.Key)
	}
	if err != nil {
		return err
	}
	writeEmpty(w)
	return nil
}
