package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthEvery is the time between two looks of cluster-health --forever.
const healthEvery = 10 * time.Second

func clusterHealthCommand(c *client) *cobra.Command { return c.etcdVerbs().clusterHealth() }

func (v *etcdVerbs) clusterHealth() *cobra.Command {
	var forever bool
	cmd := &cobra.Command{Use: "cluster-health", Short: "Ask every server of the cluster whether it is healthy", RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := v.connect(cmd, false)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		for {
			err := v.lookAtHealth(ctx, cmd, c)
			if ctx.Err() != nil && forever {
				return nil
			}
			if !forever {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), "\nnext check after 10 second...\n\n")
			if !pause(ctx, healthEvery) {
				return nil
			}
		}
	}}
	cmd.Flags().BoolVarP(&forever, "forever", "f", false, "look again every ten seconds")
	return cmd
}

// lookAtHealth asks every member once and prints the result.
func (v *etcdVerbs) lookAtHealth(ctx context.Context, cmd *cobra.Command, c *etcdClient) error {
	out := cmd.OutOrStdout()
	limited, cancel := c.within(ctx)
	members, err := c.members(limited)
	cancel()
	if err != nil {
		fmt.Fprintln(out, "cluster may be unhealthy: failed to list members")
		return v.failed(err)
	}
	healthy := 0
	for _, m := range members {
		if c.memberHealth(ctx, m, func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }) {
			healthy++
		}
	}
	switch healthy {
	case len(members):
		fmt.Fprintln(out, "cluster is healthy")
		return nil
	case 0:
		fmt.Fprintln(out, "cluster is unavailable")
	default:
		fmt.Fprintln(out, "cluster is degraded")
	}
	return &exitError{exitUnhealthy, nil}
}

// memberHealth asks the client URLs of m in turn until one answers.
func (c *etcdClient) memberHealth(ctx context.Context, m etcdMember, say func(format string, args ...any)) bool {
	if len(m.ClientURLs) == 0 {
		say("member %s is unreachable: no available published client urls", m.ID)
		return false
	}
	for _, at := range m.ClientURLs {
		ok, err := c.health(ctx, at)
		switch {
		case err != nil:
			say("failed to check the health of member %s on %s: %v", m.ID, at, err)
			continue
		case ok:
			say("member %s is healthy: got healthy result from %s", m.ID, at)
		default:
			say("member %s is unhealthy: got unhealthy result from %s", m.ID, at)
		}
		return ok
	}
	say("member %s is unreachable: %v are all unreachable", m.ID, m.ClientURLs)
	return false
}

// health asks one server. Its answer carries the truth as a string or as a bool, by the age of the server.
func (c *etcdClient) health(ctx context.Context, at string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/health", nil)
	if err != nil {
		return false, err
	}
	resp, err := (&http.Client{Transport: c.rt, Timeout: c.timeout}).Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var result struct {
		Health any `json:"health"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&result); err != nil {
		return false, err
	}
	return result.Health == "true" || result.Health == true, nil
}
