package api

import "net/http"

// ResumeHeader on a relayed request says that it continues an answer that another server began: its value is the
// index at which that answer began. What came later is new to the client, not history.
const ResumeHeader = "X-Muster-Resume"

// Resumer is how a request that waits for a change survives the server that holds it: it follows the answer as it
// passes through a relay, and knows how to ask another server for the rest. It belongs to one request and is used
// by one goroutine at a time.
type Resumer interface {
	// Again turns r, a fresh copy of the client's request, into what must be asked now: all of it before Begin, the
	// missing rest after it.
	Again(r *http.Request)
	// Begin is told the header of the answer (status 200) that the client is about to see. False: whatever follows
	// this header cannot be had from another server.
	Begin(h http.Header) bool
	// Take says how many bytes of b, from its start, are whole records: those go to the client next, and the rest
	// is shown again with what follows.
	Take(b []byte) int
	// Done says that nothing is missing.
	Done() bool
	// Index is the newest index in what was taken, 0 when nothing was.
	Index() uint64
}
