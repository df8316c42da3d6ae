package consul

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
)

// LocalRegistry is what this machine registered. Its refusals are *LocalError.
type LocalRegistry interface {
	RegisterService(ctx context.Context, def ServiceDefinition, replaceChecks bool) error
	DeregisterService(ctx context.Context, id string) error
	RegisterCheck(ctx context.Context, def CheckDefinition) error
	DeregisterCheck(ctx context.Context, id string) error
	// Beat sets the status of a TTL check; it must not allocate when nothing changes.
	Beat(id, status, output string) error
	ServiceMaintenance(ctx context.Context, id string, enable bool, reason string) error
	NodeMaintenance(ctx context.Context, enable bool, reason string) error

	Services() []*catalog.Service // ordered by id
	ServicesNamed(name string) []*catalog.Service
	// Service gives one service and a channel that is closed when it changes or goes.
	Service(id string) (s *catalog.Service, changed <-chan struct{}, ok bool)
	Checks() []*catalog.Check // ordered by id
	// ServiceChecks gives the checks that decide about a service: its own and the node's.
	ServiceChecks(id string) []*catalog.Check
}

// LocalMembers is what this agent knows of the others.
type LocalMembers interface {
	Members(wan bool) []AgentMember
}

// LocalControl are the verbs an operator has for this agent.
type LocalControl interface {
	Join(ctx context.Context, addr string, wan bool) error
	// Leave leaves the cluster for good. It returns when that is done, before the listeners close, so that it can be
	// answered. A server refuses when the others would lose their quorum by it, unless forced.
	Leave(ctx context.Context, force bool) error
	// ForceLeave turns a failed member into one that left; prune removes it from the list. Unknown: ErrNoSuchMember.
	ForceLeave(ctx context.Context, node string, prune, wan bool) error
	Reload(ctx context.Context) error
}

// LocalInfo describes this agent.
type LocalInfo interface {
	Self(ctx context.Context) AgentSelf
}

// ErrNoSuchMember says that no member has the name.
var ErrNoSuchMember = errors.New("no such member")

// AgentMember is a member of the gossip pool. Status: 0 none, 1 alive, 2 leaving, 3 left, 4 failed.
type AgentMember struct {
	Name                                  string
	Addr                                  string
	Port                                  uint16
	Tags                                  map[string]string
	Status                                int
	ProtocolMin, ProtocolMax, ProtocolCur uint8
	DelegateMin, DelegateMax, DelegateCur uint8
}

// AgentSelf is the answer of agent/self.
type AgentSelf struct {
	Config      AgentSelfConfig
	DebugConfig map[string]any // the configuration without secrets
	Coord       any            `json:",omitempty"`
	Member      AgentMember
	Stats       map[string]map[string]string
	Meta        map[string]string
	Guard       *AgentGuard `json:",omitempty"`
}

// AgentGuard is the mass-removal guard of this agent.
type AgentGuard struct {
	Enabled bool
	Watched int          // services with enough instances
	Held    []guard.Hold // nil: every service is shown as it is
}

// AgentSelfConfig is the stable part of agent/self, which clients read.
type AgentSelfConfig struct {
	Datacenter, PrimaryDatacenter, NodeName, NodeID, Revision string
	Server                                                    bool
	Version, BuildDate                                        string
}

// AgentVersion is the answer of agent/version.
type AgentVersion struct{ SHA, BuildDate, HumanVersion, FIPS string }

// AgentConfig configures an AgentAPI. Registry and Datacenter are required; what belongs to a part that is nil
// answers 501.
type AgentConfig struct {
	Datacenter string
	NodeName   string
	Version    AgentVersion
	Registry   LocalRegistry
	Members    LocalMembers
	Control    LocalControl
	Info       LocalInfo
	Events     LocalEvents

	// Metrics gives the last interval's metrics, such as InmemSink.DisplayMetrics does; Prometheus serves them as
	// text, nil when its retention time is not positive.
	Metrics    func(http.ResponseWriter, *http.Request) (any, error)
	Prometheus http.Handler
	// Logs is where agent/monitor taps the log.
	Logs hclog.InterceptLogger

	Authorizer   Authorizer    // nil: everything is allowed
	QueryTime    time.Duration // wait of a blocking read of a service that names none; 0 = DefaultQueryTime
	MaxQueryTime time.Duration // 0 = DefaultMaxQueryTime
}

// AgentAPI serves /v1/agent/…: what concerns this machine's agent alone. All of its routes run where they are
// asked.
type AgentAPI struct {
	cfg AgentConfig
}

