//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/test/drill"
)

// stallDisk makes every fsync of a process take so long, by a tracer that holds the calls up, until heal is called.
func stallDisk(t *testing.T, h *host, each time.Duration) (heal func()) {
	t.Helper()
	cmd := exec.Command(tool(t, "strace"), "-f", "-qq", "-o", "/dev/null", "-p", fmt.Sprint(h.cmd.Process.Pid), "-e", "trace=fsync,fdatasync",
		"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", each.Microseconds()))
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	stopped := false
	heal = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGINT)
			<-done
		}
	}
	t.Cleanup(heal)
	eventually(t, 30*time.Second, "the tracer holds the process", func() bool {
		select {
		case <-done:
			t.Fatalf("the tracer ended: %s", out.String())
		default:
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
		return err == nil && bytes.Contains(b, []byte(fmt.Sprintf("TracerPid:\t%d\n", cmd.Process.Pid)))
	})
	return heal
}

// TestDrillStalledDisk stalls the disk of the leader. Somebody else leads within the election timeout, the stalled server passes requests
// on, and when its disk answers it follows.
func TestDrillStalledDisk(t *testing.T) {
	c := newCluster(t, 3, 1)
	p := c.proxies[0]
	load := drill.RunRegisters(2, agentsOf(c.all()...)...)
	proxy := len(c.servers)
	load.More(t, proxy, 50, "requests flow")
	old := c.leader()
	w := startWriters(p, 2)
	heal := stallDisk(t, old, 4*time.Second)
	begin := time.Now()
	next := c.newLeader(old)
	t.Logf("disk of the leader stalled to somebody else leading: %v", time.Since(begin).Round(time.Millisecond))
	before := w.count()
	eventually(t, 30*time.Second, "writes are acknowledged", func() bool { return w.count() > before+20 })
	t.Logf("disk of the leader stalled to 20 writes more through a proxy: %v", time.Since(begin).Round(time.Millisecond))
	if !strings.Contains(old.log.String(), "giving up leadership, because the disk stalls") {
		t.Error("the stalled leader does not say that it gives up")
	}
	next.must(http.MethodPut, "/v1/kv/stalled", "new")
	// Its memory is well: it serves what it has, and knows whom to ask.
	eventually(t, 30*time.Second, "the stalled server passes reads on", func() bool {
		status, body := old.do(http.MethodGet, "/v1/kv/stalled?raw&consistent", "")
		return status == http.StatusOK && body == "new"
	})
	if status, _ := old.do(http.MethodGet, "/v1/catalog/services?stale", ""); status != http.StatusOK {
		t.Errorf("a stale read at the stalled server: status %d", status)
	}
	_, metrics := old.do(http.MethodGet, "/metrics", "")
	for _, name := range []string{"consul_consensus_disk_stalls 1", "consul_consensus_disk_gave_up 1", "consul_consensus_disk_stalled 1"} {
		if !strings.Contains(metrics, name) {
			t.Errorf("the metrics of the stalled server lack %q", name)
		}
	}
	heal()
	eventually(t, 30*time.Second, "the server follows", func() bool {
		status, body := old.do(http.MethodGet, "/v1/kv/stalled?raw&stale", "")
		return status == http.StatusOK && body == "new"
	})
	acked := w.stop()
	load.Verify(t)
	for _, s := range c.servers {
		eventually(t, 30*time.Second, s.name+" has every acknowledged key", func() bool { return len(missing(s, acked)) == 0 })
	}
}

// TestDrillFullDisk fills the disk of one server of three, and of a server that is alone: what cannot be written is refused, what is known
// is answered, nobody dies, and with space again all goes on.
func TestDrillFullDisk(t *testing.T) {
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d servers", servers), func(t *testing.T) { fullDisk(t, servers) })
	}
}

