//go:build e2e

package e2e

import (
	"os"
	"testing"
)

// TestPythonConsul runs Debian's python3-consul on a proxy.
func TestPythonConsul(t *testing.T) {
	python := debianPython(t, "consul")
	c := newCluster(t, 3, 1)
	out, errs, code := sh(t, nil, "", python, "testdata/consul_client.py", c.proxies[0].ip)
	if code != 0 || out != "ok\n" {
		t.Errorf("exit %d, out %q\n%s", code, out, errs)
	}
}

// debianPython is the interpreter that Debian's modules belong to; the module has to be there.
func debianPython(t *testing.T, module string) string {
	t.Helper()
	python := tool(t, "/usr/bin/python3")
	if _, errs, code := sh(t, nil, "", python, "-c", "import "+module); code != 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("python3-%s is not installed: %s", module, errs)
		}
		t.Skipf("python3-%s is not installed", module)
	}
	return python
}