// NewAgentAPI makes an AgentAPI.
func NewAgentAPI(c AgentConfig) *AgentAPI {
	if c.QueryTime == 0 {
		c.QueryTime = DefaultQueryTime
	}
	if c.MaxQueryTime == 0 {
		c.MaxQueryTime = DefaultMaxQueryTime
	}
	return &AgentAPI{cfg: c}
}

// Prefixes of the routes whose last part is an argument.
const (
	pathService            = "/v1/agent/service/"
	pathDeregister         = "/v1/agent/service/deregister/"
	pathServiceMaintenance = "/v1/agent/service/maintenance/"
	pathCheckDeregister    = "/v1/agent/check/deregister/"
	pathCheckPass          = "/v1/agent/check/pass/"
	pathCheckWarn          = "/v1/agent/check/warn/"
	pathCheckFail          = "/v1/agent/check/fail/"
	pathCheckUpdate        = "/v1/agent/check/update/"
	pathHealthID           = "/v1/agent/health/service/id/"
	pathHealthName         = "/v1/agent/health/service/name/"
	pathJoin               = "/v1/agent/join/"
	pathForceLeave         = "/v1/agent/force-leave/"
	pathToken              = "/v1/agent/token/"
)

// Routes is this part of the table of routes.
func (a *AgentAPI) Routes() []api.Route {
	const get, put = http.MethodGet, http.MethodPut
	return append(a.eventRoutes(),
		newRoute("/v1/agent/self", api.Local, a.self, get),
		newRoute("/v1/agent/version", api.Local, a.version, get),
		newRoute("/v1/agent/host", api.Local, a.host, get),
		newRoute("/v1/agent/members", api.Local, a.members, get),
		newRoute("/v1/agent/metrics", api.Local, a.metrics, get),
		newRoute("/v1/agent/monitor", api.Local, a.monitor, get),

		newRoute("/v1/agent/services", api.Local, a.services, get),
		newRoute(pathService, api.Local, a.service, get),
		newRoute("/v1/agent/service/register", api.Local, a.registerService, put),
		newRoute(pathDeregister, api.Local, a.deregisterService, put),
		newRoute(pathServiceMaintenance, api.Local, a.serviceMaintenance, put),
		newRoute("/v1/agent/maintenance", api.Local, a.nodeMaintenance, put),
		newRoute(pathHealthID, api.Local, a.healthByID, get),
		newRoute(pathHealthName, api.Local, a.healthByName, get),

		newRoute("/v1/agent/checks", api.Local, a.checks, get),
		newRoute("/v1/agent/check/register", api.Local, a.registerCheck, put),
		newRoute(pathCheckDeregister, api.Local, a.deregisterCheck, put),
		newRoute(pathCheckPass, api.Local, a.beat(pathCheckPass, catalog.Passing), put),
		newRoute(pathCheckWarn, api.Local, a.beat(pathCheckWarn, catalog.Warning), put),
		newRoute(pathCheckFail, api.Local, a.beat(pathCheckFail, catalog.Critical), put),
		newRoute(pathCheckUpdate, api.Local, a.updateCheck, put),

		newRoute(pathJoin, api.Local, a.join, put),
		newRoute("/v1/agent/leave", api.Local, a.leave, put),
		newRoute(pathForceLeave, api.Local, a.forceLeave, put),
		newRoute("/v1/agent/reload", api.Local, a.reload, put),
		newRoute(pathToken, api.Local, a.token, put),
	)
}

// argument is the part of the path after a route's prefix; "" also when the prefix itself was asked for.
func argument(r *http.Request, prefix string) string {
	return strings.TrimPrefix(r.URL.Path, prefix)
}

// localError gives a refusal of the registry its status.
func localError(err error) error {
	var le *LocalError
	if errors.As(err, &le) {
		return &httpError{le.Status, le.Text}
	}
	return err
}

// done answers 200 without a body, or the error.
func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return localError(err)
	}
	writeEmpty(w)
	return nil
}

var errNotHere = refuse(http.StatusNotImplemented, "this agent was built without this part")

func (a *AgentAPI) allow(r *http.Request, resource, name string, write bool) error {
	return Allow(a.cfg.Authorizer, r, Access{resource, name, write})
}

// allowHere asks for the right on this agent or its node.
func (a *AgentAPI) allowHere(r *http.Request, resource string, write bool) error {
	return a.allow(r, resource, a.cfg.NodeName, write)
}
