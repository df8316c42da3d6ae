package agent

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// Limits of metadata (contract: consul-http 6.1).
const (
	maxMetaPairs = 64
	maxMetaKey   = 128
	maxMetaValue = 512
)

// maxID is how long names and ids of services, and ids of checks, may be, in bytes. The catalog holds a check below its
// service and its node in one path; what does not fit there could be registered here and would never get to the catalog.
const maxID = 1024

// checkID refuses a name or an id that is too long.
func checkID(what, id string) error {
	if len(id) > maxID {
		return badRequest("Invalid %s: %d bytes, at most %d are allowed", what, len(id), maxID)
	}
	return nil
}

// serviceKinds are kept and shown; nothing follows from them, for there is no service mesh here.
var serviceKinds = []string{"", "api-gateway", "connect-proxy", "ingress-gateway", "mesh-gateway", "terminating-gateway"}

// rules are what this agent runs.
type rules struct {
	scripts bool // programs: script and docker checks
	host    *health.Host
}

func (r *Registry) rules(scripts bool) rules { return rules{scripts, r.cfg.Host} }

func refuse(status int, format string, args ...any) error {
	return &consul.LocalError{Status: status, Text: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

// normaliseService checks a service definition and fills in what the contract derives: the ID, weights, tagged
// addresses by family, and the ids and names of its checks, all of which move to Checks. The argument's own maps
// and lists are not changed. Errors are *consul.LocalError.
func normaliseService(def consul.ServiceDefinition, may rules) (consul.ServiceDefinition, error) {
	if def.Name == "" {
		return def, badRequest("Missing service name")
	}
	if def.ID == "" {
		def.ID = def.Name
	}
	if err := checkID("service name", def.Name); err != nil {
		return def, err
	}
	if err := checkID("service ID", def.ID); err != nil {
		return def, err
	}
	if !slices.Contains(serviceKinds, def.Kind) {
		return def, badRequest("Invalid service kind %q: expected one of %s, or none", def.Kind, strings.Join(serviceKinds[1:], ", "))
	}
	if isAny(strings.Trim(def.Address, "[]")) {
		return def, badRequest("Invalid service address")
	}
	if def.Port < 0 || def.Port > 65535 {
		return def, badRequest("Invalid service port: expected 0 to 65535, got %d", def.Port)
	}
	if def.Weights == nil {
		def.Weights = &catalog.Weights{Passing: 1, Warning: 1}
	} else if err := checkWeights(*def.Weights); err != nil {
		return def, badRequest("Invalid Weights: %v", err)
	}
	if err := checkMeta(def.Meta); err != nil {
		return def, badRequest("Invalid Service Meta: %v", err)
	}
	def.TaggedAddresses = serviceAddresses(def)
	checks, err := serviceChecks(def, may)
	def.Check, def.Checks = nil, checks
	return def, err
}

// wording is an error whose text is the contract's own.
type wording string

func (w wording) Error() string { return string(w) }

func checkWeights(w catalog.Weights) error {
	switch {
	case w.Passing < 1:
		return wording("Passing must be greater than 0")
	case w.Warning < 0:
		return wording("Warning must be greater or equal than 0")
	case w.Passing > 65535 || w.Warning > 65535:
		return wording("DNS Weight must be between 0 and 65535")
	}
	return nil
}

// checkMeta checks the metadata of a node or a service.
func checkMeta(meta map[string]string) error {
	if len(meta) > maxMetaPairs {
		return fmt.Errorf("metadata cannot contain more than %d key/value pairs", maxMetaPairs)
	}
	for _, k := range sortedKeys(meta) {
		reason := ""
		switch {
		case k == "":
			reason = "Key cannot be blank"
		case strings.ContainsFunc(k, func(r rune) bool { return !isMetaRune(r) }):
			reason = "Key contains invalid characters"
		case len(k) > maxMetaKey:
			reason = fmt.Sprintf("Key is too long (limit: %d characters)", maxMetaKey)
		case strings.HasPrefix(k, "consul-"):
			reason = "Key prefix 'consul-' is reserved for internal use"
		case len(meta[k]) > maxMetaValue:
			reason = fmt.Sprintf("Value is too long (limit: %d characters)", maxMetaValue)
		}
		if reason != "" {
			return wording(fmt.Sprintf("Couldn't load metadata pair ('%s', '%s'): %s", k, meta[k], reason))
		}
	}
	return nil
}

func isMetaRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// serviceAddresses adds the variants by family, made from Address and Port when Address is an IP.
func serviceAddresses(def consul.ServiceDefinition) map[string]catalog.Address {
	ip, err := netip.ParseAddr(strings.Trim(def.Address, "[]"))
	if err != nil {
		return def.TaggedAddresses
	}
	family := "_ipv6"
	if ip.Is4() {
		family = "_ipv4"
	}
	out := maps.Clone(def.TaggedAddresses)
	if out == nil {
		out = map[string]catalog.Address{}
	}
	for _, name := range [...]string{"lan" + family, "wan" + family} {
		if _, ok := out[name]; !ok {
			out[name] = catalog.Address{Address: def.Address, Port: def.Port}
		}
	}
	return out
}

// serviceChecks collects the checks of a service in their order and gives them ids and names.
func serviceChecks(def consul.ServiceDefinition, may rules) ([]consul.CheckDefinition, error) {
	all := make([]consul.CheckDefinition, 0, len(def.Checks)+1)
	if def.Check != nil && !def.Check.IsZero() {
		all = append(all, *def.Check)
	}
	all = append(all, def.Checks...)
	ids := map[string]bool{}
	for i := range all {
		c := &all[i]
		if !validStatus(c.Status) {
			return nil, badRequest("Status for checks must 'passing', 'warning', 'critical'")
		}
		if err := checkID("check ID", c.ID); err != nil {
			return nil, err
		}
		c.ServiceID = def.ID
		if c.Name == "" {
			c.Name = "Service '" + def.Name + "' check"
		}
		if c.ID == "" {
			c.ID = "service:" + def.ID
			if len(all) > 1 {
				c.ID = fmt.Sprintf("%s:%d", c.ID, i+1)
			}
		}
		if ids[c.ID] {
			return nil, badRequest("Invalid check: two checks of the service have the id %q", c.ID)
		}
		ids[c.ID] = true
		if err := checkKind(*c, may); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func validStatus(s string) bool {
	return s == "" || s == health.Passing || s == health.Warning || s == health.Critical
}

// normaliseCheck checks a definition that stands by itself and fills in its ID. Errors are *consul.LocalError.
func normaliseCheck(def consul.CheckDefinition, may rules) (consul.CheckDefinition, error) {
	if def.Name == "" {
		return def, badRequest("Missing check name")
	}
	if def.ID == "" {
		def.ID = def.Name
	}
	if err := checkID("check ID", def.ID); err != nil {
		return def, err
	}
	if !validStatus(def.Status) {
		return def, badRequest("Bad check status")
	}
	return def, checkKind(def, may)
}

// checkKind refuses a check that is malformed, that this agent cannot run or that it must not run.
func checkKind(def consul.CheckDefinition, may rules) error {
	spec := specOf(def, may.host)
	if err := spec.Validate(); err != nil {
		return badRequest("Invalid check: %v", err)
	}
	if kind := spec.Kind(); (kind == "script" || kind == "docker") && !may.scripts {
		return refuse(http.StatusInternalServerError,
			"Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true")
	}
	return nil
}

// specOf is what the health package runs for a definition.
func specOf(d consul.CheckDefinition, host *health.Host) health.Spec {
	return health.Spec{
		ID: d.ID, Name: d.Name, Notes: d.Notes, ServiceID: d.ServiceID, Initial: d.Status,
		TTL: d.TTL, Interval: d.Interval, Timeout: d.Timeout,
		HTTP: d.HTTP, Method: d.Method, Header: d.Header, Body: d.Body, DisableRedirects: d.DisableRedirects,
		TCP: d.TCP, TCPUseTLS: d.TCPUseTLS, UDP: d.UDP, GRPC: d.GRPC, GRPCUseTLS: d.GRPCUseTLS,
		H2PING: d.H2PING, H2PingUseTLS: d.H2PingUseTLS, TLSServerName: d.TLSServerName, TLSSkipVerify: d.TLSSkipVerify,
		Args: d.Args, DockerContainerID: d.DockerContainerID, Shell: d.Shell, OSService: d.OSService,
		AliasNode: d.AliasNode, AliasService: d.AliasService,
		SuccessBeforePassing: d.SuccessBeforePassing, FailuresBeforeWarning: d.FailuresBeforeWarning,
		FailuresBeforeCritical: d.FailuresBeforeCritical, OutputMaxSize: d.OutputMaxSize,
		DeregisterCriticalServiceAfter: d.DeregisterCriticalServiceAfter, Host: host,
	}
}
