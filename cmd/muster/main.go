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
	"github.com/spf13/pflag"
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
	case "etcd":
		return runEtcd
	}
	return run
}

// run is the command line of muster itself.
func run(args []string, in io.Reader, out, errw io.Writer) int {
	return report(execute(newRoot(), args, in, out, errw), errw)
}

// report prints the error of a command and returns the exit code that goes with it.
func report(err error, errw io.Writer) int {
	if err == nil {
		return 0
	}
	code := exitUsage
	if xe, ok := errors.AsType[*exitError](err); ok {
		if code = xe.code & 0xff; xe.err == nil {
			return code
		}
	}
	if text, ok := errors.AsType[plainError](err); ok {
		fmt.Fprintln(errw, text)
		return code
	}
	fmt.Fprintf(errw, "Error:  %v\n", err)
	if all, ok := errors.AsType[*endpointsError](err); ok {
		fmt.Fprintln(errw, all.detail())
	}
	return code
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
	root.AddCommand(agentCommand(nil), versionCommand(c), validateCommand(c))
	root.AddCommand(sharedCommands(c)...)
	root.AddCommand(kvCommand(c), memberCommand(c), clusterHealthCommand(c), servicesCommand(c), nodesCommand(c), healthCommand(c), whyCommand(c), doctorCommand(c))
	root.AddCommand(backupCommand(c), recoverCommand(), guardCommand(c), upstreamsCommand(c))
	root.AddCommand(migrateCommand(c))
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	return root
}

// dashes is the annotation of commands that take arguments beginning with a dash where these are no flags of theirs:
// "value" the second argument, "command" all after the first.
const dashes = "dashes"

// normalize lets -long stand for --long and --x for -x, as users of other tools of this field type flags. The
// values of flags, what follows "--", and the arguments of a command that parses its own stay as they are.
func normalize(root *cobra.Command, args []string) []string {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return args
	}
	var out, flags, plain []string // everything in its order; without the arguments; the arguments
	dashed := false
	cmd := root
	for i := 0; i < len(args); i++ {
		a := args[i]
		if cmd.DisableFlagParsing {
			return append(out, args[i:]...)
		}
		if a == "--" {
			out, plain = append(out, args[i:]...), append(plain, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			out = append(out, a)
			sub := subcommand(cmd, a)
			switch {
			case sub != nil && len(plain) == 0:
				cmd, flags = sub, append(flags, a)
			case cmd.Annotations[literal] != "": // the rest belongs to another command
				return append(out, args[i+1:]...)
			default:
				plain = append(plain, a)
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(a, "-"), "=")
		f := flagOf(cmd, name)
		if kind := cmd.Annotations[dashes]; f == nil && name != "h" && name != "help" && (kind == "value" && len(plain) == 1 || kind == "command" && len(plain) > 0) {
			dashed, out, plain = true, append(out, a), append(plain, a)
			continue
		}
		switch double := strings.HasPrefix(a, "--"); {
		case f != nil && len(name) == 1 && strings.HasSuffix(a, name+"="): // to pflag -o= means the value "="
			a = "--" + f.Name + "="
		case double && len(name) == 1 && a[2] == name[0]:
			a = a[1:]
		case !double && len(name) > 1 && (name[0] < '0' || name[0] > '9'):
			a = "-" + a
		}
		out, flags = append(out, a), append(flags, a)
		if f != nil && !hasValue && f.NoOptDefVal == "" && i+1 < len(args) {
			i++ // its value
			out, flags = append(out, args[i]), append(flags, args[i])
		}
	}
	if dashed {
		return append(append(flags, "--"), plain...)
	}
	return out
}

// flagOf finds a flag of cmd, or one that it inherits, by its long or its one-letter name.
func flagOf(cmd *cobra.Command, name string) *pflag.Flag {
	sets := []*pflag.FlagSet{cmd.Flags()}
	for c := cmd; c != nil; c = c.Parent() {
		sets = append(sets, c.PersistentFlags())
	}
	for _, set := range sets {
		f := set.Lookup(name)
		if f == nil && len(name) == 1 {
			f = set.ShorthandLookup(name)
		}
		if f != nil {
			return f
		}
	}
	return nil
}
