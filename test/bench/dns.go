//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// dns measures answers per second with dnsperf, where it is installed, beside a bare server of package dns that answers
// every question with one fixed record, and how long another client waits meanwhile.
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
	sides := func(question string, measure func(perf string, p *process, question string) (sample, error)) []side {
		var out []side
		for _, k := range s.kinds {
			out = append(out, side{k.name, func() (sample, error) { return measure(perf, s.all[k.name][0], question) }})
		}
		return append(out, side{"bare", func() (sample, error) { return measure(perf, bare, "n1.service.consul A") }})
	}
	var rows []row
	for _, n := range []int{3, 50} {
		service, goal := fmt.Sprint("dns", n), map[int]string{3: "≥ 0.9 of bare", 50: "≥ 0.8 of bare"}[n]
		fillService := func() error {
			return s.each(func(p *process) error {
				return fill(p.flat(), n, func(i int) []byte { return putJSON("/v1/catalog/register", instance(i, service, i, 80)) })
			})
		}
		for _, qtype := range []string{"A", "SRV"} {
			question := service + ".service.consul " + qtype
			rows = append(rows, row{name: fmt.Sprintf("DNS answers/s, %s, %d instances (bare: miekg/dns, one fixed record)", qtype, n), format: "%.0f", goal: goal, prepare: fillService, sides: sides(question, b.ask)},
				row{name: fmt.Sprintf("DNS p99 of another client beside %d questions/s, %s, %d instances, ms", background, qtype, n), format: "%.2f", prepare: fillService, sides: sides(question, b.beside)})
		}
	}
	rows = append(rows, row{name: "DNS answers/s, no such name (bare: one fixed record)", format: "%.0f", sides: sides("nobody.service.consul A", b.ask)})
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

var (
	perSecond = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	completed = regexp.MustCompile(`Queries completed:\s+([0-9]+)`)
)

// ask has dnsperf ask one question for a window, as a client that takes 4,096 bytes.
func (b *bench) ask(perf string, p *process, question string) (sample, error) {
	return b.dnsperf(perf, p, b.questions(question), b.window, "-c", "8", "-q", "200")
}

// background is the load of another client, in questions a second.
const background = 20000

// beside is the p99 of a client that asks the same question every millisecond beside a load.
func (b *bench) beside(perf string, p *process, question string) (sample, error) {
	ended := make(chan error, 1)
	go func() {
		_, err := b.dnsperf(perf, p, b.questions(question), b.window, "-c", "8", "-Q", fmt.Sprint(background))
		ended <- err
	}()
	pause(200 * time.Millisecond) // for it to begin
	waits, err := probe(p, question, b.window-400*time.Millisecond)
	if loadErr := <-ended; err == nil {
		err = loadErr
	}
	return sample{value: percentile(waits, 99)}, err
}

// questions makes a file of questions for dnsperf.
func (b *bench) questions(lines ...string) string {
	file := filepath.Join(b.dir, "questions")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		panic(err) // the directory is ours
	}
	return file
}

// dnsperf asks what stands in a file.
func (b *bench) dnsperf(perf string, p *process, file string, window time.Duration, args ...string) (sample, error) {
	ip, _, _ := strings.Cut(p.addr, ":")
	before := p.cpu()
	out, err := exec.Command(perf, append([]string{"-s", ip, "-p", "8600", "-d", file, "-e", "-l", fmt.Sprint(max(1, int(window.Seconds())))}, args...)...).CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("dnsperf: %w\n%.2000s", err, out)
	}
	used := p.cpu() - before
	rate, total := perSecond.FindSubmatch(out), completed.FindSubmatch(out)
	if rate == nil || total == nil || !strings.Contains(string(out), "NOERROR") && !strings.Contains(string(out), "NXDOMAIN") {
		return sample{}, fmt.Errorf("dnsperf reported no rate or no success:\n%.2000s", out)
	}
	v, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		return sample{}, err
	}
	n, err := strconv.ParseFloat(string(total[1]), 64)
	return sample{v, float64(used.Microseconds()) / n}, err
}

// probe asks a question every millisecond, or as soon as the last one is answered, and returns how long each took, in ms.
// An answer that does not come within a second counts as one.
func probe(p *process, question string, window time.Duration) ([]float64, error) {
	ip, _, _ := strings.Cut(p.addr, ":")
	name, qtype, _ := strings.Cut(question, " ")
	conn, err := dns.Dial("udp", ip+":8600")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.UDPSize = dns.MaxMsgSize
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	m.SetEdns0(4096, false)
	var waits []float64
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(window); time.Now().Before(end); <-tick.C {
		m.Id = dns.Id()
		begin := time.Now()
		_ = conn.SetDeadline(begin.Add(time.Second))
		if err := conn.WriteMsg(m); err != nil {
			return nil, err
		}
		for {
			r, err := conn.ReadMsg()
			if err != nil || r.Id == m.Id { // one that comes late is left out
				break
			}
		}
		waits = append(waits, float64(time.Since(begin).Microseconds())/1000)
	}
	return waits, nil
}

// percentile of a list, 0 when it is empty.
func percentile(list []float64, p int) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[(len(list)-1)*p/100]
}
