package consul

import (
	"net/http"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// serverService is the service that every server has in the catalog.
const serverService = "consul"

// usage counts what is in the catalog of a datacenter. Instances that say they belong to a mesh are counted by kind;
// those that are native to one cannot be told, because that is not stored.
type usage struct {
	Nodes                    int
	Services                 int
	ServiceInstances         int
	ConnectServiceInstances  map[string]int
	BillableServiceInstances int
}

// usageAnswer carries some of what other reads say in their headers.
type usageAnswer struct {
	Usage                 map[string]usage
	Index                 uint64
	LastContact           int64 // nanoseconds
	KnownLeader           bool
	ConsistencyLevel      string
	NotModified           bool
	Backend               int
	ResultsFilteredByACLs bool
}

// operatorUsage is GET /v1/operator/usage. There is one datacenter, so ?global changes nothing.
func (a *API) operatorUsage(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	q.MinIndex = 0 // never waits: the whole catalog changes all the time
	return a.answer(w, r, &q, "n", func(s *kv.Snap) (result, error) {
		u := usage{ConnectServiceInstances: map[string]int{
			"api-gateway": 0, "connect-native": 0, "connect-proxy": 0, "ingress-gateway": 0, "mesh-gateway": 0, "terminating-gateway": 0,
		}}
		u.Services = len(catalog.Services(s))
		for _, n := range catalog.Nodes(s) {
			u.Nodes++
			for _, svc := range catalog.ServicesOf(s, n.Name) {
				u.ServiceInstances++
				if _, mesh := u.ConnectServiceInstances[svc.Kind]; mesh {
					u.ConnectServiceInstances[svc.Kind]++
				} else if svc.Name != serverService {
					u.BillableServiceInstances++
				}
			}
		}
		var out usageAnswer
		out.Usage = map[string]usage{a.cfg.Datacenter: u}
		out.Index, out.KnownLeader = s.IndexOf("n"), true
		return result{index: out.Index, value: &out}, nil
	})
}
