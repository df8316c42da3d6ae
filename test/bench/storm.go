//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	manyNames   = 10000
	usedNames   = 4000  // fewer than a proxy follows
	stormRate   = 50000 // questions a second
	stormLength = 30 * time.Second
	stormNames  = 200000
)

// names measures a server and a proxy with many names in use, and a proxy under a storm of names that nobody
// registered.
func (b *bench) names() error {
	perf, err := exec.LookPath("dnsperf")
	if err != nil {
		return nil
	}
	var proxy *process
	s := b.stage(1, b.kinds[:1]...)
	defer s.down()
	server := func() *process { return s.all["muster"][0] }
	var quiet, under storm
	own := func(measure func() (sample, error)) []side { return []side{{"muster", measure}} }
	value := func(v *float64) []side {
		return own(func() (sample, error) { return sample{value: *v}, nil })
	}
	askAll := func(p func() *process, names int) func() error {
		return func() error {
			var all []string
			for i := range names {
				all = append(all, fmt.Sprintf("many%d.service.consul A", i), fmt.Sprintf("many%d.service.consul SRV", i))
			}
			// Once around, and slowly enough that a proxy may learn them.
			if _, err := b.dnsperf(perf, p(), b.questions(all...), time.Hour, "-n", "1", "-c", "1", "-q", "50", "-t", "10"); err != nil {
				return err
			}
			pause(settle)
			return nil
		}
	}
	rows := []row{
		{name: "storm of made-up names at a proxy: answers/s", format: "%.0f", sides: value(&under.rate), prepare: func() (err error) {
			if quiet, err = b.storm("", server(), proxy); err == nil {
				under, err = b.storm(perf, server(), proxy)
			}
			return err
		}},
		{name: "– requests/s at the server, quiet", format: "%.1f", sides: value(&quiet.requests)},
		{name: "– requests/s at the server, in the storm", format: "%.1f", sides: value(&under.requests)},
		{name: "– p99 of another client of the proxy, quiet, ms", format: "%.2f", sides: value(&quiet.p99)},
		{name: "– p99 of another client of the proxy, in the storm, ms", format: "%.2f", sides: value(&under.p99)},
		{name: "resident memory of a server with 10,000 services, MiB", format: "%.1f", sides: own(func() (sample, error) { return server().resident() })},
		{name: "– after each was asked for by A and SRV, MiB", format: "%.1f", prepare: askAll(server, manyNames), sides: own(func() (sample, error) { return server().resident() })},
		{name: "resident memory of a proxy, MiB", format: "%.1f", sides: own(func() (sample, error) { return proxy.resident() })},
		{name: "– after it was asked for 10,000 names by A and SRV, MiB", format: "%.1f", prepare: askAll(func() *process { return proxy }, manyNames), sides: own(func() (sample, error) { return proxy.resident() })},
		{name: "– the server after that, MiB", format: "%.1f", sides: own(func() (sample, error) { return server().resident() })},
		{name: "– a proxy after it was asked for 4,000 of them twice more, MiB", format: "%.1f", prepare: func() (err error) {
			for range 2 {
				if err == nil {
					err = askAll(func() *process { return proxy }, usedNames)()
				}
			}
			return err
		}, sides: own(func() (sample, error) { return proxy.resident() })},
		{name: "– the server after that, MiB", format: "%.1f", sides: own(func() (sample, error) { return server().resident() })},
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	if err := fill(server().flat(), manyNames, func(i int) []byte {
		return putJSON("/v1/catalog/register", instance(i%100, fmt.Sprint("many", i), i, 1024+i))
	}); err != nil {
		return err
	}
	ip, join := b.net+".4.1", strings.TrimSuffix(server().addr, ":2379")
	if proxy, err = start(ip+":2379", b.binary, "agent", "-node=p1", "-bind="+ip, "-client="+ip, "-data-dir="+filepath.Join(b.dir, "proxy"),
		"-retry-join="+join, "-retry-interval=250ms", "-log-level=warn"); err != nil {
		return err
	}
	defer proxy.stop()
	if err := proxy.firstWrite(30 * time.Second); err != nil {
		return err
	}
	pause(settle)
	return b.measure(rows)
}

// storm is what was seen in one stretch of time.
type storm struct{ rate, requests, p99 float64 }

// storm lets a client ask a proxy for a known name, beside a storm of others if perf is given, and counts what the
// server is asked meanwhile.
func (b *bench) storm(perf string, server, proxy *process) (storm, error) {
	var out storm
	before, err := requestsOf(server)
	if err != nil {
		return out, err
	}
	ended := make(chan error, 1)
	go func() {
		if perf == "" {
			ended <- nil
			return
		}
		lines := make([]string, stormNames)
		for i := range lines {
			lines[i] = fmt.Sprintf("x%x.service.consul A", rand.Uint64())
		}
		v, err := b.dnsperf(perf, proxy, b.questions(lines...), stormLength, "-c", "8", "-q", "200", "-Q", fmt.Sprint(stormRate))
		out.rate = v.value
		ended <- err
	}()
	begin := time.Now()
	waits, err := probe(proxy, "many1.service.consul A", stormLength)
	if err := <-ended; err != nil {
		return out, err
	}
	if err != nil {
		return out, err
	}
	after, err := requestsOf(server)
	out.requests, out.p99 = (after-before)/time.Since(begin).Seconds(), percentile(waits, 99)
	return out, err
}

// requestsOf is how many requests a server has answered.
func requestsOf(p *process) (float64, error) {
	_, body, err := call("GET", "http://"+p.flat()+"/metrics", "")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "consul_http_requests{") {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}
