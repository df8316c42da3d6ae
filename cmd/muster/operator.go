package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

// operatorCommand holds what one does to the servers themselves.
func operatorCommand(c *client) *cobra.Command {
	return group(c, "operator", "Look at and change the servers themselves",
		group(c, "raft", "The servers that hold the data", raftListPeers(c), raftRemovePeer(c), raftTransferLeader(c)),
		group(c, "autopilot", "What is done about new and dead servers", autopilotGetConfig(c), autopilotSetConfig(c), autopilotState(c)),
		group(c, "usage", "How much is in the catalog", usageInstances(c)))
}

func raftListPeers(c *client) *cobra.Command {
	return &cobra.Command{Use: "list-peers", Short: "List the servers and what each has", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var conf struct {
			Servers []struct {
				ID, Node, Address string
				Leader, Voter     bool
				ProtocolVersion   string
				LastIndex         uint64
			}
		}
		if err := doing(c.get(cmd.Context(), "/v1/operator/raft/configuration", nil, &conf), "getting peers"); err != nil {
			return err
		}
		var lead uint64
		for _, s := range conf.Servers {
			if s.Leader {
				lead = s.LastIndex
			}
		}
		rows := make([][]string, 0, len(conf.Servers))
		for _, s := range conf.Servers {
			state, trails := "follower", "-"
			switch behind := int64(lead) - int64(s.LastIndex); {
			case s.Leader:
				state = "leader"
			case behind == 1:
				trails = "1 commit"
			case behind >= 0 && lead > 0:
				trails = fmt.Sprintf("%d commits", behind)
			}
			rows = append(rows, []string{s.Node, s.ID, s.Address, state, strconv.FormatBool(s.Voter), s.ProtocolVersion, strconv.FormatUint(s.LastIndex, 10), trails})
		}
		return format("table").print(cmd.OutOrStdout(), nil, []string{"Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index", "Trails Leader By"}, rows)
	}}
}

func raftRemovePeer(c *client) *cobra.Command {
	var id, address string
	cmd := &cobra.Command{
		Use: "remove-peer", Short: "Take a dead server's vote away", Args: cobra.NoArgs,
		Long: "Take away the vote of a server that is gone for good. One that comes back joins as a new one.",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (id == "") == (address == "") {
			return errors.New("give one of -id and -address")
		}
		q, what, value := url.Values{}, "id", id
		if address != "" {
			what, value = "address", address
		}
		q.Set(what, value)
		if _, err := c.ok(cmd.Context(), http.MethodDelete, "/v1/operator/raft/peer", q, nil); err != nil {
			return doing(err, "removing peer")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Removed peer with %s %q\n", what, value)
		return nil
	}
	cmd.Flags().StringVar(&id, "id", "", "id of the server")
	cmd.Flags().StringVar(&address, "address", "", "host:port of the server")
	return cmd
}

func raftTransferLeader(c *client) *cobra.Command {
	var id string
	cmd := &cobra.Command{Use: "transfer-leader", Short: "Let another server lead", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if id != "" {
			q.Set("id", id)
		}
		body, err := c.ok(cmd.Context(), http.MethodPost, "/v1/operator/raft/transfer-leader", q, nil)
		if err != nil {
			return doing(err, "transferring leadership")
		}
		var answer struct{ Success bool }
		if err := json.Unmarshal(body, &answer); err != nil || !answer.Success {
			return &exitError{exitServer, errors.New("the leadership was not transferred")}
		}
		fmt.Fprintln(cmd.OutOrStdout(), "Success")
		return nil
	}}
	cmd.Flags().StringVar(&id, "id", "", "id of the server that is to lead; the best one when not given")
	return cmd
}

func usageInstances(c *client) *cobra.Command {
	var onlyBillable, allDCs, onlyConnect bool
	cmd := &cobra.Command{Use: "instances", Short: "Count services, instances and nodes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if allDCs {
			q.Set("global", "")
		}
		var answer struct {
			Usage map[string]struct {
				Services, ServiceInstances, BillableServiceInstances, Nodes int
				ConnectServiceInstances                                     map[string]int
			}
		}
		if err := doing(c.get(cmd.Context(), "/v1/operator/usage", q, &answer), "fetching usage"); err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		var billable, connect [][]string
		total, kinds := 0, 0
		for _, dc := range sortedKeys(answer.Usage) {
			u := answer.Usage[dc]
			billable = append(billable, []string{dc, strconv.Itoa(u.Services), strconv.Itoa(u.BillableServiceInstances), strconv.Itoa(u.ServiceInstances), strconv.Itoa(u.Nodes)})
			total += u.BillableServiceInstances
			for _, kind := range sortedKeys(u.ConnectServiceInstances) {
				connect = append(connect, []string{dc, kind, strconv.Itoa(u.ConnectServiceInstances[kind])})
				kinds += u.ConnectServiceInstances[kind]
			}
		}
		table := format("table")
		if !onlyConnect {
			fmt.Fprintf(w, "Billable Service Instances Total: %d\n", total)
			if err := table.print(w, nil, []string{"Datacenter", "Services", "Billable instances", "Service instances", "Nodes"}, billable); err != nil {
				return err
			}
		}
		if !onlyBillable {
			fmt.Fprintf(w, "\nConnect Service Instances Total: %d\n", kinds)
			return table.print(w, nil, []string{"Datacenter", "Type", "Service instances"}, connect)
		}
		return nil
	}}
	f := cmd.Flags()
	f.BoolVar(&onlyBillable, "billable", false, "only services that applications registered")
	f.BoolVar(&onlyConnect, "connect", false, "only services of a mesh, of which there are none here")
	f.BoolVar(&allDCs, "all-datacenters", false, "of all datacenters")
	return cmd
}
