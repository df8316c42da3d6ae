package api

import "time"

// Shared is what an agent that holds no data must know of a read so that many clients can share one question to the
// servers, and so that its answer can outlive them. The dialect gives it; whoever uses it knows nothing of what is asked.
type Shared struct {
	// Name is what is asked: equal for requests that want the same data, whenever and however fresh they want it.
	Name string
	// Loose says that any server may answer, however old its data; such questions are not shared with strict ones.
	Loose bool
	// Index and Wait make it a blocking query: an answer newer than Index is wanted, within Wait. 0: an answer now.
	Index uint64
	Wait  time.Duration
	// IndexHeader is the header of the answer that says how new it is.
	IndexHeader string
	// Wide says that this index counts all changes there are, and not only those of the answer.
	Wide bool
	// Key is the key of the flat or hierarchical dialect that is read, "" when the read is of something else.
	Key string
	// Keep says that the answer is one of those that are kept for the day when no server can be reached. Reads of keys
	// are kept only where the operator has asked for it.
	Keep bool
	// Ask is the query string of the same question, to be answered when there is something newer than index, within
	// wait; at once with index 0.
	Ask func(index uint64, wait time.Duration) string
	// Watch makes it a question for a stream of events; Ask is then told the first index wanted.
	Watch *SharedWatch
}

// SharedWatch is a Shared that is a stream of events, each a line, in the order of their indexes.
type SharedWatch struct {
	From   uint64 // index of the first event wanted; 0 = what happens from now on
	Stream bool   // all events; else the first one
	// Event reads a line. hidden says that only those see the event who look for it in the past.
	Event func(line []byte) (index uint64, hidden bool)
}

// SharedHeader on a relayed watch says that it is asked for several clients: nothing is to be left out, because what
// each of them sees is decided where they ask.
const SharedHeader = "X-Muster-Shared"
