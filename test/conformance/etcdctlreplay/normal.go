package etcdctlreplay

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// This file brings the recorded and the live output of a command into one comparable form. With B the index before the
// case, a number n >= B becomes "+(n-B)"; smaller ones stay.

var (
	// indexes are the places where the output shows an index: the text before it, and the index.
	indexes = []*regexp.Regexp{
		regexp.MustCompile(`(?m)^((?:Created-|Modified-)?Index: )(\d+)$`),
		regexp.MustCompile(`("(?:createdIndex|modifiedIndex|index)":)(\d+)`),
		regexp.MustCompile(`(?m)^(Error:\s+\d+: .* \[)(\d+)(\]$)`),
		regexp.MustCompile(`(ETCD_WATCH_MODIFIED_INDEX=)(\d+)`),
	}
	initialCluster = regexp.MustCompile(`(ETCD_INITIAL_CLUSTER=")([^"]*)"`)
	expiration     = regexp.MustCompile(`("expiration":)"[^"]*"`)
	sequence       = regexp.MustCompile(`\b[0-9]{20}\b`)
)

// recorded is the output that the recording has.
func (s *Step) recorded() *output {
	var out output
	if s.Stdout != nil {
		out.stdout = *s.Stdout
	}
	if s.Stderr != nil {
		out.stderr = *s.Stderr
	}
	if s.Exit != nil {
		out.exit = *s.Exit
	}
	return &out
}

// comparable is the comparable form of an output; live is nil for a recorded one.
func (s *Step) comparable(o *output, base int64, live *strings.Replacer) any {
	out := map[string]any{"exit": strconv.Itoa(o.exit)}
	if o.exit == timedOut {
		out["exit"] = "it did not end in time"
	}
	if s.OnlyExit {
		return out
	}
	out["stdout"] = s.lines(o.stdout, base, live)
	if !s.IgnoreStderr {
		out["stderr"] = s.lines(o.stderr, base, live)
	}
	return out
}

func (s *Step) lines(text string, base int64, live *strings.Replacer) any {
	if live != nil {
		text = live.Replace(text)
	}
	for _, place := range indexes {
		text = place.ReplaceAllStringFunc(text, func(m string) string {
			p := place.FindStringSubmatch(m)
			index := etcdreplay.Relative(p[2], base)
			if strings.HasPrefix(p[1], `"`) {
				index = strconv.Quote(index) // it stays JSON
			}
			return p[1] + index + strings.Join(p[3:], "")
		})
	}
	text = etcdreplay.RelativeText(text, base)
	text = initialCluster.ReplaceAllStringFunc(text, func(m string) string { // in the order of the ids
		p := initialCluster.FindStringSubmatch(m)
		parts := strings.Split(p[2], ",")
		slices.Sort(parts)
		return p[1] + strings.Join(parts, ",") + `"`
	})
	text = expiration.ReplaceAllString(text, `$1"<time>"`)
	for _, mask := range s.Masks {
		text = regexp.MustCompile(mask[0]).ReplaceAllString(text, mask[1])
	}
	lines := strings.Split(text, "\n")
	if s.SortLines {
		slices.Sort(lines)
	}
	out := make([]any, len(lines))
	for i, line := range lines {
		out[i] = line
		var v any
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &v) == nil {
			out[i] = v
		}
	}
	return out
}

// shift moves the indexes that recorded arguments carry to those of the live server.
func shift(argv []string, recorded, live int64) []string {
	move := func(s, format string) string {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < recorded {
			return s
		}
		return fmt.Sprintf(format, n-recorded+live)
	}
	out := make([]string, len(argv))
	for i, a := range argv {
		if i > 0 && slices.Contains([]string{"--swap-with-index", "--with-index", "--after-index"}, argv[i-1]) {
			a = move(a, "%d")
		}
		out[i] = sequence.ReplaceAllStringFunc(a, func(d string) string { return move(d, "%020d") })
	}
	return out
}
