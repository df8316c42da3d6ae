package membership

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/serf/serf"
)

// MaxQuestion is the most bytes a question, or an answer to one, may have: each travels in one packet. Names of the
// agents that are asked count too.
const MaxQuestion = 900

// MaxNamed is how many agents a question may name; with more, everybody is asked.
const MaxNamed = 8

// Reply is one agent's answer to a question.
type Reply struct {
	Node   string
	Answer []byte
}

// Respond makes this agent answer the questions of others: f gets the name and the text of a question, and returns the
// answer, or nil to be silent. It is called for one question at a time and must be quick. Questions before the first
// call of Respond are not answered.
func (p *Pool) Respond(f func(name string, question []byte) []byte) { p.respond.Store(&f) }

// Ask puts a question to the agents of these names by gossip, and gives the answers that came until all of them have
// answered, wait is over, or ctx ended. No names: everybody, and wait is always used up. It is best effort: an agent
// that is missing may be down, slow, or have nothing to say.
func (p *Pool) Ask(ctx context.Context, name string, question []byte, nodes []string, wait time.Duration) ([]Reply, error) {
	if n := len(name) + len(question); n > MaxQuestion {
		return nil, fmt.Errorf("membership: question of %d bytes, at most %d are allowed", n, MaxQuestion)
	}
	params := p.serf.DefaultQueryParams()
	params.Timeout = wait
	if len(nodes) <= MaxNamed {
		params.FilterNodes = nodes
	}
	resp, err := p.serf.Query(name, question, params)
	if err != nil {
		return nil, fmt.Errorf("membership: question: %w", err)
	}
	defer resp.Close()
	var out []Reply
	for {
		select {
		case r, ok := <-resp.ResponseCh():
			if !ok {
				return out, nil
			}
			out = append(out, Reply{r.From, r.Payload})
			if len(params.FilterNodes) > 0 && len(out) == len(nodes) {
				return out, nil
			}
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// asked is how many questions may wait for this agent's answer; more are dropped.
const asked = 64

// answerQuestions answers one question after the other, beside the events, which must not wait for it.
func (p *Pool) answerQuestions() {
	for {
		select {
		case <-p.stop:
			return
		case q := <-p.questions:
			f := p.respond.Load()
			if f == nil {
				continue
			}
			answer := (*f)(q.Name, q.Payload)
			if answer == nil {
				continue
			}
			if err := q.Respond(answer); err != nil {
				p.log.Warn("answering a question of another agent", "question", q.Name, "error", err)
			}
		}
	}
}

// question takes a query out of serf's stream.
func (p *Pool) question(s serf.Event) {
	q, ok := s.(*serf.Query)
	if !ok {
		return
	}
	select {
	case p.questions <- q:
	default:
		p.count("question", "dropped")
	}
}
