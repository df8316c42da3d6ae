package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/membership"
)

// guardFile, in the data directory, is what the guard held last: a restart within a hold goes on with it.
const guardFile = "guard.json"

// guardFormat is the version of what is in guardFile; others are left aside.
const guardFormat = 1

type savedGuard struct {
	Format int
	Holds  []guard.SavedHold
}

// restoreGuard goes on with the holds of before the restart. A file that cannot be read costs them, not the start.
func (a *Agent) restoreGuard() {
	if a.cfg.DataDir == "" {
		return
	}
	file := filepath.Join(a.cfg.DataDir, guardFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var saved savedGuard
	if err == nil {
		err = json.Unmarshal(text, &saved)
	}
	if err == nil && saved.Format != guardFormat {
		err = errOtherFormat
	}
	if err != nil {
		a.log.Error("what the mass-removal guard held before the restart cannot be read, and is forgotten", "file", file, "error", err)
		return
	}
	for _, h := range a.guard.Restore(saved.Holds) {
		a.log.Warn("the mass-removal guard goes on with what it held before the restart", "service", h.Service, "lost", h.Lost, "until", h.Until)
	}
}

// holdsPath, on the port between agents only, is where a server tells what its guard holds.
const holdsPath = "/v1/internal/guard/holds"

func (a *Agent) tellHolds(w http.ResponseWriter) {
	saved := savedGuard{Format: guardFormat}
	if a.guard != nil {
		saved.Holds = a.guard.Save()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(saved)
}

const (
	holdsTimeout  = 2 * time.Second  // for the servers to tell what they hold
	holdsPatience = 30 * time.Second // for a server that can be asked; later this agent has seen for itself
)

// learnHolds takes over what other servers hold because of losses that happened while this agent was away. One answer is enough:
// all servers see the same losses.
func (a *Agent) learnHolds() {
	for began := time.Now(); time.Since(began) < holdsPatience; {
		for _, m := range a.pool.Members() {
			if !isServer(m) || m.ServerAddr() == "" || m.Status != membership.StatusAlive || m.ID() == a.id {
				continue
			}
			saved, err := a.askHolds(m.ServerAddr())
			if err != nil {
				a.log.Debug("a server could not be asked what its guard holds", "server", m.Name, "error", err)
				continue
			}
			for _, h := range a.guard.Restore(saved.Holds) {
				a.log.Warn("the mass-removal guard holds what another server holds", "service", h.Service, "lost", h.Lost, "until", h.Until, "server", m.Name)
			}
			return
		}
		if !rest(a.ctx, guardPause) {
			return
		}
	}
}

func (a *Agent) askHolds(addr string) (saved savedGuard, err error) {
	ctx, cancel := context.WithTimeout(a.ctx, holdsTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://"+addr+holdsPath, nil)
	if err != nil {
		return saved, err
	}
	resp, err := a.dialer.Transport().RoundTrip(req)
	if err != nil {
		return saved, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return saved, fmt.Errorf("status %d: not a server of this version", resp.StatusCode)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxHolds)).Decode(&saved); err != nil {
		return saved, err
	}
	if saved.Format != guardFormat {
		return saved, errOtherFormat
	}
	return saved, nil
}

// maxHolds bounds what is taken of a server's answer, in bytes.
const maxHolds = 64 << 20

var errOtherFormat = errors.New("it is of another version")

// keepGuard writes what is held whenever that changes, and what is held at the end of the agent.
func (a *Agent) keepGuard() {
	if a.cfg.DataDir == "" {
		return
	}
	done := make(chan struct{})
	a.onStop("guard", func(context.Context) error { <-done; return nil })
	go func() {
		defer close(done)
		var last []byte
		for running := true; running; {
			changed := a.guard.Changed()
			if text, err := a.writeGuard(last); err != nil {
				a.log.Error("what the mass-removal guard holds cannot be saved: a restart would forget it", "error", err)
			} else {
				last = text
			}
			select {
			case <-changed:
				running = rest(a.ctx, guardPause)
			case <-a.ctx.Done():
				running = false
			}
		}
		if _, err := a.writeGuard(last); err != nil {
			a.log.Error("what the mass-removal guard holds cannot be saved: a restart forgets it", "error", err)
		}
	}()
}

// writeGuard writes what is held unless that is what is in the file already, and returns it. Nothing held is no file.
func (a *Agent) writeGuard(last []byte) ([]byte, error) {
	file := filepath.Join(a.cfg.DataDir, guardFile)
	holds := a.guard.Save()
	if len(holds) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, nil
	}
	text, err := json.Marshal(savedGuard{guardFormat, holds})
	if err != nil || bytes.Equal(text, last) {
		return text, err
	}
	return text, writeFile(file, text)
}
