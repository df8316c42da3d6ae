package catalog_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// fill registers services (by number) on nodes in batches.
func (w *world) fill(nodes, perNode int, name func(node, i int) string) {
	for n := range nodes {
		nodeName := fmt.Sprintf("node-%05d.example", n)
		w.register(catalog.Registration{
			Node: catalog.Node{ID: uuid(n), Name: nodeName, Address: "10.0.0.1", Datacenter: "dc1",
				TaggedAddresses: map[string]string{"lan": "10.0.0.1", "wan": "10.0.0.1"}, Meta: map[string]string{"version": "1"}},
			Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Name: "Serf Health Status", Status: catalog.Passing, Output: "Agent alive and reachable"}},
		})
		for i := range perNode {
			w.register(w.instance(nodeName, name(n, i), i))
		}
	}
}

func (w *world) instance(nodeName, service string, i int) catalog.Registration {
	id := fmt.Sprintf("%s-%d", service, i)
	return catalog.Registration{
		Node:           catalog.Node{Name: nodeName},
		SkipNodeUpdate: true,
		Service:        &catalog.Service{ID: id, Name: service, Tags: []string{"primary", "v1"}, Port: 8000 + i},
		Checks: []*catalog.Check{{ID: "service:" + id, Name: "Service '" + service + "' check", Status: catalog.Passing, Type: "ttl",
			ServiceID: id, Output: "all is well"}},
	}
}

func own(node, i int) string { return fmt.Sprintf("svc-%d-%d", node, i) }

// BenchmarkRegister builds and applies a registration of a service that is there already, with another port, on a
// node with so many services.
func BenchmarkRegister(b *testing.B) {
	for _, services := range []int{10, 5000} {
		w := newWorld(b)
		w.fill(1, services, own)
		full, _ := catalog.GetNode(w.snap(), "node-00000.example")
		for _, what := range []string{"build", "build+apply"} {
			b.Run(fmt.Sprintf("%s/services=%d", what, services), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					r := w.instance("", own(0, i%services), i%services)
					r.Node, r.SkipNodeUpdate = *full, false
					r.Service.Port = 10000 + i
					r.Checks[0].Output = "again"
					txn, err := catalog.Register(w.snap(), r)
					if err != nil {
						b.Fatal(err)
					}
					if what != "build" {
						w.apply(txn)
					}
				}
			})
		}
	}
}

// BenchmarkRegisterBatch is the same in batches of 64 Txns for different services.
func BenchmarkRegisterBatch(b *testing.B) {
	w := newWorld(b)
	w.fill(1, 5000, own)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var batch []kv.Txn
		for range 64 {
			i++
			r := w.instance("node-00000.example", own(0, i%5000), i%5000)
			r.Service.Port = 10000 + i
			txn, err := catalog.Register(w.snap(), r)
			if err != nil {
				b.Fatal(err)
			}
			batch = append(batch, txn)
		}
		for _, res := range w.tree.Apply(batch...) {
			if res.Code != kv.OK {
				b.Fatal(res.Code)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i), "ns/registration")
}

func BenchmarkInstances(b *testing.B) {
	for _, n := range []int{10, 200} {
		w := newWorld(b)
		w.fill(n, 1, func(int, int) string { return "web" })
		s := w.snap()
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(catalog.Instances(s, "web")) != n {
					b.Fatal("instances are missing")
				}
			}
		})
	}
}

// BenchmarkNodeCheckFlip turns the liveness check of a node with 1,000 services.
func BenchmarkNodeCheckFlip(b *testing.B) {
	w := newWorld(b)
	w.fill(1, 1000, own)
	alive := true
	b.ReportAllocs()
	for b.Loop() {
		alive = !alive
		w.apply(catalog.SetLiveness(w.snap(), "node-00000.example", alive))
	}
}

func BenchmarkCodec(b *testing.B) {
	r := newWorld(b).instance("n", "web", 1)
	r.Service.Meta = map[string]string{"a": "b", "c": "d"}
	service, check := catalog.EncodeService(r.Service), catalog.EncodeCheck(r.Checks[0])
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			catalog.EncodeService(r.Service)
			catalog.EncodeCheck(r.Checks[0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err1 := catalog.Views{}.Decode("n/n/s/i", service)
			_, err2 := catalog.Views{}.Decode("n/n/s/i/c/j", check)
			if err1 != nil || err2 != nil {
				b.Fatal(err1, err2)
			}
		}
	})
}

// BenchmarkMemory reports the live bytes of one of 20,000 instances on 1,000 nodes, with one check each.
func BenchmarkMemory(b *testing.B) {
	for what, name := range map[string]func(node, i int) string{
		"20 services":    func(_, i int) string { return fmt.Sprint("service-", i) },
		"20000 services": own,
	} {
		b.Run(what, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				w := newWorld(b)
				w.fill(1000, 20, name)
				b.ReportMetric(float64(heap()-before)/20000, "B/instance")
				runtime.KeepAlive(w)
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
