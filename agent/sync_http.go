package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
)

// maxSyncAnswer bounds an answer of the cluster, in bytes: all services or checks of one node.
const maxSyncAnswer = 256 << 20

// HTTPCluster is a Cluster spoken to by the public HTTP interface, relayed as any client's request is.
type HTTPCluster struct {
	// Do runs a request whose URL has a path and a query only.
	Do func(*http.Request) (*http.Response, error)
	// Nodes gives the size of the cluster; nil: 1.
	Nodes func() int
}

var _ Cluster = (*HTTPCluster)(nil)

// errNodeMustStay: an agent that runs never removes its own node.
var errNodeMustStay = errors.New("deregister: neither a service nor a check is named, and the node itself must stay")

var errNoCluster = errors.New("this agent has no cluster to ask")

// Size implements Cluster.
func (h *HTTPCluster) Size() int {
	if h.Nodes == nil {
		return 1
	}
	return h.Nodes()
}

// registerBody is the body of catalog/register (contract: consul-http 8.5).
type registerBody struct {
	Datacenter      string               `json:",omitempty"`
	ID              string               `json:",omitempty"`
	Node            string               //
	Address         string               //
	TaggedAddresses map[string]string    `json:",omitempty"`
	NodeMeta        map[string]string    `json:",omitempty"`
	Service         *registerServiceBody `json:",omitempty"`
	Checks          []registerCheckBody  `json:",omitempty"`
	SkipNodeUpdate  bool                 `json:",omitempty"`
	Locality        *catalog.Locality    `json:",omitempty"`
}

type registerServiceBody struct {
	Kind              string                     `json:",omitempty"`
	ID                string                     //
	Service           string                     //
	Tags              []string                   `json:",omitempty"`
	Meta              map[string]string          `json:",omitempty"`
	Port              int                        `json:",omitempty"`
	Address           string                     `json:",omitempty"`
	SocketPath        string                     `json:",omitempty"`
	TaggedAddresses   map[string]catalog.Address `json:",omitempty"`
	Weights           catalog.Weights            //
	EnableTagOverride bool                       `json:",omitempty"`
	Locality          *catalog.Locality          `json:",omitempty"`
}

type registerCheckBody struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string   `json:",omitempty"`
	Output      string   `json:",omitempty"`
	ServiceID   string   `json:",omitempty"`
	ServiceName string   `json:",omitempty"`
	ServiceTags []string `json:",omitempty"`
	Type        string   `json:",omitempty"`
	Interval    string   `json:",omitempty"`
	Timeout     string   `json:",omitempty"`
}

// Register implements Cluster.
func (h *HTTPCluster) Register(ctx context.Context, r catalog.Registration) error {
	n := &r.Node
	body := registerBody{
		Datacenter: n.Datacenter, ID: n.ID, Node: n.Name, Address: n.Address, TaggedAddresses: n.TaggedAddresses,
		NodeMeta: n.Meta, SkipNodeUpdate: r.SkipNodeUpdate, Locality: n.Locality,
	}
	if s := r.Service; s != nil {
		body.Service = &registerServiceBody{
			Kind: s.Kind, ID: s.ID, Service: s.Name, Tags: s.Tags, Meta: s.Meta, Port: s.Port, Address: s.Address,
			SocketPath: s.SocketPath, TaggedAddresses: s.TaggedAddresses, Weights: s.Weights, EnableTagOverride: s.EnableTagOverride, Locality: s.Locality,
		}
	}
	for _, c := range r.Checks {
		body.Checks = append(body.Checks, registerCheckBody{
			Node: c.Node, CheckID: c.ID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
			ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: c.ServiceTags,
			Type: c.Type, Interval: c.Interval, Timeout: c.Timeout,
		})
	}
	query := ""
	if r.Known {
		query = "known"
	}
	_, err := h.call(ctx, http.MethodPut, "/v1/catalog/register", query, body, nil)
	if refused := (*statusError)(nil); r.Service != nil && errors.As(err, &refused) && refused.status == http.StatusConflict {
		return &catalog.GoneError{Node: n.Name, ServiceID: r.Service.ID}
	}
	return err
}

// Deregister implements Cluster.
func (h *HTTPCluster) Deregister(ctx context.Context, node, serviceID, checkID string) error {
	if serviceID == "" && checkID == "" {
		return errNodeMustStay
	}
	body := struct {
		Node      string
		ServiceID string `json:",omitempty"`
		CheckID   string `json:",omitempty"`
	}{node, serviceID, checkID}
	_, err := h.call(ctx, http.MethodPut, "/v1/catalog/deregister", "", body, nil)
	return err
}

