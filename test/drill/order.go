package drill

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// posted is one acknowledged in-order write.
type posted struct {
	value, key   string
	begin, ended time.Duration
}

// swapped is one acknowledged link of a chain.
type swapped struct {
	link, base string
	read, made uint64 // index of what was read, and of what was written
	at         time.Duration
}

func (s swapped) String() string {
	return fmt.Sprintf("%s (%d->%d, %v, %s)", s.link, s.read, s.made, s.at.Round(time.Millisecond), s.base)
}

// Order is a crowd of clients that append to a queue and to chains of values, through all agents at once.
type Order struct {
	bases  []string
	start  time.Time
	quit   chan struct{}
	wg     sync.WaitGroup
	writes atomic.Int64

	mu     sync.Mutex
	queue  []posted        // acknowledged
	maybe  map[string]bool // values whose outcome nobody knows
	chains map[string][]swapped
	empty  []string // answers of success without a word of what was done
}

const chains = 4

// Run starts clients: half of them POST to a queue, half append their name to one of a few chains by
// compareAndSwap on the index they have read.
func Run(t testing.TB, clients int, bases ...string) *Order {
	t.Helper()
	for i := range chains {
		if a := do(http.MethodPut, fmt.Sprintf("%s/v2/keys/drill/chain%d", bases[0], i), url.Values{"value": {""}}); a.status/100 != 2 {
			t.Fatalf("the first write through %s: %d %s", bases[0], a.status, a.body)
		}
	}
	d := &Order{bases: bases, start: time.Now(), quit: make(chan struct{}), maybe: map[string]bool{}, chains: map[string][]swapped{}}
	for n := range clients {
		d.wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-d.quit:
					return
				default:
				}
				base := d.bases[(n+i)%len(d.bases)]
				if n%2 == 0 {
					d.post(base, fmt.Sprintf("c%d-%d", n, i))
				} else {
					d.swap(base, fmt.Sprintf("/drill/chain%d", n/2%chains), fmt.Sprintf("c%d-%d", n, i))
				}
			}
		})
	}
	return d
}

func (d *Order) post(base, value string) {
	begin := time.Since(d.start)
	a := do(http.MethodPost, base+"/v2/keys/drill/queue", url.Values{"value": {value}})
	ended := time.Since(d.start)
	d.mu.Lock()
	defer d.mu.Unlock()
	if ev, ok := a.event(); ok {
		d.queue = append(d.queue, posted{value, ev.Node.Key, begin, ended})
		d.writes.Add(1)
		return
	}
	d.unknown(value, a)
}

// unknown notes a write that was neither done nor refused for sure. An acknowledgement that says nothing is none.
func (d *Order) unknown(value string, a answer) {
	d.maybe[value] = true
	if a.status/100 == 2 {
		d.empty = append(d.empty, fmt.Sprintf("%s: %d %q", value, a.status, a.body))
	}
}

// rest keeps a client that nobody answers from spinning.
func (d *Order) rest() {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.quit:
	}
}

func (d *Order) swap(base, key, link string) {
	now, ok := do(http.MethodGet, base+"/v2/keys"+key+"?quorum=true", nil).event()
	if !ok {
		d.rest()
		return
	}
	value := now.Node.Value + link + ","
	a := do(http.MethodPut, fmt.Sprintf("%s/v2/keys%s?prevIndex=%d", base, key, now.Node.ModifiedIndex), url.Values{"value": {value}})
	d.mu.Lock()
	defer d.mu.Unlock()
	if ev, ok := a.event(); ok {
		d.chains[key] = append(d.chains[key], swapped{link, base, now.Node.ModifiedIndex, ev.Node.ModifiedIndex, time.Since(d.start)})
		d.writes.Add(1)
	} else if a.status != http.StatusPreconditionFailed { // then somebody was faster: nothing ran
		d.unknown(link, a)
	}
}

