package agent

import "context"

// Kill ends the agent as abruptly as one process can end a part of itself: nothing is left, handed over or waited
// for; requests under way are cut. A leader still tries to hand over if its connections work: a test that wants a
// true crash cuts them first, in Options.Dial. It exists for tests of failures; operators have Stop and Leave.
func (a *Agent) Kill() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a.shutdown(ctx)
}

// StateHash is a hash over this server's whole replicated state and the index it belongs to: two servers that have
// applied the same entries must agree on both. ok is false on a proxy. It reads the whole tree: for tests and for operators who
// suspect a difference, not for every minute.
func (a *Agent) StateHash() (index, hash uint64, ok bool) {
	if a.tree == nil {
		return 0, 0, false
	}
	s := a.tree.Snap()
	return s.Index(), s.Hash(), true
}
