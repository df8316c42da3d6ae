package agent

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/proxy"
)

func TestContactIsWhatServersSayOfTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := proxy.New(proxy.Config{Transport: http.DefaultTransport, IsRefused: func(error) bool { return false }, Servers: func() []proxy.Server { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		views, err := proxy.NewViews(proxy.ViewsConfig{Proxy: p})
		if err != nil {
			t.Fatal(err)
		}
		defer views.Close()
		a := &Agent{views: views}
		for _, step := range []struct {
			what, known, ms string
			pause, want     time.Duration
		}{
			{"a leader", "true", "0", 0, 0},
			{"a follower", "true", "40", time.Minute, 0},
			{"an election", "false", "4900", time.Minute, 0},
			{"none for long", "false", "5500", 0, 5500 * time.Millisecond},
			{"nobody has asked since", "", "", time.Second, 6500 * time.Millisecond},
			{"a server that has never heard of one", "false", "0", time.Second, 7500 * time.Millisecond},
			{"a leader that is not heard", "true", "9000", 0, 9 * time.Second},
			{"nonsense", "true", "x", 0, 9 * time.Second},
			{"a leader again", "true", "0", time.Hour, 0},
			{"new servers without a leader", "false", "0", time.Second, time.Second},
			{"and still", "false", "0", time.Minute, 61 * time.Second},
		} {
			h := http.Header{}
			if step.known != "" {
				h.Set("X-Consul-KnownLeader", step.known)
				h.Set("X-Consul-LastContact", step.ms)
			}
			a.contact.note(h)
			time.Sleep(step.pause)
			if got := a.clusterAge(); got != step.want {
				t.Errorf("%s: %v, want %v", step.what, got, step.want)
			}
		}
	})
}
