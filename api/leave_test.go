package api_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
)

// Of a listener that closes, every request of a client that keeps its connection was either answered or never there.
func TestNoRequestIsCutByAClosingListener(t *testing.T) {
	for range 10 {
		var ran, answered atomic.Int64
		s := api.NewServer(api.ServerConfig{Addr: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			ran.Add(1)
			_, _ = io.WriteString(w, "done")
		})})
		addr, err := s.Listen()
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		enough := make(chan struct{})
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for {
					req, err := http.NewRequest(http.MethodPut, "http://"+addr.String()+"/", strings.NewReader("x"))
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := client.Do(req)
					var op *net.OpError
					if errors.As(err, &op) && op.Op == "dial" {
						return
					}
					if err != nil {
						t.Errorf("nobody knows what became of a request: %v", err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if answered.Add(1) == 100 {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(time.Minute):
			t.Fatal("no requests flow")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		clients.Wait()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if ran.Load() != answered.Load() {
			t.Errorf("%d requests ran, %d were answered", ran.Load(), answered.Load())
		}
	}
}
