package main

import (
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

// whyCommand explains why a record is there and why DNS shows it or not.
func whyCommand(c *client) *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use: "why [service|node|check] NAME", Short: "Explain who wrote a record, and whether DNS shows it",
		Long: `Explain a service (by its name or the id of an instance), a node or a check: who wrote each record, when, at which
index, what would bring it back if it were removed, and why DNS does or does not answer with it at this moment, as
the agent that is asked sees it. Without a kind, everything of that name is explained.

Times are known to the second, and only since the leader started. Exits with 5 when nothing has the name.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			kind, name := "any", args[0]
			if len(args) == 2 {
				kind, name = args[0], args[1]
				if !slices.Contains([]string{"service", "node", "check"}, kind) {
					return fmt.Errorf("%q: want service, node or check", kind)
				}
			}
			var y agent.Why
			if err := c.get(cmd.Context(), "/v1/agent/why/"+kind+"/"+url.PathEscape(name), nil, &y); err != nil {
				return doing(err, "asking why")
			}
			if f == "json" {
				if err := f.print(cmd.OutOrStdout(), y, nil, nil); err != nil {
					return err
				}
			} else {
				printWhy(cmd.OutOrStdout(), &y)
			}
			if len(y.Records) == 0 && len(y.Notes) == 0 {
				return &exitError{exitUnhealthy, fmt.Errorf("nothing in the catalog, and no agent that answered, knows %q", name)}
			}
			return nil
		},
		ValidArgs: []string{"service", "node", "check"},
	}
	f.bind(cmd)
	return cmd
}

func printWhy(w io.Writer, y *agent.Why) {
	for i, r := range y.Records {
		if i > 0 {
			fmt.Fprintln(w)
		}
		switch r.Kind {
		case "service":
			fmt.Fprintf(w, "Service %s, instance %s on node %s at %s\n", r.Name, r.ID, r.Node, r.Address)
		case "node":
			fmt.Fprintf(w, "Node %s at %s\n", r.Node, r.Address)
		default:
			fmt.Fprintf(w, "Check %s on node %s: %s\n", r.ID, r.Node, r.Status)
		}
		printWhyRecord(w, &r, y.Agent)
		for _, check := range r.Checks {
			fmt.Fprintf(w, "  Check %s: %s\n", check.ID, check.Status)
			fmt.Fprintf(w, "    written     %s\n    by          %s\n", written(&check), check.By)
			if check.Output != "" && check.Status != "passing" {
				fmt.Fprintf(w, "    output      %s\n", strings.ReplaceAll(strings.TrimSpace(check.Output), "\n", "\n                "))
			}
		}
	}
	for i, n := range y.Notes {
		if i == 0 && len(y.Records) > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, "Note: "+n)
	}
}

func printWhyRecord(w io.Writer, r *agent.WhyRecord, asked string) {
	if r.DNS != nil {
		shown := "no"
		if r.DNS.Shown {
			shown = "yes"
		}
		fmt.Fprintf(w, "  in DNS      %s, at agent %s: %s\n", shown, asked, strings.Join(r.DNS.Reasons, "; "))
	}
	fmt.Fprintf(w, "  written     %s\n  by          %s\n", written(r), r.By)
	if r.Returns != "" {
		fmt.Fprintf(w, "  comes back  %s\n", r.Returns)
	}
}

// written says when and at which index.
func written(r *agent.WhyRecord) string {
	at := "at " + clock(r.To)
	switch {
	case r.From.IsZero():
		at = "before " + clock(r.To)
	case r.To.Sub(r.From) > 2*time.Second:
		at = "between " + clock(r.From) + " and " + clock(r.To)
	}
	if r.CreateIndex == r.ModifyIndex {
		return fmt.Sprintf("%s, at index %d", at, r.ModifyIndex)
	}
	return fmt.Sprintf("%s, at index %d (first at %d)", at, r.ModifyIndex, r.CreateIndex)
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
