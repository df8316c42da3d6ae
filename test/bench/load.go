package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// load keeps clients connections busy with requests for a while and returns answered requests per second. Each
// connection sends a prepared request, waits for its answer and sends the next; a nil request ends it. An answer that is no success
// is an error.
func load(addr string, clients int, window time.Duration, request func(client, n int) []byte) (float64, error) {
	var total atomic.Int64
	var firstErr atomic.Pointer[error]
	deadline := time.Now().Add(window)
	var wg sync.WaitGroup
	begin := time.Now()
	for c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			n, err := oneClient(addr, c, deadline, request)
			total.Add(int64(n))
			if err != nil {
				firstErr.CompareAndSwap(nil, &err)
			}
		}()
	}
	wg.Wait()
	if err := firstErr.Load(); err != nil {
		return 0, *err
	}
	return float64(total.Load()) / time.Since(begin).Seconds(), nil
}

func oneClient(addr string, c int, deadline time.Time, request func(client, n int) []byte) (int, error) {
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
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return n, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return n, err
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return n, fmt.Errorf("status %d", resp.StatusCode)
		}
	}
}

// put makes the requests of a writer: keys of its own, values of size bytes.
func put(prefix string, size int) func(client, n int) []byte {
	value := make([]byte, size)
	for i := range value {
		value[i] = 'v'
	}
	body := "value=" + string(value)
	return func(c, n int) []byte {
		return fmt.Appendf(nil, "PUT %s/%d-%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", prefix, c, n%1000, len(body), body)
	}
}

// get makes the requests of a reader.
func get(path string) func(client, n int) []byte {
	req := []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
	return func(int, int) []byte { return req }
}
