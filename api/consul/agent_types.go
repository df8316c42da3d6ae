package consul

import (
	"net/http"
	"time"

	"github.com/musterhq/muster/catalog"
)

// ServiceDefinition is a service as somebody on this machine defines it: by PUT /v1/agent/service/register or by a
// `service` block of a configuration file. Names of its fields are those of the HTTP dialect; the snake_case forms
// of them are the keys of configuration files (contract: consul-http 6.1, consul-agent 2.4).
type ServiceDefinition struct {
	Kind              string                     `json:",omitempty"`
	ID                string                     // empty: Name
	Name              string                     // required
	Tags              []string                   `json:",omitempty"`
	Address           string                     `json:",omitempty"` // empty: the node's address
	TaggedAddresses   map[string]catalog.Address `json:",omitempty"`
	Meta              map[string]string          `json:",omitempty"`
	Port              int                        `json:",omitempty"`
	SocketPath        string                     `json:",omitempty"`
	Weights           *catalog.Weights           `json:",omitempty"` // nil: 1 and 1
	EnableTagOverride bool                       `json:",omitempty"`
	Locality          *catalog.Locality          `json:",omitempty"`
	Token             string                     `json:",omitempty"`
	Check             *CheckDefinition           `json:",omitempty"` // stands before Checks
	Checks            []CheckDefinition          `json:",omitempty"`
}

// CheckDefinition is one health check as defined by a client or a configuration file (contract: consul-http 7.1).
// All kinds of the dialect can be written down here; which of them this agent runs is decided by its registry.
type CheckDefinition struct {
	ID        string `json:",omitempty"` // in a service's body the field is CheckID
	Name      string `json:",omitempty"`
	Notes     string `json:",omitempty"`
	ServiceID string `json:",omitempty"`
	Token     string `json:",omitempty"`
	Status    string `json:",omitempty"` // initial status; empty: critical

	TTL time.Duration `json:",omitempty"`

	HTTP             string      `json:",omitempty"`
	Header           http.Header `json:",omitempty"`
	Method           string      `json:",omitempty"`
	Body             string      `json:",omitempty"`
	DisableRedirects bool        `json:",omitempty"`

	TCP           string `json:",omitempty"`
	TCPUseTLS     bool   `json:",omitempty"`
	UDP           string `json:",omitempty"`
	GRPC          string `json:",omitempty"`
	GRPCUseTLS    bool   `json:",omitempty"`
	H2PING        string `json:",omitempty" key:"h2ping"`
	H2PingUseTLS  bool   `json:",omitempty" key:"h2ping_use_tls"`
	TLSServerName string `json:",omitempty"`
	TLSSkipVerify bool   `json:",omitempty"`

	Args              []string `json:",omitempty"`
	DockerContainerID string   `json:",omitempty"`
	Shell             string   `json:",omitempty"`
	AliasNode         string   `json:",omitempty"`
	AliasService      string   `json:",omitempty"`
	OSService         string   `json:",omitempty"`

	Interval time.Duration `json:",omitempty"`
	Timeout  time.Duration `json:",omitempty"`

	SuccessBeforePassing           int           `json:",omitempty"`
	FailuresBeforeWarning          int           `json:",omitempty"`
	FailuresBeforeCritical         int           `json:",omitempty"`
	OutputMaxSize                  int           `json:",omitempty"`
	DeregisterCriticalServiceAfter time.Duration `json:",omitempty"`

	// More than FlapChanges changes of status within FlapWindow hold the check in the worst status until nothing has
	// changed for FlapStable. 0 = as the agent does with all checks, negative = never.
	FlapChanges int           `json:",omitempty"`
	FlapWindow  time.Duration `json:",omitempty"`
	FlapStable  time.Duration `json:",omitempty"`
}

// IsZero says whether nothing at all is set: such a check in a service's body is ignored.
func (c *CheckDefinition) IsZero() bool {
	return c.ID == "" && c.Name == "" && c.Notes == "" && c.Status == "" && c.TTL == 0 && c.Interval == 0 && c.Kind() == ""
}

// Kind names the kind of check, by the dialect's order of precedence when several are set; "" when none is.
func (c *CheckDefinition) Kind() string {
	switch {
	case c.GRPC != "":
		return "grpc"
	case c.HTTP != "":
		return "http"
	case c.TTL != 0:
		return "ttl"
	case c.TCP != "":
		return "tcp"
	case c.UDP != "":
		return "udp"
	case c.AliasNode != "" || c.AliasService != "":
		return "alias"
	case c.DockerContainerID != "" && len(c.Args) > 0:
		return "docker"
	case len(c.Args) > 0:
		return "script"
	case c.H2PING != "":
		return "h2ping"
	case c.OSService != "":
		return "os_service"
	}
	return ""
}

// LocalError is a refusal of the local agent: its HTTP status and the text for the client.
type LocalError struct {
	Status int
	Text   string
}

func (e *LocalError) Error() string { return e.Text }
