package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/child"
)

// lockOptions are the flags of lock.
type lockOptions struct {
	limit         int
	name          string
	shell, stdin  bool
	try, oldTry   time.Duration
	monitorRetry  int
	childExitCode bool
	verbose       bool
}

// killGrace is how long a child may take to end after the polite signal.
const killGrace = 5 * time.Second

// lockCommand runs a command while a lock is held.
func lockCommand(c *client) *cobra.Command {
	var o lockOptions
	cmd := &cobra.Command{
		Use: "lock PREFIX COMMAND...", Short: "Run a command while holding a lock",
		Long: `Wait for the lock PREFIX/.lock, run the command while it is held, then release and remove it. With -n above 1 up
to that many may hold it at once. The command runs in a shell, with CONSUL_LOCK_HELD=true in its environment. It is
told to end (SIGTERM, 5 s later SIGKILL) when the lock is lost or the lock command is interrupted.

Exit code 1: the lock was not obtained, or was lost.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return runLock(cmd, c, o, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.IntVarP(&o.limit, "n", "n", 1, "how many may hold the lock at once")
	f.StringVar(&o.name, "name", "", "name of the session")
	f.BoolVar(&o.shell, "shell", true, "run the command in a shell")
	f.BoolVar(&o.stdin, "pass-stdin", false, "give the command our standard input")
	f.DurationVar(&o.try, "try", 0, "give up when the lock was not obtained within this time; 0: wait for ever")
	f.DurationVar(&o.oldTry, "timeout", 0, "old name of -try")
	f.IntVar(&o.monitorRetry, "monitor-retry", 3, "how many errors in a row to bear, one second apart, before the lock counts as lost")
	f.BoolVar(&o.childExitCode, "child-exit-code", false, "exit with 2 when the command fails")
	f.BoolVar(&o.verbose, "verbose", false, "say what is being done")
	endFlags(cmd)
	return cmd
}

func (o *lockOptions) check(args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("key prefix and command required")
	case strings.Trim(args[0], "/") == "":
		return errors.New("the key prefix is empty")
	case o.limit < 1:
		return fmt.Errorf("-n %d: want 1 or more", o.limit)
	case o.try < 0 || o.oldTry < 0:
		return errors.New("-try: want a positive time")
	case o.monitorRetry < 0:
		return fmt.Errorf("-monitor-retry %d: want 0 or more", o.monitorRetry)
	}
	if o.try == 0 {
		o.try = o.oldTry
	}
	if o.name == "" {
		o.name = fmt.Sprintf("Consul lock for '%s' at '%s'", strings.Join(args[1:], " "), args[0])
	}
	return nil
}

// holder is a lock or a place in a semaphore.
type holder interface {
	acquire(ctx context.Context) error // waits
	guard(ctx context.Context) error   // returns when the lock is not ours any more; nil: ctx ended
	release(ctx context.Context) error
	destroy(ctx context.Context) error // errLockInUse: others hold it or wait for it
}

var (
	errLockInUse = errors.New("lock in use")
	errNotHeld   = errors.New("the lock is not held")
)

func runLock(cmd *cobra.Command, c *client, o lockOptions, prefix string, command []string) error {
	ctx := cmd.Context()
	say := func(format string, args ...any) {
		if o.verbose {
			fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
		}
	}
	behavior := "release"
	if o.limit > 1 {
		behavior = "delete" // each contender has a key of its own, which is to vanish with it
	}
	session, err := openSession(ctx, c, o.name, behavior)
	if err != nil {
		return doing(err, "creating session")
	}
	defer session.close()
	prefix = strings.Trim(prefix, "/")
	var h holder = &mutex{session: session, key: prefix + "/" + lockName, retries: o.monitorRetry}
	if o.limit > 1 {
		say("Setting up semaphore (limit %d) at prefix: %s", o.limit, prefix)
		h = &semaphore{session: session, prefix: prefix, limit: o.limit, retries: o.monitorRetry}
	} else {
		say("Setting up lock at path: %s/%s", prefix, lockName)
	}
	say("Attempting lock acquisition")
	waiting, cancel := context.WithCancel(ctx)
	if o.try > 0 {
		waiting, cancel = context.WithTimeout(ctx, o.try)
	}
	err = h.acquire(session.while(waiting))
	timedOut := waiting.Err() != nil
	cancel()
	if timedOut && err != nil {
		return plainly("Shutdown triggered or timeout during lock acquisition")
	}
	if err != nil {
		return doing(err, "acquiring lock")
	}
	lost, childErr := runHeld(cmd, session, h, o, command, say)
	ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	if err := cleanUp(ended, h, say); err != nil && !lost {
		return doing(err, "releasing lock")
	}
	switch {
	case lost:
		return plainly("Lock lost")
	case childErr != nil && o.childExitCode:
		return &exitError{exitChild, nil}
	}
	return nil
}

// runHeld runs the command until it ends, the lock is lost or we are interrupted.
func runHeld(cmd *cobra.Command, session *session, h holder, o lockOptions, command []string, say func(string, ...any)) (lost bool, childErr error) {
	guarded, cancel := context.WithCancel(session.while(cmd.Context()))
	defer cancel()
	gone := make(chan error, 1)
	go func() { gone <- h.guard(guarded) }()
	say("Starting handler")
	var in io.Reader
	if o.stdin {
		in = cmd.InOrStdin()
	}
	p, err := child.Start(child.Spec{Args: command, Shell: o.shell, Env: []string{"CONSUL_LOCK_HELD=true"}, In: in, Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
	if err == nil {
		select {
		case err = <-p.Done():
			say("Child terminated, releasing lock")
		case why := <-gone:
			lost = cmd.Context().Err() == nil
			if lost {
				fmt.Fprintf(cmd.ErrOrStderr(), "Lock lost, killing child (%v)\n", why)
			} else {
				say("Shutdown triggered, killing child")
			}
			err = p.Stop(killGrace)
		}
	}
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "Error running handler: %s\n", err)
	}
	return lost, err
}

// cleanUp gives the lock back, and removes its key if nobody else uses it.
func cleanUp(ctx context.Context, h holder, say func(string, ...any)) error {
	err := h.release(ctx)
	if err != nil && !errors.Is(err, errNotHeld) {
		return err
	}
	switch err := h.destroy(ctx); {
	case errors.Is(err, errLockInUse):
		say("Cleanup aborted, lock in use")
	case err != nil:
		return err
	default:
		say("Cleanup succeeded")
	}
	return nil
}
