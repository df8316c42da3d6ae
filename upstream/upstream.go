// Package upstream gives the programs of a machine a local port for a service that runs elsewhere: it listens, connects
// each client to a healthy instance and carries bytes, so that a program finds its peer without DNS, library or side process.
//
//	u := upstream.New(upstream.Options{Find: find})
//	err := u.Set([]upstream.Config{{Service: "db", Listen: "127.0.0.1:5432"}})
//	psql -h 127.0.0.1
package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/catalog"
)

// Config is one local port. Listen and one of Service and Query are needed.
type Config struct {
	Name        string // in logs, metrics and lists; default Service or Query
	Service     string
	Query       string // a prepared query, by name or id, instead of a service
	Tag         string // only instances with this tag
	OnlyPassing bool   // leave out instances in warning
	Listen      string // "127.0.0.1:5432" or "unix:///run/db.sock"

	ConnectTimeout time.Duration // for one instance to accept; default 2 s
	Tries          int           // different instances tried for a client, default 3
	MaxConnections int           // clients at a time, default 4096; more are cut off at once
	// Drain is how long a connection may stay with an instance that is not healthy any more, or with a port that was taken out
	// of the configuration; default 30 s, negative: until either side ends it.
	Drain time.Duration
	// IdleTimeout cuts a connection that carried nothing in either direction for so long; default 0: never.
	IdleTimeout time.Duration
	EjectMax    time.Duration // longest time an instance is left alone after failures to connect, default 30 s
}

func (c *Config) setDefaults() {
	if c.Name == "" {
		if c.Name = c.Service; c.Name == "" {
			c.Name = c.Query
		}
	}
	for d, def := range map[*time.Duration]time.Duration{&c.ConnectTimeout: 2 * time.Second, &c.Drain: 30 * time.Second, &c.EjectMax: 30 * time.Second} {
		if *d == 0 {
			*d = def
		}
	}
	if c.Tries <= 0 {
		c.Tries = 3
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 4096
	}
}

// Known is what is known of a service, or found by a query. Version is equal for equal states, nil when that is not known.
type Known struct {
	Instances []*catalog.Instance // in whatever health
	Version   any
	Stale     bool // nobody confirms it: it is what was known last
}

// Find tells the instances for a Config. It must be quick when it has been asked before; an error means that nothing is known
// at all.
type Find func(ctx context.Context, c *Config) (Known, error)

// Options of an Upstreams; Find is needed.
type Options struct {
	Find    Find
	Here    catalog.Place // where this machine stands: near instances come first
	Logger  hclog.Logger
	Metrics *metrics.Metrics
}

// Upstreams are the ports of a machine. Its methods are safe for concurrent use.
type Upstreams struct {
	o        Options
	changing sync.Mutex // held from a Prepare to the end of its Change

	mu     sync.Mutex
	ports  []*port            // of the configuration
	live   map[*port]struct{} // these, and those taken out that still have clients
	closed bool
	runs   sync.WaitGroup
}

// New makes an Upstreams without ports. Close it.
func New(o Options) *Upstreams {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &Upstreams{o: o, live: make(map[*port]struct{})}
}

// ErrClosed says that Close came first.
var ErrClosed = errors.New("upstreams are closed")

// Set opens the ports of a configuration, closes those that are not in it, and gives the others, known by what they listen on,
// their new settings without disturbing anybody. An error changes nothing.
func (u *Upstreams) Set(list []Config) error {
	c, err := u.Prepare(list)
	if err != nil {
		return err
	}
	c.Commit()
	return nil
}

// Change is a configuration whose new ports are open and take no client yet. Either Commit or Abort has to follow; whatever
// comes second does nothing.
type Change struct {
	u        *Upstreams
	all      []*port // of the configuration
	fresh    []*port // of these, the new ones
	gone     []*port
	settings []Config // of all
	once     sync.Once
}

// Prepare does all of Set that can fail, and nothing that anybody notices. One Change is under way at a time: the next Prepare
// waits for its end.
func (u *Upstreams) Prepare(list []Config) (*Change, error) {
	u.changing.Lock()
	c := &Change{u: u, settings: make([]Config, 0, len(list))}
	if err := c.open(list); err != nil {
		c.Abort()
		return nil, err
	}
	return c, nil
}