// More waits for n more acknowledged writes.
func (d *Order) More(t testing.TB, n int64, what string) {
	t.Helper()
	n += d.writes.Load()
	eventually(t, what, func() bool { return d.writes.Load() >= n })
}

// Verify stops the clients and looks at what they left, as base sees it by a quorum.
func (d *Order) Verify(t testing.TB, base string) {
	t.Helper()
	close(d.quit)
	d.wg.Wait()
	a := do(http.MethodGet, base+"/v2/keys/drill?recursive=true&sorted=true&quorum=true", nil)
	list, ok := a.event()
	if !ok {
		t.Fatalf("the keys of the drill cannot be read: %d %s", a.status, a.body)
	}
	for _, n := range list.Node.Nodes {
		if n.Key == "/drill/queue" {
			d.verifyQueue(t, n.Nodes)
		} else {
			d.verifyChain(t, n)
		}
	}
	if len(d.empty) > 0 {
		t.Errorf("%d writes were answered with success and nothing else, such as %s", len(d.empty), d.empty[0])
	}
	t.Logf("%d in-order writes and %d swaps acknowledged, %d with unknown outcome", len(d.queue), int(d.writes.Load())-len(d.queue), len(d.maybe))
}

// verifyQueue: every acknowledged entry is there under the key it was given, nothing else is but what may be, and an
// entry that was acknowledged before another was begun has the smaller key.
func (d *Order) verifyQueue(t testing.TB, nodes []node) {
	t.Helper()
	have := map[string]string{}
	values := map[string]int{}
	for _, n := range nodes {
		have[n.Key] = n.Value
		if values[n.Value]++; values[n.Value] > 1 {
			t.Errorf("%s was written %d times", n.Value, values[n.Value])
		}
	}
	for _, p := range d.queue {
		if have[p.key] != p.value {
			t.Errorf("%s was acknowledged as %s, there is %q", p.value, p.key, have[p.key])
		}
		delete(have, p.key)
	}
	for key, value := range have {
		if !d.maybe[value] {
			t.Errorf("%s holds %s, which nobody was told", key, value)
		}
	}
	// Sweep by begin: the greatest key that had been acknowledged by then must be smaller.
	byEnd := slices.Clone(d.queue)
	sort.Slice(byEnd, func(i, j int) bool { return byEnd[i].ended < byEnd[j].ended })
	sort.Slice(d.queue, func(i, j int) bool { return d.queue[i].begin < d.queue[j].begin })
	greatest, i := "", 0
	for _, p := range d.queue {
		for ; byEnd[i].ended < p.begin; i++ {
			greatest = max(greatest, byEnd[i].key)
		}
		if p.key <= greatest {
			t.Errorf("%s got %s, although %s had been acknowledged before it was begun", p.value, p.key, greatest)
		}
	}
}

// verifyChain: every acknowledged link is in the chain once; each client's links stand in the order it made them;
// nothing else is there but what may be.
func (d *Order) verifyChain(t testing.TB, n node) {
	t.Helper()
	at := map[string]int{}
	for i, link := range strings.Split(strings.TrimSuffix(n.Value, ","), ",") {
		if _, twice := at[link]; twice {
			t.Errorf("%s: link %s is there twice", n.Key, link)
		}
		at[link] = i
	}
	acked := map[string]bool{}
	last := map[string]int{}
	for k, s := range d.chains[n.Key] {
		link := s.link
		i, ok := at[link]
		if !ok {
			t.Errorf("%s: acknowledged link is missing: %v\n among %v\n chain %s", n.Key, s, d.chains[n.Key][max(0, k-6):min(len(d.chains[n.Key]), k+7)], n.Value)
			continue
		}
		client, _, _ := strings.Cut(link, "-")
		if i < last[client] {
			t.Errorf("%s: link %s stands before an earlier one of the same client", n.Key, link)
		}
		last[client], acked[link] = i, true
	}
	for link := range at {
		if link != "" && !acked[link] && !d.maybe[link] {
			t.Errorf("%s: link %s was refused", n.Key, link)
		}
	}
}
