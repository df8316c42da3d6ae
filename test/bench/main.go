//go:build linux

// Command bench measures the whole product from outside, side by side in one run with a real etcd, with bare Go
// servers that send the same bytes, and, if wanted, with an older build, and prints a Markdown table. Machines are
// noisy: the windows of all sides alternate, the median counts, and a ratio says more than either figure.
//
//	go run ./test/bench -dir /var/tmp -window 3s -rounds 3
//	go run ./test/bench -only 'reads/s|health' -against ./muster-before
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.dir, "dir", os.TempDir(), "directory on the disk to measure")
	flag.DurationVar(&o.window, "window", 3*time.Second, "length of one window")
	flag.IntVar(&o.rounds, "rounds", 3, "windows per figure and side")
	flag.StringVar(&o.net, "net", "127.54", "first two numbers of the loopback addresses to use, so that two runs do not meet")
	only := flag.String("only", "", "measure only the figures whose name matches this regular expression")
	flag.StringVar(&o.binary, "muster", "", "measure this executable instead of building one")
	flag.StringVar(&o.against, "against", "", "measure this executable of Muster, too")
	bare := flag.String("bare", "", "internal: serve the bare HTTP server on this address")
	bareDNS := flag.String("bare-dns", "", "internal: serve the bare DNS server on this address")
	flag.Parse()
	var err error
	switch {
	case *bare != "":
		err = serveBare(*bare)
	case *bareDNS != "":
		err = serveBareDNS(*bareDNS)
	default:
		if o.only, err = regexp.Compile(*only); err == nil {
			err = run(o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	dir, binary, against, net string
	window                    time.Duration
	rounds                    int
	only                      *regexp.Regexp
}

func run(o options) error {
	dir, err := os.MkdirTemp(o.dir, "muster-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.binary == "" {
		o.binary = filepath.Join(dir, "muster")
		if err := build(o.binary); err != nil {
			return err
		}
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	b := &bench{options: o, kinds: []peerKind{muster("muster", o.binary, o.net+".0")}}
	b.dir = dir
	if o.against != "" {
		b.kinds = append(b.kinds, muster("before", o.against, o.net+".2"))
	}
	if path, err := exec.LookPath("etcd"); err == nil {
		b.kinds = append(b.kinds, etcd(path, o.net+".1"))
	}
	b.header()
	for _, suite := range []func() error{b.first, b.single, b.catalog, b.agent, b.dns, b.names, b.polls, b.memory, b.three} {
		if err := suite(); err != nil {
			return err
		}
	}
	return nil
}

// build makes the executable as it is released: static and stripped.
func build(path string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./cmd/muster")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building: %w", err)
	}
	return nil
}

// raiseFiles allows this process and its children as many open files as the system does: a poll is a socket on
// both sides.
func raiseFiles() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raising the limit of open files to %d: %w", l.Max, err)
	}
	return nil
}
