//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	options
	kinds []peerKind
	runs  int
}

// sample is the outcome of one window.
type sample struct {
	value float64
	cpu   float64 // CPU time of the servers per request in µs, 0 = not measured
}

// side measures one of the things compared.
type side struct {
	name    string // one of columns
	measure func() (sample, error)
}

// columns are what a figure may be compared with. Bare is what the figure's name says in parentheses.
var columns = []string{"muster", "before", "etcd", "bare"}

// row is one figure. Prepare runs once, before the first window; it may be nil.
type row struct {
	name, format, goal string
	prepare            func() error
	sides              []side
}

func (b *bench) header() {
	fmt.Println("| Figure | Muster | before | etcd | bare | Muster ÷ before | ÷ etcd | ÷ bare | server CPU per request, µs: Muster, before, etcd, bare | Goal |")
	fmt.Println("|---|--:|--:|--:|--:|--:|--:|--:|---|---|")
}

// wants says whether any of these figures was asked for.
func (b *bench) wants(rows []row) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return b.only.MatchString(r.name) })
}

// measure takes the figures that were asked for, one after the other, and prints each when it is known.
func (b *bench) measure(rows []row) error {
	for _, r := range rows {
		if !b.only.MatchString(r.name) {
			continue
		}
		if r.prepare != nil {
			if err := r.prepare(); err != nil {
				return fmt.Errorf("%s: preparing: %w", r.name, err)
			}
		}
		got := map[string][]sample{}
		for range b.rounds {
			for _, s := range r.sides {
				v, err := s.measure()
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.name, s.name, err)
				}
				got[s.name] = append(got[s.name], v)
			}
		}
		fmt.Println(r.line(got))
	}
	return nil
}

// line is the row of the table: medians, and ratios of medians.
func (r row) line(got map[string][]sample) string {
	values, ratios, cpus := []string{}, []string{}, []string{}
	own := median(got["muster"])
	for _, c := range columns {
		if len(got[c]) == 0 {
			values = append(values, "")
			if c != "muster" {
				ratios = append(ratios, "")
			}
			cpus = append(cpus, "–")
			continue
		}
		m := median(got[c])
		values = append(values, fmt.Sprintf(r.format, m.value))
		if c != "muster" {
			ratios = append(ratios, fmt.Sprintf("%.2f", own.value/m.value))
		}
		if m.cpu > 0 {
			cpus = append(cpus, fmt.Sprintf("%.1f", m.cpu))
		} else {
			cpus = append(cpus, "–")
		}
	}
	return "| " + r.name + " | " + strings.Join(values, " | ") + " | " + strings.Join(ratios, " | ") + " | " + strings.Join(cpus, ", ") + " | " + r.goal + " |"
}

// median takes the medians of values and of CPU times, each for itself.
func median(list []sample) sample {
	if len(list) == 0 {
		return sample{}
	}
	var v, c []float64
	for _, s := range list {
		v, c = append(v, s.value), append(c, s.cpu)
	}
	slices.Sort(v)
	slices.Sort(c)
	return sample{v[len(v)/2], c[len(c)/2]}
}

// stage is a set of fresh servers, of each kind as many members, started when first asked for.
type stage struct {
	b     *bench
	n     int
	kinds []peerKind
	all   map[string][]*process
}

func (b *bench) stage(n int, kinds ...peerKind) *stage {
	return &stage{b: b, n: n, kinds: kinds, all: map[string][]*process{}}
}

// musters are the kinds that are builds of Muster.
func (b *bench) musters() []peerKind {
	return slices.DeleteFunc(slices.Clone(b.kinds), func(k peerKind) bool { return k.name == "etcd" })
}

// up starts everything, each member having acknowledged a write.
func (s *stage) up() error {
	if len(s.all) > 0 {
		return nil
	}
	for _, k := range s.kinds {
		s.b.runs++
		list, err := k.start(filepath.Join(s.b.dir, fmt.Sprint("run", s.b.runs)), s.n)
		s.all[k.name] = list
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		for _, p := range list {
			if err := p.firstWrite(30 * time.Second); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	return nil
}

func (s *stage) down() {
	for _, list := range s.all {
		for _, p := range list {
			p.stop()
		}
	}
}

// sides makes a side of every kind of the stage.
func (s *stage) sides(measure func(p *process) (sample, error)) []side {
	var out []side
	for _, k := range s.kinds {
		out = append(out, side{k.name, func() (sample, error) { return measure(s.all[k.name][0]) }})
	}
	return out
}

// each does something with the first member of every kind.
func (s *stage) each(do func(p *process) error) error {
	for _, k := range s.kinds {
		if err := do(s.all[k.name][0]); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

// pause lets things settle that have no event to wait for, such as memory going back to the system.
func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}
