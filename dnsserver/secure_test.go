package dnsserver

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestOverTLS(t *testing.T) {
	certs := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer certs.Close()
	c := contractConfig()
	c.TLSAddrs = []string{"127.0.0.1:0"}
	src := NewTreeSource(contractWorld(t).tree.Snap)
	if _, err := New(c, src); err == nil {
		t.Error("addresses for TLS without a certificate were accepted")
	}
	c.TLS = &tls.Config{Certificates: certs.TLS.Certificates, MinVersion: tls.VersionTLS12}
	s := start(t, c, src)
	client := dns.Client{Net: "tcp-tls", Timeout: patience, TLSConfig: certs.Client().Transport.(*http.Transport).TLSClientConfig}
	conn, err := client.Dial(s.TLSAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 { // on one connection
		m := new(dns.Msg)
		m.SetQuestion("web.service.consul.", dns.TypeSRV)
		r, _, err := client.ExchangeWithConn(m, conn)
		if err != nil || len(r.Answer) != 2 {
			t.Fatalf("%v %v", r, err)
		}
	}
	// Somebody who speaks no TLS gets nothing and disturbs nobody.
	plain := dns.Client{Net: "tcp", Timeout: time.Second}
	m := new(dns.Msg)
	m.SetQuestion("web.service.consul.", dns.TypeA)
	if r, _, err := plain.Exchange(m, s.TLSAddrs()[0]); err == nil {
		t.Errorf("answered in the clear: %v", r)
	}
	if r, _, err := client.ExchangeWithConn(m, conn); err != nil || len(r.Answer) != 2 {
		t.Errorf("afterwards: %v %v", r, err)
	}
}

func TestOverHTTPS(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	srv := httptest.NewServer(s)
	defer srv.Close()
	question := func(name string, qtype uint16) []byte {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		m.Id = 0
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	post := func(kind string, body []byte) *http.Response {
		r, err := http.Post(srv.URL+HTTPPath, kind, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	get := func(param string) *http.Response {
		r, err := http.Get(srv.URL + HTTPPath + param)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	web := question("web.service.consul.", dns.TypeA)
	for what, r := range map[string]*http.Response{
		"POST": post(messageType, web),
		"GET":  get("?dns=" + base64.RawURLEncoding.EncodeToString(web)),
	} {
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil || r.StatusCode != 200 || len(m.Answer) != 2 || r.Header.Get("Content-Type") != messageType || r.Header.Get("Cache-Control") != "max-age=7" {
			t.Errorf("%s: %s %v %v %v", what, r.Status, r.Header, m, err)
		}
	}
	r := post(messageType, question("no.service.consul.", dns.TypeA))
	_ = r.Body.Close()
	if r.StatusCode != 200 || r.Header.Get("Cache-Control") != "max-age=9" {
		t.Errorf("no such name: %s %v", r.Status, r.Header)
	}
	answer, _ := new(dns.Msg).SetRcode(&dns.Msg{Question: []dns.Question{{Name: ".", Qtype: 1, Qclass: 1}}}, 0).Pack()
	for what, c := range map[string]struct {
		r    *http.Response
		want int
	}{
		"type":      {post("text/plain", web), 415},
		"garbage":   {post(messageType, []byte("x")), 400},
		"empty":     {post(messageType, nil), 400},
		"answer":    {post(messageType, answer), 400},
		"large":     {post(messageType, bytes.Repeat([]byte{0}, 1<<17)), 400},
		"no param":  {get(""), 400},
		"bad param": {get("?dns=" + strings.Repeat("!", 10)), 400},
	} {
		_ = c.r.Body.Close()
		if c.r.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", what, c.r.Status, c.want)
		}
	}
	req, _ := http.NewRequest(http.MethodDelete, srv.URL+HTTPPath, nil)
	d, err := http.DefaultClient.Do(req)
	if err != nil || d.StatusCode != 405 {
		t.Errorf("DELETE: %v %v", d, err)
	}
}
