//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestDoctor asks real agents what is wrong: nothing; then a dead server; then the agent itself is gone.
func TestDoctor(t *testing.T) {
	c := newCluster(t, 3, 1)
	c.ready(c.all()...)
	p, dead := c.proxies[0], c.servers[2]
	ask := func() (string, int) {
		out, errs, code := sh(t, nil, "", binary, "doctor", "-http-addr="+p.url(""))
		return out + errs, code
	}
	eventually(t, 30*time.Second, "nothing has failed", func() bool { out, code := ask(); return code == 0 && strings.Contains(out, "failures 0") })
	dead.kill()
	eventually(t, 30*time.Second, "the dead server is named", func() bool {
		out, code := ask()
		return code == 5 && strings.Contains(out, "FAIL  "+dead.name+" server port "+dead.ip+":8300/tcp") && strings.Contains(out, "0 more may be lost")
	})
	p.kill()
	if out, code := ask(); code != 2 || !strings.Contains(out, "Nothing listens at") {
		t.Errorf("exit code %d: %s", code, out)
	}
}
