package policy

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/musterhq/muster"

// maxLines is the longest a non-test file may be: past that it holds more than one idea.
const maxLines = 600

// file is one Go source file of the project.
type file struct {
	path string // relative to the project's root
	pkg  string // import path below the module, "." for the root
	test bool
	ast  *ast.File
	src  []byte
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func files(t *testing.T) []file {
	t.Helper()
	base := root(t)
	fset := token.NewFileSet()
	var all []file
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != base || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		all = append(all, file{path: rel, pkg: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(path, "_test.go"), ast: f, src: src})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// imports lists what each product package may import of the project, and why the rest is closed to it. The
// composition root (agent) sees all of them; nothing else does.
var imports = []struct {
	pkg     string
	allowed []string
	reason  string
}{
	{"kv", nil, "the tree is a pure state machine: it must not know who calls it"},
	{"peer", []string{"internal/certs", "internal/connlimit", "internal/farewell"}, "the server port carries bytes; what they mean is decided above it"},
	{"archive", nil, "the file of a snapshot is used by the agent and by tools alike"},
	{"health", nil, "check runners know no cluster, so they can be tested and reused alone"},
	{"membership", nil, "gossip emits events and decides nothing"},
	{"consensus", []string{"kv", "peer"}, "replication knows what it replicates and how it travels, not what it means"},
	{"catalog", []string{"kv"}, "records are paths and values in the tree; where the tree comes from is not their business"},
	{"guard", []string{"catalog"}, "the rule is pure; who feeds it and who is told is decided above it"},
	{"proxy", []string{"peer"}, "relaying is about bytes and servers, not about data"},
	{"dnsserver", []string{"catalog", "guard", "internal/connlimit", "kv"}, "DNS reads instances; it must work over a tree and over a remembered answer alike"},
	{"upstream", []string{"catalog"}, "it connects to instances; where they are known from is decided above it"},
	{"api", []string{"catalog", "internal/connlimit", "internal/farewell", "kv"}, "what both dialects share must belong to neither"},
	{"api/apitest", []string{"api", "catalog", "kv"}, "a store for tests of the dialects"},
	{"api/etcd", []string{"api", "catalog", "kv"}, "a dialect is a translator: no raft, no gossip, no other dialect"},
	{"api/consul", []string{"api", "archive", "catalog", "guard", "kv", "health", "internal/version"}, "a dialect is a translator: no raft, no gossip, no other dialect"},
	{"internal/version", nil, "a leaf"},
	{"internal/child", nil, "a leaf"},
	{"internal/addrtemplate", nil, "a leaf"},
	{"internal/connlimit", nil, "a leaf"},
	{"internal/farewell", nil, "a leaf"},
	{"internal/certs", nil, "a leaf"},
	{"internal/pki", nil, "a leaf"},
	{"internal/doctor", nil, "it judges figures; who measures them is decided above it"},
	{"internal/watch", []string{"internal/child"}, "a watch is a client: it talks HTTP and knows nothing else of the agent"},
	{"cmd/muster", []string{"agent", "archive", "internal/child", "internal/doctor", "internal/migrate", "internal/pki", "internal/version", "internal/watch"}, "commands talk HTTP; only the agent command starts an agent"},
	{"internal/migrate", nil, "a client of two clusters, by their interface alone"},
}

func TestImportDirections(t *testing.T) {
	rules := map[string]int{}
	for i, r := range imports {
		rules[r.pkg] = i
	}
	for _, f := range files(t) {
		i, ruled := rules[f.pkg]
		if !ruled || f.test {
			continue
		}
		allowed := map[string]bool{}
		for _, a := range imports[i].allowed {
			allowed[module+"/"+a] = true
		}
		for _, imp := range f.ast.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if strings.HasPrefix(path, module) && !allowed[path] {
				t.Errorf("%s imports %s: %s may import only %v, because %s", f.path, path, f.pkg, imports[i].allowed, imports[i].reason)
			}
		}
	}
}

func TestTreeIsPure(t *testing.T) {
	forbidden := map[string]string{
		"net": "no network", "net/http": "no network", "os": "no operating system", "math/rand": "no randomness",
		"math/rand/v2": "no randomness", "crypto/rand": "no randomness", "log": "no logging", "log/slog": "no logging", "time": "time enters only as data in a Txn",
	}
	for _, f := range files(t) {
		if f.pkg != "kv" || f.test {
			continue
		}
		for _, imp := range f.ast.Imports {
			if why, bad := forbidden[strings.Trim(imp.Path.Value, `"`)]; bad {
				t.Errorf("%s imports %s: replicas must stay equal, so %s", f.path, imp.Path.Value, why)
			}
		}
	}
}

func TestCoreKnowsNoDialect(t *testing.T) {
	word := regexp.MustCompile(`(?i)\b(etcd|consul)\b`)
	for _, f := range files(t) {
		if f.test || f.pkg != "kv" && f.pkg != "consensus" && f.pkg != "catalog" {
			continue
		}
		for n, line := range bytes.Split(f.src, []byte("\n")) {
			if word.Match(line) {
				t.Errorf("%s:%d names a dialect; the core must serve any: %s", f.path, n+1, bytes.TrimSpace(line))
			}
		}
	}
}

func TestFilesAreOneIdeaLong(t *testing.T) {
	for _, f := range files(t) {
		if n := bytes.Count(f.src, []byte("\n")); !f.test && n > maxLines {
			t.Errorf("%s has %d lines, more than %d: split it by idea", f.path, n, maxLines)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := map[string]bool{}
	seen := map[string]bool{}
	for _, f := range files(t) {
		if f.test {
			continue
		}
		seen[f.pkg] = true
		if f.ast.Doc != nil && len(f.ast.Doc.Text()) > 80 {
			documented[f.pkg] = true
		}
	}
	for pkg := range seen {
		if !documented[pkg] {
			t.Errorf("%s has no package comment that says what it is for and shows an example", pkg)
		}
	}
}

func TestProductPackagesKeepTheirDesign(t *testing.T) {
	for _, pkg := range []string{"kv", "consensus", "membership", "peer", "catalog", "health", "proxy", "dnsserver", "api", "api/etcd", "api/consul", "agent"} {
		b, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(pkg), "DESIGN.md"))
		if err != nil || len(b) < 500 {
			t.Errorf("%s/DESIGN.md is missing or says nothing (purpose, flow, invariants, decisions with their price): %v", pkg, err)
		}
	}
}

func TestErrorsAreNotMatchedByText(t *testing.T) {
	match := regexp.MustCompile(`strings\.(Contains|HasPrefix|HasSuffix|EqualFold)\([a-zA-Z.]*[eE]rr[a-zA-Z]*\.Error\(\)|\.Error\(\) [!=]= "`)
	for _, f := range files(t) {
		if loc := match.Find(f.src); !f.test && loc != nil {
			t.Errorf("%s matches the text of an error (%s): use errors.Is or errors.As", f.path, loc)
		}
	}
}

// Recorded exchanges say how long to pause; only their replayers may obey by sleeping.
func TestNothingWaitsBySleeping(t *testing.T) {
	for _, f := range files(t) {
		if !f.test && !strings.HasPrefix(f.pkg, "test/conformance/") && bytes.Contains(f.src, []byte("time.Sleep(")) {
			t.Errorf("%s sleeps: wait for a condition, a timer that can be stopped, or a context", f.path)
		}
	}
}

func TestNothingRegistersItself(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: the composition root builds everything by hand", f.path)
			}
		}
	}
}

func TestNoCatchAllPackages(t *testing.T) {
	for _, f := range files(t) {
		switch filepath.Base(f.pkg) {
		case "util", "utils", "common", "core", "server", "structs", "helpers", "misc":
			t.Errorf("%s: a package is named after a part of the product, not after nothing", f.path)
		}
	}
}