func (c *Change) open(list []Config) error {
	u := c.u
	u.mu.Lock()
	ports, closed := u.ports, u.closed
	u.mu.Unlock()
	if closed {
		return ErrClosed
	}
	old := make(map[string]*port, len(ports))
	for _, p := range ports {
		old[p.listen] = p
	}
	for _, cfg := range list {
		cfg.setDefaults()
		p := old[cfg.Listen]
		if delete(old, cfg.Listen); p == nil {
			l, err := open(cfg.Listen)
			if err != nil {
				return fmt.Errorf("upstream %q: %w", cfg.Name, err)
			}
			p = newPort(u.o, cfg.Listen, l)
			c.fresh = append(c.fresh, p)
		}
		c.all, c.settings = append(c.all, p), append(c.settings, cfg)
	}
	c.gone = slices.Collect(maps.Values(old))
	return nil
}

// Commit puts the configuration to use. It cannot fail; after Close it does nothing.
func (c *Change) Commit() {
	c.once.Do(func() {
		u := c.u
		defer u.changing.Unlock()
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.closed {
			c.drop()
			return
		}
		for i, p := range c.all {
			p.configure(&c.settings[i])
		}
		for _, p := range c.fresh {
			u.live[p] = struct{}{}
			u.runs.Go(func() {
				p.run()
				u.mu.Lock()
				delete(u.live, p)
				u.mu.Unlock()
			})
		}
		for _, p := range c.gone {
			p.retire()
		}
		u.ports = c.all
	})
}

// Abort closes what Prepare opened.
func (c *Change) Abort() {
	c.once.Do(func() {
		c.drop()
		c.u.changing.Unlock()
	})
}

func (c *Change) drop() {
	for _, p := range c.fresh {
		p.cancel()
		_ = p.l.Close()
	}
}

// open listens at a host and port, or at "unix:///path". What a dead process left of a socket is taken away.
func open(listen string) (net.Listener, error) {
	path, ok := strings.CutPrefix(listen, "unix://")
	if !ok {
		return net.Listen("tcp", listen)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("somebody listens at %s already", path)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path)
}

// Close takes no more clients, waits until those there are have gone or ctx ends, and cuts the rest.
func (u *Upstreams) Close(ctx context.Context) error {
	u.mu.Lock()
	u.closed = true
	u.ports = nil
	live := slices.Collect(maps.Keys(u.live))
	u.mu.Unlock()
	for _, p := range live {
		p.retire()
	}
	done := make(chan struct{})
	go func() { u.runs.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		for _, p := range live {
			p.cut()
		}
		<-done
	}
	return nil
}

// State tells how each port and its instances are, in the order of the configuration.
func (u *Upstreams) State() []State {
	u.mu.Lock()
	ports := u.ports
	u.mu.Unlock()
	out := make([]State, 0, len(ports))
	for _, p := range ports {
		out = append(out, p.state(time.Now()))
	}
	return out
}

// State of one port. Counters begin with the process.
type State struct {
	Name, Service, Query, Tag, Listen string

	Open       int    // clients now
	Total      uint64 // clients that were connected to an instance
	Refused    uint64 // clients over MaxConnections
	Unserved   uint64 // clients that no instance took
	Retries    uint64 // further instances tried for a client
	Ejections  uint64
	BytesIn    uint64 // from instances to clients
	BytesOut   uint64 // from clients to instances
	Stale      bool   // the servers cannot be reached: these are the instances known last
	KnownError string `json:",omitempty"` // why nothing is known
	Instances  []InstanceState
}

// InstanceState is one instance of a port. One that is Draining is used for no new client.
type InstanceState struct {
	Node, ID, Address string
	Weight            int
	Distance          int // 0 the same zone, 1 the same region, 2 elsewhere or unknown
	Open              int
	Total, Failed     uint64
	EjectedUntil      *time.Time `json:",omitempty"`
	Draining          bool
}
