package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/version"
)

// member is one entry of /v1/agent/members.
type member struct {
	Name   string
	Addr   string
	Port   int
	Tags   map[string]string
	Status int
}

var memberStatus = []string{"none", "alive", "leaving", "left", "failed"}

func (m member) status() string {
	if m.Status < 0 || m.Status >= len(memberStatus) {
		return "unknown"
	}
	return memberStatus[m.Status]
}

func (m member) kind() string {
	if m.Tags["role"] == "consul" {
		return "server"
	}
	return "proxy"
}

func membersCommand(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "members", Short: "List the machines of the cluster", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		var all []member
		if err := c.get(cmd.Context(), "/v1/agent/members", nil, &all); err != nil {
			return err
		}
		sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
		rows := make([][]string, 0, len(all))
		for _, m := range all {
			rows = append(rows, []string{m.Name, fmt.Sprintf("%s:%d", m.Addr, m.Port), m.status(), m.kind(), m.Tags["build"], m.Tags["dc"]})
		}
		return f.print(cmd.OutOrStdout(), all, []string{"Node", "Address", "Status", "Type", "Version", "DC"}, rows)
	}}
	f.bind(cmd)
	return cmd
}

func joinCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "join ADDRESS...", Short: "Join the agent to a cluster", Args: cobra.MinimumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		joined := 0
		for _, a := range args {
			if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/join/"+url.PathEscape(a), nil, nil); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "Error joining address '%s': %v\n", a, err)
				continue
			}
			joined++
		}
		if joined == 0 {
			return &exitError{exitServer, fmt.Errorf("failed to join any nodes")}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Successfully joined cluster by contacting %d nodes.\n", joined)
		return nil
	}}
}

func leaveCommand(c *client) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "leave", Short: "Leave the cluster and stop the agent", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if force {
			q.Set("force", "1")
		}
		if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/leave", q, nil); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "Graceful leave complete")
		return nil
	}}
	cmd.Flags().BoolVar(&force, "force", false, "leave even when the other servers lose their quorum by it")
	return cmd
}

func forceLeaveCommand(c *client) *cobra.Command {
	var prune bool
	cmd := &cobra.Command{Use: "force-leave NODE", Short: "Count a failed member as one that left", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		q := url.Values{}
		if prune {
			q.Set("prune", "1")
		}
		_, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/force-leave/"+url.PathEscape(args[0]), q, nil)
		return err
	}}
	cmd.Flags().BoolVar(&prune, "prune", false, "forget the member at once")
	return cmd
}

func reloadCommand(c *client) *cobra.Command {
	return &cobra.Command{Use: "reload", Short: "Make the agent read its configuration again", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/reload", nil, nil); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "Configuration reload triggered")
		return nil
	}}
}

func infoCommand(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "info", Short: "Show the state of the agent", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		var self struct{ Stats map[string]map[string]string }
		if err := c.get(cmd.Context(), "/v1/agent/self", nil, &self); err != nil {
			return err
		}
		if f == "json" {
			return f.print(cmd.OutOrStdout(), self.Stats, nil, nil)
		}
		for _, section := range sortedKeys(self.Stats) {
			fmt.Fprintf(cmd.OutOrStdout(), "%s:\n", section)
			for _, k := range sortedKeys(self.Stats[section]) {
				fmt.Fprintf(cmd.OutOrStdout(), "\t%s = %s\n", k, self.Stats[section][k])
			}
		}
		return nil
	}}
	f.bind(cmd)
	return cmd
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func versionCommand(*client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "version", Short: "Show the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		v := map[string]string{"Version": version.Version, "Revision": version.Revision(), "Go": runtime.Version(), "Platform": runtime.GOOS + "/" + runtime.GOARCH}
		if f == "json" {
			b, err := json.MarshalIndent(v, "", "    ")
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), string(b))
			return nil
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Muster v%s\nRevision %s\nBuilt with %s for %s\n", v["Version"], v["Revision"], v["Go"], strings.ReplaceAll(v["Platform"], "/", " "))
		return nil
	}}
	f.bind(cmd)
	return cmd
}
