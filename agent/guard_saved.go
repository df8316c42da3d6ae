package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/musterhq/muster/guard"
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
		err = errors.New("it is of another version")
	}
	if err != nil {
		a.log.Error("what the mass-removal guard held before the restart cannot be read, and is forgotten", "file", file, "error", err)
		return
	}
	for _, h := range a.guard.Restore(saved.Holds) {
		a.log.Warn("the mass-removal guard goes on with what it held before the restart", "service", h.Service, "lost", h.Lost, "until", h.Until)
	}
}

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
