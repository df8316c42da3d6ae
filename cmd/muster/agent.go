package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

// agentCommand runs the agent; defaults, when there are other ones, change the built-in configuration.
func agentCommand(defaults func(*agent.Config)) *cobra.Command {
	return &cobra.Command{
		Use:   "agent",
		Short: "Run the agent",
		Long:  "Run the agent: a server that holds the data, or a proxy that forwards to the servers.",
		// The agent's flags are its configuration; the package that owns the configuration reads them.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAgent(defaults, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func runAgent(defaults func(*agent.Config), args []string, out, errw io.Writer) error {
	load := func() (agent.Config, []agent.Warning, error) {
		return agent.LoadFrom(defaults, args, os.Environ(), out)
	}
	return runLoaded(load, out, errw, func(*agent.Agent) {})
}

// runLoaded runs the agent until it is told to stop; up runs beside it once it is started.
func runLoaded(load func() (agent.Config, []agent.Warning, error), out, errw io.Writer, up func(*agent.Agent)) error {
	cfg, warnings, err := load()
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	for _, w := range warnings {
		fmt.Fprintf(errw, "warning: %s\n", w)
	}
	if err != nil {
		return err
	}
	// Signals are caught before the start, so that an interrupt during it stops cleanly too.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	a, err := agent.Start(context.Background(), cfg, agent.Options{Log: errw, Banner: out, Reload: load})
	if err != nil {
		return err
	}
	log.SetFlags(0) // what libraries say by the log package looks like the rest, in JSON, too
	log.SetOutput(a.LogWriter())
	defer log.SetOutput(errw)
	go up(a)
	quiet, stop := context.WithCancel(context.Background())
	defer stop()
	go giveBackMemory(quiet)
	return serve(a, cfg, signals, errw)
}

// serve waits for the end of the agent. The second signal to stop ends the process at once.
func serve(a *agent.Agent, cfg agent.Config, signals <-chan os.Signal, errw io.Writer) error {
	stopping := false
	for {
		select {
		case <-a.Done():
			return a.Err()
		case s := <-signals:
			if s == syscall.SIGHUP {
				if err := a.Reload(); err != nil {
					fmt.Fprintf(errw, "reload failed, the running configuration stays: %v\n", err)
				}
				continue
			}
			if stopping {
				return &exitError{exitUsage, errors.New("stopped at once by a second signal")}
			}
			stopping = true
			leave := s == os.Interrupt && !cfg.SkipLeaveOnInterrupt || s == syscall.SIGTERM && cfg.LeaveOnTerminate
			go func() {
				if leave {
					if err := a.Leave(false); err != nil {
						fmt.Fprintf(errw, "leaving failed: %v\n", err)
					}
				}
				a.Stop()
			}()
		}
	}
}

func validateCommand(c *client) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check configuration files and directories",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, warnings, err := agent.LoadPaths(args, format)
			for _, w := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", w)
			}
			switch {
			case err != nil && c.asConsul:
				return plainly("Config validation failed: %s", err)
			case err != nil:
				return fmt.Errorf("configuration is not valid:\n%w", err)
			}
			if !quiet {
				fmt.Fprintln(cmd.OutOrStdout(), "Configuration is valid!")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "config-format", "", "hcl or json, whatever the extension")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print errors only")
	return cmd
}
