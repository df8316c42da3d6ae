package membership

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

// A flood of packets that cannot be read fills no disk, and the lines say how many are missing.
func TestLibraryLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLibraryLog(hclog.New(&hclog.LoggerOptions{Output: &out}))
		for range 5000 {
			l.Printf("[ERR] memberlist: msg type (200) not supported")
			l.Printf("[INFO] serf: EventMemberJoin: n1 10.0.0.1")
		}
		if n := strings.Count(out.String(), "not supported"); n != libraryBurst {
			t.Errorf("%d errors at once, want %d", n, libraryBurst)
		}
		if n := strings.Count(out.String(), "EventMemberJoin"); n != 5000 {
			t.Errorf("%d of 5000 lines that tell of members", n)
		}
		if n := strings.Count(out.String(), "no more than 10 a second"); n != 1 {
			t.Errorf("told %d times that lines are left out", n)
		}
		time.Sleep(time.Second)
		out.Reset()
		for range 100 {
			l.Printf("[WARN] memberlist: Got ping for unexpected node 'x'")
		}
		if n := strings.Count(out.String(), "unexpected node"); n != libraryRate {
			t.Errorf("%d a second later, want %d", n, libraryRate)
		}
		if !strings.Contains(out.String(), "left out: 4800") {
			t.Errorf("the number of lines left out is not told:\n%s", &out)
		}
	})
}

// What a stranger puts into a packet makes no lines of its own and no escape sequences.
func TestLibraryLogIsPrintable(t *testing.T) {
	var out bytes.Buffer
	l := newLibraryLog(hclog.New(&hclog.LoggerOptions{Output: &out}))
	l.Printf("[WARN] memberlist: Got ping for unexpected node '%s'", "x\n2026-01-01T00:00:00.000Z [ERROR] agent: forged\x1b[2J\x00\xff")
	if got := strings.TrimSuffix(out.String(), "\n"); !utf8.ValidString(got) || strings.ContainsAny(got, "\n\x1b\x00") || !strings.Contains(got, "unexpected node 'x 2026") {
		t.Errorf("logged %q", got)
	}
}

// A name that cannot be printed is no member's.
func TestUnprintableNamesAreRefused(t *testing.T) {
	g := &guard{dc: "dc1"}
	meta := []byte("\xff\x81\xa2dc\xa3dc1") // serf: a mark, then MessagePack
	for name, ok := range map[string]bool{"n1": true, "a.b_c-d": true, "größe": true, "n1\x00": false, "n1\nx": false, "\x1b[2J": false, "\xff": false} {
		if err := g.admit(&memberlist.Node{Name: name, Addr: []byte{127, 0, 0, 1}, Meta: meta}, true); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
