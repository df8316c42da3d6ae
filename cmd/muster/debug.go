package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/version"
)

// debugRun is one collection of facts for a bug report.
type debugRun struct {
	*client
	cmd      *cobra.Command
	duration time.Duration
	interval time.Duration
	output   string
	archive  bool
	capture  []string
	dir      string // where files are written; renamed or packed at the end

	mu     sync.Mutex
	failed []string // what could not be had
}

var debugTargets = []string{"agent", "host", "members", "metrics", "logs", "pprof"}

// debugCommand collects what a bug report needs.
func debugCommand(c *client) *cobra.Command {
	d := &debugRun{client: c}
	cmd := &cobra.Command{
		Use: "debug", Short: "Collect what a bug report needs", Args: cobra.NoArgs,
		Long: `Collect facts about the agent for a bug report, and pack them into one file: its settings and state, the members,
the machine, and for -duration its log, and every -interval its metrics and profiles. An interrupt ends the collection
early and still packs what there is. Secrets are hidden, but settings, names and log lines are in the file: look at it
before you send it. Profiles need enable_debug in the agent's configuration.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d.cmd = cmd
		if err := d.check(); err != nil {
			return plainly("==> Capture validation failed: %s", err)
		}
		return d.run(cmd.Context())
	}
	f := cmd.Flags()
	f.DurationVar(&d.duration, "duration", 5*time.Minute, "how long to follow the log and sample; at least 10s")
	f.DurationVar(&d.interval, "interval", 30*time.Second, "time between samples; at least 5s")
	f.StringVar(&d.output, "output", "", "path of the result, without extension; default consul-debug-<time>")
	f.BoolVar(&d.archive, "archive", true, "pack everything into one .tar.gz")
	f.StringArrayVar(&d.capture, "capture", nil, "what to collect: agent, host, members, metrics, logs, pprof or all; repeat it for several")
	_ = cmd.RegisterFlagCompletionFunc("capture", cobra.FixedCompletions(append([]string{"all"}, debugTargets...), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (d *debugRun) check() error {
	switch {
	case d.duration < 10*time.Second:
		return errors.New("duration must be longer than 10s")
	case d.interval < 5*time.Second:
		return errors.New("interval must be longer than 5s")
	case d.interval > d.duration:
		return errors.New("the duration must be longer than the interval")
	}
	if len(d.capture) == 0 || slices.Contains(d.capture, "all") {
		d.capture = debugTargets
	}
	for _, t := range d.capture {
		if !slices.Contains(debugTargets, t) {
			return fmt.Errorf("unknown target %q: want all, %s", t, strings.Join(debugTargets, ", "))
		}
	}
	if d.output == "" {
		d.output = "consul-debug-" + time.Now().UTC().Format("2006-01-02T15-04-05Z")
	}
	for _, path := range []string{d.output, d.output + ".tar.gz"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the output path %q exists already", path)
		}
	}
	return nil
}

func (d *debugRun) wants(target string) bool { return slices.Contains(d.capture, target) }

func (d *debugRun) say(format string, args ...any) {
	fmt.Fprintf(d.cmd.OutOrStdout(), format+"\n", args...)
}

func (d *debugRun) run(ctx context.Context) error {
	// Without an agent there is nothing to collect.
	self, err := d.ok(ctx, http.MethodGet, "/v1/agent/self", nil, nil)
	if err != nil {
		return doing(err, "connecting to the agent")
	}
	if d.dir, err = os.MkdirTemp(filepath.Dir(d.output), ".debug-*"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	d.say("==> Starting debugger and capturing static information...\n     Agent Version: '%s'\n          Interval: '%s'\n          Duration: '%s'\n            Output: '%s'\n           Capture: '%s'",
		version.Version, d.interval, d.duration, d.result(), strings.Join(d.capture, ", "))
	d.static(ctx, self)
	d.say("==> Beginning capture interval %s (%s)", time.Now().UTC().Format(time.RFC3339), d.duration)
	d.sample(ctx)
	if err := d.index(); err != nil {
		return err
	}
	return d.finish()
}

func (d *debugRun) result() string {
	if d.archive {
		return d.output + ".tar.gz"
	}
	return d.output
}

// miss notes what could not be had; the rest is collected all the same.
func (d *debugRun) miss(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := what + ": " + err.Error()
	if !slices.Contains(d.failed, text) {
		d.failed = append(d.failed, text)
		fmt.Fprintf(d.cmd.ErrOrStderr(), "     not captured: %s\n", text)
	}
}

func (d *debugRun) write(name string, body []byte) {
	path := filepath.Join(d.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, body, 0o600)
	}
	if err != nil {
		d.miss(name, err)
	}
}

// static collects what does not change while we look.
func (d *debugRun) static(ctx context.Context, self []byte) {
	if d.wants("agent") {
		d.write("agent.json", hideSecrets(self))
	}
	for _, one := range []struct{ target, path, file string }{
		{"host", "/v1/agent/host", "host.json"}, {"members", "/v1/agent/members?wan=1", "members-wan.json"}, {"members", "/v1/agent/members", "members.json"},
	} {
		if !d.wants(one.target) {
			continue
		}
		path, query, _ := strings.Cut(one.path, "?")
		q, err := url.ParseQuery(query)
		if err == nil {
			var body []byte
			if body, err = d.ok(ctx, http.MethodGet, path, q, nil); err == nil {
				d.write(one.file, hideSecrets(body))
				continue
			}
		}
		d.miss(one.file, err)
	}
}

// sample follows the log, and takes metrics and profiles at every interval, until the time is over or we are
// interrupted.
func (d *debugRun) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.duration)
	defer cancel()
	var wait sync.WaitGroup
	if d.wants("logs") {
		wait.Go(func() { d.logs(ctx) })
	}
	if d.wants("pprof") {
		// One long profile of the processor and one of the scheduler besides the samples.
		seconds := strconv.Itoa(max(1, int((d.duration - time.Second).Seconds())))
		wait.Go(func() { d.fetch(ctx, "profile.prof", "/debug/pprof/profile", url.Values{"seconds": {seconds}}) })
		wait.Go(func() { d.fetch(ctx, "trace.out", "/debug/pprof/trace", url.Values{"seconds": {"1"}}) })
	}
	tick := time.NewTicker(d.interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		at := strconv.FormatInt(time.Now().UnixMilli(), 10)
		if d.wants("metrics") {
			d.fetch(ctx, filepath.Join(at, "metrics.json"), "/v1/agent/metrics", nil)
		}
		if d.wants("pprof") {
			d.fetch(ctx, filepath.Join(at, "heap.prof"), "/debug/pprof/heap", nil)
			d.fetch(ctx, filepath.Join(at, "goroutine.prof"), "/debug/pprof/goroutine", url.Values{"debug": {"2"}})
		}
		if ctx.Err() == nil {
			d.say("==> Capture interval %d done (%s)", n, at)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			wait.Wait()
			return
		}
	}
}

// fetch saves one answer.
func (d *debugRun) fetch(ctx context.Context, file, path string, q url.Values) {
	resp, err := d.stream(ctx, http.MethodGet, path, q, nil, nil)
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		if body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err == nil {
			if resp.StatusCode/100 == 2 {
				d.write(file, body)
				return
			}
			err = d.refused(http.MethodGet, path, resp.StatusCode, body)
		}
	}
	if ctx.Err() == nil {
		d.miss(strings.TrimPrefix(path, "/"), err)
	}
}

func (d *debugRun) logs(ctx context.Context) {
	cmd := *d.cmd
	cmd.SetContext(ctx)
	resp, err := d.openMonitor(&cmd, "debug", false)
	if err != nil {
		d.miss("logs", err)
		return
	}
	defer resp.Body.Close()
	f, err := os.OpenFile(filepath.Join(d.dir, "consul.log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		d.miss("logs", err)
		return
	}
	defer f.Close()
	if _, err := io.Copy(f, resp.Body); err != nil && ctx.Err() == nil {
		d.miss("logs", err)
	}
}

// index writes what the collection is.
func (d *debugRun) index() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := json.MarshalIndent(map[string]any{
		"Version": 1, "AgentVersion": version.Version, "Interval": d.interval.String(), "Duration": d.duration.String(),
		"Targets": d.capture, "NotCaptured": d.failed,
	}, "", "    ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, "index.json"), b, 0o600)
}

// finish gives the result its name.
func (d *debugRun) finish() error {
	if !d.archive {
		if err := os.Rename(d.dir, d.output); err != nil {
			return err
		}
		d.say("Saved debug directory: %s", d.output)
		return nil
	}
	f, err := os.OpenFile(d.result(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	err = filepath.WalkDir(d.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(filepath.Join(filepath.Base(d.output), rel))
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(body)), ModTime: time.Now()}); err != nil {
			return err
		}
		_, err = t.Write(body)
		return err
	})
	if err := errors.Join(err, t.Close(), z.Close(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(d.result()))
	}
	d.say("Saved debug archive: %s", d.result())
	return nil
}

// secretName are fields whose texts are never put into a bug report, whatever the agent already hid.
var secretName = regexp.MustCompile(`(?i)token|secret|password|passwd|encrypt$|^key$|private_?key`)

// hideSecrets replaces the texts of such fields. What is no JSON is left out.
func hideSecrets(body []byte) []byte {
	var v any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return []byte("the answer was not JSON")
	}
	b, err := json.MarshalIndent(hide(v), "", "    ")
	if err != nil {
		return []byte("the answer was not JSON")
	}
	return b
}

func hide(v any) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = hide(x[i])
		}
	case map[string]any:
		for _, k := range slices.Collect(maps.Keys(x)) {
			if s, ok := x[k].(string); ok && s != "" && secretName.MatchString(k) {
				x[k] = "hidden"
				continue
			}
			x[k] = hide(x[k])
		}
	}
	return v
}
