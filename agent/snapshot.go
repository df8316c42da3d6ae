package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/archive"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/proxy"
)

// restoreSkip is how far a restore moves the index: more than can be written while it is prepared.
const restoreSkip = 1 << 20

// restoreSnapshot puts an uploaded archive in the place of the state of the cluster. It is spooled into a file and
// checked where it arrives; only one that is whole goes on to the leader. Memory: one more tree while the
// leader prepares it, as when any replica takes a snapshot.
func (a *Agent) restoreSnapshot(r *http.Request) error {
	a.restoring.Lock()
	defer a.restoring.Unlock()
	upload, err := a.spoolFile()
	if err != nil {
		return err
	}
	defer upload.Close()
	state, err := a.spoolFile()
	if err != nil {
		return err
	}
	defer state.Close()
	m, err := archive.Read(io.TeeReader(r.Body, upload), state)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(a.cfg.Performance.RPCHoldTimeout)
	for {
		if a.raft != nil && a.raft.IsLeader() {
			err = a.replaceState(r.Context(), m, state)
		} else if r.Header[proxy.HopsHeader] != nil {
			return api.ErrNotLeader
		} else {
			err = a.sendSnapshot(r, upload)
		}
		if !errors.Is(err, api.ErrNotLeader) {
			return err
		}
		if time.Now().After(deadline) || !rest(r.Context(), leaderPause) {
			return api.ErrNoLeader
		}
	}
}

// restoredEventName is the user event by which agents learn that the catalog is another.
const restoredEventName = "restored"

// leaderPause is the time between looks for a leader.
const leaderPause = 100 * time.Millisecond

// spoolFile makes a file that has no name any more, so that nothing is left of it when the process dies.
func (a *Agent) spoolFile() (*os.File, error) {
	f, err := os.CreateTemp(a.cfg.DataDir, ".restore-*")
	if err != nil {
		return nil, fmt.Errorf("no room to receive the snapshot: %w", err)
	}
	return f, os.Remove(f.Name())
}

// replaceState is restoreSnapshot on the leader.
func (a *Agent) replaceState(ctx context.Context, m archive.Meta, state *os.File) error {
	live, _, err := a.store.Read(ctx, api.Consistent)
	if err != nil {
		return err
	}
	if _, err := state.Seek(0, io.SeekStart); err != nil {
		return err
	}
	next, err := live.Replacement(state, restoreSkip)
	if bad := (*kv.SnapshotError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("%w: %w", archive.ErrDamaged, err)
	}
	if err != nil {
		return err
	}
	out, err := a.spoolFile()
	if err != nil {
		return err
	}
	defer out.Close()
	w := bufio.NewWriterSize(out, 1<<20)
	if err := errors.Join(next.WriteBare(w), w.Flush()); err != nil {
		return fmt.Errorf("preparing the snapshot: %w", err)
	}
	next = nil // let go of it before the replicas build theirs
	size, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	a.log.Warn("replacing the state of the cluster by a snapshot", "snapshot", m.ID, "of cluster", m.Cluster, "index", m.Index, "bytes", size)
	if err := storeError(a.raft.Restore(ctx, out, size)); err != nil {
		return err
	}
	nudge(a.compareSoon) // members may be others than in the snapshot
	// Agents know nothing of it, and have registered and removed since.
	if err := a.pool.Fire(restoredEventName, nil); err != nil {
		a.log.Warn("telling all agents to compare what they registered; they will by themselves, later", "error", err)
	}
	return nil
}

// sendSnapshot passes an archive on to the leader. api.ErrNotLeader: there was none, or it was none any more.
func (a *Agent) sendSnapshot(r *http.Request, upload *os.File) error {
	addr, err := a.leaderAddr(r.Context())
	if err != nil || addr == "" {
		return api.ErrNotLeader
	}
	size, err := upload.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPut, a.scheme()+"://"+addr+r.URL.RequestURI(), io.NewSectionReader(upload, 0, size))
	if err != nil {
		return err
	}
	req.ContentLength = size
	for _, h := range []string{"X-Consul-Token", "Authorization"} {
		req.Header[h] = r.Header[h]
	}
	req.Header[proxy.HopsHeader] = []string{"1"}
	resp, err := a.dialer.Transport().RoundTrip(req)
	if err != nil {
		return fmt.Errorf("sending the snapshot to the leader: %w", err)
	}
	defer resp.Body.Close()
	if resp.Header[http.CanonicalHeaderKey(api.NotLeaderHeader)] != nil {
		return api.ErrNotLeader
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("the leader's answer to the snapshot: %w", err)
	}
	return &consul.LocalError{Status: resp.StatusCode, Text: string(text)}
}

// leaderAddr asks who leads; "" when nobody does.
func (a *Agent) leaderAddr(ctx context.Context) (addr string, err error) {
	if a.raft != nil {
		_, addr = a.raft.Leader()
		return addr, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://cluster/v1/status/leader", http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := a.relay.RoundTrip(req, proxy.Any)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&addr)
	return addr, err
}
