package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// maintCommand puts the machine or one of its services into maintenance.
func maintCommand(c *client) *cobra.Command {
	var enable, disable bool
	var reason, service string
	cmd := &cobra.Command{
		Use: "maint", Short: "Put this machine or one of its services into maintenance", Args: cobra.NoArgs,
		Long: "Put this machine (or with -service one of its services) into maintenance: a critical check hides it from DNS\nand from health queries until -disable. Without flags: list what is in maintenance.",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case enable && disable:
			return errors.New("only one of -enable and -disable may be given")
		case !enable && reason != "":
			return errors.New("-reason goes with -enable only")
		case !enable && !disable && service != "":
			return errors.New("-service needs -enable or -disable")
		case !enable && !disable:
			return listMaintenance(c, cmd)
		}
		q := url.Values{"enable": {strconv.FormatBool(enable)}}
		if reason != "" {
			q.Set("reason", reason)
		}
		path, word := "/v1/agent/maintenance", "enabled"
		if disable {
			word = "disabled"
		}
		if service != "" {
			path = "/v1/agent/service/maintenance/" + url.PathEscape(service)
		}
		if _, err := c.ok(cmd.Context(), http.MethodPut, path, q, nil); err != nil {
			return doing(err, "changing maintenance")
		}
		if service != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "Service maintenance is now %s for %q\n", word, service)
		} else {
			fmt.Fprintf(cmd.OutOrStdout(), "Node maintenance is now %s\n", word)
		}
		return nil
	}
	f := cmd.Flags()
	f.BoolVar(&enable, "enable", false, "begin maintenance")
	f.BoolVar(&disable, "disable", false, "end maintenance")
	f.StringVar(&reason, "reason", "", "text that tells others why")
	f.StringVar(&service, "service", "", "id of a service of this agent; the whole machine when not given")
	return cmd
}

func listMaintenance(c *client, cmd *cobra.Command) error {
	var checks map[string]struct{ CheckID, Node, ServiceID, Notes string }
	if err := doing(c.get(cmd.Context(), "/v1/agent/checks", nil, &checks), "querying maintenance"); err != nil {
		return err
	}
	for _, id := range sortedKeys(checks) {
		check := checks[id]
		switch {
		case id == "_node_maintenance":
			fmt.Fprintf(cmd.OutOrStdout(), "Node:\n  Name:   %s\n  Reason: %s\n\n", check.Node, check.Notes)
		case strings.HasPrefix(id, "_service_maintenance:"):
			fmt.Fprintf(cmd.OutOrStdout(), "Service:\n  ID:     %s\n  Reason: %s\n\n", check.ServiceID, check.Notes)
		}
	}
	return nil
}
