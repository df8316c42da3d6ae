//go:build linux

package main

import "fmt"

// instance is the body that registers instance i of a service, on one of many nodes, with a check of its own.
func instance(node int, service string, i, port int) string {
	return fmt.Sprintf(`{"Node":"node-%d","Address":"10.%d.%d.%d","Service":{"ID":"%s-%d","Service":"%s","Tags":["v1"],"Port":%d,"Meta":{"version":"1.2.3"}},`+
		`"Check":{"CheckID":"service:%s-%d","Name":"alive","ServiceID":"%s-%d","Status":"passing"}}`,
		node, node>>16&255, node>>8&255, node&255, service, i, service, port, service, i, service, i)
}

// catalog measures registration in the catalog and health queries on one server.
func (b *bench) catalog() error {
	s := b.stage(1, b.musters()...)
	defer s.down()
	bare, err := b.bare()
	if err != nil {
		return err
	}
	defer bare.stop()
	register := func(c, n int) []byte { // every request is a change: the port moves
		return putJSON("/v1/catalog/register", instance(c*20+n%20, fmt.Sprintf("svc-%d", n%10), c*200+n%200, 1024+n%60000))
	}
	barely := side{"bare", func() (sample, error) { return b.load(bare, bare.addr, 64, get("/")) }}
	health := func(service string, n int) row {
		path := "/v1/health/service/" + service + "?passing"
		return row{
			name: fmt.Sprintf("health queries/s, %d instances, 64 clients (bare: net/http)", n), format: "%.0f",
			prepare: func() error {
				err := s.each(func(p *process) error {
					return fill(p.flat(), n, func(i int) []byte { return putJSON("/v1/catalog/register", instance(i, service, i, 80)) })
				})
				if err != nil {
					return err
				}
				return likeFirst(bare, s, path)
			},
			sides: append(b.flatSides(s, get(path)), barely),
		}
	}
	ten, many := health("ten", 10), health("many", 200)
	ten.goal, many.goal = "≥ 0.7 of bare", "≥ 0.5 of bare"
	own := side{"bare", func() (sample, error) {
		p := s.all["muster"][0]
		return b.load(p, p.flat(), 64, flatPut)
	}}
	rows := []row{ten, many,
		{name: "catalog registrations/s, 64 clients (bare: own flat key writes)", format: "%.0f", goal: "≥ 0.6 of bare", sides: append(b.flatSides(s, register), own)}}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

// agent measures what the agent's own registry does.
func (b *bench) agent() error {
	s := b.stage(1, b.musters()...)
	defer s.down()
	bare, err := b.bare()
	if err != nil {
		return err
	}
	defer bare.stop()
	service := func(i, port int) []byte {
		return putJSON("/v1/agent/service/register", fmt.Sprintf(`{"ID":"svc-%d","Name":"svc-%d","Tags":["v1"],"Port":%d,"Check":{"TTL":"10m","Status":"passing"}}`, i, i%100, port))
	}
	register := func(n int) row {
		var sides []side
		for _, k := range s.kinds {
			sides = append(sides, side{k.name, func() (sample, error) {
				p := s.all[k.name][0]
				return b.load(p, p.flat(), 16, func(c, i int) []byte { return service((i*16+c)%n, 1024+i%60000) })
			}})
		}
		return row{
			name: fmt.Sprintf("agent registrations/s, 16 clients, %d services present", n), format: "%.0f", goal: "≥ 5,000", sides: sides,
			prepare: func() error {
				return s.each(func(p *process) error { return fill(p.flat(), n, func(i int) []byte { return service(i, 80) }) })
			},
		}
	}
	beat := func(c, _ int) []byte { return putJSON(fmt.Sprintf("/v1/agent/check/pass/ttl-%d", c), "") }
	beats := row{
		name: "TTL heartbeats/s, 64 clients (bare: net/http)", format: "%.0f", goal: "≥ 0.85 of bare",
		prepare: func() error {
			err := s.each(func(p *process) error {
				return fill(p.flat(), 64, func(i int) []byte {
					return putJSON("/v1/agent/check/register", fmt.Sprintf(`{"ID":"ttl-%d","Name":"beat","TTL":"10m"}`, i))
				})
			})
			if err != nil {
				return err
			}
			return like(bare, s.all["muster"][0].flat(), "PUT", "/v1/agent/check/pass/ttl-0")
		},
		sides: append(b.flatSides(s, beat), side{"bare", func() (sample, error) { return b.load(bare, bare.addr, 64, beat) }}),
	}
	rows := []row{beats, register(10), register(5000)}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}
