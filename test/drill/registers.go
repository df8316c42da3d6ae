package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Agent is where a client sends its requests: the URL of an agent, and how to reach it (nil: as usual).
type Agent struct {
	Base   string
	Client *http.Client
}

const (
	// registerFor is how long one key is in use. Short histories are checked fast, however long the drill.
	registerFor = 400 * time.Millisecond
	// registerPatience ends a request: a write is of unknown outcome then.
	registerPatience = 3 * time.Second
	// decideWithin bounds the check of one history.
	decideWithin = 20 * time.Second
)

// Registers is a crowd of clients that read, write, and compare-and-swap keys as if each were one variable in one
// process. Reads ask for a quorum (quorum=true), the rest is linearizable by itself: whatever happens to the servers, there must be
// an order of all requests, true to when they were made, in which each answer is right. Porcupine looks for it.
type Registers struct {
	agents []Agent
	start  time.Time
	quit   chan struct{}
	wg     sync.WaitGroup
	oks    []atomic.Int64 // by agent

	mu      sync.Mutex
	history []porcupine.Operation
	unknown int
}

// registerIn is a request to one register; "" is the value of a key that is not there.
type registerIn struct {
	key      string
	op       byte // 'r', 'w', 'c'
	old, new string
}

// registerOut is its answer.
type registerOut struct {
	value   string // of a read
	swapped bool   // of a compare-and-swap
	unknown bool   // nobody knows whether it ran
}

// RunRegisters starts clients, so many at each agent.
func RunRegisters(clients int, agents ...Agent) *Registers {
	d := &Registers{agents: agents, start: time.Now(), quit: make(chan struct{}), oks: make([]atomic.Int64, len(agents))}
	for at := range agents {
		for n := range clients {
			d.wg.Go(func() { d.client(at, at*clients+n) })
		}
	}
	return d
}

// Answered is how many requests an agent has answered so far with success.
func (d *Registers) Answered(agent int) int64 { return d.oks[agent].Load() }

// More waits until an agent has answered n more requests.
func (d *Registers) More(t testing.TB, agent int, n int64, what string) {
	t.Helper()
	from := d.Answered(agent)
	eventually(t, what, func() bool { return d.Answered(agent) >= from+n })
}

func (d *Registers) client(agent, id int) {
	seen := ""
	for n := 0; ; n++ {
		select {
		case <-d.quit:
			return
		default:
		}
		in := registerIn{key: fmt.Sprintf("%d", time.Since(d.start)/registerFor), op: "rrwc"[rand.IntN(4)], new: fmt.Sprintf("%d-%d", id, n)}
		if in.op == 'c' {
			if seen == "" {
				in.op = 'r'
			}
			in.old = seen
		}
		call := time.Since(d.start).Nanoseconds()
		out, err := ask(d.agents[agent], in)
		back := time.Since(d.start).Nanoseconds()
		switch {
		case err == nil:
			d.oks[agent].Add(1)
			if in.op == 'r' {
				seen = out.value
			}
		case in.op == 'r':
			d.pause()
			continue // an unanswered read says nothing
		default:
			out.unknown, back = true, math.MaxInt64
			d.pause()
		}
		d.mu.Lock()
		if out.unknown {
			d.unknown++
		}
		d.history = append(d.history, porcupine.Operation{ClientId: id, Input: in, Output: out, Call: call, Return: back})
		d.mu.Unlock()
	}
}

// pause keeps a client that is refused at once from filling the history with requests of unknown outcome.
func (d *Registers) pause() {
	select {
	case <-d.quit:
	case <-time.After(100 * time.Millisecond):
	}
}

// ask makes one request. An error means that nobody knows whether it ran.
func ask(a Agent, in registerIn) (registerOut, error) {
	ctx, cancel := context.WithTimeout(context.Background(), registerPatience)
	defer cancel()
	method, u, form := http.MethodPut, a.Base+"/v2/keys/registers/"+in.key, url.Values{"value": {in.new}}
	switch in.op {
	case 'r':
		method, u, form = http.MethodGet, u+"?quorum=true", nil
	case 'c':
		u += "?prevValue=" + url.QueryEscape(in.old)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, strings.NewReader(form.Encode()))
	if err != nil {
		return registerOut{}, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	client := a.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return registerOut{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return registerOut{}, err
	}
	switch {
	case resp.StatusCode/100 == 2 && in.op == 'r':
		var ev event
		err := json.Unmarshal(body, &ev)
		return registerOut{value: ev.Node.Value}, err
	case resp.StatusCode/100 == 2:
		return registerOut{swapped: true}, nil
	case resp.StatusCode == http.StatusNotFound && in.op != 'w':
		return registerOut{}, nil // no such key: an empty register, which no swap finds as it wants it
	case resp.StatusCode == http.StatusPreconditionFailed && in.op == 'c':
		return registerOut{}, nil
	}
	return registerOut{}, fmt.Errorf("status %d: %s", resp.StatusCode, body)
}

// register is the variable as porcupine knows it; its state is its value.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(registerIn).key
			by[key] = append(by[key], op)
		}
		parts := make([][]porcupine.Operation, 0, len(by))
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(registerIn), output.(registerOut)
		switch {
		case in.op == 'r':
			return out.value == state, state
		case in.op == 'w':
			return true, in.new
		case out.unknown && state == in.old, !out.unknown && out.swapped && state == in.old:
			return true, in.new
		}
		return out.unknown || !out.swapped && state != in.old, state
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(registerIn), output.(registerOut)
		switch in.op {
		case 'r':
			return "read " + out.value
		case 'w':
			return fmt.Sprintf("write %s (unknown: %v)", in.new, out.unknown)
		}
		return fmt.Sprintf("swap %s for %s: %v (unknown: %v)", in.old, in.new, out.swapped, out.unknown)
	},
}

// Verify ends the clients and fails the test unless the history is that of registers.
func (d *Registers) Verify(t testing.TB) {
	t.Helper()
	close(d.quit)
	d.wg.Wait()
	for _, part := range register.Partition(d.history) {
		model := register
		model.Partition = nil
		switch res, _ := porcupine.CheckOperationsVerbose(model, part, decideWithin); res {
		case porcupine.Illegal:
			t.Errorf("register %s: no order of these %d requests explains their answers", part[0].Input.(registerIn).key, len(part))
			for _, op := range part[:min(len(part), 60)] {
				t.Logf("  client %d, %v to %v: %s", op.ClientId, time.Duration(op.Call), time.Duration(op.Return), model.DescribeOperation(op.Input, op.Output))
			}
		case porcupine.Unknown:
			t.Errorf("register %s: not decided within %v (%d requests)", part[0].Input.(registerIn).key, decideWithin, len(part))
		}
	}
	t.Logf("%d requests to registers, %d of unknown outcome: linearizable: %v", len(d.history), d.unknown, !t.Failed())
}
