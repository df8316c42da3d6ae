package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/serf/serf"
)

// Join contacts the given addresses (host or host:port; the port defaults to the own one) and gives the number of
// those it exchanged state with. It fails only if that is none: with ErrNameConflict, ErrOldAddress, ErrDatacenter
// or ErrCluster when a side refused, and then this agent stays alone and the cluster unchanged. When ctx ends first the attempt
// goes on in the background.
func (p *Pool) Join(ctx context.Context, addrs []string) (n int, err error) {
	if len(addrs) == 0 {
		return 0, errors.New("membership: no address to join")
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := p.join(addrs)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (p *Pool) join(addrs []string) (int, error) {
	p.joinMu.Lock()
	defer p.joinMu.Unlock()
	if p.serf.State() == serf.SerfShutdown {
		return 0, ErrShutdown
	}
	_ = p.guard.takeRefusal()
	n, err := p.serf.Join(addrs, true) // true: user events of before are not for us
	if err == nil {
		return n, nil
	}
	// The library keeps only the text of the reason.
	if refusal := p.guard.takeRefusal(); refusal != nil && n == 0 {
		return 0, fmt.Errorf("membership: join refused: %w", refusal)
	}
	return n, fmt.Errorf("membership: %w", err)
}

// RetryJoin joins until it has found another member, waiting interval between attempts, at most max of them (0 = no
// limit). It returns nil when joined, or when the list names nobody but this agent; at once ErrNameConflict,
// ErrDatacenter, and ErrCluster if the member of the other cluster is there, which no retry can mend; else the last error, or ctx's.
// Others may count a member of a former cluster as alive for some seconds after it died, as when a cluster was recovered.
func (p *Pool) RetryJoin(ctx context.Context, addrs []string, interval time.Duration, max int) error {
	others := slices.DeleteFunc(slices.Clone(addrs), func(a string) bool { return a == p.guard.addr || net.ParseIP(a) != nil && a == p.Local().Addr })
	if len(others) == 0 && len(addrs) > 0 {
		return nil
	}
	for attempt := 1; ; attempt++ {
		_, err := p.Join(ctx, others)
		var cluster *clusterError
		if err == nil && !p.hasCompany() {
			err = errors.New("membership: the addresses to join lead only to this agent itself")
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrNameConflict), errors.Is(err, ErrDatacenter), errors.Is(err, ErrShutdown), len(others) == 0,
			errors.As(err, &cluster) && Probe(ctx, cluster.addr) == Alive:
			return err
		case max > 0 && attempt >= max:
			return fmt.Errorf("%w (after %d attempts)", err, attempt)
		}
		p.log.Warn("join failed, will retry", "attempt", attempt, "in", interval, "error", err)
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hasCompany says whether any other member is known to be alive.
func (p *Pool) hasCompany() bool {
	local := p.guard.name
	return slices.ContainsFunc(p.serf.Members(), func(m serf.Member) bool { return m.Name != local && m.Status == serf.StatusAlive })
}
