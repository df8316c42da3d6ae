package dnsserver

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
)

// The parts of the HTTP answers of the flat dialect that DNS needs.

type nodeJSON struct {
	ID, Node, Address, Datacenter string
	Meta                          map[string]string
	Locality                      *catalog.Locality
}

func (n nodeJSON) record() *catalog.Node {
	return &catalog.Node{ID: n.ID, Name: n.Node, Address: n.Address, Datacenter: n.Datacenter, Meta: n.Meta, Locality: n.Locality}
}

type entryJSON struct {
	Node    nodeJSON
	Service struct {
		ID, Service, Address string
		Tags                 []string
		Meta                 map[string]string
		Port                 int
		Locality             *catalog.Locality
		Weights              struct{ Passing, Warning int }
	}
	Checks []struct{ CheckID, Status string }
}

// decodeService reads the answer of /v1/health/service/<name>.
func decodeService(body []byte, index uint64) (value, error) {
	var list []entryJSON
	if err := json.Unmarshal(body, &list); err != nil {
		return value{}, err
	}
	return value{answer: answerOf(list, index), missing: len(list) == 0}, nil
}

func answerOf(list []entryJSON, index uint64) *Answer {
	a := &Answer{Index: index, Instances: make([]*catalog.Instance, 0, len(list))}
	for _, e := range list {
		status := catalog.Passing
		for _, c := range e.Checks {
			status = worse(status, c.Status)
		}
		if slices.ContainsFunc(e.Checks, func(c struct{ CheckID, Status string }) bool {
			return c.CheckID == catalog.NodeMaintenanceCheck || strings.HasPrefix(c.CheckID, catalog.ServiceMaintenancePrefix)
		}) {
			status = catalog.Maintenance // somebody wants it so, which the guard must know
		}
		a.Instances = append(a.Instances, &catalog.Instance{
			Node: e.Node.record(),
			Service: &catalog.Service{
				ID: e.Service.ID, Name: e.Service.Service, Address: e.Service.Address, Tags: e.Service.Tags, Meta: e.Service.Meta, Port: e.Service.Port, Locality: e.Service.Locality,
				Weights: catalog.Weights{Passing: e.Service.Weights.Passing, Warning: e.Service.Weights.Warning},
			},
			Status: status,
		})
	}
	return a
}

// decodeQuery reads the answer of /v1/query/<name>/execute. The server has sorted or shuffled the instances.
func decodeQuery(body []byte, index uint64) (value, error) {
	var found struct {
		Service string
		Nodes   []entryJSON
		DNS     struct{ TTL string }
	}
	if err := json.Unmarshal(body, &found); err != nil {
		return value{}, err
	}
	q := &QueryAnswer{Answer: *answerOf(found.Nodes, index), Service: strings.ToLower(found.Service), Ordered: true}
	if found.DNS.TTL != "" {
		ttl, err := time.ParseDuration(found.DNS.TTL)
		if err != nil {
			return value{}, err
		}
		q.TTL = &ttl
	}
	return value{query: q}, nil
}

// worse of two statuses; one nobody knows counts as critical.
func worse(a, b catalog.Status) catalog.Status {
	switch {
	case a == catalog.Critical || b == catalog.Passing:
		return a
	case b == catalog.Warning:
		return b
	}
	return catalog.Critical
}

// decodeNode reads the answer of /v1/catalog/node/<name>, which is null for a node nobody knows.
func decodeNode(body []byte, _ uint64) (value, error) {
	var answer *struct{ Node *nodeJSON }
	if err := json.Unmarshal(body, &answer); err != nil {
		return value{}, err
	}
	if answer == nil || answer.Node == nil {
		return value{missing: true}, nil
	}
	return value{node: answer.Node.record()}, nil
}

// decodeOwner reads the answer of /v1/catalog/nodes and takes the first.
func decodeOwner(body []byte, _ uint64) (value, error) {
	var list []nodeJSON
	if err := json.Unmarshal(body, &list); err != nil {
		return value{}, err
	}
	if len(list) == 0 {
		return value{missing: true}, nil
	}
	return value{owner: Owner{Node: list[0].Node}}, nil
}
