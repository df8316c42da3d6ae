package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/watch"
)

// watchCommand waits for changes of something and runs a handler on each.
func watchCommand(c *client) *cobra.Command {
	var p watch.Plan
	var h watch.HTTP
	var shell bool
	var headers []string
	cmd := &cobra.Command{
		Use: "watch -type TYPE [COMMAND...]", Short: "Run a command on every change of something",
		Long: `Follow something and run a command on every change, and once at the start. The command gets the new state as JSON
on its standard input, and its index as CONSUL_INDEX. With -handler-url the state is sent to a URL instead. Without
either: print the state once and end.

  key        -key                          the key, or null
  keyprefix  -prefix                       the keys that begin with the prefix
  services   [-filter]                     the names of all services with their tags
  nodes      [-filter]                     all nodes
  service    -service [-tag] [-passingonly] [-filter]   the instances of a service
  checks     [-service or -state] [-filter]             checks
  event      [-name]                       events, only new ones after the first time

The watch ends with exit code 1 when the command fails. Errors of the agent are tried again, less and less often.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.Check(); err != nil {
				if u := watch.UnsupportedError(""); errors.As(err, &u) {
					return plainly("%s", err)
				}
				return err
			}
			h.Header = http.Header{}
			for _, kv := range headers {
				k, v, ok := strings.Cut(kv, "=")
				if !ok {
					return fmt.Errorf("-handler-header %q: want name=value", kv)
				}
				h.Header.Add(k, v)
			}
			switch {
			case len(args) > 0 && h.URL != "":
				return errors.New("give a command or -handler-url, not both")
			case len(args) > 0:
				run := watch.Command{Args: args, Shell: shell, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
				return runWatch(cmd, c, &p, run.Handle)
			case h.URL != "":
				return runWatch(cmd, c, &p, h.Handle)
			}
			return printWatch(cmd, c, &p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Type, "type", "", "key, keyprefix, services, nodes, service, checks or event")
	f.StringVar(&p.Key, "key", "", "the key")
	f.StringVar(&p.Prefix, "prefix", "", "the beginning of keys")
	f.StringVar(&p.Service, "service", "", "name of the service")
	f.StringArrayVar(&p.Tags, "tag", nil, "only instances with this tag; repeat it for several")
	f.BoolVar(&p.PassingOnly, "passingonly", false, "only instances whose checks are all passing")
	f.StringVar(&p.State, "state", "", "only checks of this status; any for all")
	f.StringVar(&p.Name, "name", "", "only events of this name")
	f.StringVar(&p.Filter, "filter", "", "only elements for which this filter is true")
	f.BoolVar(&shell, "shell", true, "run the command in a shell")
	f.StringVar(&h.URL, "handler-url", "", "send each state to this URL")
	f.StringVar(&h.Method, "handler-method", http.MethodPost, "method of the requests to -handler-url")
	f.StringArrayVar(&headers, "handler-header", nil, "header of those requests, name=value; repeat it for several")
	f.DurationVar(&h.Timeout, "handler-timeout", 10*time.Second, "how long such a request may take")
	f.BoolVar(&h.TLSSkipVerify, "handler-tls-skip-verify", false, "do not check the certificate of -handler-url")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"key", "keyprefix", "services", "nodes", "service", "checks", "event"}, cobra.ShellCompDirectiveNoFileComp))
	endFlags(cmd)
	return cmd
}

func (c *client) watchGet(ctx context.Context, path string, q url.Values) (*http.Response, error) {
	return c.stream(ctx, http.MethodGet, path, q, nil, nil)
}

// printWatch prints the present state.
func printWatch(cmd *cobra.Command, c *client, p *watch.Plan) error {
	err := p.Run(cmd.Context(), c.watchGet, nil, func(_ uint64, data []byte) error {
		var out bytes.Buffer
		if err := json.Indent(&out, data, "", "    "); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), out.String())
		return watch.ErrStop
	})
	if se := (*watch.StatusError)(nil); errors.As(err, &se) {
		err = &exitError{exitServer, err}
	}
	return doing(err, "querying the agent")
}

// runWatch hands states to a handler until interrupted, or until the handler fails.
func runWatch(cmd *cobra.Command, c *client, p *watch.Plan, handle func(context.Context, uint64, []byte) error) error {
	retry := func(err error, n int) (time.Duration, bool) {
		pause := watch.Backoff(n)
		fmt.Fprintf(cmd.ErrOrStderr(), "Error querying the agent, next attempt in %v: %v\n", pause, err)
		return pause, true
	}
	if err := c.open(); err != nil {
		return err // bad settings do not get better
	}
	err := p.Run(cmd.Context(), c.watchGet, retry, func(index uint64, data []byte) error {
		return handle(cmd.Context(), index, data)
	})
	return doing(err, "executing handler")
}
