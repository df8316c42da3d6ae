package consul

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"github.com/musterhq/muster/catalog"
)

// The bodies of agent/service/register and agent/check/register. Names match in any case; only the snake_case
// aliases named here are known besides (contract: consul-http 6.1).

type serviceBody struct {
	Kind              string
	ID                string
	Name              string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]ServiceAddress
	Meta              map[string]string
	Port              int
	SocketPath        string
	Weights           *Weights
	EnableTagOverride bool
	Locality          *catalog.Locality
	Token             string
	Check             *serviceCheckBody
	Checks            []*serviceCheckBody

	TaggedAddressesAlias   map[string]ServiceAddress `json:"tagged_addresses"`
	EnableTagOverrideAlias bool                      `json:"enable_tag_override"`

	// Of the mesh: read, and refused unless empty.
	Proxy, Connect json.RawMessage
	// Sent by official clients, without a meaning here.
	Ports json.RawMessage
}

type serviceCheckBody struct {
	CheckID string
	checkBody
}

type nodeCheckBody struct {
	ID               string
	ServiceID        string
	ServiceIDAlias   string `json:"service_id"`
	DisableRedirects bool   `json:"disable_redirects"`
	checkBody
}

type checkBody struct {
	Name, Notes, Status, Token     string
	TTL, Interval, Timeout         Duration
	HTTP                           string
	Header                         http.Header
	Method, Body                   string
	NoRedirects                    bool `json:"DisableRedirects"`
	TCP                            string
	TCPUseTLS                      bool
	UDP                            string
	GRPC                           string
	GRPCUseTLS                     bool
	H2PING                         string
	H2PingUseTLS                   *bool
	TLSServerName                  string
	TLSSkipVerify                  bool
	Args, ScriptArgs               []string
	DockerContainerID, Shell       string
	AliasNode, AliasService        string
	OSService                      string
	SuccessBeforePassing           int
	FailuresBeforeWarning          int
	FailuresBeforeCritical         int
	OutputMaxSize                  int
	DeregisterCriticalServiceAfter Duration
	FlapChanges                    int
	FlapWindow, FlapStable         Duration

	ScriptArgsAlias        []string `json:"script_args"`
	DeregisterAfterAlias   Duration `json:"deregister_critical_service_after"`
	DockerContainerIDAlias string   `json:"docker_container_id"`
	TLSServerNameAlias     string   `json:"tls_server_name"`
	TLSSkipVerifyAlias     bool     `json:"tls_skip_verify"`
	TCPUseTLSAlias         bool     `json:"tcp_use_tls"`
	GRPCUseTLSAlias        bool     `json:"grpc_use_tls"`
	H2PingUseTLSAlias      *bool    `json:"h2ping_use_tls"`
}

func (b *serviceBody) definition() (ServiceDefinition, error) {
	for name, raw := range map[string]json.RawMessage{"Proxy": b.Proxy, "Connect": b.Connect} {
		if !emptyJSON(raw) {
			return ServiceDefinition{}, badRequest("Invalid service: there is no service mesh here, leave %s out", name)
		}
	}
	d := ServiceDefinition{
		Kind: b.Kind, ID: b.ID, Name: b.Name, Tags: b.Tags, Address: b.Address,
		TaggedAddresses: addressesTo(b.TaggedAddresses), Meta: b.Meta, Port: b.Port, SocketPath: b.SocketPath,
		EnableTagOverride: b.EnableTagOverride || b.EnableTagOverrideAlias, Locality: b.Locality, Token: b.Token,
	}
	if d.TaggedAddresses == nil {
		d.TaggedAddresses = addressesTo(b.TaggedAddressesAlias)
	}
	if b.Weights != nil {
		d.Weights = (*catalog.Weights)(b.Weights)
	}
	if b.Check != nil {
		c := b.Check.definition()
		d.Check = &c
	}
	for _, c := range b.Checks {
		if c == nil {
			return d, badRequest("Invalid check: null in the list of checks")
		}
		d.Checks = append(d.Checks, c.definition())
	}
	return d, nil
}

// emptyJSON says whether raw is absent, null or {}.
func emptyJSON(raw json.RawMessage) bool {
	var b bytes.Buffer
	if len(raw) == 0 || json.Compact(&b, raw) != nil {
		return len(raw) == 0
	}
	return b.String() == "null" || b.String() == "{}"
}

func (b *serviceCheckBody) definition() CheckDefinition {
	d := b.checkBody.definition()
	d.ID = b.CheckID
	return d
}

func (b *nodeCheckBody) definition() CheckDefinition {
	d := b.checkBody.definition()
	d.ID, d.ServiceID = b.ID, first(b.ServiceID, b.ServiceIDAlias)
	d.DisableRedirects = d.DisableRedirects || b.DisableRedirects
	return d
}

func (b *checkBody) definition() CheckDefinition {
	args := b.Args
	if len(args) == 0 {
		args = b.ScriptArgs
	}
	if len(args) == 0 {
		args = b.ScriptArgsAlias
	}
	h2tls := true // the one flag that is on unless it is turned off
	for _, p := range []*bool{b.H2PingUseTLSAlias, b.H2PingUseTLS} {
		if p != nil {
			h2tls = *p
		}
	}
	return CheckDefinition{
		Name: b.Name, Notes: b.Notes, Status: b.Status, Token: b.Token,
		TTL: time.Duration(b.TTL), Interval: time.Duration(b.Interval), Timeout: time.Duration(b.Timeout),
		HTTP: b.HTTP, Header: b.Header, Method: b.Method, Body: b.Body, DisableRedirects: b.NoRedirects,
		TCP: b.TCP, TCPUseTLS: b.TCPUseTLS || b.TCPUseTLSAlias, UDP: b.UDP,
		GRPC: b.GRPC, GRPCUseTLS: b.GRPCUseTLS || b.GRPCUseTLSAlias,
		H2PING: b.H2PING, H2PingUseTLS: b.H2PING != "" && h2tls,
		TLSServerName: first(b.TLSServerName, b.TLSServerNameAlias), TLSSkipVerify: b.TLSSkipVerify || b.TLSSkipVerifyAlias,
		Args: args, DockerContainerID: first(b.DockerContainerID, b.DockerContainerIDAlias), Shell: b.Shell,
		AliasNode: b.AliasNode, AliasService: b.AliasService, OSService: b.OSService,
		SuccessBeforePassing: b.SuccessBeforePassing, FailuresBeforeWarning: b.FailuresBeforeWarning,
		FailuresBeforeCritical: b.FailuresBeforeCritical, OutputMaxSize: b.OutputMaxSize,
		DeregisterCriticalServiceAfter: time.Duration(max(b.DeregisterCriticalServiceAfter, b.DeregisterAfterAlias)),
		FlapChanges:                    b.FlapChanges, FlapWindow: time.Duration(b.FlapWindow), FlapStable: time.Duration(b.FlapStable),
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
