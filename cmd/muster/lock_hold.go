package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The keys of locks and semaphores as all clients of the flat dialect keep them: they exclude each other only
// because these names, numbers and texts are the same everywhere.
const (
	lockName      = ".lock"
	lockFlag      = 0x2ddccbc058a50c18 // of a lock's key
	semaphoreFlag = 0xe0f69a2baa414de0 // of a semaphore's keys
)

const (
	sessionTTL   = 15 * time.Second
	lockWait     = 15 * time.Second // of one blocking query
	lockRetry    = time.Second      // after a refusal without a holder: the delay after a holder that died
	monitorPause = time.Second
)

// session is a session of ours, renewed until closed.
type session struct {
	c    *client
	id   string
	dead chan struct{} // closed when it was not renewed in time, or is gone
	stop context.CancelFunc
	done chan struct{}
}

// openSession makes a session. behavior is what becomes of its keys in the end: release or delete.
func openSession(ctx context.Context, c *client, name, behavior string) (*session, error) {
	body, err := c.put(ctx, "/v1/session/create", nil, map[string]string{"Name": name, "TTL": sessionTTL.String(), "Behavior": behavior})
	if err != nil {
		return nil, err
	}
	var made struct{ ID string }
	if err := json.Unmarshal(body, &made); err != nil || made.ID == "" {
		return nil, &exitError{exitServer, errors.New("the answer names no session")}
	}
	// Renewing goes on while an interrupted command cleans up.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{c: c, id: made.ID, dead: make(chan struct{}), stop: cancel, done: make(chan struct{})}
	go s.renew(ctx)
	return s, nil
}

// renew keeps the session alive. A session that may have ended must not be believed in: when no renewal succeeded
// for its TTL, it counts as dead.
func (s *session) renew(ctx context.Context) {
	defer close(s.done)
	last, pause := time.Now(), sessionTTL/2
	for rest(ctx, pause) {
		at := time.Now()
		_, err := s.c.ok(ctx, http.MethodPut, "/v1/session/renew/"+s.id, nil, nil)
		switch {
		case err == nil:
			last, pause = at, sessionTTL/2
		case ctx.Err() != nil:
			return
		case hasStatus(err, http.StatusNotFound), time.Since(last) >= sessionTTL:
			close(s.dead)
			return
		default:
			pause = monitorPause
		}
	}
}

// while gives a context that ends with the session too.
func (s *session) while(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-s.dead:
		case <-s.done:
		case <-ctx.Done():
		}
	}()
	return ctx
}

// close ends the session; whatever it holds is free.
func (s *session) close() {
	s.stop()
	<-s.done
	ctx, cancel := context.WithTimeout(context.Background(), s.c.timeout)
	defer cancel()
	// Should it fail, the session ends by itself within its TTL.
	_, _ = s.c.ok(ctx, http.MethodPut, "/v1/session/destroy/"+s.id, nil, nil)
}

// read is a blocking read of one key or, with recurse, of all below it.
func (s *session) read(ctx context.Context, key string, recurse bool, index uint64) ([]flatPair, uint64, error) {
	q := url.Values{"consistent": {""}}
	if recurse {
		q.Set("recurse", "")
	}
	var all []flatPair
	index, _, err := s.c.block(ctx, flatPath(key), q, index, lockWait, &all)
	return all, index, err
}

// guardKeys watches keys until held denies; some errors in a row are borne.
func (s *session) guardKeys(ctx context.Context, key string, recurse bool, retries int, held func([]flatPair) bool) error {
	index, left := uint64(0), retries
	for {
		all, next, err := s.read(ctx, key, recurse, index)
		select {
		case <-s.dead:
			return errors.New("the session ended")
		default:
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if left == 0 {
				return err
			}
			left--
			if !rest(ctx, monitorPause) {
				return nil
			}
			continue
		case !held(all):
			return errors.New("it was taken away")
		}
		index, left = next, retries
	}
}

// mutex is a lock for one holder: a key locked by the session.
type mutex struct {
	*session
	key     string
	retries int
}

func (m *mutex) acquire(ctx context.Context) error {
	index := uint64(0)
	for {
		all, next, err := m.read(ctx, m.key, false, index)
		if err != nil {
			return err
		}
		if len(all) > 0 && all[0].Flags != lockFlag {
			return fmt.Errorf("the key %s exists and is no lock", m.key)
		}
		if len(all) > 0 && all[0].Session != "" && all[0].Session != m.id {
			index = next
			continue
		}
		ok, err := m.c.flatWrite(ctx, http.MethodPut, m.key, url.Values{"acquire": {m.id}, "flags": {strconv.FormatUint(lockFlag, 10)}}, nil)
		if err != nil || ok {
			return err
		}
		index = 0
		if !rest(ctx, lockRetry) {
			return ctx.Err()
		}
	}
}

func (m *mutex) guard(ctx context.Context) error {
	return m.guardKeys(ctx, m.key, false, m.retries, func(all []flatPair) bool {
		return len(all) > 0 && all[0].Session == m.id
	})
}

