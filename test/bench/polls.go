//go:build linux

package main

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"time"
)

const pollers = 5000

// polls measures how long one change takes to reach everybody who waits for it.
func (b *bench) polls() error {
	s := b.stage(1, b.kinds...)
	defer s.down()
	turn := 0
	watch := s.sides(func(p *process) (sample, error) {
		turn++
		return pollRound(p, p.addr, "GET /v2/keys/first?wait=true HTTP/1.1\r\nHost: x\r\n\r\n", "/v2/keys/first", fmt.Sprint("value=", turn))
	})
	flat := func(path, change string, body func() string) []side {
		var out []side
		for _, k := range b.musters() {
			out = append(out, side{k.name, func() (sample, error) {
				p := s.all[k.name][0]
				h, _, err := call("GET", "http://"+p.flat()+path, "")
				if err != nil {
					return sample{}, err
				}
				return pollRound(p, p.flat(), fmt.Sprintf("GET %s?wait=9m&index=%s HTTP/1.1\r\nHost: x\r\n\r\n", path, h.Get("X-Consul-Index")), change, body())
			}})
		}
		return out
	}
	body := func() string { turn++; return instance(1, "polled", 1, 1024+turn) }
	rows := []row{
		{name: "5,000 watches of one key: change to last answer, ms", format: "%.0f", goal: "≤ 0.6 × etcd, ≤ 20 µs each", sides: watch},
		{name: "5,000 flat blocking queries on one key: change to last answer, ms", format: "%.0f", goal: "≤ 20 µs each",
			sides: flat("/v1/kv/first", "/v1/kv/first", func() string { turn++; return fmt.Sprint(turn) })},
		{name: "5,000 flat blocking queries on one service: change to last answer, ms", format: "%.0f", goal: "≤ 20 µs each",
			prepare: func() error {
				for _, k := range b.musters() {
					if _, _, err := call("PUT", "http://"+s.all[k.name][0].flat()+"/v1/catalog/register", body()); err != nil {
						return err
					}
				}
				return nil
			},
			sides: flat("/v1/health/service/polled", "/v1/catalog/register", body)},
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

// pollRound opens the polls, waits until the server has nothing more to do for them, makes the change, and takes
// the time until the last poll is answered in full, in ms. CPU is the server's, from change to last answer.
func pollRound(p *process, addr, request, path, body string) (sample, error) {
	var ready, done sync.WaitGroup
	errs := make(chan error, pollers)
	ready.Add(pollers)
	for i := range pollers {
		done.Go(func() {
			conn, err := sendPoll(addr, i, request)
			ready.Done()
			if err == nil {
				defer conn.Close()
				err = readAnswer(bufio.NewReaderSize(conn, 2<<10))
			}
			if err != nil {
				errs <- err
			}
		})
	}
	ready.Wait()
	quiet(p)
	cpu, begin := p.cpu(), time.Now()
	if _, _, err := call("PUT", "http://"+addr+path, body); err != nil {
		return sample{}, err
	}
	done.Wait()
	took := time.Since(begin)
	cpu = p.cpu() - cpu
	select {
	case err := <-errs:
		return sample{}, err
	default:
	}
	return sample{float64(took.Microseconds()) / 1000, float64(cpu.Microseconds()) / pollers}, nil
}

// sendPoll sends the request of poller i over a connection of its own. A hundred share a source address, because
// servers limit the connections of one client.
func sendPoll(addr string, i int, request string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 54, 4, byte(1+i/100))}}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := conn.Write([]byte(request)); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// quiet waits until a server has used next to no CPU for half a second.
func quiet(p *process) {
	for range 60 {
		before := p.cpu()
		pause(500 * time.Millisecond)
		if p.cpu()-before <= 2*tick {
			return
		}
	}
}
