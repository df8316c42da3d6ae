package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
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

	ProtocolCur int
}

var memberStatus = []string{"none", "alive", "leaving", "left", "failed"}

func (m member) status() string {
	if m.Status < 0 || m.Status >= len(memberStatus) {
		return "unknown"
	}
	return memberStatus[m.Status]
}

// kind is "server", or what an agent without data is called: "proxy" here, "client" by consul.
func (m member) kind(c *client) string {
	switch {
	case m.Tags["role"] == "consul":
		return "server"
	case c.asConsul:
		return "client"
	}
	return "proxy"
}

// row is a line of the table of members.
func (m member) row(c *client) []string {
	build, _, _ := strings.Cut(m.Tags["build"], ":")
	protocol := m.Tags["vsn"]
	if protocol == "" {
		protocol = strconv.Itoa(m.ProtocolCur)
	}
	partition, segment := m.Tags["ap"], m.Tags["segment"]
	if partition == "" {
		partition = "default"
	}
	switch {
	case m.Tags["role"] == "consul":
		segment = "<all>"
	case segment == "":
		segment = "<default>"
	}
	return []string{m.Name, m.addr(), m.status(), m.kind(c), build, protocol, m.Tags["dc"], partition, segment}
}

func (m member) addr() string { return net.JoinHostPort(m.Addr, strconv.Itoa(m.Port)) }

// pairs writes a map as k=v, sorted, joined by sep.
func pairs(m map[string]string, sep string) string {
	out := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, sep)
}

func membersCommand(c *client) *cobra.Command {
	var f format
	var detailed, wan bool
	var status, filter, segment string
	cmd := &cobra.Command{
		Use: "members", Short: "List the machines of the cluster", Args: cobra.NoArgs,
		Long: "List the machines of the cluster as gossip sees them, with the status of each. When -status leaves nobody, the\nexit code says so.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			want, err := regexp.Compile(status)
			if err != nil {
				return fmt.Errorf("-status: %w", err)
			}
			q := url.Values{}
			for name, v := range map[string]string{"filter": filter, "segment": segment} {
				if v != "" {
					q.Set(name, v)
				}
			}
			if wan {
				q.Set("wan", "1")
			}
			var all []member
			if err := doing(c.get(cmd.Context(), "/v1/agent/members", q, &all), "retrieving members"); err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(m member) bool { return !want.MatchString(m.status()) })
			sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
			if len(all) == 0 && (c.asConsul || cmd.Flags().Changed("status")) {
				return &exitError{exitUnhealthy, nil}
			}
			header := []string{"Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"}
			rows := make([][]string, 0, len(all))
			for _, m := range all {
				if detailed {
					rows = append(rows, []string{m.Name, m.addr(), m.status(), pairs(m.Tags, ",")})
				} else {
					rows = append(rows, m.row(c))
				}
			}
			if detailed {
				header = []string{"Node", "Address", "Status", "Tags"}
			}
			return f.print(cmd.OutOrStdout(), all, header, rows)
		},
	}
	f.bind(cmd)
	cmd.Flags().BoolVar(&detailed, "detailed", false, "show the tags of each member")
	cmd.Flags().BoolVar(&wan, "wan", false, "show the servers of all datacenters")
	cmd.Flags().StringVar(&status, "status", ".*", "only members whose status matches this expression")
	cmd.Flags().StringVar(&filter, "filter", "", "only members for which this filter is true")
	cmd.Flags().StringVar(&segment, "segment", "", "only members of this segment; there is one only")
	return cmd
}

func joinCommand(c *client) *cobra.Command {
	var wan bool
	cmd := &cobra.Command{Use: "join ADDRESS...", Short: "Join the agent to a cluster", Args: cobra.MinimumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		joined := 0
		q := url.Values{}
		if wan {
			q.Set("wan", "1")
		}
		for _, a := range args {
			_, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/join/"+url.PathEscape(a), q, nil)
			if xe := (*exitError)(nil); errors.As(err, &xe) && xe.code == exitNoAgent {
				return err
			}
			if err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "Error joining address '%s': %v\n", a, err)
				continue
			}
			joined++
		}
		if joined == 0 {
			if c.asConsul {
				return plainly("Failed to join any nodes.")
			}
			return &exitError{exitServer, errors.New("failed to join any nodes")}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Successfully joined cluster by contacting %d nodes.\n", joined)
		return nil
	}}
	cmd.Flags().BoolVar(&wan, "wan", false, "join servers of another datacenter")
	return cmd
}

func leaveCommand(c *client) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "leave", Short: "Leave the cluster and stop the agent", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		if force {
			q.Set("force", "1")
		}
		if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/leave", q, nil); err != nil {
			return doing(err, "leaving")
		}
		fmt.Fprintln(cmd.OutOrStdout(), "Graceful leave complete")
		return nil
	}}
	cmd.Flags().BoolVar(&force, "force", false, "leave even when the other servers lose their quorum by it")
	return cmd
}

func forceLeaveCommand(c *client) *cobra.Command {
	var prune, wan bool
	cmd := &cobra.Command{Use: "force-leave NODE", Short: "Count a failed member as one that left", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		q := url.Values{}
		if prune {
			q.Set("prune", "1")
		}
		if wan {
			q.Set("wan", "1")
		}
		_, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/force-leave/"+url.PathEscape(args[0]), q, nil)
		return doing(err, "force leaving")
	}}
	cmd.Flags().BoolVar(&prune, "prune", false, "forget the member at once")
	cmd.Flags().BoolVar(&wan, "wan", false, "a server of another datacenter")
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

func versionCommand(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{Use: "version", Short: "Show the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if c.asConsul && f == "pretty" {
			f = "table"
		}
		if err := f.check(); err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		switch {
		case c.asConsul && f == "json":
			e := json.NewEncoder(w)
			e.SetIndent("", "   ")
			return e.Encode(consulVersion())
		case c.asConsul:
			printConsulVersion(w)
			return nil
		}
		v := map[string]string{"Version": version.Version, "Revision": version.Revision(), "Go": runtime.Version(), "Platform": runtime.GOOS + "/" + runtime.GOARCH}
		if f == "json" {
			return f.print(w, v, nil, nil)
		}
		fmt.Fprintf(w, "Muster v%s\nRevision %s\nBuilt with %s for %s\n", v["Version"], v["Revision"], v["Go"], strings.ReplaceAll(v["Platform"], "/", " "))
		return nil
	}}
	f.bind(cmd)
	return cmd
}

// consulVersion is the version as scripts ask for it: that of the interfaces spoken here, not that of Muster.
func consulVersion() any {
	type rpc struct{ Default, Min, Max int }
	return struct {
		Version, Revision, Prerelease, BuildDate string
		RPC                                      rpc
	}{version.Consul, version.Revision(), "", "1970-01-01T00:00:01Z", rpc{2, 2, 3}}
}

func printConsulVersion(w io.Writer) {
	fmt.Fprintf(w, "Consul v%s\n", version.Consul)
	if rev := version.Revision(); rev != "" {
		fmt.Fprintf(w, "Revision %s\n", rev)
	}
	fmt.Fprintf(w, "This is Muster v%s, which speaks the interfaces of that version\n\n", version.Version)
}
