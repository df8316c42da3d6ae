package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

// consulExit maps our exit codes to Consul's: 0 done, 1 any error, 2 nothing matched, 127 unknown command.
var consulExit = map[int]int{
	exitUsage: 1, exitNoAgent: 1, exitUnknown: 127, exitServer: 1, exitUnhealthy: 2, exitChild: 2,
}

// runConsul executes one command line in the words of consul, as the binary does when it is started under that name:
// its verbs, its environment variables, its layouts, its exit codes.
func runConsul(args []string, in io.Reader, out, errw io.Writer) int {
	err := execute(newConsulRoot(), args, in, out, errw)
	if err == nil {
		return 0
	}
	var xe *exitError
	if !errors.As(err, &xe) {
		fmt.Fprintln(errw, consulWords(err))
		return 1
	}
	if xe.err != nil {
		fmt.Fprintln(errw, consulWords(err))
	}
	return consulExit[xe.code]
}

func consulWords(err error) string {
	var p plainError
	if errors.As(err, &p) {
		return string(p)
	}
	var d *doingError
	if errors.As(err, &d) {
		return "Error " + d.Error()
	}
	return "Error: " + err.Error()
}

// plainError is a whole message: it is printed as it is, without anything before it.
type plainError string

func (e plainError) Error() string { return string(e) }

// plainly ends a command with a message of exactly this text and the exit code of an error.
func plainly(format string, args ...any) error {
	return &exitError{exitUsage, plainError(fmt.Sprintf(format, args...))}
}

// doingError says what a command was about when it failed.
type doingError struct {
	what string // "listing members"
	err  error
}

func (e *doingError) Error() string { return e.what + ": " + e.err.Error() }
func (e *doingError) Unwrap() error { return e.err }

// doing adds to err what was being done; a nil err stays nil.
func doing(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &doingError{fmt.Sprintf(format, args...), err}
}

// outOfScope are verbs of consul for things this agent does not have.
var outOfScope = map[string]string{
	"acl":          "access control lists are managed over HTTP, at /v1/acl",
	"config":       "configuration entries belong to the service mesh, which this agent does not have",
	"connect":      "this agent has no service mesh",
	"exec":         "remote execution is not offered: what runs on a machine is decided on that machine",
	"intention":    "this agent has no service mesh",
	"login":        "this agent has no auth methods",
	"logout":       "this agent has no auth methods",
	"peering":      "this agent has no cluster peering",
	"troubleshoot": "this agent has no service mesh; muster why explains a service, a node or a check",
}

// newConsulRoot makes the tree of commands of consul.
func newConsulRoot() *cobra.Command {
	c := &client{asConsul: true}
	root := &cobra.Command{
		Use:   "consul",
		Short: "Muster, in the words of consul",
		Long: `This is Muster, started under the name consul: it takes consul's own command line. Flags stand
before arguments, CONSUL_HTTP_ADDR and its like are obeyed, and exit codes are consul's.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			_ = cmd.Help()
			if len(args) == 0 {
				return &exitError{exitUnknown, nil}
			}
			return &exitError{exitUnknown, fmt.Errorf("unknown command %q", args[0])}
		},
	}
	var showVersion bool
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "show the version")
	root.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if !showVersion {
			return nil
		}
		printConsulVersion(cmd.OutOrStdout())
		return &exitError{0, nil} // code 0: done
	}
	c.bind(root)
	root.AddCommand(agentCommand(consulDefaults), versionCommand(c), validateCommand(c))
	root.AddCommand(sharedCommands(c)...)
	root.AddCommand(consulKV(c), consulServices(c))
	for name, why := range outOfScope {
		root.AddCommand(unavailable(name, why))
	}
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	flagsFirst(root)
	return root
}

// sharedCommands are the verbs that mean the same under both names.
func sharedCommands(c *client) []*cobra.Command {
	return []*cobra.Command{
		membersCommand(c), joinCommand(c), leaveCommand(c), forceLeaveCommand(c), infoCommand(c), reloadCommand(c),
		catalogCommand(c), maintCommand(c), eventCommand(c), rttCommand(c), keygenCommand(), keyringCommand(c),
		operatorCommand(c), snapshotCommand(c), monitorCommand(c), debugCommand(c), lockCommand(c), watchCommand(c), tlsCommand(c),
	}
}

func unavailable(name, why string) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: "Not available: " + why, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				if a == "-h" || a == "-help" || a == "--help" {
					return cmd.Help()
				}
			}
			return fmt.Errorf("%s is not available: %s", name, why)
		},
	}
	return cmd
}

// group is a command that only holds others.
func group(c *client, use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &exitError{exitUnknown, fmt.Errorf("unknown command %q; %s -h lists the commands", args[0], cmd.CommandPath())}
			}
			if err := cmd.Help(); err != nil || !c.asConsul {
				return err
			}
			return &exitError{exitUsage, nil}
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

// literal is the annotation of commands whose flags end at the first argument: what follows belongs to somebody
// else, or may begin with a dash.
const literal = "literal"

// flagsFirst makes every command below cmd end its flags at the first argument, as consul does.
func flagsFirst(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		flagsFirst(sub)
	}
	if !cmd.HasSubCommands() {
		endFlags(cmd)
	}
}

// endFlags makes the flags of one command end at its first argument.
func endFlags(cmd *cobra.Command) {
	cmd.Flags().SetInterspersed(false)
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[literal] = "true"
}

func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}

// execute runs one command line of a tree of commands.
func execute(root *cobra.Command, args []string, in io.Reader, out, errw io.Writer) error {
	ctx, stop := commandContext(args)
	defer stop()
	root.SetArgs(normalize(root, args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if xe := (*exitError)(nil); errors.As(err, &xe) && xe.code == 0 && xe.err == nil {
		return nil
	}
	return err
}

// consulDefaults are those of consul where they differ: nobody who starts a consul expects the port of etcd to be
// taken, and its gauges carry the name of the host.
func consulDefaults(c *agent.Config) {
	c.Ports.Etcd = -1
	c.Telemetry.DisableHostname = false
}
