package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

func servicesCommand(c *client) *cobra.Command {
	return group(c, "services", "Register, remove and list services", servicesRegister(c), servicesDeregister(c), servicesList(c))
}

// serviceFlags collects the definition of one service from flags.
type serviceFlags struct {
	name, id, address string
	socket, kind      string
	port              int
	tags, meta        []string
	tagged            []string
	ttl, http, tcp    string
	interval, timeout string
}

func servicesRegister(c *client) *cobra.Command {
	var s serviceFlags
	cmd := &cobra.Command{
		Use:   "register [FILE...]",
		Short: "Register services on the local agent",
		Long: `Register services on the local agent: those of the files, or one given by flags. A file is .hcl or .json with
service blocks as in the agent's configuration, or a JSON object as the HTTP interface takes it. Nothing is
registered when one of the files cannot be read. What is registered this way stays until it is deregistered.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			bodies, err := s.bodies(args)
			if err != nil {
				return err
			}
			for _, b := range bodies {
				if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/service/register", nil, bytes.NewReader(b)); err != nil {
					return doing(err, "registering service %q", nameIn(b, "Name"))
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Registered service: %v\n", nameIn(b, "Name"))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.name, "name", "", "name of the service")
	f.StringVar(&s.id, "id", "", "id of the instance on this agent; the name when not given")
	f.StringVar(&s.address, "address", "", "address of the instance; the node's when not given")
	f.IntVar(&s.port, "port", 0, "port of the instance")
	f.StringVar(&s.socket, "socket", "", "path of the instance's unix socket, in place of address and port")
	f.StringVar(&s.kind, "kind", "", "kind of the service; stored")
	f.StringArrayVar(&s.tags, "tag", nil, "tag; repeat it for several")
	f.StringArrayVar(&s.meta, "meta", nil, "metadata as key=value; repeat it for several")
	f.StringArrayVar(&s.tagged, "tagged-address", nil, "further address as name=host[:port]; repeat it for several")
	f.StringVar(&s.ttl, "ttl", "", "TTL check: critical when no heartbeat came for this long (30s)")
	f.StringVar(&s.http, "http", "", "HTTP check: URL to ask")
	f.StringVar(&s.tcp, "tcp", "", "TCP check: host:port to connect to")
	f.StringVar(&s.interval, "interval", "10s", "how often an HTTP or TCP check runs")
	f.StringVar(&s.timeout, "check-timeout", "", "how long an HTTP or TCP check may take")
	return cmd
}

// nameIn is the value of a field of a JSON object, whatever the case of its name; "?" when it has none.
func nameIn(body []byte, field string) string {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return "?"
	}
	for _, k := range sortedKeys(m) {
		if v, ok := m[k].(string); ok && v != "" && strings.EqualFold(k, field) {
			return v
		}
	}
	return "?"
}

func (s *serviceFlags) bodies(files []string) ([]json.RawMessage, error) {
	if len(files) > 0 && s.name != "" {
		return nil, errors.New("give files or -name, not both")
	}
	if len(files) > 0 {
		return serviceFiles(files)
	}
	if s.name == "" {
		return nil, errors.New("give -name or at least one file")
	}
	b, err := s.body()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(b)
	return []json.RawMessage{raw}, err
}

// serviceFiles reads the bodies of requests out of files. A JSON object without a service key is one itself.
func serviceFiles(files []string) ([]json.RawMessage, error) {
	var out []json.RawMessage
	for _, name := range files {
		if strings.HasSuffix(name, ".json") {
			raw, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			var doc map[string]json.RawMessage
			if err := json.Unmarshal(raw, &doc); err != nil {
				return nil, fmt.Errorf("%s: want a JSON object: %w", name, err)
			}
			if doc["service"] == nil && doc["services"] == nil {
				out = append(out, raw)
				continue
			}
		}
		found, err := agent.ServiceBodies(name)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func (s *serviceFlags) body() (map[string]any, error) {
	b := map[string]any{"Name": s.name, "Port": s.port}
	for k, v := range map[string]string{"ID": s.id, "Address": s.address, "SocketPath": s.socket, "Kind": s.kind} {
		if v != "" {
			b[k] = v
		}
	}
	if len(s.tags) > 0 {
		b["Tags"] = s.tags
	}
	meta, err := keyValues("-meta", s.meta)
	if err != nil {
		return nil, err
	}
	if len(meta) > 0 {
		b["Meta"] = meta
	}
	if err := s.addTagged(b); err != nil {
		return nil, err
	}
	return b, s.addCheck(b)
}

// keyValues reads the values of a flag such as -meta key=value.
func keyValues(flag string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("%s %q: want key=value", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

func (s *serviceFlags) addTagged(b map[string]any) error {
	list, err := keyValues("-tagged-address", s.tagged)
	if err != nil || len(list) == 0 {
		return err
	}
	addrs := map[string]any{}
	for name, text := range list {
		a := map[string]any{"Address": text, "Port": s.port}
		if host, port, err := net.SplitHostPort(text); err == nil {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return fmt.Errorf("-tagged-address %s=%s: want host:port", name, text)
			}
			a = map[string]any{"Address": host, "Port": n}
		}
		addrs[name] = a
	}
	b["TaggedAddresses"] = addrs
	return nil
}

func (s *serviceFlags) addCheck(b map[string]any) error {
	check := map[string]any{}
	for k, v := range map[string]string{"TTL": s.ttl, "HTTP": s.http, "TCP": s.tcp} {
		if v != "" {
			check[k] = v
		}
	}
	if len(check) > 1 {
		return errors.New("give one of -ttl, -http and -tcp")
	}
	if s.http != "" || s.tcp != "" {
		check["Interval"] = s.interval
		if s.timeout != "" {
			check["Timeout"] = s.timeout
		}
	}
	if len(check) > 0 {
		b["Check"] = check
	}
	return nil
}

// consulServices is `consul services`, whose deregister takes files.
func consulServices(c *client) *cobra.Command {
	var id string
	dereg := &cobra.Command{
		Use: "deregister [-id ID] [FILE...]", Short: "Remove services from the local agent",
		RunE: func(cmd *cobra.Command, args []string) error {
			if (id == "") == (len(args) == 0) {
				return errors.New("give -id or at least one file, not both")
			}
			ids := []string{id}
			if id == "" {
				bodies, err := serviceFiles(args)
				if err != nil {
					return err
				}
				ids = nil
				for _, b := range bodies {
					one := nameIn(b, "ID")
					if one == "?" {
						one = nameIn(b, "Name")
					}
					ids = append(ids, one)
				}
			}
			for _, one := range ids {
				if err := c.deregister(cmd, one); err != nil {
					return err
				}
			}
			return nil
		},
	}
	dereg.Flags().StringVar(&id, "id", "", "id of the service")
	return group(c, "services", "Register and remove services", servicesRegister(c), dereg)
}

func (c *client) deregister(cmd *cobra.Command, id string) error {
	if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(id), nil, nil); err != nil {
		return doing(err, "deregistering service %q", id)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Deregistered service: %s\n", id)
	return nil
}

func servicesDeregister(c *client) *cobra.Command {
	var id string
	cmd := &cobra.Command{Use: "deregister ID", Short: "Remove a service from the local agent", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			id = args[0]
		}
		if id == "" {
			return errors.New("service id required")
		}
		return c.deregister(cmd, id)
	}}
	cmd.Flags().StringVar(&id, "id", "", "id of the service")
	return cmd
}

func servicesList(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "list", Short: "List the services of the cluster", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		var all map[string][]string
		if err := c.get(cmd.Context(), "/v1/catalog/services", nil, &all); err != nil {
			return err
		}
		rows := make([][]string, 0, len(all))
		for _, name := range sortedKeys(all) {
			sort.Strings(all[name])
			rows = append(rows, []string{name, strings.Join(all[name], ",")})
		}
		return f.print(cmd.OutOrStdout(), all, []string{"Service", "Tags"}, rows)
	}}
	f.bind(cmd)
	return cmd
}

func nodesCommand(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "nodes", Short: "List the nodes of the catalog", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		var all []struct {
			ID, Node, Address, Datacenter string
			Meta                          map[string]string
		}
		if err := c.get(cmd.Context(), "/v1/catalog/nodes", nil, &all); err != nil {
			return err
		}
		rows := make([][]string, 0, len(all))
		for _, n := range all {
			rows = append(rows, []string{n.Node, n.ID[:min(8, len(n.ID))], n.Address, n.Datacenter})
		}
		return f.print(cmd.OutOrStdout(), all, []string{"Node", "ID", "Address", "DC"}, rows)
	}}
	f.bind(cmd)
	return cmd
}

// healthEntry is one element of /v1/health/service/NAME.
type healthEntry struct {
	Node struct {
		Node, Address string
	}
	Service struct {
		ID, Service, Address string
		Port                 int
		Tags                 []string
	}
	Checks []struct{ CheckID, Name, Status, Output string }
}

// status is the worst status among the checks.
func (e healthEntry) status() string {
	worst := "passing"
	for _, c := range e.Checks {
		if c.Status == "critical" {
			return c.Status
		}
		if c.Status == "warning" {
			worst = c.Status
		}
	}
	return worst
}

func healthCommand(c *client) *cobra.Command {
	var f format
	var passing bool
	var tag string
	cmd := &cobra.Command{
		Use:   "health SERVICE",
		Short: "Show the instances of a service and their health",
		Long:  "Show the instances of a service and their health. Exits with 5 when no instance is free of critical checks.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			q := url.Values{}
			if passing {
				q.Set("passing", "true")
			}
			if tag != "" {
				q.Set("tag", tag)
			}
			var all []healthEntry
			if err := c.get(cmd.Context(), "/v1/health/service/"+url.PathEscape(args[0]), q, &all); err != nil {
				return err
			}
			healthy := 0
			rows := make([][]string, 0, len(all))
			for _, e := range all {
				addr := e.Service.Address
				if addr == "" {
					addr = e.Node.Address
				}
				if e.status() != "critical" {
					healthy++
				}
				rows = append(rows, []string{e.Node.Node, e.Service.ID, addr + ":" + strconv.Itoa(e.Service.Port), e.status(), strings.Join(e.Service.Tags, ",")})
			}
			if err := f.print(cmd.OutOrStdout(), all, []string{"Node", "ID", "Address", "Status", "Tags"}, rows); err != nil {
				return err
			}
			if healthy == 0 {
				return &exitError{exitUnhealthy, fmt.Errorf("no healthy instance of %q", args[0])}
			}
			return nil
		},
	}
	f.bind(cmd)
	cmd.Flags().BoolVar(&passing, "passing", false, "only instances whose checks are all passing")
	cmd.Flags().StringVar(&tag, "tag", "", "only instances with this tag")
	return cmd
}
