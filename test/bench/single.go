//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// first measures the executable and its start.
func (b *bench) first() error {
	size := side{"muster", func() (sample, error) {
		info, err := os.Stat(b.binary)
		if err != nil {
			return sample{}, err
		}
		return sample{value: float64(info.Size()) / 1e6}, nil
	}}
	var starts []side
	for _, k := range b.kinds {
		starts = append(starts, side{k.name, func() (sample, error) {
			begin := time.Now()
			s := b.stage(1, k)
			defer s.down()
			err := s.up()
			return sample{value: time.Since(begin).Seconds()}, err
		}})
	}
	return b.measure([]row{
		{name: "stripped static binary, MB", format: "%.1f", goal: "≤ 22", sides: []side{size}},
		{name: "start of one server to first acknowledged write, s", format: "%.3f", goal: "≤ 0.15", sides: starts},
	})
}

// single measures keys on one server.
func (b *bench) single() error {
	s := b.stage(1, b.kinds...)
	defer s.down()
	bare, err := b.bare()
	if err != nil {
		return err
	}
	defer bare.stop()
	v2 := func(clients int, req requests) []side {
		return s.sides(func(p *process) (sample, error) { return b.load(p, p.addr, clients, req) })
	}
	own := func(name, path string) side { // Muster itself, as the yardstick of another row
		return side{name, func() (sample, error) {
			p := s.all["muster"][0]
			return b.load(p, p.addr, 64, get(path))
		}}
	}
	barely := side{"bare", func() (sample, error) { return b.load(bare, bare.addr, 64, get("/")) }}
	flat := func(path string) []side { return b.flatSides(s, get(path)) }
	const key = "/v1/kv/first"
	rows := []row{
		{name: "resident memory idle, MiB", format: "%.1f", goal: "≤ 28", prepare: func() error { pause(3 * time.Second); return nil },
			sides: s.sides((*process).resident)},
		{name: "key writes/s, 1 client (bare: fdatasync of 200 bytes)", format: "%.0f", goal: "≥ 0.75 of bare",
			sides: append(v2(1, put("/v2/keys/one")), side{"bare", b.fdatasync})},
		{name: "key writes/s, 64 clients", format: "%.0f", goal: "≥ 1.5 × etcd", sides: v2(64, put("/v2/keys/many"))},
		{name: "flat key writes/s, 64 clients", format: "%.0f", sides: b.flatSides(s, flatPut)},
		{name: "key reads/s, 64 clients (bare: net/http)", format: "%.0f", goal: "≥ 0.85 of bare",
			prepare: func() error { return likeFirst(bare, s, "/v2/keys/first") }, sides: append(v2(64, get("/v2/keys/first")), barely)},
		{name: "flat key reads/s, 64 clients (bare: net/http)", format: "%.0f", goal: "≥ 0.85 of bare",
			prepare: func() error { return likeFirst(bare, s, key) }, sides: append(flat(key), barely)},
		{name: "quorum reads/s, 64 clients (bare: own default reads)", format: "%.0f", goal: "≥ 0.7 of bare",
			sides: append(v2(64, get("/v2/keys/first?quorum=true")), own("bare", "/v2/keys/first"))},
		{name: "flat consistent reads/s, 64 clients (bare: own default reads)", format: "%.0f", goal: "≥ 0.7 of bare",
			sides: append(flat(key+"?consistent"), own("bare", key))},
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

// flatSides drives the flat dialect of every Muster of the stage by 64 clients.
func (b *bench) flatSides(s *stage, req requests) []side {
	var out []side
	for _, k := range b.musters() {
		out = append(out, side{k.name, func() (sample, error) {
			p := s.all[k.name][0]
			return b.load(p, p.flat(), 64, req)
		}})
	}
	return out
}

// likeFirst makes the bare server answer as Muster does.
func likeFirst(bare *process, s *stage, path string) error {
	return like(bare, s.all["muster"][0].flat(), "GET", path)
}

// flatPut writes 100 bytes to keys of the client's own.
func flatPut(c, n int) []byte {
	return putJSON(fmt.Sprintf("/v1/kv/flat/%d-%d", c, n%1000), strings.Repeat("v", 100))
}

// fdatasync is how often a second this disk can make an append of 200 bytes durable.
func (b *bench) fdatasync() (sample, error) {
	f, err := os.Create(filepath.Join(b.dir, "fdatasync"))
	if err != nil {
		return sample{}, err
	}
	defer f.Close()
	record := []byte(strings.Repeat("r", 200))
	n := 0
	begin := time.Now()
	for ; time.Since(begin) < b.window; n++ {
		if _, err := f.Write(record); err != nil {
			return sample{}, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return sample{}, err
		}
	}
	return sample{value: float64(n) / time.Since(begin).Seconds()}, nil
}
