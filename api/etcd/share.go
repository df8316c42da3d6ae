package etcd

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
)

// shareKeys says how a plain read of keys is kept, and a watch shared. False: it must be confirmed by a quorum, or is
// refused.
func shareKeys(r *http.Request) (api.Shared, bool) {
	if r.Method != http.MethodGet || unclean(r.URL.Path) {
		return api.Shared{}, false
	}
	var f form
	var p params
	if f.parse(r.URL.RawQuery) != nil {
		return api.Shared{}, false
	}
	if _, ok := f.check(r.Method, &p); !ok || p.quorum {
		return api.Shared{}, false
	}
	name := strings.TrimSuffix(r.URL.EscapedPath(), "/")
	if p.recursive {
		name += "?recursive" // nothing else chooses what is read: answers are always sorted
	}
	if p.wait {
		return shareWatch(r, name, &p), true
	}
	raw := r.URL.RawQuery
	// A prefix that ends in a slash means the directory as well, which is what is listed here.
	key := strings.Trim(strings.TrimPrefix(r.URL.Path, keysPrefix), "/") + "/"
	return api.Shared{
		Name: name, Loose: true, Key: key, IndexHeader: "X-Etcd-Index", Wide: true,
		Ask: func(uint64, time.Duration) string { return raw },
	}, true
}

// shareWatch shares all watches of one key, or of all that is below it. Streamed, hidden events and all, they are asked
// of a server once; what each client sees of them is decided where it asks.
func shareWatch(r *http.Request, name string, p *params) api.Shared {
	query := "wait=true&stream=true"
	if p.recursive {
		query += "&recursive=true"
	}
	key := strings.TrimSuffix(r.URL.Path[len(keysPrefix):], "/")
	return api.Shared{
		Name: "watch " + name, Loose: true, IndexHeader: "X-Etcd-Index", Wide: true,
		Ask: func(from uint64, _ time.Duration) string {
			if from == 0 {
				return query
			}
			return query + "&waitIndex=" + strconv.FormatUint(from, 10)
		},
		Watch: &api.SharedWatch{From: p.waitIndex, Stream: p.stream, Event: func(line []byte) (uint64, bool) {
			var ev struct {
				Node struct {
					Key           string `json:"key"`
					ModifiedIndex uint64 `json:"modifiedIndex"`
				} `json:"node"`
			}
			if json.Unmarshal(line, &ev) != nil {
				return 0, false
			}
			return ev.Node.ModifiedIndex, hiddenBelow(key, ev.Node.Key)
		}},
	}
}
