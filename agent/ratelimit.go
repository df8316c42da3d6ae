package agent

import (
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/musterhq/muster/api"
)

// Modes of limits.request_limits.
const (
	limitsDisabled   = "disabled"
	limitsPermissive = "permissive" // count and log what would be refused
	limitsEnforcing  = "enforcing"
)

// limitsBurst is how many seconds' worth of requests a server takes at once after a quiet time.
const limitsBurst = 10

// rateLimits bound the requests of clients: those a server works on, and those a proxy relays. A reload replaces them.
type rateLimits struct {
	enforce     bool
	read, write *rate.Limiter // of this server; nil: no limit
	relayed     *rate.Limiter // of this proxy; nil: no limit
}

func newRateLimits(c *Limits) *rateLimits {
	l := &rateLimits{enforce: c.RequestLimits.Mode == limitsEnforcing}
	if c.RequestLimits.Mode != limitsDisabled {
		l.read, l.write = perSecond(c.RequestLimits.ReadRate, limitsBurst), perSecond(c.RequestLimits.WriteRate, limitsBurst)
	}
	if c.RPCRate >= 0 {
		l.relayed = rate.NewLimiter(rate.Limit(c.RPCRate), c.RPCMaxBurst)
	}
	return l
}

func perSecond(n, burst int) *rate.Limiter {
	if n < 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(n), n*burst)
}

// limited puts the limits of this server before what it answers itself. What agents need of one another, and what tells
// whether the cluster is well, has none.
func (a *Agent) limited(row *api.Route, next http.Handler) http.Handler {
	if !strings.HasPrefix(row.Pattern, "/v1/") && !strings.HasPrefix(row.Pattern, "/v2/keys") ||
		strings.HasPrefix(row.Pattern, "/v1/internal/") || strings.HasPrefix(row.Pattern, "/v1/status/") {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limits := a.rates.Load()
		limit, kind := limits.write, "write"
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			limit, kind = limits.read, "read"
		}
		if limit == nil || limit.Allow() {
			next.ServeHTTP(w, r)
			return
		}
		a.overLimit(kind, limits.enforce)
		switch {
		case !limits.enforce:
			next.ServeHTTP(w, r)
		case row.TargetOf(r) == api.Any:
			a.refuseRate(w, r, http.StatusTooManyRequests, "this server takes no more "+kind+" requests at the moment: ask another, or this one later")
		default: // the leader's work: there is nobody else to ask
			a.refuseRate(w, r, http.StatusServiceUnavailable, "the leader takes no more "+kind+" requests at the moment: ask later")
		}
	})
}

// relayLimited puts the limit of this proxy before what it relays for clients.
func (a *Agent) relayLimited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l := a.rates.Load().relayed; l != nil && !l.Allow() {
			a.overLimit("relayed", true)
			a.refuseRate(w, r, http.StatusTooManyRequests, "this agent relays no more requests at the moment (limits.rpc_rate): ask later")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// overLimit counts a request above a limit, and logs some of them.
func (a *Agent) overLimit(kind string, refused bool) {
	a.metrics.IncrCounter([]string{"http", "over_limit", kind}, 1)
	a.ratesLogged.Do(func() {
		a.log.Warn("more requests than limits allow", "kind", kind, "refused", refused)
	})
}

// limitsLogged is how often requests above a limit are logged.
const limitsLogged = 10 * time.Second

// refuseRate refuses a request in the words of its dialect.
func (a *Agent) refuseRate(w http.ResponseWriter, r *http.Request, status int, text string) {
	w.Header()["Retry-After"] = []string{"1"}
	if a.etcd.FailRelay(w, r, api.ErrTooManyRequests) {
		return
	}
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "rate limit exceeded: "+text)
}
