package peer_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/musterhq/muster/peer"
)

// TestDropBreaksWhatOnlyWaits: long polls to a server that is given up break, short requests go on.
func TestDropBreaksWhatOnlyWaits(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		release, arrived := make(chan struct{}), make(chan struct{}, 4)
		srv := listen(t, peer.Config{TLS: tls, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, "done")
		})})
		d := peer.NewDialer(peer.DialerConfig{TLS: tls})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		type result struct {
			text string
			err  error
		}
		ask := func(ctx context.Context) chan result {
			out := make(chan result, 1)
			go func() {
				text, err := send(ctx, d, "GET", "http://"+srv.Addr().String()+"/", "")
				out <- result{text, err}
			}()
			<-arrived
			return out
		}
		short, long := ask(ctx), ask(peer.Long(ctx))
		d.Drop("192.0.2.1:8300") // nobody we know
		d.Drop(srv.Addr().String())
		if r := <-long; r.err == nil || ctx.Err() != nil {
			t.Errorf("the long poll got %q, %v; want a broken connection at once", r.text, r.err)
		}
		close(release)
		if r := <-short; r.err != nil || r.text != "done" {
			t.Errorf("the short request got %q, %v", r.text, r.err)
		}
		few := peer.NewDialer(peer.DialerConfig{TLS: tls, Few: true})
		defer few.Close()
		if got, err := send(ctx, few, "GET", "http://"+srv.Addr().String()+"/", ""); err != nil || got != "done" {
			t.Errorf("over HTTP/1.1: %q, %v", got, err)
		}
		if got, err := send(peer.Long(ctx), d, "GET", "http://"+srv.Addr().String()+"/", ""); err != nil || got != "done" {
			t.Errorf("a new long poll got %q, %v", got, err)
		}
	})
}
