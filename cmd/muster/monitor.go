package main

import (
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// monitorCommand follows the agent's log.
func monitorCommand(c *client) *cobra.Command {
	var level string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "monitor", Short: "Follow the log of the agent", Args: cobra.NoArgs,
		Long: "Follow the log of the agent until interrupted, at a level of its own: -log-level debug shows what the agent\nitself does not keep.",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		resp, err := c.openMonitor(cmd, level, asJSON)
		if err != nil {
			return doing(err, "starting monitor")
		}
		defer resp.Body.Close()
		_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
		if cmd.Context().Err() != nil {
			return nil // interrupted: that is how it ends
		}
		if err == nil {
			err = io.EOF
		}
		return &exitError{exitNoAgent, errors.Join(errors.New("the agent ended the monitor: it has stopped or crashed"), err)}
	}
	cmd.Flags().StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	cmd.Flags().BoolVar(&asJSON, "log-json", false, "one JSON object a line")
	return cmd
}

// openMonitor begins to stream the log.
func (c *client) openMonitor(cmd *cobra.Command, level string, asJSON bool) (*http.Response, error) {
	q := url.Values{"loglevel": {level}}
	if asJSON {
		q.Set("logjson", "")
	}
	resp, err := c.stream(cmd.Context(), http.MethodGet, "/v1/agent/monitor", q, nil, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return nil, err
		}
		return nil, c.refused(http.MethodGet, "/v1/agent/monitor", resp.StatusCode, b)
	}
	return resp, nil
}
