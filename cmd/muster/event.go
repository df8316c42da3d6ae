package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// eventCommand fires an event that agents hear of by gossip.
func eventCommand(c *client) *cobra.Command {
	var name, node, service, tag string
	cmd := &cobra.Command{
		Use: "event -name NAME [PAYLOAD]", Short: "Fire an event for the agents of the cluster",
		Long: "Fire an event that every agent hears of by gossip, at best effort; -node, -service and -tag are regular\nexpressions that choose who takes notice. The payload is at most a few hundred bytes.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case name == "":
			return errors.New("no event name: give -name")
		case len(args) > 1:
			return fmt.Errorf("too many arguments: want one payload, got %d", len(args))
		case tag != "" && service == "":
			return errors.New("cannot provide tag filter without service filter")
		}
		q := url.Values{}
		for k, v := range map[string]string{"node": node, "service": service, "tag": tag} {
			if v == "" {
				continue
			}
			if _, err := regexp.Compile(v); err != nil {
				return fmt.Errorf("-%s: %w", k, err)
			}
			q.Set(k, v)
		}
		body, err := c.ok(cmd.Context(), http.MethodPut, "/v1/event/fire/"+url.PathEscape(name), q, strings.NewReader(strings.Join(args, "")))
		if err != nil {
			return doing(err, "firing event")
		}
		var ev struct{ ID string }
		if err := json.Unmarshal(body, &ev); err != nil {
			return &exitError{exitServer, fmt.Errorf("the answer is not an event: %w", err)}
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Event ID: %s\n", ev.ID)
		return nil
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "name of the event")
	f.StringVar(&node, "node", "", "expression for the names of nodes")
	f.StringVar(&service, "service", "", "expression for the names of services a node must have")
	f.StringVar(&tag, "tag", "", "expression for a tag that service must have")
	return cmd
}
