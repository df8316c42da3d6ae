//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBackupStartsANewCluster backs a cluster up while clients write, in every way there is, and starts a cluster of one
// from each backup.
func TestBackupStartsANewCluster(t *testing.T) {
	ctl := tool(t, "etcdctl")
	c := newCluster(t, 3, 0)
	s := c.servers[0]
	for i := range 200 {
		s.etcdPut(fmt.Sprintf("/app/k%d", i), fmt.Sprintf("value=%d", i))
	}
	s.etcdPut("/app/lease", "value=x&ttl=3000")
	s.etcdPut("/_hidden", "value=h")
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
				s.etcdDo(http.MethodPut, "/v2/keys/app/busy", fmt.Sprintf("value=%d", i))
			}
		}
	}()
	link := filepath.Join(t.TempDir(), "etcdctl")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	ways := map[string][]string{
		"of a directory": {binary, "backup", "-data-dir", s.dir, "-backup-dir"},
		"of an agent":    {binary, "backup", "-http-addr", s.url(""), "-backup-dir"},
		"by etcdctl":     {link, "backup", "--data-dir", s.dir, "--backup-dir"},
	}
	made := map[string]string{}
	for way, argv := range ways {
		dir := filepath.Join(t.TempDir(), "backup")
		out, errs, code := sh(t, nil, "", append(argv, dir)...)
		if code != 0 || out != "" {
			t.Fatalf("%s: exit code %d, output %q\n%s", way, code, out, errs)
		}
		if !strings.HasPrefix(errs, "reading ") && !strings.HasPrefix(errs, "receiving ") || !strings.Contains(errs, "keys, in ") {
			t.Errorf("%s shows no progress: %s", way, errs)
		}
		made[way] = dir
	}
	close(quit)
	<-done
	for way, dir := range made {
		h := newAgentHost(t, "restored")
		h.dir, h.args = dir, []string{"-server"}
		h.start("-force-new-cluster")
		c.ready(h)
		for path, want := range map[string]string{"/app/k7": `"value":"7"`, "/app/lease": `"ttl":`, "/_hidden": `"value":"h"`, "/app/busy": `"value":"`} {
			if _, body := h.etcdDo(http.MethodGet, "/v2/keys"+path, ""); !strings.Contains(body, want) {
				t.Errorf("%s: %s is %s", way, path, body)
			}
		}
		out, errs, code := sh(t, []string{"ETCDCTL_API=2"}, "", ctl, "--endpoints", h.etcd(), "member", "list")
		if code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "name=restored ") {
			t.Errorf("%s: members %s%s", way, out, errs)
		}
		h.kill()
		h.start() // without the flag
		eventually(t, 30*time.Second, way+": it starts again", func() bool {
			status, _ := h.etcdDo(http.MethodPut, "/v2/keys/app/after", "value=1")
			return status == http.StatusCreated || status == http.StatusOK
		})
		h.kill()
	}
}
