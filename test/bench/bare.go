//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// serveBare is the yardstick for HTTP: a net/http server that answers everything with the same prepared bytes.
// POST sets them.
func serveBare(addr string) error {
	var answer atomic.Pointer[[]byte]
	answer.Store(&[]byte{})
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			answer.Store(&body)
			return
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(*answer.Load())
	}))
}

// serveBareDNS is the yardstick for DNS: a miekg/dns server that answers every question with as many prepared
// address records as the first label says ("3.").
func serveBareDNS(addr string) error {
	var records [256]dns.RR
	for i := range records {
		records[i] = &dns.A{Hdr: dns.RR_Header{Name: "web.service.consul.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, 0, byte(i)).To4()}
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Authoritative, m.Compress = true, true
		count := 0
		if _, err := fmt.Sscanf(strings.SplitN(r.Question[0].Name, ".", 2)[0], "n%d", &count); err != nil || count > len(records) {
			m.Rcode = dns.RcodeNameError
		} else {
			m.Answer = records[:count]
		}
		_ = w.WriteMsg(m)
	})
	return (&dns.Server{Addr: addr, Net: "udp", Handler: handler}).ListenAndServe()
}

// bare starts this program again as the bare HTTP server.
func (b *bench) bare() (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr := b.net + ".3.1:8500"
	p, err := start(addr, self, "-bare", addr)
	if err != nil {
		return nil, err
	}
	return p, p.listening()
}

// listening waits until the process accepts connections.
func (p *process) listening() error {
	for range 500 {
		conn, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		pause(10 * time.Millisecond)
	}
	return fmt.Errorf("nothing listens on %s:\n%s", p.addr, p.log)
}

// like makes the bare server answer with the body that addr sends for path.
func like(bare *process, addr, method, path string) error {
	_, body, err := call(method, "http://"+addr+path, "")
	if err != nil {
		return err
	}
	_, _, err = call(http.MethodPost, "http://"+bare.addr, string(body))
	return err
}
