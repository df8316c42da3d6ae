package etcd

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	metrics "github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// Error codes of the dialect.
const (
	codeNotFound       = 100
	codeCompareFailed  = 101
	codeNotFile        = 102
	codeNotDir         = 104
	codeExists         = 105
	codeRootReadOnly   = 107
	codeNotEmpty       = 108
	codeUnauthorized   = 110
	codePrevValue      = 201
	codeTTL            = 202
	codeIndex          = 203
	codeField          = 209
	codeForm           = 210
	codeRefreshValue   = 211
	codeRefreshTTL     = 212
	codeRaft           = 300
	codeHistoryCleared = 401
)

// failure is an error answer under /v2/keys. Index is the index of the tree, 0 for refusals of the request itself.
type failure struct {
	code  int
	cause string
	index uint64
}

// describe returns the HTTP status and the fixed message of a code.
func describe(code int) (status int, message string) {
	switch code {
	case codeNotFound:
		return http.StatusNotFound, "Key not found"
	case codeCompareFailed:
		return http.StatusPreconditionFailed, "Compare failed"
	case codeNotFile:
		return http.StatusForbidden, "Not a file"
	case codeNotDir:
		return http.StatusBadRequest, "Not a directory"
	case codeExists:
		return http.StatusPreconditionFailed, "Key already exists"
	case codeRootReadOnly:
		return http.StatusBadRequest, "Root is read only"
	case codeNotEmpty:
		return http.StatusForbidden, "Directory not empty"
	case codeUnauthorized:
		return http.StatusUnauthorized, "The request requires user authentication"
	case codePrevValue:
		return http.StatusBadRequest, "PrevValue is Required in POST form"
	case codeTTL:
		return http.StatusBadRequest, "The given TTL in POST form is not a number"
	case codeIndex:
		return http.StatusBadRequest, "The given index in POST form is not a number"
	case codeField:
		return http.StatusBadRequest, "Invalid field"
	case codeForm:
		return http.StatusBadRequest, "Invalid POST form"
	case codeRefreshValue:
		return http.StatusBadRequest, "Value provided on refresh"
	case codeRefreshTTL:
		return http.StatusBadRequest, "A TTL must be provided on refresh"
	case codeHistoryCleared:
		return http.StatusBadRequest, "The event in requested index is outdated and cleared"
	default:
		return http.StatusInternalServerError, "Raft Internal Error"
	}
}

// fail answers a failure: X-Etcd-Index and X-Etcd-Cluster-Id, no X-Raft headers.
func (d *Dialect) fail(w http.ResponseWriter, f failure) {
	if m := d.cfg.Metrics; m != nil {
		m.IncrCounterWithLabels([]string{"etcd", "refused"}, 1, []metrics.Label{{Name: "code", Value: strconv.Itoa(f.code)}})
	}
	status, message := describe(f.code)
	st := d.store.Status()
	h := w.Header()
	h["Content-Type"] = d.json
	h["X-Etcd-Index"] = []string{strconv.FormatUint(f.index, 10)}
	d.setCluster(h, st.ClusterID)
	p := d.body()
	b := append((*p)[:0], `{"errorCode":`...)
	b = strconv.AppendInt(b, int64(f.code), 10)
	b = append(b, `,"message":`...)
	b = appendString(b, message)
	if f.cause != "" {
		b = append(b, `,"cause":`...)
		b = appendString(b, f.cause)
	}
	b = append(b, `,"index":`...)
	b = strconv.AppendUint(b, f.index, 10)
	b = append(b, '}', '\n')
	send(w, status, b)
	d.release(p, b)
}

// failStore answers an error of the Store. "Not leader" keeps the form that relays know, because they send the
// request elsewhere; everything else is code 300, which clients take as "try again".
func (d *Dialect) failStore(w http.ResponseWriter, err error) {
	var cause string
	var bad *kv.TxnError
	switch {
	case errors.As(err, &bad):
		d.fail(w, failure{code: codeForm, cause: bad.Text})
		return
	case errors.Is(err, api.ErrNotLeader), errors.Is(err, context.Canceled):
		api.WriteStoreError(w, err)
		return
	case errors.Is(err, api.ErrNoLeader):
		cause = "etcdserver: no leader"
	case errors.Is(err, api.ErrDiskFull):
		cause = "etcdserver: no space"
	case errors.Is(err, api.ErrTooManyRequests):
		cause = "etcdserver: too many requests"
	case errors.Is(err, api.ErrUnknownOutcome):
		cause = "etcdserver: request timed out, possibly due to previous leader failure"
	case errors.Is(err, context.DeadlineExceeded):
		cause = "etcdserver: request timed out"
	default:
		d.log.Error("store failed", "error", err)
		cause = err.Error()
	}
	d.fail(w, failure{code: codeRaft, cause: cause})
}

// failResult translates a Txn that was not applied.
func (d *Dialect) failResult(w http.ResponseWriter, res *kv.Result, key string, p *params) {
	f := failure{index: res.Index}
	at := key
	var entry *kv.Entry
	if res.Fail != nil {
		at, entry = keyOf(res.Fail.Path), res.Fail.Entry
	}
	switch res.Code {
	case kv.NotFound:
		f.code, f.cause = codeNotFound, at
	case kv.NotDir:
		f.code, f.cause = codeNotDir, at
	case kv.NotFile:
		f.code, f.cause = codeNotFile, key
	case kv.Exists:
		f.code, f.cause = codeExists, key
	case kv.NotEmpty:
		f.code, f.cause = codeNotEmpty, key
	case kv.RootOnly:
		f.code, f.cause = codeRootReadOnly, "/"
	case kv.Mismatch:
		f.code, f.cause = codeCompareFailed, compareCause(p, entry)
	case kv.BadTxn:
		f = failure{code: codeForm, cause: "the key or the value is not acceptable"}
	default:
		f.code, f.cause = codeRaft, "unexpected outcome of the write: "+strconv.Itoa(int(res.Code))
	}
	d.fail(w, f)
}

// compareCause tells which of the wanted value and index differ: "[wanted != current]" for each.
func compareCause(p *params, e *kv.Entry) string {
	if e == nil {
		return ""
	}
	var b []byte
	if p.prevValue != "" && p.prevValue != e.Value() {
		b = append(b, '[')
		b = append(b, p.prevValue...)
		b = append(b, " != "...)
		b = append(b, e.Value()...)
		b = append(b, ']')
	}
	if p.prevIndex != 0 && p.prevIndex != e.Modified() {
		if b != nil {
			b = append(b, ' ')
		}
		b = append(b, '[')
		b = strconv.AppendUint(b, p.prevIndex, 10)
		b = append(b, " != "...)
		b = strconv.AppendUint(b, e.Modified(), 10)
		b = append(b, ']')
	}
	return string(b)
}
