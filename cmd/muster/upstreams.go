package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// upstreamState is one local port, as the agent tells it.
type upstreamState struct {
	Name, Service, Query, Tag, Listen            string
	Open                                         int
	Total, Refused, Unserved, Retries, Ejections uint64
	BytesIn, BytesOut                            uint64
	Stale                                        bool
	KnownError                                   string
	Instances                                    []struct {
		Node, ID, Address string
		Weight, Distance  int
		Open              int
		Total, Failed     uint64
		EjectedUntil      *time.Time
		Draining          bool
	}
}

// upstreamsCommand lists the local ports of the agent's machine.
func upstreamsCommand(c *client) *cobra.Command {
	var layout format
	cmd := &cobra.Command{
		Use: "upstreams", Short: "List the local ports for services, their instances and connections", Args: cobra.NoArgs,
		Long: "List the local ports that `upstream` blocks of the agent's configuration open, each with the instances that clients are\n" +
			"connected to: in use, draining (not healthy any more) or ejected (it could not be connected to) until a time.",
	}
	layout.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := layout.check(); err != nil {
			return err
		}
		var list []upstreamState
		if err := doing(c.get(cmd.Context(), "/v1/agent/upstreams", nil, &list), "listing upstreams"); err != nil {
			return err
		}
		if len(list) == 0 && layout != "json" {
			fmt.Fprintln(cmd.OutOrStdout(), "The agent has no upstreams")
			return nil
		}
		var rows [][]string
		for i := range list {
			rows = append(rows, list[i].rows()...)
		}
		return layout.print(cmd.OutOrStdout(), list, []string{"Upstream", "Listen", "Node", "Instance", "Address", "Weight", "Open", "Total", "Failed", "State"}, rows)
	}
	return cmd
}

// rows are one for each instance, or one that says that there is none.
func (u *upstreamState) rows() [][]string {
	if len(u.Instances) == 0 {
		why := "no healthy instance"
		if u.KnownError != "" {
			why = u.KnownError
		}
		return [][]string{{u.Name, u.Listen, "", "", "", "", strconv.Itoa(u.Open), strconv.FormatUint(u.Total, 10), strconv.FormatUint(u.Unserved, 10), why}}
	}
	var rows [][]string
	for _, i := range u.Instances {
		state := "in use"
		switch {
		case i.Draining:
			state = "draining"
		case i.EjectedUntil != nil:
			state = "ejected until " + i.EjectedUntil.UTC().Format(time.RFC3339)
		case u.Stale:
			state = "in use, known last"
		}
		rows = append(rows, []string{
			u.Name, u.Listen, i.Node, i.ID, i.Address, strconv.Itoa(i.Weight), strconv.Itoa(i.Open), strconv.FormatUint(i.Total, 10), strconv.FormatUint(i.Failed, 10), state,
		})
	}
	return rows
}
