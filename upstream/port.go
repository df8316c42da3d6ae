package upstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"golang.org/x/time/rate"

	"github.com/musterhq/muster/catalog"
)

// lookPeriod is how often the instances are looked at without a client asking; the view behind it is local.
const lookPeriod = 250 * time.Millisecond

// port is one listener and its clients.
type port struct {
	o      Options
	log    hclog.Logger
	listen string
	l      net.Listener
	cfg    atomic.Pointer[Config]
	pool   pool
	ctx    context.Context
	cancel context.CancelFunc // ends everything
	links  sync.WaitGroup
	slots  atomic.Int64 // clients, those that wait for an instance included
	quiet  *rate.Limiter

	retired atomic.Int64 // unix nanoseconds since which no new client is taken; 0: it is open
	shut    sync.Once
	stopped chan struct{} // closed when the listener is

	mu    sync.Mutex
	stale bool
	err   error // of the last look, when it found out nothing

	n counts
}

// counts are the counters of a port.
type counts struct {
	total, refused, unserved, retries, in, out atomic.Uint64
}

func newPort(o Options, listen string, l net.Listener) *port {
	p := &port{o: o, log: o.Logger, listen: listen, l: l, quiet: rate.NewLimiter(rate.Every(10*time.Second), 1), stopped: make(chan struct{})}
	p.pool.here = o.Here
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// configure gives the port new settings.
func (p *port) configure(c *Config) {
	if old := p.cfg.Swap(c); old != nil && (old.Service != c.Service || old.Query != c.Query || old.Tag != c.Tag || old.OnlyPassing != c.OnlyPassing) {
		p.pool.forget()
	}
}

// forget makes the next state count although it may be the same one: it may be filtered in another way.
func (p *pool) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version = nil
}

