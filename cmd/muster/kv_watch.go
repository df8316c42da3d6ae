package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

func (k *kv) watch() *cobra.Command {
	var forever, recursive bool
	var after uint64
	cmd := &cobra.Command{Use: "watch KEY", Short: "Wait for a change of a key", RunE: func(cmd *cobra.Command, args []string) error {
		key, err := needKey(args)
		if err != nil {
			return err
		}
		return k.follow(cmd.Context(), key, recursive, after, func(ev *kvEvent) (bool, error) {
			if ev.Node.Dir {
				return true, nil
			}
			if recursive {
				fmt.Fprintf(cmd.OutOrStdout(), "[%s] %s\n", ev.Action, ev.Node.Key)
			}
			return forever, k.print(cmd.OutOrStdout(), ev)
		})
	}}
	cmd.Flags().BoolVarP(&forever, "forever", "f", false, "go on after the first change")
	cmd.Flags().Uint64Var(&after, "after-index", 0, "first show changes after this index")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also everything below KEY")
	return cmd
}

func (k *kv) execWatch() *cobra.Command {
	var recursive bool
	var after uint64
	cmd := &cobra.Command{Use: "exec-watch KEY -- COMMAND [ARG...]", Short: "Run a command on each change of a key",
		Long: "Run a command on each change of a key. The command's environment has ETCD_WATCH_ACTION,\nETCD_WATCH_MODIFIED_INDEX, ETCD_WATCH_KEY and ETCD_WATCH_VALUE. Runs may overlap.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("key and command to exec required")
			}
			var running sync.WaitGroup
			defer running.Wait()
			return k.follow(cmd.Context(), args[0], recursive, after, func(ev *kvEvent) (bool, error) {
				if ev.Node.Dir {
					fmt.Fprintf(cmd.ErrOrStderr(), "Ignored dir %s change\n", ev.Node.Key)
					return true, nil
				}
				running.Add(1)
				go func() {
					defer running.Done()
					runHook(cmd, args[1:], ev)
				}()
				return true, nil
			})
		}}
	cmd.Flags().Uint64Var(&after, "after-index", 0, "first run for changes after this index")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also everything below KEY")
	return cmd
}

func runHook(cmd *cobra.Command, argv []string, ev *kvEvent) {
	child := exec.Command(argv[0], argv[1:]...)
	child.Env = append(os.Environ(),
		"ETCD_WATCH_ACTION="+ev.Action,
		"ETCD_WATCH_MODIFIED_INDEX="+strconv.FormatUint(ev.Node.Modified, 10),
		"ETCD_WATCH_KEY="+ev.Node.Key,
		"ETCD_WATCH_VALUE="+ev.Node.Value)
	child.Stdout, child.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := child.Run(); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "Error:  running %s: %v\n", argv[0], err)
	}
}

// follow calls f for each event on key until f says stop, one long poll per event, so that no event is lost
// when the connection or the agent goes away in between. An interrupt ends it without an error.
func (k *kv) follow(ctx context.Context, key string, recursive bool, after uint64, f func(*kvEvent) (more bool, err error)) error {
	next := uint64(0)
	if after > 0 {
		next = after + 1
	}
	failures := 0
	for {
		ev, index, err := k.poll(ctx, key, recursive, next)
		if ctx.Err() != nil {
			return nil
		}
		if ke := (*kvError)(nil); errors.As(err, &ke) {
			return err
		}
		if err != nil {
			// Before the first answer there is nothing to lose: say at once that nobody answers.
			if failures++; next == 0 || failures > 60 {
				return err
			}
			if !pause(ctx, time.Second) {
				return nil
			}
			continue
		}
		failures = 0
		if ev == nil { // the agent stopped before anything happened
			if next == 0 {
				next = index + 1
			}
			continue
		}
		more, err := f(ev)
		if err != nil || !more {
			return err
		}
		next = ev.Node.Modified + 1
	}
}

// poll waits for the first event at or after index next (0 = from now). It returns a nil event when the
// answer ended without one, and the index the watch began at.
func (k *kv) poll(ctx context.Context, key string, recursive bool, next uint64) (*kvEvent, uint64, error) {
	q := url.Values{"wait": {"true"}, "recursive": {strconv.FormatBool(recursive)}}
	if next > 0 {
		q.Set("waitIndex", strconv.FormatUint(next, 10))
	}
	resp, err := k.stream(ctx, http.MethodGet, keyPath(key), q, nil, nil)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	start, _ := strconv.ParseUint(resp.Header.Get("X-Etcd-Index"), 10, 64)
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		_, err := decodeKV(resp.StatusCode, resp.Header, body)
		return nil, start, err
	}
	ev := &kvEvent{index: resp.Header.Get("X-Etcd-Index")}
	if err := json.NewDecoder(resp.Body).Decode(ev); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, start, nil
		}
		return nil, start, &exitError{exitNoAgent, fmt.Errorf("the watch was cut: %w", err)}
	}
	return ev, start, nil
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
