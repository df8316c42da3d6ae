package dnsserver

import (
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
)

// judged is what the cluster said of a service whose answer the guard has a say in.
type judged struct {
	path  string
	raw   *Answer
	turn  uint64 // the place of raw among all states given to the guard
	epoch uint64 // of the guard when the answer was made
}

// guards says whether the guard has a say in an item's answers.
func (f *FollowSource) guards(it *item) bool {
	return f.cfg.Guard != nil && strings.HasPrefix(it.key, followService)
}

// judge gives a new state of a service to the guard and returns the value to show. What was remembered over a restart is one, too: it
// counts as seen, and what was held before is held again.
func (f *FollowSource) judge(it *item, v *value) *value {
	if !f.guards(it) || v.answer == nil {
		return v
	}
	out := *v
	out.judged = &judged{path: catalog.InstancesPath(it.key[len(followService):]), raw: v.answer, turn: f.judged.Add(1)}
	return f.shown(&out)
}

// shown is v with the answer that the guard wants shown now.
func (f *FollowSource) shown(v *value) *value {
	j := *v.judged
	j.epoch = f.cfg.Guard.Epoch()
	held := f.cfg.Guard.Judge(j.path, j.turn, j.raw.Instances)
	a := *j.raw
	a.Instances, a.Stale = held.Instances, v.stale
	out := *v
	out.answer, out.judged = &a, &j
	return &out
}

// current is what is known as the guard wants it shown: a hold may have ended since it was made.
func (f *FollowSource) current(it *item, v *value) *value {
	if v.judged == nil || v.judged.epoch == f.cfg.Guard.Epoch() {
		return v
	}
	now := f.shown(v)
	it.now.CompareAndSwap(v, now)
	return now
}

// word is closed when somebody says that what is doubted is true, nil where nothing is. Take it before the doubt, or
// the word between is missed.
func (f *FollowSource) word(it *item) <-chan struct{} {
	if !f.guards(it) {
		return nil
	}
	return f.cfg.Guard.Changed()
}

// doubtful says whether an answer is older than what is known: the server that gave it has lost its data, or reads its
// log. Only after the time for doubt it is believed.
func (f *FollowSource) doubtful(it *item, v *value, index uint64) bool {
	known := it.now.Load()
	if !f.guards(it) || v.answer == nil || known == nil || known.answer == nil || len(known.answer.Instances) == 0 || index >= known.answer.Index {
		it.doubted = time.Time{}
		return false
	}
	if it.doubted.IsZero() {
		it.doubted = time.Now()
		f.log.Warn("a server knows less of a service than was known already, keeping that", "service", it.key[len(followService):],
			"index", index, "known", known.answer.Index, "instances", len(v.answer.Instances), "kept", len(known.answer.Instances))
	}
	if time.Since(it.doubted) < f.cfg.Doubt && !f.cfg.Guard.ReleasedSince(time.Now().Add(-f.cfg.Doubt)) {
		return true
	}
	it.doubted = time.Time{}
	return false
}
