package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func (v *etcdVerbs) watch() *cobra.Command {
	var forever, recursive bool
	var after uint64
	cmd := v.keyed("watch KEY", "Wait for a change of a key", func(cmd *cobra.Command, c *etcdClient, key string, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return v.follow(ctx, c, key, recursive, after, func(ev *kvEvent) (bool, error) {
			if ev.Node.Dir {
				return true, nil
			}
			if recursive {
				fmt.Fprintf(cmd.OutOrStdout(), "[%s] %s\n", ev.Action, ev.Node.Key)
			}
			return forever, v.print(cmd, ev)
		})
	})
	cmd.Flags().BoolVarP(&forever, "forever", "f", false, "go on after the first change")
	cmd.Flags().Uint64Var(&after, "after-index", 0, "first show changes after this index")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also everything below KEY")
	return cmd
}

func (v *etcdVerbs) execWatch() *cobra.Command {
	var recursive bool
	var after uint64
	cmd := &cobra.Command{
		Use: "exec-watch KEY -- COMMAND [ARG...]", Short: "Run a command on each change of a key",
		Long: "Run a command on each change of a key. The command's environment has ETCD_WATCH_ACTION,\nETCD_WATCH_MODIFIED_INDEX, ETCD_WATCH_KEY and ETCD_WATCH_VALUE. Runs may overlap.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := v.connect(cmd, true)
			if err != nil {
				return err
			}
			if len(args) < 2 {
				return errors.New("key and command to exec required")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			var running sync.WaitGroup
			err = v.follow(ctx, c, args[0], recursive, after, func(ev *kvEvent) (bool, error) {
				if ev.Node.Dir {
					fmt.Fprintf(cmd.ErrOrStderr(), "Ignored dir %s change\n", ev.Node.Key)
					return true, nil
				}
				child, err := startHook(cmd, args[1:], ev)
				if err != nil {
					return false, plainly("%v", err)
				}
				running.Go(func() { _ = child.Wait() }) // its exit code is nobody's business
				return true, nil
			})
			if ctx.Err() == nil { // after an interrupt the commands go on alone
				running.Wait()
			}
			return err
		},
	}
	cmd.Annotations = map[string]string{dashes: "command"}
	cmd.Flags().Uint64Var(&after, "after-index", 0, "first run for changes after this index")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also everything below KEY")
	return cmd
}

func startHook(cmd *cobra.Command, argv []string, ev *kvEvent) (*exec.Cmd, error) {
	child := exec.Command(argv[0], argv[1:]...)
	child.Env = append(os.Environ(),
		"ETCD_WATCH_ACTION="+ev.Action,
		"ETCD_WATCH_MODIFIED_INDEX="+strconv.FormatUint(ev.Node.Modified, 10),
		"ETCD_WATCH_KEY="+ev.Node.Key,
		"ETCD_WATCH_VALUE="+ev.Node.Value)
	child.Stdout, child.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	return child, child.Start()
}

// patience is how many times in a row a watch that was cut off is taken up again.
const patience = 60

// follow calls f for each event on key until f says stop, one long poll per event, so that no event is lost
// when the connection or the agent goes away in between. An interrupt ends it without an error.
func (v *etcdVerbs) follow(ctx context.Context, c *etcdClient, key string, recursive bool, after uint64, f func(*kvEvent) (more bool, err error)) error {
	next := uint64(0)
	if after > 0 {
		next = after + 1
	}
	failures := 0
	for {
		ev, index, err := poll(ctx, c, key, recursive, next)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errEmptyBody): // the server stopped before anything happened
			if next == 0 {
				next = index + 1
			}
			if !pause(ctx, 50*time.Millisecond) {
				return nil
			}
			continue
		case err != nil:
			// Before the first answer there is nothing to lose: say at once that nobody answers.
			if failures++; answered(err) || next == 0 || !v.own || failures > patience {
				return v.failed(err)
			}
			if !pause(ctx, time.Second) {
				return nil
			}
			continue
		}
		failures = 0
		if more, err := f(ev); err != nil || !more {
			return err
		}
		next = ev.Node.Modified + 1
	}
}

// poll waits for the first event at or after index next (0 = from now). It also returns the index the watch began at.
func poll(ctx context.Context, c *etcdClient, key string, recursive bool, next uint64) (*kvEvent, uint64, error) {
	a, err := c.do(ctx, &etcdRequest{method: http.MethodGet, path: keyPath(key), wait: true, query: url.Values{
		"wait": {"true"}, "recursive": {strconv.FormatBool(recursive)}, "waitIndex": {strconv.FormatUint(next, 10)},
	}})
	if err != nil {
		return nil, 0, err
	}
	ev, err := a.event()
	return ev, a.index(), err
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
