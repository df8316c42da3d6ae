package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// autopilotConfig is /v1/operator/autopilot/configuration; durations are texts such as 200ms.
type autopilotConfig struct {
	CleanupDeadServers      bool
	LastContactThreshold    string
	MaxTrailingLogs         uint64
	MinQuorum               uint
	ServerStabilizationTime string
	RedundancyZoneTag       string
	DisableUpgradeMigration bool
	UpgradeVersionTag       string
	CreateIndex             uint64 `json:",omitempty"`
	ModifyIndex             uint64 `json:",omitempty"`
}

const autopilotPath = "/v1/operator/autopilot/configuration"

func autopilotGetConfig(c *client) *cobra.Command {
	return &cobra.Command{Use: "get-config", Short: "Show the settings", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var conf autopilotConfig
		if err := doing(c.get(cmd.Context(), autopilotPath, nil, &conf), "querying Autopilot configuration"); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "CleanupDeadServers = %v\nLastContactThreshold = %s\nMaxTrailingLogs = %d\nMinQuorum = %d\n"+
			"ServerStabilizationTime = %s\nRedundancyZoneTag = %q\nDisableUpgradeMigration = %v\nUpgradeVersionTag = %q\n",
			conf.CleanupDeadServers, conf.LastContactThreshold, conf.MaxTrailingLogs, conf.MinQuorum,
			conf.ServerStabilizationTime, conf.RedundancyZoneTag, conf.DisableUpgradeMigration, conf.UpgradeVersionTag)
		return nil
	}}
}

func autopilotSetConfig(c *client) *cobra.Command {
	var cleanup, migration bool
	var contact, stable time.Duration
	var trailing uint64
	var quorum uint
	var zone, upgrade string
	cmd := &cobra.Command{
		Use: "set-config", Short: "Change the settings that are given", Args: cobra.NoArgs,
		Long: "Change the settings that are given and leave the others. Somebody else's change in the meantime is noticed.",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var conf autopilotConfig
		if err := doing(c.get(cmd.Context(), autopilotPath, nil, &conf), "querying Autopilot configuration"); err != nil {
			return err
		}
		for name, set := range map[string]func(){
			"cleanup-dead-servers":      func() { conf.CleanupDeadServers = cleanup },
			"disable-upgrade-migration": func() { conf.DisableUpgradeMigration = migration },
			"last-contact-threshold":    func() { conf.LastContactThreshold = contact.String() },
			"server-stabilization-time": func() { conf.ServerStabilizationTime = stable.String() },
			"max-trailing-logs":         func() { conf.MaxTrailingLogs = trailing },
			"min-quorum":                func() { conf.MinQuorum = quorum },
			"redundancy-zone-tag":       func() { conf.RedundancyZoneTag = zone },
			"upgrade-version-tag":       func() { conf.UpgradeVersionTag = upgrade },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		q := url.Values{"cas": {strconv.FormatUint(conf.ModifyIndex, 10)}}
		conf.CreateIndex, conf.ModifyIndex = 0, 0
		body, err := c.put(cmd.Context(), autopilotPath, q, conf)
		if err != nil {
			return doing(err, "setting Autopilot configuration")
		}
		if strings.TrimSpace(string(body)) != "true" {
			return plainly("Configuration could not be atomically updated, please try again")
		}
		fmt.Fprintln(cmd.OutOrStdout(), "Configuration updated!")
		return nil
	}
	f := cmd.Flags()
	f.BoolVar(&cleanup, "cleanup-dead-servers", false, "remove a dead server when a new one is healthy")
	f.BoolVar(&migration, "disable-upgrade-migration", false, "stored; used by the enterprise edition")
	f.DurationVar(&contact, "last-contact-threshold", 0, "longest silence from the leader of a healthy server (200ms)")
	f.DurationVar(&stable, "server-stabilization-time", 0, "how long a new server must be healthy before it votes (10s)")
	f.Uint64Var(&trailing, "max-trailing-logs", 0, "most log entries a healthy server may be behind")
	f.UintVar(&quorum, "min-quorum", 0, "never remove a server when fewer than this would remain")
	f.StringVar(&zone, "redundancy-zone-tag", "", "stored; used by the enterprise edition")
	f.StringVar(&upgrade, "upgrade-version-tag", "", "stored; used by the enterprise edition")
	return cmd
}

// autopilotServer is one server of /v1/operator/autopilot/state.
type autopilotServer struct {
	ID, Name, Address, NodeStatus, Version string
	Status, NodeType                       string
}

type autopilotStateAnswer struct {
	Healthy                    bool
	FailureTolerance           int
	OptimisticFailureTolerance int
	Servers                    map[string]autopilotServer
	Leader                     string
	Voters                     []string
}

func autopilotState(c *client) *cobra.Command {
	var layout string
	cmd := &cobra.Command{Use: "state", Short: "Show how the servers are", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if layout != "pretty" && layout != "json" {
			return fmt.Errorf("-format %q: want pretty or json", layout)
		}
		// An unhealthy cluster answers 429 with the same body.
		a, err := c.send(cmd.Context(), http.MethodGet, "/v1/operator/autopilot/state", nil, nil, nil)
		if err != nil {
			return doing(err, "getting Autopilot state")
		}
		if a.status/100 != 2 && a.status != http.StatusTooManyRequests {
			return doing(c.refused(http.MethodGet, "/v1/operator/autopilot/state", a.status, a.body), "getting Autopilot state")
		}
		if layout == "json" {
			var raw any
			if err := json.Unmarshal(a.body, &raw); err != nil {
				return &exitError{exitServer, errors.New("the answer is not JSON")}
			}
			return format("json").print(cmd.OutOrStdout(), raw, nil, nil)
		}
		var st autopilotStateAnswer
		if err := json.Unmarshal(a.body, &st); err != nil {
			return &exitError{exitServer, fmt.Errorf("the answer is not the expected JSON: %w", err)}
		}
		st.print(cmd.OutOrStdout())
		return nil
	}
	cmd.Flags().StringVar(&layout, "format", "pretty", "pretty or json")
	return cmd
}

func (st *autopilotStateAnswer) print(w io.Writer) {
	fmt.Fprintf(w, "Healthy:                      %v\nFailure Tolerance:            %d\nOptimistic Failure Tolerance: %d\nLeader:                       %s\nVoters:\n",
		st.Healthy, st.FailureTolerance, st.OptimisticFailureTolerance, st.Leader)
	for _, v := range st.Voters {
		fmt.Fprintf(w, "   %s\n", v)
	}
	fmt.Fprintln(w, "Servers:")
	for _, id := range sortedKeys(st.Servers) {
		s := st.Servers[id]
		fmt.Fprintf(w, "   %s\n", id)
		for _, line := range [...][2]string{
			{"Name", s.Name}, {"Address", s.Address}, {"Version", s.Version}, {"Status", s.Status}, {"Node Type", s.NodeType},
			{"Node Status", s.NodeStatus},
		} {
			fmt.Fprintf(w, "      %-16s %s\n", line[0]+":", line[1])
		}
	}
}
