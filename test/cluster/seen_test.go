package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestClientFindsItsOwnWrite writes and reads at once through the same agent, whichever it is: followers and
// proxies included, although a follower learns of a commit only after the leader has answered.
func TestClientFindsItsOwnWrite(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	for _, h := range c.All() {
		key := "/v2/keys/own-" + h.Name
		for i := range 20 {
			want := fmt.Sprint(i)
			put := h.Put(t, key, "value="+want)
			get := h.Do(http.MethodGet, key, "")
			var got struct{ Node struct{ Value string } }
			if err := json.Unmarshal([]byte(get.Body), &got); err != nil || got.Node.Value != want {
				t.Fatalf("%s wrote %s and read at once: status %d: %s", h.Name, want, get.Status, get.Body)
			}
			// The cluster itself may have written in between.
			p, errP := strconv.ParseUint(put.Header.Get("X-Etcd-Index"), 10, 64)
			g, errG := strconv.ParseUint(get.Header.Get("X-Etcd-Index"), 10, 64)
			if errP != nil || errG != nil || g < p {
				t.Fatalf("%s: the write was at index %d, the read after it at %d (%v, %v)", h.Name, p, g, errP, errG)
			}
		}
	}
}
