package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/serf/coordinate"
	"github.com/spf13/cobra"
)

// coordEntry is an element of /v1/coordinate/nodes.
type coordEntry struct {
	Node  string
	Coord *coordinate.Coordinate
}

// rttCommand estimates the time between two machines from what gossip learnt about the network.
func rttCommand(c *client) *cobra.Command {
	var wan bool
	cmd := &cobra.Command{
		Use: "rtt NODE [NODE]", Short: "Estimate the round trip time between two machines",
		Long: "Estimate the round trip time between two machines from their network coordinates, without sending anything.\nThe second is the agent's own machine when not given. With -wan names are NODE.DATACENTER.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) < 1 || len(args) > 2 {
			return errors.New("one or two node names must be specified")
		}
		for _, name := range args {
			if wan && !strings.Contains(name, ".") {
				return fmt.Errorf("node names must be of the form NODE.DATACENTER with -wan: %q", name)
			}
		}
		if len(args) == 1 {
			var self struct {
				Config struct{ NodeName, Datacenter string }
			}
			if err := doing(c.get(cmd.Context(), "/v1/agent/self", nil, &self), "looking up the agent's own name"); err != nil {
				return err
			}
			name := self.Config.NodeName
			if wan {
				name += "." + self.Config.Datacenter
			}
			args = append(args, name)
		}
		all, err := coordinates(cmd.Context(), c, wan)
		if err != nil {
			return doing(err, "getting coordinates")
		}
		var coords [2]*coordinate.Coordinate
		for i, name := range args {
			if coords[i] = all[strings.ToLower(name)]; coords[i] == nil {
				return &exitError{exitServer, fmt.Errorf("could not find a coordinate for node %q", name)}
			}
		}
		if !coords[0].IsCompatibleWith(coords[1]) {
			return &exitError{exitServer, errors.New("the coordinates of the two nodes have different dimensions")}
		}
		pool := "LAN"
		if wan {
			pool = "WAN"
		}
		ms := coords[0].DistanceTo(coords[1]).Seconds() * 1000
		fmt.Fprintf(cmd.OutOrStdout(), "Estimated %s <-> %s rtt: %.3f ms (using %s coordinates)\n", args[0], args[1], ms, pool)
		return nil
	}
	cmd.Flags().BoolVar(&wan, "wan", false, "between servers of datacenters")
	return cmd
}

// coordinates gives those of all nodes by lower-case name.
func coordinates(ctx context.Context, c *client, wan bool) (map[string]*coordinate.Coordinate, error) {
	out := map[string]*coordinate.Coordinate{}
	if !wan {
		var nodes []coordEntry
		err := c.get(ctx, "/v1/coordinate/nodes", nil, &nodes)
		for _, n := range nodes {
			out[strings.ToLower(n.Node)] = n.Coord
		}
		return out, err
	}
	var dcs []struct {
		Datacenter  string
		Coordinates []coordEntry
	}
	err := c.get(ctx, "/v1/coordinate/datacenters", nil, &dcs)
	for _, dc := range dcs {
		for _, n := range dc.Coordinates {
			name := strings.TrimSuffix(n.Node, "."+dc.Datacenter) + "." + dc.Datacenter
			out[strings.ToLower(name)] = n.Coord
		}
	}
	return out, err
}
