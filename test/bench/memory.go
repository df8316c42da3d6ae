//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// settle is how long a server is left alone before its memory is read.
const settle = 10 * time.Second

// memory measures resident memory with data, and how long a restart with that data takes.
func (b *bench) memory() error {
	value := "value=" + strings.Repeat("v", 100)
	key := func(i int) []byte { return form(fmt.Sprintf("/v2/keys/fill/%d/%d", i%1000, i), value) }
	if err := b.withData("200,000 keys of 100 bytes", "≤ 140", 200000, key, key); err != nil {
		return err
	}
	// 1,000 nodes run 20 instances each; a service has 100 instances. In etcd the same facts are keys.
	text := func(i int) string { return instance(i%1000, fmt.Sprintf("svc-%d", i%200), i, 1024+i%60000) }
	registration := func(i int) []byte { return putJSON("/v1/catalog/register", text(i)) }
	asKey := func(i int) []byte { return form(fmt.Sprintf("/v2/keys/fill/svc-%d/%d", i%200, i), "value="+text(i)) }
	return b.withData("20,000 instances", "≤ 80", 20000, registration, asKey)
}

// form makes a PUT of the hierarchical dialect.
func form(path, body string) []byte {
	return fmt.Appendf(nil, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// withData fills fresh servers and takes the figures that depend on how much they hold.
func (b *bench) withData(what, goal string, n int, own, etcd func(id int) []byte) error {
	s := b.stage(1, b.kinds...)
	defer s.down()
	rows := []row{
		{name: "resident memory with " + what + ", MiB", format: "%.1f", goal: goal, sides: s.sides((*process).resident)},
		{name: "restart with " + what + " to first acknowledged write, s", format: "%.2f", goal: "≤ 0.6", sides: s.sides(restart)},
		{name: "resident memory after that restart with " + what + ", MiB", format: "%.1f", sides: s.sides((*process).resident),
			prepare: func() error { pause(settle); return nil }},
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	for _, k := range s.kinds {
		p := s.all[k.name][0]
		addr, make := p.flat(), own // every port of Muster speaks both dialects
		if k.name == "etcd" {
			addr, make = p.addr, etcd
		}
		if err := fill(addr, n, make); err != nil {
			return fmt.Errorf("filling %s: %w", k.name, err)
		}
	}
	pause(settle)
	return b.measure(rows)
}

// restart kills the server and starts it again.
func restart(p *process) (sample, error) {
	p.stop()
	begin := time.Now()
	if err := p.again(); err != nil {
		return sample{}, err
	}
	err := p.firstWrite(time.Minute)
	return sample{value: time.Since(begin).Seconds()}, err
}