// run takes clients until the port is retired, and returns when the last of them has gone.
func (p *port) run() {
	done := make(chan struct{})
	go func() { defer close(done); p.keep() }()
	for {
		c, err := p.l.Accept()
		if err != nil {
			if p.retired.Load() != 0 {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				break
			}
			p.log.Warn("an upstream cannot take a client", "upstream", p.cfg.Load().Name, "error", err)
			select { // out of file descriptors, most likely
			case <-p.stopped:
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		p.links.Go(func() { p.serve(c) })
	}
	p.links.Wait()
	p.cancel()
	<-done
}

// retire takes no new clients.
func (p *port) retire() {
	p.shut.Do(func() {
		p.retired.Store(time.Now().UnixNano())
		_ = p.l.Close()
		close(p.stopped)
	})
}

// cut ends all connections at once.
func (p *port) cut() {
	p.cancel()
	for _, l := range p.pool.links() {
		l.close()
	}
}

// look brings the pool up to date. An error means that nothing is known; what was known stays.
func (p *port) look(ctx context.Context, c *Config) error {
	known, err := p.o.Find(ctx, c)
	p.mu.Lock()
	p.stale, p.err = known.Stale || err != nil, err
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if p.cfg.Load() == c { // else the new settings have had their own look
		p.pool.update(catalog.Choose(known.Instances, c.Tag, c.OnlyPassing), known.Version, time.Now())
	}
	return nil
}

// keep looks at the instances, ends connections whose time is over and hands on the counters.
func (p *port) keep() {
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	var told State
	for {
		c := p.cfg.Load()
		_ = p.look(p.ctx, c) // State and the next client tell
		now := time.Now()
		if c.Drain >= 0 {
			for _, l := range p.pool.overdue(c.Drain, now) {
				l.close()
			}
			if at := p.retired.Load(); at != 0 && now.Sub(time.Unix(0, at)) >= c.Drain {
				p.cut()
			}
		}
		p.report(c, &told, now)
		select {
		case <-p.ctx.Done():
			p.report(c, &told, time.Now())
			return
		case <-tick.C:
		}
	}
}

// serve connects one client with an instance and stays until both have ended.
func (p *port) serve(client net.Conn) {
	c := p.cfg.Load()
	defer p.slots.Add(-1)
	if p.slots.Add(1) > int64(c.MaxConnections) {
		p.n.refused.Add(1)
		if p.quiet.Allow() {
			p.log.Warn("an upstream has as many clients as it may have", "upstream", c.Name, "max_connections", c.MaxConnections)
		}
		reset(client)
		return
	}
	l := &link{client: client, p: p}
	server, t, err := p.connect(l, c)
	if err != nil {
		p.n.unserved.Add(1)
		if p.quiet.Allow() && p.ctx.Err() == nil {
			p.log.Warn("no instance takes a client of an upstream", "upstream", c.Name, "error", err)
		}
		reset(client)
		return
	}
	defer p.pool.release(t, l)
	p.n.total.Add(1)
	l.relay(server)
}

var errNone = errors.New("no healthy instance is known")

// connect tries instances until one accepts. While nothing is known of the service at all, it waits for one try's time.
func (p *port) connect(l *link, c *Config) (net.Conn, *target, error) {
	var tried []*target
	err := errNone
	began := time.Now()
	for len(tried) < c.Tries && p.ctx.Err() == nil {
		blind := p.look(p.ctx, c)
		t := p.pool.pick(l, tried, time.Now())
		if t == nil {
			if blind == nil || len(tried) > 0 || time.Since(began) > c.ConnectTimeout {
				return nil, nil, errors.Join(err, blind)
			}
			select {
			case <-p.ctx.Done():
			case <-time.After(lookPeriod / 5):
			}
			continue
		}
		if len(tried) > 0 {
			p.n.retries.Add(1)
		}
		var server net.Conn
		if server, err = p.dial(t, c); err == nil {
			return server, t, nil
		}
		p.pool.release(t, l)
		tried = append(tried, t)
	}
	return nil, nil, err
}

func (p *port) dial(t *target, c *Config) (net.Conn, error) {
	begin := time.Now()
	d := net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: keepAlive}
	server, err := d.DialContext(p.ctx, "tcp", t.addr)
	if err != nil {
		if p.ctx.Err() == nil {
			away := p.pool.failed(t, c.EjectMax, time.Now())
			p.log.Info("an instance cannot be connected to", "upstream", c.Name, "node", t.node, "instance", t.id, "address", t.addr, "left_alone", away, "error", err)
		}
		return nil, err
	}
	p.pool.connected(t)
	if p.o.Metrics != nil {
		p.o.Metrics.AddSampleWithLabels([]string{"upstream", "connect"}, float32(time.Since(begin).Microseconds())/1000, labels(c))
	}
	return server, nil
}

func labels(c *Config) []metrics.Label { return []metrics.Label{{Name: "upstream", Value: c.Name}} }

func (p *port) state(now time.Time) State {
	c := p.cfg.Load()
	s := State{
		Name: c.Name, Service: c.Service, Query: c.Query, Tag: c.Tag, Listen: p.listen,
		Total: p.n.total.Load(), Refused: p.n.refused.Load(), Unserved: p.n.unserved.Load(), Retries: p.n.retries.Load(),
		BytesIn: p.n.in.Load(), BytesOut: p.n.out.Load(),
	}
	p.mu.Lock()
	s.Stale = p.stale
	if p.err != nil {
		s.KnownError = p.err.Error()
	}
	p.mu.Unlock()
	p.pool.state(&s, now)
	return s
}

// report hands the differences since the last report to the metrics.
func (p *port) report(c *Config, told *State, now time.Time) {
	m := p.o.Metrics
	if m == nil {
		return
	}
	s := p.state(now)
	for _, one := range []struct {
		name    string
		was, is uint64
	}{
		{"connections", told.Total, s.Total}, {"refused", told.Refused, s.Refused}, {"unserved", told.Unserved, s.Unserved}, {"retries", told.Retries, s.Retries},
		{"ejections", told.Ejections, s.Ejections}, {"bytes_in", told.BytesIn, s.BytesIn}, {"bytes_out", told.BytesOut, s.BytesOut},
	} {
		if one.is != one.was {
			m.IncrCounterWithLabels([]string{"upstream", one.name}, float32(one.is-one.was), labels(c))
		}
	}
	ready := 0
	for _, i := range s.Instances {
		if !i.Draining && i.EjectedUntil == nil {
			ready++
		}
	}
	m.SetGaugeWithLabels([]string{"upstream", "open"}, float32(s.Open), labels(c))
	m.SetGaugeWithLabels([]string{"upstream", "instances"}, float32(ready), labels(c))
	*told = s
}
