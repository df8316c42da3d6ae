package agent

import (
	"context"
	"strings"
	"time"

	"github.com/musterhq/muster/membership"
)

// vigil is the leader's open connection to one live member. The kernel closes it the moment the member's
// process dies, and a refused connection afterwards is proof of death: the services of a killed agent leave the
// answers at once. Silence proves nothing and is left to gossip.
type vigil struct {
	id     string
	addr   string
	cancel context.CancelFunc
	dead   bool
}

// verdict is what a vigil found out.
type verdict struct {
	member membership.Member
	from   *vigil
	dead   bool
	silent bool // with dead: not even the machine answers any more
}

// reviveEvery is how often a dead member's port is tried until gossip agrees that it failed, or it is back.
const reviveEvery = 200 * time.Millisecond

// silentProbes without any answer in a row, each of a second, say that the machine of a dead agent is gone too.
const silentProbes = 2

// keepVigil watches a live member, once, and says whether its process is known to be dead.
func (r *reconciler) keepVigil(ctx context.Context, m membership.Member) (dead bool) {
	if m.Name == r.cfg.NodeName {
		return false
	}
	key := strings.ToLower(m.Name)
	if v := r.vigils[key]; v != nil {
		if v.id == m.ID() && v.addr == m.GossipAddr() {
			return v.dead
		}
		v.cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	v := &vigil{id: m.ID(), addr: m.GossipAddr(), cancel: cancel}
	r.vigils[key] = v
	go v.run(ctx, m, func() bool { return r.sentries.dead(m.ID()) }, r.verdicts)
	return false
}

func (r *reconciler) endVigil(name string) {
	key := strings.ToLower(name)
	if v := r.vigils[key]; v != nil {
		v.cancel()
		delete(r.vigils, key)
	}
}

func (r *reconciler) endVigils() {
	for _, v := range r.vigils {
		v.cancel()
	}
}

// judge acts on a verdict, unless the vigil has been replaced meanwhile.
func (r *reconciler) judge(ctx context.Context, v verdict) error {
	if r.vigils[strings.ToLower(v.member.Name)] != v.from {
		return nil
	}
	key := strings.ToLower(v.member.Name)
	v.from.dead = v.dead
	if !v.dead {
		delete(r.proven, key)
		r.nodes.back(v.member.Name)
		return r.registerMember(ctx, v.member)
	}
	if r.away(v.member) && !v.silent {
		r.log.Info("an agent restarts, its node stays as it is", "node", v.member.Name, "grace", r.cfg.RestartGrace)
		return nil
	}
	if v.silent && !r.nodes.back(v.member.Name) {
		return nil // it was marked when it refused
	}
	r.proven[key] = true
	r.log.Warn("the agent of a node has died: its port refuses connections", "node", v.member.Name, "address", v.from.addr)
	r.metrics.IncrCounter([]string{"membership", "dead"}, 1)
	return r.setLiveness(ctx, v.member.Name, false)
}

// run reports death and return of a member until ctx ends. died says whether others here have seen its process die.
func (v *vigil) run(ctx context.Context, m membership.Member, died func() bool, to chan<- verdict) {
	tell := func(dead, silent bool) bool {
		select {
		case to <- verdict{m, v, dead, silent}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	answered := false // the port has been seen open by this vigil, so that refusing proves something
	for {
		found, err := membership.Watch(ctx, v.addr, membership.DefaultGrace)
		if err != nil {
			return
		}
		if found != membership.Dead && !(died() && membership.Refused(ctx, v.addr)) && !(answered && refuses(ctx, v.addr)) {
			pause := time.Second
			if answered || isServer(m) {
				pause = reviveEvery / 2
			}
			if !rest(ctx, pause) {
				return
			}
			continue
		}
		if !tell(true, false) {
			return
		}
		for silent := 0; ; {
			found := membership.Probe(ctx, v.addr)
			if found == membership.Alive {
				break
			}
			// A machine that shuts down refuses while its agent is gone and it is not, and then is silent: that is no restart.
			if silent++; found == membership.Dead {
				silent = 0
			} else if silent == silentProbes && !tell(true, true) {
				return
			}
			if !rest(ctx, reviveEvery) {
				return
			}
		}
		answered = true
		if !tell(false, false) {
			return
		}
	}
}

// refuses says whether a port refuses for as long as a quick restart takes.
func refuses(ctx context.Context, addr string) bool {
	for deadline := time.Now().Add(membership.DefaultGrace); ; {
		if !membership.Refused(ctx, addr) {
			return false
		}
		if time.Now().After(deadline) || !rest(ctx, reviveEvery/4) {
			return ctx.Err() == nil
		}
	}
}

// rest waits for d and says whether ctx still goes on.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
