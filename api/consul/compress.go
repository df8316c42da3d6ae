package consul

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
)

// compressFrom is the size in bytes from which a body is compressed for a client that asks: smaller ones fit a packet
// anyway.
const compressFrom = 1400

// wantsGzip says whether the client takes gzip.
func wantsGzip(r *http.Request) bool {
	for _, v := range r.Header["Accept-Encoding"] {
		for part := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				q := strings.TrimSpace(params)
				return q != "q=0" && q != "q=0.0"
			}
		}
	}
	return false
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return w
}}

// compress gives the body for a client that takes gzip: the most that speed allows, because most clients that ask do so
// by default and are near.
func compress(body []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(body) / 4)
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	_, _ = w.Write(body) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

var headerGzipped = []string{"gzip"}
