package consul

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
)

// resume makes the Resumer of a blocking query; nil for any other request.
func (a *API) resume(r *http.Request) api.Resumer {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "index") && !strings.Contains(r.URL.RawQuery, "%") {
		return nil
	}
	q, err := a.parseRead(r)
	if err != nil || q.MinIndex == 0 {
		return nil
	}
	return &blockingResumer{until: time.Now().Add(q.Wait)}
}

// blockingResumer gives each further server only the time that is left. The answer of a blocking query comes at
// once or not at all, so one that has begun is not continued.
type blockingResumer struct{ until time.Time }

// Again implements api.Resumer. Of several values the first counts. A wait of 0 would mean the default.
func (b *blockingResumer) Again(r *http.Request) {
	left := max(time.Until(b.until).Milliseconds(), 1)
	r.URL.RawQuery = "wait=" + strconv.FormatInt(left, 10) + "ms&" + r.URL.RawQuery
}

// Begin implements api.Resumer.
func (*blockingResumer) Begin(http.Header) bool { return false }

// Take implements api.Resumer.
func (*blockingResumer) Take(b []byte) int { return len(b) }

// Done implements api.Resumer.
func (*blockingResumer) Done() bool { return true }

// Index implements api.Resumer.
func (*blockingResumer) Index() uint64 { return 0 }
