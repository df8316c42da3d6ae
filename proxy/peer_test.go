package proxy

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/peer"
)

// Over the real server port: HTTP/2, three servers, the leader dies under way.
func TestOverTheServerPort(t *testing.T) {
	var addrs []string
	var ports []*peer.Server
	leads := make(chan int, 1)
	leads <- 0
	current := func() int { n := <-leads; leads <- n; return n }
	for i := range 3 {
		s, err := peer.Listen(peer.Config{Bind: "127.0.0.1:0", Logger: hclog.NewNullLogger(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if current() != i {
				notLeading(addrs[current()])(w, r)
				return
			}
			echo(w, r)
		})})
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, s)
		addrs = append(addrs, s.Addr().String())
		defer closePort(s)
	}
	d := peer.NewDialer(peer.DialerConfig{})
	defer d.Close()
	p := newProxy(t, func(c *Config) {
		c.Transport, c.IsRefused = d.Transport(), peer.IsRefused
		c.Hold = patience
	}, addrs...)
	f := front(t, p, Leader)
	put := func() {
		t.Helper()
		if code, body, _ := call(t, "PUT", f.URL+"/v1/kv/a%2Fb", "v"); code != 200 || body != "PUT /v1/kv/a%2Fb v" {
			t.Fatalf("%d %q", code, body)
		}
	}
	put()
	put()
	closePort(ports[0])
	<-leads
	leads <- 2
	put()
	big := strings.Repeat("x", 1<<20)
	if code, body, _ := call(t, "PUT", f.URL+"/k", big); code != 200 || body != "PUT /k "+big {
		t.Errorf("%d, %d bytes", code, len(body))
	}
}

func closePort(s *peer.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Close(ctx)
}
