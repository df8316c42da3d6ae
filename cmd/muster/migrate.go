package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/migrate"
)

// migrateCommand brings the data of other systems into Muster.
func migrateCommand(c *client) *cobra.Command {
	return group(c, "migrate", "Copy the data of another system into Muster", migrateEtcd(c))
}

// migrateSpec are the flags of migrate etcd.
type migrateSpec struct {
	from, to                           []string
	user, caFile, certFile, keyFile    string
	prefixes, hidden                   []string
	dryRun, overwrite, deletes, follow bool
	workers                            int
	rate                               float64
	layout                             format
}

func migrateEtcd(c *client) *cobra.Command {
	var s migrateSpec
	cmd := &cobra.Command{
		Use: "etcd -from URL,...", Short: "Copy all keys of an etcd v2 cluster, or of another Muster", Args: cobra.NoArgs,
		Long: `Copy all keys of a live etcd v2 cluster (or of another Muster) into the Muster at -to, with empty directories, names
of in-order keys and the times to live that are left, and compare everything in the end.

Only what differs is written, so the command may be interrupted and repeated. A key that has another value in the target
is kept and reported unless -overwrite is given or it changed at the source during the run. Keys that only the target has
are kept unless -delete is given. With -follow the command goes on following the source: stop the writers, press Ctrl-C
(what is still to be brought over is, and everything is compared), and at exit code 0 point the clients to Muster. What
the source deletes meanwhile is deleted in the target too.

etcd lists no hidden keys (a name that begins with "_") and has no way to find them: name those you have with -hidden.
/_coreos.com and /_etcd are looked for, and a Muster as the source tells all of its own. Indices and users are not
copied.

Exit codes: 0 equal, 2 no server answers, 5 the target differs, 1 anything else.

  muster migrate etcd -from http://10.0.0.1:2379,http://10.0.0.2:2379 -to http://127.0.0.1:2379 -follow`,
	}
	f := cmd.Flags()
	f.StringSliceVar(&s.from, "from", nil, "client URLs of the source")
	f.StringSliceVar(&s.to, "to", nil, "client URLs of the target; default -http-addr")
	f.StringVar(&s.user, "from-user", "", "user:password at the source; better in the variable MUSTER_FROM_USER")
	f.StringVar(&s.caFile, "from-ca-file", "", "PEM file of the authority that signed the source's certificate")
	f.StringVar(&s.certFile, "from-cert-file", "", "PEM file of the client certificate for the source")
	f.StringVar(&s.keyFile, "from-key-file", "", "PEM file of the client key for the source")
	f.StringArrayVar(&s.prefixes, "prefix", nil, "copy only this key or directory; may be repeated")
	f.StringArrayVar(&s.hidden, "hidden", nil, "copy this hidden key or directory too; may be repeated")
	f.BoolVar(&s.dryRun, "dry-run", false, "compare only, write nothing; exit code 5 if there is something to write")
	f.BoolVar(&s.overwrite, "overwrite", false, "let the source win over other values in the target")
	f.BoolVar(&s.deletes, "delete", false, "delete keys below the prefixes that only the target has")
	f.BoolVar(&s.follow, "follow", false, "follow the source until interrupted, then compare")
	f.IntVar(&s.workers, "workers", 8, "requests at a time")
	f.Float64Var(&s.rate, "rate", 0, "writes a second at most; 0 = no limit")
	s.layout.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return s.run(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func (s *migrateSpec) clients(c *client) (from, to *migrate.Client, err error) {
	if len(s.from) == 0 {
		return nil, nil, errors.New("-from is needed: the client URLs of the source")
	}
	source := &client{caFile: s.caFile, cert: s.certFile, key: s.keyFile}
	sourceTLS, err := source.tls()
	if err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	if from, err = migrate.NewClient(s.from, sourceTLS); err != nil {
		return nil, nil, fmt.Errorf("-from: %w", err)
	}
	user := s.user
	if user == "" {
		user = os.Getenv("MUSTER_FROM_USER")
	}
	if user != "" {
		name, password, ok := strings.Cut(user, ":")
		if !ok || name == "" {
			return nil, nil, errors.New("-from-user: want user:password")
		}
		from.Login(name, password)
	}
	targets := s.to
	if len(targets) == 0 {
		if targets = []string{c.addr}; !strings.Contains(c.addr, "://") {
			targets[0] = "http://" + c.addr
		}
	}
	targetTLS, err := c.tls()
	if err != nil {
		return nil, nil, err
	}
	if to, err = migrate.NewClient(targets, targetTLS); err != nil {
		return nil, nil, fmt.Errorf("-to: %w", err)
	}
	return from, to, nil
}

func (s *migrateSpec) run(ctx context.Context, c *client, out, errw io.Writer) error {
	if err := s.layout.check(); err != nil {
		return err
	}
	if s.rate < 0 || s.workers < 1 || s.workers > 1000 {
		return errors.New("-rate must not be negative, -workers from 1 to 1000")
	}
	if s.follow && s.dryRun {
		return errors.New("-follow and -dry-run exclude each other")
	}
	from, to, err := s.clients(c)
	if err != nil {
		return err
	}
	bar := progressLine{w: errw, at: time.Now()}
	o := migrate.Options{
		From: from, To: to, Prefixes: s.prefixes, Hidden: s.hidden, DryRun: s.dryRun, Overwrite: s.overwrite, Delete: s.deletes,
		Workers: s.workers, Rate: s.rate, Progress: bar.show,
	}
	if s.follow {
		// The first interrupt ends the following, the second one the command.
		o.Follow = ctx.Done()
		var stop context.CancelFunc
		ctx, stop = secondInterrupt(ctx)
		defer stop()
	}
	rep, err := migrate.Run(ctx, o)
	if s.layout == "json" {
		err = errors.Join(s.layout.print(out, rep, nil, nil), err)
	} else if rep.Passes > 0 {
		showReport(out, rep, s.dryRun, err == nil || errors.Is(err, migrate.ErrDifferent))
	}
	return migrateError(err)
}

// migrateError gives an error of a run its exit code.
func migrateError(err error) error {
	_, away := errors.AsType[*migrate.UnreachableError](err)
	switch {
	case away:
		return &exitError{exitNoAgent, err}
	case errors.Is(err, migrate.ErrDifferent):
		return &exitError{exitUnhealthy, err}
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: run the same command again, only what differs is written")
	}
	return err
}

// secondInterrupt makes a context that outlives the first interrupt, which ends first, and ends with the next.
func secondInterrupt(first context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(first))
	again := make(chan os.Signal, 1)
	quit := make(chan struct{})
	go func() {
		select {
		case <-first.Done():
		case <-quit:
			return
		}
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(again)
		select {
		case <-again:
			cancel()
		case <-quit:
		}
	}()
	return ctx, func() { close(quit); cancel() }
}

// progressLine tells what a run is at.
type progressLine struct {
	w    io.Writer
	last migrate.Report
	at   time.Time
}

func (p *progressLine) show(r migrate.Report) {
	now := time.Now()
	seconds := max(now.Sub(p.at).Seconds(), 0.001)
	switch r.Phase {
	case migrate.Counting:
		fmt.Fprintf(p.w, "counting: %d keys\n", r.Total)
	case migrate.Copying, migrate.Comparing:
		looked := r.Keys
		if r.Passes == p.last.Passes {
			looked -= p.last.Keys
		}
		part := 100.0
		if r.Total > 0 {
			part = min(100, 100*float64(r.Keys)/float64(r.Total))
		}
		fmt.Fprintf(p.w, "%s: %.0f%%, %d of %d keys (%s), %.0f a second; %d written (%s), %d deleted\n", r.Phase, part, r.Keys, r.Total,
			byteSize(r.Bytes), float64(looked)/seconds, r.Written, byteSize(r.WrittenBytes), r.Deleted)
	case migrate.Following:
		fmt.Fprintf(p.w, "following: %d changes wait, index %d of the source reached; %d changes, %.0f a second; %d written, %d deleted\n", r.Waiting, r.SourceIndex,
			r.Events, float64(r.Events-p.last.Events)/seconds, r.Written, r.Deleted)
	default:
		fmt.Fprintln(p.w, "waiting for an answer")
	}
	p.last, p.at = r, now
}

// showReport sums a run up; one that is not complete has compared nothing to the end.
func showReport(w io.Writer, r migrate.Report, dryRun, complete bool) {
	verb := ""
	if dryRun {
		verb = " (not done: dry run)"
	}
	fmt.Fprintf(w, "Source:     %d keys (%d with a time to live), %s, %d directories, at index %d\n", r.Keys, r.Expiring, byteSize(r.Bytes), r.Dirs, r.SourceIndex)
	fmt.Fprintf(w, "Written:    %d keys, %s, %d directories%s\n", r.Written, byteSize(r.WrittenBytes), r.MadeDirs, verb)
	fmt.Fprintf(w, "Deleted:    %d%s\n", r.Deleted, verb)
	fmt.Fprintf(w, "Only there: %d kept in the target that the source does not have\n", r.Extra)
	fmt.Fprintf(w, "Followed:   %d changes\n", r.Events)
	fmt.Fprintf(w, "Compared:   %d times, in %v\n", r.Passes, r.Elapsed.Round(time.Millisecond))
	for _, d := range r.Differences {
		fmt.Fprintf(w, "Different:  %s\n", d)
	}
	if more := r.Different - int64(len(r.Differences)); more > 0 {
		fmt.Fprintf(w, "Different:  and %d more\n", more)
	}
	switch {
	case r.Verified:
		fmt.Fprintf(w, "Result:     equal (%d changed during the last comparison; times to live agree within %v)\n", r.Moving, r.LargestDrift.Round(time.Millisecond))
	case !complete:
		fmt.Fprintln(w, "Result:     not compared to the end")
	case dryRun:
		fmt.Fprintf(w, "Result:     %d differences\n", r.Different+r.Moving)
	default:
		fmt.Fprintf(w, "Result:     NOT equal: %d differences in the last comparison\n", r.Different)
	}
}
