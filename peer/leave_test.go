package peer_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/peer"
)

// TestNoRequestIsCutByALeavingServer: of a server that closes, every request was either carried out and answered or provably never there.
func TestNoRequestIsCutByALeavingServer(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		for _, few := range []bool{true, false} {
			for range 10 {
				closeUnderLoad(t, tls, few)
			}
		}
	})
}

func closeUnderLoad(t *testing.T, tls *peer.TLS, few bool) {
	t.Helper()
	var ran atomic.Int64
	srv, err := peer.Listen(peer.Config{Bind: "127.0.0.1:0", TLS: tls, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ran.Add(1)
		_, _ = io.WriteString(w, "done")
	})})
	if err != nil {
		t.Fatal(err)
	}
	d := peer.NewDialer(peer.DialerConfig{TLS: tls, Few: few})
	defer d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var answered atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for {
				if _, err := send(ctx, d, "PUT", "http://"+srv.Addr().String()+"/", "x"); err == nil {
					answered.Add(1)
				} else {
					if !peer.IsRefused(err) {
						t.Errorf("few %t: nobody knows what became of a request: %v", few, err)
					}
					return
				}
			}
		})
	}
	eventually(t, func() bool { return answered.Load() > 200 })
	closing, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	if err := srv.Close(closing); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if ran.Load() != answered.Load() {
		t.Errorf("%d requests ran, %d were answered", ran.Load(), answered.Load())
	}
}
