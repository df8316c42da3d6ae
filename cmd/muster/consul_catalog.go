package main

import (
	"fmt"
	"net/url"
	"sort"
	"strings"

	"github.com/spf13/cobra"
)

// catalogCommand is `catalog`: what the servers know, of all machines.
func catalogCommand(c *client) *cobra.Command {
	return group(c, "catalog", "Look at the catalog of all machines", catalogDatacenters(c), catalogNodes(c), catalogServices(c))
}

func catalogDatacenters(c *client) *cobra.Command {
	return &cobra.Command{Use: "datacenters", Short: "List the datacenters", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var all []string
		if err := doing(c.get(cmd.Context(), "/v1/catalog/datacenters", nil, &all), "listing datacenters"); err != nil {
			return err
		}
		for _, dc := range all {
			fmt.Fprintln(cmd.OutOrStdout(), dc)
		}
		return nil
	}}
}

// nodeMetaQuery turns -node-meta key=value flags into parameters.
func nodeMetaQuery(q url.Values, metas []string) error {
	for _, m := range metas {
		k, v, ok := strings.Cut(m, "=")
		if !ok || k == "" {
			return fmt.Errorf("-node-meta %q: want key=value", m)
		}
		q.Add("node-meta", k+":"+v)
	}
	return nil
}

// catalogNode is what the lists of nodes and of the instances of a service have in common.
type catalogNode struct {
	ID, Node, Address, Datacenter string
	TaggedAddresses, Meta         map[string]string
	NodeMeta                      map[string]string // in place of Meta, of an instance
}

func catalogNodes(c *client) *cobra.Command {
	var detailed bool
	var filter, near, service string
	var metas []string
	cmd := &cobra.Command{Use: "nodes", Short: "List the nodes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if err := nodeMetaQuery(q, metas); err != nil {
			return err
		}
		for k, v := range map[string]string{"filter": filter, "near": near} {
			if v != "" {
				q.Set(k, v)
			}
		}
		path := "/v1/catalog/nodes"
		if service != "" {
			path = "/v1/catalog/service/" + url.PathEscape(service)
		}
		var all []catalogNode
		if err := doing(c.get(cmd.Context(), path, q, &all), "listing nodes"); err != nil {
			return err
		}
		if len(all) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "No nodes match the given query - try expanding your search.")
			return nil
		}
		if near == "" {
			sort.SliceStable(all, func(i, j int) bool { return all[i].Node < all[j].Node })
		}
		header := []string{"Node", "ID", "Address", "DC"}
		if detailed {
			header = append(header, "TaggedAddresses", "Meta")
		}
		var rows [][]string
		seen := map[string]bool{}
		for _, n := range all {
			if seen[n.Node] {
				continue // several instances on one node
			}
			seen[n.Node] = true
			row := []string{n.Node, n.ID, n.Address, n.Datacenter}
			if detailed {
				meta := n.Meta
				if meta == nil {
					meta = n.NodeMeta
				}
				row = append(row, pairs(n.TaggedAddresses, ", "), pairs(meta, ", "))
			} else {
				row[1] = n.ID[:min(8, len(n.ID))]
			}
			rows = append(rows, row)
		}
		return format("table").print(cmd.OutOrStdout(), nil, header, rows)
	}}
	f := cmd.Flags()
	f.BoolVar(&detailed, "detailed", false, "show whole ids, tagged addresses and metadata")
	f.StringVar(&filter, "filter", "", "only nodes for which this filter is true")
	f.StringVar(&near, "near", "", "nearest to this node first; _agent is the agent's own")
	f.StringArrayVar(&metas, "node-meta", nil, "only nodes with this metadata, key=value; repeat it for several")
	f.StringVar(&service, "service", "", "only nodes that have this service")
	return cmd
}

func catalogServices(c *client) *cobra.Command {
	var node, filter string
	var metas []string
	var withTags bool
	cmd := &cobra.Command{Use: "services", Short: "List the names of the services", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if err := nodeMetaQuery(q, metas); err != nil {
			return err
		}
		if filter != "" {
			q.Set("filter", filter)
		}
		tags := map[string]map[string]bool{}
		add := func(name string, list []string) {
			if tags[name] == nil {
				tags[name] = map[string]bool{}
			}
			for _, t := range list {
				tags[name][t] = true
			}
		}
		if node != "" {
			var one *struct {
				Services map[string]struct {
					Service string
					Tags    []string
				}
			}
			if err := doing(c.get(cmd.Context(), "/v1/catalog/node/"+url.PathEscape(node), q, &one), "listing services"); err != nil {
				return err
			}
			if one != nil {
				for _, s := range one.Services {
					add(s.Service, s.Tags)
				}
			}
		} else {
			var all map[string][]string
			if err := doing(c.get(cmd.Context(), "/v1/catalog/services", q, &all), "listing services"); err != nil {
				return err
			}
			for name, list := range all {
				add(name, list)
			}
		}
		if len(tags) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "No services match the given query - try expanding your search.")
			return nil
		}
		var rows [][]string
		for _, name := range sortedKeys(tags) {
			if withTags {
				rows = append(rows, []string{name, strings.Join(sortedKeys(tags[name]), ",")})
			} else {
				rows = append(rows, []string{name})
			}
		}
		return format("table").print(cmd.OutOrStdout(), nil, nil, rows)
	}}
	f := cmd.Flags()
	f.StringVar(&node, "node", "", "only services of this node")
	f.StringVar(&filter, "filter", "", "only services for which this filter is true")
	f.StringArrayVar(&metas, "node-meta", nil, "only services of nodes with this metadata, key=value; repeat it for several")
	f.BoolVar(&withTags, "tags", false, "show the tags of each service")
	return cmd
}
