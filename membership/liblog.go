package membership

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// Warnings and errors of the libraries: so many at once, and so many a second after that.
const (
	libraryBurst = 200
	libraryRate  = 10
)

// libraryLog is what the gossip libraries write to. They log every packet that they cannot read, with names out of it
// as they came: whoever reaches the port could fill the disk, forge lines, and steer the terminal of who reads them.
// So of warnings and errors only libraryRate a second pass, and of all only what can be printed.
type libraryLog struct {
	out io.Writer // takes "[LEVEL] text"

	limit *rate.Limiter

	mu      sync.Mutex
	omitted int
}

// newLibraryLog gives the libraries a logger that ends in l.
func newLibraryLog(l hclog.Logger) *log.Logger {
	w := &libraryLog{out: l.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true}), limit: rate.NewLimiter(libraryRate, libraryBurst)}
	return log.New(w, "", 0)
}

// Write takes one line.
func (l *libraryLog) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte("[ERR")) || bytes.HasPrefix(line, []byte("[WARN]")) {
		pass, note := l.take()
		if note != "" {
			_, _ = io.WriteString(l.out, note)
		}
		if !pass {
			return len(line), nil
		}
	}
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t': // within lists of errors
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '?'
	}, strings.TrimSpace(string(line)))
	_, err := io.WriteString(l.out, text)
	return len(line), err
}

// take says whether one more line may pass, and what is to be told of lines that did not.
func (l *libraryLog) take() (pass bool, note string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limit.Allow() {
		if l.omitted++; l.omitted == 1 {
			note = fmt.Sprintf("[WARN] many warnings and errors of gossip: no more than %d a second are logged", libraryRate)
		}
		return false, note
	}
	if l.omitted > 0 {
		note = fmt.Sprintf("[WARN] warnings and errors of gossip were left out: %d", l.omitted)
		l.omitted = 0
	}
	return true, note
}