func (m *mutex) release(ctx context.Context) error {
	ok, err := m.c.flatWrite(ctx, http.MethodPut, m.key, url.Values{"release": {m.id}, "flags": {strconv.FormatUint(lockFlag, 10)}}, nil)
	if err == nil && !ok {
		return errNotHeld
	}
	return err
}

func (m *mutex) destroy(ctx context.Context) error {
	all, _, err := m.read(ctx, m.key, false, 0)
	if err != nil || len(all) == 0 {
		return err
	}
	if all[0].Session != "" {
		return errLockInUse
	}
	return m.deleteUnchanged(ctx, all[0])
}

func (s *session) deleteUnchanged(ctx context.Context, p flatPair) error {
	ok, err := s.c.flatWrite(ctx, http.MethodDelete, p.Key, url.Values{"cas": {strconv.FormatUint(p.ModifyIndex, 10)}}, nil)
	if err == nil && !ok {
		return errLockInUse
	}
	return err
}

// semaphore is a lock for several holders. Each contender locks a key of its own, which vanishes with its session;
// who holds a place is written into one common key.
type semaphore struct {
	*session
	prefix  string
	limit   int
	retries int
}

// holders is the value of the common key.
type holders struct {
	Limit   int
	Holders map[string]bool
}

func (m *semaphore) own() string    { return m.prefix + "/" + m.id }
func (m *semaphore) shared() string { return m.prefix + "/" + lockName }

// decode finds the common key, and in it the holders that are alive: those whose own key is locked.
func (m *semaphore) decode(all []flatPair) (h holders, index uint64, err error) {
	h.Limit, h.Holders = m.limit, map[string]bool{}
	alive := map[string]bool{}
	for _, p := range all {
		if p.Key != m.shared() {
			if p.Session != "" && p.Key == m.prefix+"/"+p.Session {
				alive[p.Session] = true
			}
			continue
		}
		if p.Flags != semaphoreFlag {
			return h, 0, fmt.Errorf("the key %s exists and is no semaphore", p.Key)
		}
		if err := json.Unmarshal(p.Value, &h); err != nil {
			return h, 0, fmt.Errorf("the key %s does not hold a semaphore: %w", p.Key, err)
		}
		index = p.ModifyIndex
	}
	if h.Limit != m.limit {
		return h, 0, fmt.Errorf("semaphore limit conflict (lock: %d, local: %d)", h.Limit, m.limit)
	}
	for id := range h.Holders {
		if !alive[id] {
			delete(h.Holders, id)
		}
	}
	return h, index, nil
}

func (m *semaphore) write(ctx context.Context, h holders, index uint64) (bool, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return false, err
	}
	return m.c.flatWrite(ctx, http.MethodPut, m.shared(), url.Values{"cas": {strconv.FormatUint(index, 10)}, "flags": {strconv.FormatUint(semaphoreFlag, 10)}}, b)
}

func (m *semaphore) acquire(ctx context.Context) error {
	q := url.Values{"acquire": {m.id}, "flags": {strconv.FormatUint(semaphoreFlag, 10)}}
	ok, err := m.c.flatWrite(ctx, http.MethodPut, m.own(), q, nil)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("cannot write %s", m.own())
	}
	index := uint64(0)
	for {
		all, next, err := m.read(ctx, m.prefix+"/", true, index)
		if err != nil {
			return err
		}
		h, cas, err := m.decode(all)
		if err != nil {
			return err
		}
		if len(h.Holders) >= h.Limit {
			index = next
			continue
		}
		h.Holders[m.id] = true
		if ok, err := m.write(ctx, h, cas); err != nil || ok {
			return err
		}
		index = 0 // somebody was faster
	}
}

func (m *semaphore) guard(ctx context.Context) error {
	return m.guardKeys(ctx, m.prefix+"/", true, m.retries, func(all []flatPair) bool {
		h, _, err := m.decode(all)
		return err == nil && h.Holders[m.id]
	})
}

func (m *semaphore) release(ctx context.Context) error {
	for {
		all, _, err := m.read(ctx, m.prefix+"/", true, 0)
		if err != nil {
			return err
		}
		h, cas, err := m.decode(all)
		if err != nil {
			return err
		}
		if !h.Holders[m.id] {
			break
		}
		delete(h.Holders, m.id)
		ok, err := m.write(ctx, h, cas)
		if err != nil {
			return err
		}
		if ok {
			break
		}
	}
	_, err := m.c.flatWrite(ctx, http.MethodDelete, m.own(), nil, nil)
	return err
}

func (m *semaphore) destroy(ctx context.Context) error {
	all, _, err := m.read(ctx, m.prefix+"/", true, 0)
	if err != nil {
		return err
	}
	h, cas, err := m.decode(all)
	switch {
	case err != nil || cas == 0:
		return err
	case len(h.Holders) > 0:
		return errLockInUse
	}
	for _, p := range all {
		if p.Key == m.shared() {
			return m.deleteUnchanged(ctx, p)
		}
	}
	return nil
}
