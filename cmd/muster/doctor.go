package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/doctor"
)

// doctorCommand lets the agent examine itself and what it can reach of the cluster.
func doctorCommand(c *client) *cobra.Command {
	var layout format
	var strict bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Examine the agent, its machine and its cluster, and say what to do", Args: cobra.NoArgs,
		Long: "Let the agent look at the quorum, at every port (its own, and from here those of the other agents), at clocks, disk,\n" +
			"certificates, versions and itself. It takes a few seconds at most and changes nothing. Exit code 5: something failed.",
	}
	layout.bind(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 5 for warnings, too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := layout.check(); err != nil {
			return err
		}
		var r doctor.Report
		if err := c.get(cmd.Context(), "/v1/agent/doctor", nil, &r); err != nil {
			noAgent(cmd.ErrOrStderr(), c.base, err)
			return doing(err, "examining the agent")
		}
		if layout == "json" {
			if err := layout.print(cmd.OutOrStdout(), &r, nil, nil); err != nil {
				return err
			}
		} else {
			printReport(cmd.OutOrStdout(), &r)
		}
		if worst := r.Worst(); worst == doctor.Fail || strict && worst != doctor.OK {
			return &exitError{exitUnhealthy, nil}
		}
		return nil
	}
	return cmd
}

// printReport prints the findings by area, each with its advice below it.
func printReport(w io.Writer, r *doctor.Report) {
	area := ""
	for _, f := range r.Findings {
		if f.Area != area {
			area = f.Area
			fmt.Fprintln(w, area)
		}
		word := string(f.Status)
		if f.Status == doctor.Fail {
			word = "FAIL" // to be seen
		}
		fmt.Fprintf(w, "  %-4s  %s: %s\n", word, f.Subject, f.Text)
		if f.Advice != "" {
			fmt.Fprintf(w, "        -> %s\n", f.Advice)
		}
	}
	kind := "proxy"
	if r.Server {
		kind = "server"
	}
	fmt.Fprintf(w, "\n%s (%s, %s): ok %d, warnings %d, failures %d, in %s\n", r.Node, kind, r.Version, r.Count(doctor.OK), r.Count(doctor.Warn), r.Count(doctor.Fail), r.Took.Round(time.Millisecond))
}

// noAgent says what to look at when nothing can be examined.
func noAgent(w io.Writer, base string, err error) {
	xe, ok := errors.AsType[*exitError](err)
	if !ok {
		return
	}
	switch {
	case hasStatus(err, http.StatusNotFound):
		fmt.Fprintln(w, "The agent is older than this command: ask it with its own muster.")
		return
	case xe.code != exitNoAgent:
		return
	}
	port := "8500"
	if u, err := url.Parse(base); err == nil && u.Port() != "" {
		port = u.Port()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		fmt.Fprintf(w, "Nothing listens at %s. Look at these:\n", base)
	} else {
		fmt.Fprintf(w, "No agent answers at %s. Look at these:\n", base)
	}
	fmt.Fprintf(w, `  Is it running?          systemctl status muster, or: pgrep -a muster
  Why did it end?         journalctl -u muster -e, or wherever its standard error goes
  Is it another address?  client_addr, addresses.http and ports.http of its configuration; then -http-addr or MUSTER_HTTP_ADDR here
  Who has the port?       ss -ltnp 'sport = :%s'
  Would it start?         muster validate FILE-OR-DIRECTORY of its configuration
`, port)
}
