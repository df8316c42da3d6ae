package consul

import (
	"net/http"
	"strconv"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/kv"
)

// GuardHeader tells that an answer shows instances as they were, not as they are said to be:
// "web held 12 of 15 until 2026-01-02T15:04:05Z".
const GuardHeader = "X-Muster-Guard"

func setGuardHeader(h http.Header, held *guard.Hold) {
	if held != nil {
		h[GuardHeader] = []string{held.String()}
	} else {
		delete(h, GuardHeader)
	}
}

// judge is what is to be shown of a service to those that want healthy instances.
func (a *API) judge(s *kv.Snap, service string) guard.Judgement {
	list, path := catalog.Instances(s, service), catalog.InstancesPath(service)
	if a.cfg.Guard == nil {
		return guard.Judgement{Instances: list, Index: s.IndexOf(path)}
	}
	return a.cfg.Guard.Judge(path, s.IndexOf(path), list)
}

// guardedHealth is healthService for those that want passing instances only: where an unlikely share has vanished, the
// last good ones are shown.
func (a *API) guardedHealth(w http.ResponseWriter, r *http.Request, q *read, key api.BodyKey) error {
	g, path, shape := a.cfg.Guard, key.Name, key.Params
	name := rest(r, "/v1/health/service/")
	q.Also = g.Changed
	return a.answer(w, r, q, path, func(s *kv.Snap) (result, error) {
		res := result{index: max(s.IndexOf(path), 1)}
		near := q.has("near")
		if !g.Holding() && !near { // nothing at all is held, so what was encoded at this index was not
			delete(w.Header(), GuardHeader)
			key.Params = shape
			if res.body = a.lookup(key, res.index); res.body != nil {
				return res, nil
			}
		}
		j := g.Judge(path, s.IndexOf(path), catalog.Instances(s, name))
		setGuardHeader(w.Header(), j.Hold)
		if key.Params = shape; j.Hold != nil {
			key.Params += "\x00" + strconv.FormatUint(j.Turn, 10)
			res.index = max(j.Index, 1)
		}
		if near {
			return a.healthNear(s, r, q, j.Instances, true, res)
		}
		return a.encodeHealth(r, q, key, j.Instances, true, res)
	})
}