func fullDisk(t *testing.T, servers int) {
	small := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small).CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("a small file system cannot be mounted: %s", out)
		}
		t.Skipf("a small file system cannot be mounted: %s", out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	c := newCluster(t, servers, 1)
	p := c.proxies[0]
	// The leader moves to the small disk.
	full := c.leader()
	full.kill()
	if servers > 1 {
		c.newLeader(full)
	}
	if out, err := exec.Command("cp", "-a", full.dir+"/.", small).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	full.dir = small
	full.start()
	c.ready(full, p)
	if servers > 1 {
		var id string
		var conf struct{ Servers []struct{ ID, Node string } }
		eventually(t, 30*time.Second, "it is a member", func() bool {
			if full.get("/v1/operator/raft/configuration", &conf) {
				for _, s := range conf.Servers {
					if s.Node == full.name {
						id = s.ID
					}
				}
			}
			return id != ""
		})
		eventually(t, 30*time.Second, "the server with the small disk leads", func() bool {
			if c.leader() == full {
				return true
			}
			p.do(http.MethodPut, "/v1/operator/raft/transfer-leader?id="+id, "")
			return false
		})
	}
	p.must(http.MethodPut, "/v1/kv/known", "here")
	p.must(http.MethodPut, "/v1/catalog/register", `{"Node":"ext","Address":"10.1.2.3","Service":{"Service":"known","Port":80}}`)

	hog := filepath.Join(small, "hog")
	f, err := os.Create(hog)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	_ = f.Close()
	// The log has its file in advance, so the writes that fit into it still succeed.
	payload := strings.Repeat("v", 400<<10)
	acked, refused, said := map[string]bool{}, 0, ""
	for i := 0; i < 120 && refused < 5; i++ {
		key := fmt.Sprintf("full/%d", i)
		if status, body := p.do(http.MethodPut, "/v1/kv/"+key, payload); status == http.StatusOK {
			acked[key] = true
		} else {
			refused++
			said = fmt.Sprintf("%d %s", status, strings.TrimSpace(body))
		}
	}
	t.Logf("%d large writes acknowledged, %d refused: %s", len(acked), refused, said)
	if servers == 1 && !strings.Contains(said, "The disk of the leader is full") {
		t.Errorf("writes that have no room are refused %d times, at last with %q", refused, said)
	}
	if servers == 1 {
		eventually(t, 30*time.Second, "consistent reads go on", func() bool {
			status, body := full.do(http.MethodGet, "/v1/kv/known?raw&consistent", "")
			return status == http.StatusOK && body == "here"
		})
	}
	if servers > 1 && len(acked) < 110 {
		t.Error("the full disk of one server keeps the others from writing")
	}
	if status, body := full.do(http.MethodGet, "/v1/kv/known?raw&stale", ""); status != http.StatusOK || body != "here" {
		t.Errorf("a read at the server with the full disk: %d %s", status, body)
	}
	if n := digCount(t, full, "known.service.consul"); n != 1 {
		t.Errorf("DNS at the server with the full disk gives %d instances, want 1", n)
	}
	select {
	case <-full.done:
		t.Fatalf("the server with the full disk ended:\n%s", tail(full.log.String(), 30))
	default:
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "writes go on when there is space again", func() bool {
		status, _ := p.do(http.MethodPut, "/v1/kv/space", "again")
		return status == http.StatusOK
	})
	eventually(t, 30*time.Second, "the server with the small disk has them", func() bool {
		status, body := full.do(http.MethodGet, "/v1/kv/space?raw&stale", "")
		return status == http.StatusOK && body == "again"
	})
	var keys []string
	if !full.get("/v1/kv/full/?keys", &keys) || len(keys) < len(acked) {
		t.Errorf("%d keys, %d were acknowledged", len(keys), len(acked))
	}
	full.kill()
	full.start()
	c.ready(full)
	if status, body := full.do(http.MethodGet, "/v1/kv/known?raw", ""); status != http.StatusOK || body != "here" {
		t.Errorf("after a restart: %d %s", status, body)
	}
}