// NodeServices implements Cluster. The reads ask for consistency, which no stale copy can answer.
func (h *HTTPCluster) NodeServices(ctx context.Context, node string) ([]*catalog.Service, []*catalog.Check, *catalog.Node, error) {
	services, known, err := h.services(ctx, node, "consistent")
	if err != nil || known == nil {
		return nil, nil, nil, err
	}
	checks, _, err := h.checks(ctx, node, "consistent")
	return services, checks, known, err
}

// watchWait is how long one question of WatchNode waits for news.
const watchWait = 2 * time.Minute

// WatchNode implements NodeWatcher.
func (h *HTTPCluster) WatchNode(ctx context.Context, node string, index uint64) ([]*catalog.Service, []*catalog.Check, *catalog.Node, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*watchWait) // an answer may come late by some jitter
	defer cancel()
	checks, header, err := h.checks(ctx, node, fmt.Sprintf("index=%d&wait=%s", index, watchWait))
	if err != nil {
		return nil, nil, nil, 0, err
	}
	next, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, nil, nil, 0, fmt.Errorf("/v1/health/node: malformed index: %w", err)
	}
	services, known, err := h.services(ctx, node, "")
	return services, checks, known, next, err
}

func (h *HTTPCluster) services(ctx context.Context, node, query string) ([]*catalog.Service, *catalog.Node, error) {
	var ns struct {
		Node     *consul.Node
		Services []*consul.NodeService
	}
	if _, err := h.call(ctx, http.MethodGet, "/v1/catalog/node-services/"+url.PathEscape(node), query, nil, &ns); err != nil || ns.Node == nil {
		return nil, nil, err
	}
	services := make([]*catalog.Service, 0, len(ns.Services))
	for _, s := range ns.Services {
		services = append(services, serviceFromWire(s))
	}
	return services, nodeFromWire(ns.Node), nil
}

func (h *HTTPCluster) checks(ctx context.Context, node, query string) ([]*catalog.Check, http.Header, error) {
	var hc []*consul.HealthCheck
	header, err := h.call(ctx, http.MethodGet, "/v1/health/node/"+url.PathEscape(node), query, nil, &hc)
	if err != nil {
		return nil, nil, err
	}
	checks := make([]*catalog.Check, 0, len(hc))
	for _, c := range hc {
		checks = append(checks, &catalog.Check{
			Node: c.Node, ID: c.CheckID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
			ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: c.ServiceTags,
			Type: c.Type, Interval: c.Interval, Timeout: c.Timeout, Created: c.CreateIndex, Modified: c.ModifyIndex,
		})
	}
	return checks, header, nil
}

func nodeFromWire(n *consul.Node) *catalog.Node {
	return &catalog.Node{
		ID: n.ID, Name: n.Node, Address: n.Address, Datacenter: n.Datacenter,
		TaggedAddresses: n.TaggedAddresses, Meta: n.Meta, Locality: n.Locality, Created: n.CreateIndex, Modified: n.ModifyIndex,
	}
}

func serviceFromWire(s *consul.NodeService) *catalog.Service {
	out := &catalog.Service{
		ID: s.ID, Name: s.Service, Kind: s.Kind, Tags: s.Tags, Address: s.Address, Meta: s.Meta, Port: s.Port,
		SocketPath: s.SocketPath, Weights: catalog.Weights(s.Weights), EnableTagOverride: s.EnableTagOverride, Locality: s.Locality,
		Created: s.CreateIndex, Modified: s.ModifyIndex,
	}
	if len(s.TaggedAddresses) > 0 {
		out.TaggedAddresses = make(map[string]catalog.Address, len(s.TaggedAddresses))
		for k, a := range s.TaggedAddresses {
			out.TaggedAddresses[k] = catalog.Address(a)
		}
	}
	return out
}

// statusError is an answer other than 200.
type statusError struct {
	path   string
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.path, e.status, e.text)
}

// call runs one request; anything but 200 is an error with the answer's text.
func (h *HTTPCluster) call(ctx context.Context, method, path, query string, in, out any) (http.Header, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	target := path
	if query != "" {
		target += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	res, err := h.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		return nil, &statusError{path, res.StatusCode, string(bytes.TrimSpace(text))}
	}
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
		return res.Header, err
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxSyncAnswer)).Decode(out); err != nil {
		return nil, fmt.Errorf("%s: malformed answer: %w", path, err)
	}
	return res.Header, nil
}
