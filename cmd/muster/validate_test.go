package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good/a.hcl", `data_dir = "/tmp/x"
bind_addr = "127.0.0.1"
service { name = "web" port = 80 }`)
	file("good/b.json", `{"log_level": "warn"}`)
	muster(t, "", "", "validate", good).want(t, 0, "Configuration is valid!\n")
	muster(t, "", "", "validate", filepath.Dir(good)).want(t, 0, "Configuration is valid!\n")
	if r := muster(t, "", "", "validate", "-quiet", good); r.code != 0 || r.out != "" {
		t.Errorf("validate -quiet: exit code %d, %q", r.code, r.out)
	}
	muster(t, "", "", "validate", "-config-format=hcl", file("odd.conf", `data_dir = "/tmp/x"
bind_addr = "127.0.0.1"`)).want(t, 0)
	if r := muster(t, "", "", "validate", file("warn.hcl", `data_dir = "/tmp/x"
bind_addr = "127.0.0.1"
ui = true`)); r.code != 0 || !strings.Contains(r.errs, "warning: ") || !strings.Contains(r.errs, "ui") {
		t.Errorf("a key without effect: exit code %d, %q", r.code, r.errs)
	}
	for name, c := range map[string]struct{ text, want string }{
		"syntax.hcl":   {`service { name = "web"`, "syntax.hcl"},
		"syntax.json":  {"{\n\"a\":\n}", "line 3"},
		"unknown.hcl":  {`data_dirr = "x"`, "data_dir"},
		"port.hcl":     {`data_dir = "/tmp/x" bind_addr = "127.0.0.1" ports { http = 99999 }`, "ports.http"},
		"duration.hcl": {`data_dir = "/tmp/x" retry_interval = "30"`, "retry_interval"},
		"nodata.hcl":   {`bind_addr = "127.0.0.1"`, "data_dir"},
		"ext.conf":     {``, "config-format"},
	} {
		muster(t, "", "", "validate", file("bad/"+name, strings.ReplaceAll(c.text, `" `, "\"\n"))).want(t, exitUsage, "not valid", c.want)
	}
	muster(t, "", "", "validate", filepath.Join(dir, "missing")).want(t, exitUsage, "missing")
}

// TestCompletion makes the script of every shell, and asks as a shell does.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := muster(t, "", "", "completion", shell)
		if r.code != 0 || len(r.out) < 1000 || !strings.Contains(r.out, "muster") {
			t.Errorf("completion %s: exit code %d, %d bytes", shell, r.code, len(r.out))
		}
	}
	muster(t, "", "", "__complete", "ser").want(t, 0, "services")
	muster(t, "", "", "__complete", "kv", "get", "--output", "").want(t, 0, "extended")
	muster(t, "", "", "__complete", "members", "--format", "").want(t, 0, "table", "json")
}
