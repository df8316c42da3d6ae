// Command bench measures the whole product from outside, side by side with a real etcd in the same run, and
// prints a table. Machines are noisy: windows of the two alternate, the median counts, and the ratio says more
// than either figure.
//
//	go run ./test/bench -dir /var/tmp -window 3s -rounds 3
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	dir := flag.String("dir", os.TempDir(), "directory on the disk to measure")
	window := flag.Duration("window", 3*time.Second, "length of one window")
	rounds := flag.Int("rounds", 3, "windows per figure")
	flag.Parse()
	if err := run(*dir, *window, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(base string, window time.Duration, rounds int) error {
	dir, err := os.MkdirTemp(base, "muster-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "muster")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/muster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building: %w", err)
	}
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	fmt.Printf("| Figure | muster | etcd | ratio |\n|---|---|---|---|\n| stripped static binary, MB | %.1f | | |\n", float64(info.Size())/1e6)
	b := &bench{dir: dir, window: window, rounds: rounds, kinds: []peerKind{muster(binary)}}
	if path, err := exec.LookPath("etcd"); err == nil {
		b.kinds = append(b.kinds, etcd(path))
	}
	if err := b.startTime(); err != nil {
		return err
	}
	if err := b.single(); err != nil {
		return err
	}
	return b.three()
}

type bench struct {
	dir    string
	window time.Duration
	rounds int
	kinds  []peerKind
	runs   int
}

