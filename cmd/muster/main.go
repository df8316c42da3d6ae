// Command muster is the whole product in one binary: the agent that runs on every machine, and the commands
// that talk to it over HTTP.
//
//	muster agent -dev              # a single server on loopback, nothing to configure
//	muster kv set /greeting hello
//	muster services list
//
// Exit codes, the same for every command:
//
//	0  done
//	1  bad arguments, bad configuration or a local failure
//	2  the agent could not be reached
//	3  unknown command
//	4  the agent answered with an error
//	5  the thing asked for is not healthy
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes; see the package comment.
const (
	exitUsage     = 1
	exitNoAgent   = 2
	exitUnknown   = 3
	exitServer    = 4
	exitUnhealthy = 5
	exitChild     = 0x102 // 2 under every name: the child of a lock failed, and -child-exit-code was given
)

// exitError is an error with the exit code that goes with it. A nil Err exits silently.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	os.Exit(personality(os.Args[0])(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// commandLine executes one command line and returns its exit code.
type commandLine func(args []string, in io.Reader, out, errw io.Writer) int

// personality is the command line that goes with the name the binary was started under: a link named after another
// tool takes that tool's commands.
func personality(argv0 string) commandLine {
	switch strings.TrimSuffix(filepath.Base(argv0), ".exe") {
	case "etcdctl":
		return runEtcdctl
	case "consul":
		return runConsul
	}
	return run
}

// run is the command line of muster itself.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	err := execute(newRoot(), args, in, out, errw)
	if err == nil {
		return 0
	}
	var xe *exitError
	if !errors.As(err, &xe) {
		fmt.Fprintf(errw, "Error:  %v\n", err)
		return exitUsage
	}
	if xe.err != nil {
		fmt.Fprintf(errw, "Error:  %v\n", err)
	}
	return xe.code & 0xff
}

// commandContext ends with the first interrupt; not for the agent, which has its own rules for signals.
func commandContext(args []string) (context.Context, context.CancelFunc) {
	if len(args) > 0 && args[0] == "agent" {
		return context.Background(), func() {}
	}
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func newRoot() *cobra.Command {
	c := &client{}
	root := &cobra.Command{
		Use:   "muster",
		Short: "Service discovery on every machine",
		Long: `Muster keeps a replicated key-value tree and a catalog of services, checks their health,
and answers by DNS and HTTP. Start with:

  muster agent -dev`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return &exitError{exitUnknown, fmt.Errorf("unknown command %q; muster -h lists the commands", args[0])}
		},
	}
	c.bind(root)
	root.AddCommand(agentCommand(), versionCommand(c), validateCommand(c))
	root.AddCommand(sharedCommands(c)...)
	root.AddCommand(kvCommand(c), servicesCommand(c), nodesCommand(c), healthCommand(c))
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	return root
}

// normalize lets -long stand for --long, as users of other tools of this field type it. Arguments after "--"
// and those of the agent command, which parses its own, stay as they are.
func normalize(args []string) []string {
	if len(args) > 0 && args[0] == "agent" {
		return args
	}
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		if strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && len(name) > 1 && (name[0] < '0' || name[0] > '9') {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}
