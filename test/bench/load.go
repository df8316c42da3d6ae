//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// requests makes the nth request of a client; nil ends it.
type requests func(client, n int) []byte

// load keeps clients connections to p busy for a while: the value is answered requests per second. Each connection
// sends a prepared request, waits for its answer and sends the next. An answer that is no success is an error.
func (b *bench) load(p *process, addr string, clients int, req requests) (sample, error) {
	before, begin := p.cpu(), time.Now()
	n, err := drive(addr, clients, begin.Add(b.window), req)
	if err != nil {
		return sample{}, err
	}
	took := time.Since(begin)
	return sample{float64(n) / took.Seconds(), float64((p.cpu() - before).Microseconds()) / float64(n)}, nil
}

// drive runs clients until the deadline or their last request, and counts the answers.
func drive(addr string, clients int, deadline time.Time, req requests) (int64, error) {
	var total atomic.Int64
	var firstErr atomic.Pointer[error]
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			n, err := oneClient(addr, c, deadline, req)
			total.Add(int64(n))
			if err != nil {
				firstErr.CompareAndSwap(nil, &err)
			}
		})
	}
	wg.Wait()
	if err := firstErr.Load(); err != nil {
		return 0, *err
	}
	return total.Load(), nil
}

func oneClient(addr string, c int, deadline time.Time, request requests) (int, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for n := 0; ; n++ {
		if n%16 == 0 && time.Now().After(deadline) {
			return n, nil
		}
		req := request(c, n)
		if req == nil {
			return n, nil
		}
		if _, err := conn.Write(req); err != nil {
			return n, err
		}
		if err := readAnswer(r); err != nil {
			return n, fmt.Errorf("%w\nin answer to %.200s", err, req)
		}
	}
}

// readAnswer reads one answer and throws it away, with next to no work: what the client spends is not there for
// the server beside it.
func readAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || line[9] != '2' {
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("answer %q, %.500s", line, rest)
	}
	length, chunked := 0, false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := field(line, "content-length:"); ok {
			if length, err = strconv.Atoi(v); err != nil {
				return err
			}
		} else if _, ok := field(line, "transfer-encoding:"); ok {
			chunked = true
		}
	}
	if !chunked {
		_, err = r.Discard(length)
		return err
	}
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 31)
		if err != nil {
			return err
		}
		if _, err = r.Discard(int(n) + 2); err != nil || n == 0 {
			return err
		}
	}
}

// field returns the value of a header line of that name (lower case, with its colon).
func field(line []byte, name string) (string, bool) {
	if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return "", false
	}
	return string(bytes.TrimSpace(line[len(name):])), true
}

// put makes the requests of a writer of the hierarchical dialect: keys of its own, values of 100 bytes.
func put(prefix string) requests {
	body := "value=" + strings.Repeat("v", 100)
	return func(c, n int) []byte {
		return fmt.Appendf(nil, "PUT %s/%d-%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", prefix, c, n%1000, len(body), body)
	}
}

// putJSON makes one PUT request.
func putJSON(path, body string) []byte {
	return fmt.Appendf(nil, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// get makes the requests of a reader.
func get(path string) requests {
	req := []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	return func(int, int) []byte { return req }
}

// upTo shares n requests out among the clients: make is called with 0 … n-1.
func upTo(n, clients int, make func(id int) []byte) requests {
	return func(c, i int) []byte {
		if id := i*clients + c; id < n {
			return make(id)
		}
		return nil
	}
}

// fill sends n requests by 64 clients.
func fill(addr string, n int, make func(id int) []byte) error {
	_, err := drive(addr, 64, time.Now().Add(10*time.Minute), upTo(n, 64, make))
	return err
}

// call makes one request and returns the answer; a status other than 2xx is an error.
func call(method, url, body string) (http.Header, []byte, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if strings.Contains(url, "/v2/") {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: status %d: %s", method, url, resp.StatusCode, got)
	}
	return resp.Header, got, err
}
