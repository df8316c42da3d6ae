package api

import (
	"context"
	"errors"
	"io"
	"net/http"
)

// NotLeaderHeader marks an answer by which a server proves that nothing ran because it is not the leader, so
// that a relay may send the same request elsewhere, writes included.
const NotLeaderHeader = "X-Muster-Not-Leader"

// StatusClientGone is recorded for a request whose client went away before the answer; nobody reads it.
const StatusClientGone = 499

// WriteStoreError answers the errors of a Store in the one way that relays understand, and says whether err
// was one of them: ErrNotLeader is 503 with NotLeaderHeader, the others are 500 with their text.
func WriteStoreError(w http.ResponseWriter, err error) bool {
	status, text := http.StatusInternalServerError, ""
	switch {
	case errors.Is(err, ErrNotLeader):
		w.Header()[NotLeaderHeader] = []string{"1"}
		status, text = http.StatusServiceUnavailable, "This server is not the leader"
	case errors.Is(err, ErrNoLeader):
		text = "No cluster leader"
	case errors.Is(err, ErrDiskFull):
		text = "The disk of the leader is full: nothing was written"
	case errors.Is(err, ErrUnknownOutcome):
		text = "Leadership was lost while committing the write: its outcome is unknown"
	case errors.Is(err, context.Canceled):
		status, text = StatusClientGone, "Request was cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		text = "Timed out while waiting for the cluster"
	default:
		return false
	}
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
	return true
}
