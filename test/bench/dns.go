package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// dns measures answers per second with dnsperf, where it is installed, beside a bare server whose answers hold as
// many records.
func (b *bench) dns() error {
	perf, err := exec.LookPath("dnsperf")
	if err != nil {
		return nil
	}
	s := b.stage(1, b.musters()...)
	defer s.down()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bare, err := start(b.net+".3.2:8600", self, "-bare-dns", b.net+".3.2:8600")
	if err != nil {
		return err
	}
	defer bare.stop()
	var rows []row
	for _, n := range []int{3, 50} {
		service := fmt.Sprint("dns", n)
		r := row{
			name: fmt.Sprintf("DNS answers/s, A, %d instances (bare: miekg/dns)", n), format: "%.0f", goal: map[int]string{3: "≥ 0.9 of bare", 50: "≥ 0.8 of bare"}[n],
			prepare: func() error {
				return s.each(func(p *process) error {
					return fill(p.flat(), n, func(i int) []byte { return putJSON("/v1/catalog/register", instance(i, service, i, 80)) })
				})
			},
		}
		for _, k := range s.kinds {
			r.sides = append(r.sides, side{k.name, func() (sample, error) { return b.ask(perf, s.all[k.name][0], service+".service.consul") }})
		}
		r.sides = append(r.sides, side{"bare", func() (sample, error) {
			count, err := records(s.all["muster"][0], service+".service.consul.")
			if err != nil {
				return sample{}, err
			}
			return b.ask(perf, bare, fmt.Sprintf("n%d.service.consul", count))
		}})
		rows = append(rows, r)
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

// records counts the records of one answer.
func records(p *process, name string) (int, error) {
	ip, _, _ := strings.Cut(p.addr, ":")
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	resp, err := dns.Exchange(m, ip+":8600")
	if err != nil {
		return 0, err
	}
	if len(resp.Answer) == 0 {
		return 0, fmt.Errorf("no answer for %s: %s", name, dns.RcodeToString[resp.Rcode])
	}
	return len(resp.Answer), nil
}

var (
	perSecond = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	completed = regexp.MustCompile(`Queries completed:\s+([0-9]+)`)
)

// ask has dnsperf ask one name for a window.
func (b *bench) ask(perf string, p *process, name string) (sample, error) {
	ip, _, _ := strings.Cut(p.addr, ":")
	file := filepath.Join(b.dir, "queries")
	if err := os.WriteFile(file, []byte(name+" A\n"), 0o600); err != nil {
		return sample{}, err
	}
	before := p.cpu()
	out, err := exec.Command(perf, "-s", ip, "-p", "8600", "-d", file, "-l", fmt.Sprint(max(1, int(b.window.Seconds()))), "-c", "8", "-q", "200").CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("dnsperf: %w\n%s", err, out)
	}
	used := p.cpu() - before
	rate, total := perSecond.FindSubmatch(out), completed.FindSubmatch(out)
	if rate == nil || total == nil || !strings.Contains(string(out), "NOERROR") {
		return sample{}, fmt.Errorf("dnsperf reported no rate or no success:\n%s", out)
	}
	v, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		return sample{}, err
	}
	n, err := strconv.ParseFloat(string(total[1]), 64)
	return sample{v, float64(used.Microseconds()) / n}, err
}
