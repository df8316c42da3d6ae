package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func servicesCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use: "services", Short: "Register, remove and list services",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return &exitError{exitUnknown, fmt.Errorf("unknown command %q; muster services -h lists the commands", args[0])}
		},
	}
	cmd.AddCommand(servicesRegister(c), servicesDeregister(c), servicesList(c))
	return cmd
}

// serviceFlags collects the definition of one service from flags.
type serviceFlags struct {
	name, id, address string
	port              int
	tags, meta        []string
	ttl, http, tcp    string
	interval, timeout string
}

func servicesRegister(c *client) *cobra.Command {
	var s serviceFlags
	cmd := &cobra.Command{
		Use:   "register [FILE.json...]",
		Short: "Register services on the local agent",
		Long:  "Register services on the local agent: those of the JSON files ({\"service\": {...}} or a bare\ndefinition), or one given by flags.",
		RunE: func(cmd *cobra.Command, args []string) error {
			bodies, err := s.bodies(args)
			if err != nil {
				return err
			}
			for _, b := range bodies {
				raw, err := json.Marshal(b)
				if err != nil {
					return err
				}
				if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/service/register", nil, bytes.NewReader(raw)); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Registered service: %v\n", serviceName(b))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.name, "name", "", "name of the service")
	f.StringVar(&s.id, "id", "", "id of the instance on this agent; the name when not given")
	f.StringVar(&s.address, "address", "", "address of the instance; the node's when not given")
	f.IntVar(&s.port, "port", 0, "port of the instance")
	f.StringArrayVar(&s.tags, "tag", nil, "tag; repeat it for several")
	f.StringArrayVar(&s.meta, "meta", nil, "metadata as key=value; repeat it for several")
	f.StringVar(&s.ttl, "ttl", "", "TTL check: critical when no heartbeat came for this long (30s)")
	f.StringVar(&s.http, "http", "", "HTTP check: URL to ask")
	f.StringVar(&s.tcp, "tcp", "", "TCP check: host:port to connect to")
	f.StringVar(&s.interval, "interval", "10s", "how often an HTTP or TCP check runs")
	f.StringVar(&s.timeout, "check-timeout", "", "how long an HTTP or TCP check may take")
	return cmd
}

func serviceName(b map[string]any) any {
	for _, k := range []string{"Name", "name"} {
		if v, ok := b[k]; ok {
			return v
		}
	}
	return "?"
}

func (s *serviceFlags) bodies(files []string) ([]map[string]any, error) {
	if len(files) > 0 && s.name != "" {
		return nil, errors.New("give files or -name, not both")
	}
	if len(files) == 0 {
		if s.name == "" {
			return nil, errors.New("give -name or at least one file")
		}
		b, err := s.body()
		return []map[string]any{b}, err
	}
	var out []map[string]any
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var doc map[string]any
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("%s: want a JSON object: %w", name, err)
		}
		found, err := definitions(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// definitions finds the service definitions of a file: {"service": {}}, {"services": []} or a bare one.
func definitions(doc map[string]any) ([]map[string]any, error) {
	var list []any
	if v, ok := doc["service"]; ok {
		list = append(list, v)
	}
	if v, ok := doc["services"]; ok {
		many, ok := v.([]any)
		if !ok {
			return nil, errors.New(`"services" must be a list of objects`)
		}
		list = append(list, many...)
	}
	if list == nil {
		list = []any{doc}
	}
	out := make([]map[string]any, 0, len(list))
	for _, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New("a service definition must be an object")
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *serviceFlags) body() (map[string]any, error) {
	b := map[string]any{"Name": s.name, "Port": s.port}
	if s.id != "" {
		b["ID"] = s.id
	}
	if s.address != "" {
		b["Address"] = s.address
	}
	if len(s.tags) > 0 {
		b["Tags"] = s.tags
	}
	if len(s.meta) > 0 {
		m := map[string]string{}
		for _, kv := range s.meta {
			k, v, ok := strings.Cut(kv, "=")
			if !ok {
				return nil, fmt.Errorf("-meta %q: want key=value", kv)
			}
			m[k] = v
		}
		b["Meta"] = m
	}
	check := map[string]any{}
	for k, v := range map[string]string{"TTL": s.ttl, "HTTP": s.http, "TCP": s.tcp} {
		if v != "" {
			check[k] = v
		}
	}
	if len(check) > 1 {
		return nil, errors.New("give one of -ttl, -http and -tcp")
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
	return b, nil
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
		if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(id), nil, nil); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Deregistered service: %s\n", id)
		return nil
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
