package consul

import (
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// read holds the parameters shared by all reads of the cluster (contract: consul-http 1.2, 2 and 3).
type read struct {
	params
	api.BlockingOptions
	effective []string // value of X-Consul-Effective-Consistency
}

// parseRead checks the common parameters of a read.
func (a *API) parseRead(r *http.Request) (q read, err error) {
	q.effective = headerLeader
	q.Wait = a.cfg.QueryTime
	if r.URL.RawQuery == "" {
		if a.defaultStale(r) {
			q.staleByDefault(a.cfg.DiscoveryMaxStale)
		}
		return q, nil
	}
	if q.params, err = parseParams(r.URL.RawQuery); err != nil {
		return q, err
	}
	if err = q.parseWait(a.cfg.QueryTime, a.cfg.MaxQueryTime); err != nil {
		return q, err
	}
	if err = q.parseConsistency(); err == nil && q.has("cached") {
		err = checkCacheControl(r)
	}
	if err == nil && a.defaultStale(r) && q.Consistency == api.Default && !q.has("leader") {
		q.staleByDefault(a.cfg.DiscoveryMaxStale)
	}
	return q, err
}

func (q *read) staleByDefault(most time.Duration) {
	q.Consistency, q.MaxStale, q.effective = api.Stale, most, headerStale
}

func (q *read) parseWait(standard, longest time.Duration) error {
	if s := q.get("wait"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return badRequest("Invalid wait time")
		}
		if d > 0 {
			q.Wait = min(d, longest)
		} else {
			q.Wait = standard
		}
	}
	if s := q.get("index"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return badRequest("Invalid index")
		}
		q.MinIndex = n
	}
	return nil
}

func (q *read) parseConsistency() error {
	stale, consistent := q.has("stale"), q.has("consistent")
	if s, ok := q.lookup("max_stale"); ok && s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return badRequest("Invalid max_stale value %q", s)
		}
		q.MaxStale, stale = d, true
	}
	switch {
	case stale && consistent:
		return badRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
	case q.has("cached") && consistent:
		return badRequest("Cannot specify ?cached with ?consistent, conflicting semantics.")
	case consistent:
		q.Consistency, q.effective = api.Consistent, headerConsist
	case stale && !q.has("leader"):
		q.Consistency, q.effective = api.Stale, headerStale
	}
	return nil
}

// checkDatacenter refuses every datacenter but this one: `datacenter` wins over `dc`, empty is this one.
func (a *API) checkDatacenter(p *params) error {
	dc := p.get("datacenter")
	if dc == "" {
		dc = p.get("dc")
	}
	return a.ownDatacenter(dc)
}

func (a *API) ownDatacenter(dc string) error {
	if dc != "" && !strings.EqualFold(dc, a.cfg.Datacenter) {
		return serverError("No path to datacenter")
	}
	return nil
}

// rest is the argument of a route with a trailing slash: what follows the prefix in the decoded path.
func rest(r *http.Request, prefix string) string {
	if len(r.URL.Path) <= len(prefix) {
		return ""
	}
	return r.URL.Path[len(prefix):]
}

// writeMeta sets the headers that tell how fresh a read is. An index is never 0 on the wire.
func writeMeta(h http.Header, index []string, m api.ReadMeta) {
	h["X-Consul-Index"] = index
	h["X-Consul-Knownleader"] = headerFalse
	if m.KnownLeader {
		h["X-Consul-Knownleader"] = headerTrue
	}
	h["X-Consul-Lastcontact"] = headerZero
	if ms := m.LastContact.Milliseconds(); ms > 0 {
		h["X-Consul-Lastcontact"] = []string{strconv.FormatInt(ms, 10)}
	}
	h["X-Consul-Query-Backend"] = headerBlocking
}

func indexHeader(index uint64) []string {
	return []string{strconv.FormatUint(max(index, 1), 10)}
}

// result is what one evaluation of a catalog query found.
type result struct {
	index uint64
	print uint64 // see api.Result
	value any    // encoded as JSON unless body is set
	body  *api.Body
}

// answer runs a blocking query over the catalog and writes what it found last. The query reads the snap, and
// returns its result or the error to answer (with the index headers, as the contract has it).
func (a *API) answer(w http.ResponseWriter, r *http.Request, q *read, path string, query func(*kv.Snap) (result, error)) error {
	if err := a.checkDatacenter(&q.params); err != nil {
		writeMeta(w.Header(), indexHeader(1), api.ReadMeta{})
		return err
	}
	var res result
	var failed error
	meta, err := api.Blocking(r.Context(), a.cfg.Store, q.BlockingOptions, path, func(s *kv.Snap) api.Result {
		if res, failed = query(s); failed != nil {
			return api.Result{Index: ^uint64(0), Print: ^uint64(0)} // answer the error now
		}
		return api.Result{Index: res.index, Print: res.print}
	})
	if err != nil {
		return err
	}
	h := w.Header()
	if failed != nil {
		writeMeta(h, indexHeader(res.index), api.ReadMeta{}) // an error says nothing about the leader
		return failed
	}
	h["X-Consul-Effective-Consistency"] = q.effective
	a.markCached(w, r, q)
	if res.body != nil {
		writeMeta(h, res.body.IndexHeader, meta)
		a.writeShared(w, r, q, res.body)
		return nil
	}
	writeMeta(h, indexHeader(res.index), meta)
	return writeJSON(w, r, res.value)
}

// writeShared answers with a body that other requests use as well.
func (a *API) writeShared(w http.ResponseWriter, r *http.Request, q *read, b *api.Body) {
	if q.has("pretty") {
		writeBody(w, r, http.StatusOK, b.Bytes)
		return
	}
	h := w.Header()
	h["Content-Type"] = headerJSON
	if len(b.Bytes) >= compressFrom && wantsGzip(r) {
		h["Content-Encoding"] = headerGzipped
		b = b.Compressed(compress)
	}
	h["Content-Length"] = b.ContentLength
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(b.Bytes)
}

// printSeed is fixed for the life of the process: prints are only compared within one request.
var printSeed = maphash.MakeSeed()

// printer makes the print of a result out of what identifies its parts.
type printer struct{ h maphash.Hash }

func newPrinter() *printer {
	p := new(printer)
	p.h.SetSeed(printSeed)
	return p
}

func (p *printer) add(name string, index uint64) {
	_, _ = p.h.WriteString(name)
	var b [9]byte // a zero byte ends the name
	for i := range 8 {
		b[1+i] = byte(index >> (8 * i))
	}
	_, _ = p.h.Write(b[:])
}

// sum is never 0 or api.NotFound.
func (p *printer) sum() uint64 { return p.h.Sum64() | 2 }

// nodeMeta is the parsed ?node-meta=key:value, all of which must match.
type nodeMeta []param

func (q *read) nodeMeta() nodeMeta {
	var out nodeMeta
	for i := 0; i < q.n; i++ {
		if p := q.at(i); p.key == "node-meta" {
			k, v, _ := strings.Cut(p.value, ":")
			out = append(out, param{k, v})
		}
	}
	return out
}

func (m nodeMeta) match(meta map[string]string) bool {
	for _, want := range m {
		if v, ok := meta[want.key]; !ok || v != want.value {
			return false
		}
	}
	return true
}

// hasTags says whether every wanted tag is there, without regard to letter case.
func hasTags(have, want []string) bool {
	for _, t := range want {
		found := false
		for _, h := range have {
			if strings.EqualFold(h, t) {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}