// up starts n members of each kind and waits for a write on every one of them.
func (b *bench) up(n int) (map[string][]*process, func(), error) {
	all := map[string][]*process{}
	down := func() {
		for _, list := range all {
			for _, p := range list {
				p.stop()
			}
		}
	}
	for _, k := range b.kinds {
		b.runs++
		list, err := k.start(filepath.Join(b.dir, fmt.Sprint("run", b.runs)), n)
		all[k.name] = list
		if err == nil {
			for _, p := range list {
				if err = p.firstWrite(30 * time.Second); err != nil {
					break
				}
			}
		}
		if err != nil {
			down()
			return nil, nil, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return all, down, nil
}

// row measures one figure, the kinds taking turns, and prints the medians.
func (b *bench) row(what, unit string, measure func(kind string) (float64, error)) error {
	got := map[string][]float64{}
	for range b.rounds {
		for _, k := range b.kinds {
			v, err := measure(k.name)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", what, k.name, err)
			}
			got[k.name] = append(got[k.name], v)
		}
	}
	cells := make([]string, 0, 3)
	for _, k := range b.kinds {
		slices.Sort(got[k.name])
		cells = append(cells, fmt.Sprintf(unit, got[k.name][len(got[k.name])/2]))
	}
	ratio := ""
	if len(b.kinds) == 2 {
		ratio = fmt.Sprintf("%.2f", got["muster"][b.rounds/2]/got["etcd"][b.rounds/2])
	} else {
		cells = append(cells, "")
	}
	fmt.Printf("| %s | %s | %s |\n", what, strings.Join(cells, " | "), ratio)
	return nil
}

func (b *bench) startTime() error {
	return b.row("start of one server to first acknowledged write, s", "%.3f", func(kind string) (float64, error) {
		for _, k := range b.kinds {
			if k.name != kind {
				continue
			}
			b.runs++
			begin := time.Now()
			list, err := k.start(filepath.Join(b.dir, fmt.Sprint("run", b.runs)), 1)
			if err != nil {
				return 0, err
			}
			defer list[0].stop()
			if err := list[0].firstWrite(30 * time.Second); err != nil {
				return 0, err
			}
			return time.Since(begin).Seconds(), nil
		}
		return 0, fmt.Errorf("unknown kind %s", kind)
	})
}

func (b *bench) single() error {
	all, down, err := b.up(1)
	if err != nil {
		return err
	}
	defer down()
	one := func(kind string) *process { return all[kind][0] }
	idle := time.NewTimer(3 * time.Second) // let the runtime give back what the start needed
	<-idle.C
	if err := b.row("resident memory idle, MiB", "%.1f", func(kind string) (float64, error) { return one(kind).resident(), nil }); err != nil {
		return err
	}
	rate := func(clients int, req func(int, int) []byte) func(string) (float64, error) {
		return func(kind string) (float64, error) { return load(one(kind).addr, clients, b.window, req) }
	}
	rows := []struct {
		what    string
		clients int
		req     func(int, int) []byte
	}{
		{"writes/s, 1 client", 1, put("/v2/keys/one", 100)},
		{"writes/s, 64 clients", 64, put("/v2/keys/many", 100)},
		{"reads/s, 64 clients", 64, get("/v2/keys/first")},
		{"quorum reads/s, 64 clients", 64, get("/v2/keys/first?quorum=true")},
	}
	for _, r := range rows {
		if err := b.row(r.what, "%.0f", rate(r.clients, r.req)); err != nil {
			return err
		}
	}
	if err := b.dns(one("muster")); err != nil {
		return err
	}
	for _, k := range b.kinds {
		if err := fill(one(k.name).addr, 100000); err != nil {
			return fmt.Errorf("filling %s: %w", k.name, err)
		}
	}
	return b.row("resident memory with 100,000 keys of 100 bytes, MiB", "%.1f", func(kind string) (float64, error) { return one(kind).resident(), nil })
}

// fill writes n keys by 64 clients.
func fill(addr string, n int) error {
	const clients = 64
	errs := make(chan error, clients)
	body := "value=" + strings.Repeat("v", 100)
	for c := range clients {
		go func() {
			_, err := oneClient(addr, c, time.Now().Add(10*time.Minute), func(c, i int) []byte {
				id := i*clients + c
				if id >= n {
					return nil
				}
				return fmt.Appendf(nil, "PUT /v2/keys/fill/%d/%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", id%1000, id, len(body), body)
			})
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) three() error {
	all, down, err := b.up(3)
	if err != nil {
		return err
	}
	defer down()
	return b.row("writes/s, 3 servers on this machine, 64 clients on one of them", "%.0f", func(kind string) (float64, error) {
		return load(all[kind][0].addr, 64, b.window, put("/v2/keys/three", 100))
	})
}

// dns measures answers per second with dnsperf, where it is installed, for a service of three instances.
func (b *bench) dns(p *process) error {
	perf, err := exec.LookPath("dnsperf")
	if err != nil {
		return nil
	}
	ip, _, _ := strings.Cut(p.addr, ":")
	for i := range 3 {
		body := fmt.Sprintf(`{"Node":"n%d","Address":"10.0.0.%d","Service":{"Service":"web","Port":80}}`, i, i+1)
		cmd := exec.Command("curl", "-sf", "-X", "PUT", "-d", body, "http://"+ip+":8500/v1/catalog/register")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("registering: %w", err)
		}
	}
	file := filepath.Join(b.dir, "queries")
	for _, kind := range []string{"A", "SRV"} {
		if err := os.WriteFile(file, []byte("web.service.consul "+kind+"\n"), 0o600); err != nil {
			return err
		}
		var got []float64
		for range b.rounds {
			out, err := exec.Command(perf, "-s", ip, "-p", "8600", "-d", file, "-l", fmt.Sprint(int(b.window.Seconds())), "-c", "8", "-q", "200").CombinedOutput()
			if err != nil {
				return fmt.Errorf("dnsperf: %w\n%s", err, out)
			}
			m := regexp.MustCompile(`Queries per second:\s+([0-9.]+)`).FindSubmatch(out)
			if m == nil {
				return fmt.Errorf("dnsperf printed no rate:\n%s", out)
			}
			var v float64
			if _, err := fmt.Sscan(string(m[1]), &v); err != nil {
				return err
			}
			got = append(got, v)
		}
		slices.Sort(got)
		fmt.Printf("| DNS %s answers/s, 3 instances (dnsperf) | %.0f | | |\n", kind, got[len(got)/2])
	}
	return nil
}
