//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// recordedDNS is the agent with which testdata/dig.txt was recorded.
const recordedDNS = `
alt_domain = "alt.test"
node_meta { rack = "r=1"  rfc1035-00 = "plain value" }
dns_config {
  node_ttl = "5s"
  service_ttl { web = "7s"  "db-*" = "3s"  "*" = "1s" }
  soa { min_ttl = 9  refresh = 100  retry = 200  expire = 300 }
}`

var recordedCatalog = []string{
	`{"Node":"web1","Address":"10.0.0.1","NodeMeta":{"z":"1"},"Service":{"Service":"web","ID":"w1","Port":80,"Tags":["v1","prod.eu"]},"Check":{"Name":"c","CheckID":"c1","ServiceID":"w1","Status":"passing"}}`,
	`{"Node":"web1","Address":"10.0.0.1","NodeMeta":{"z":"1"},"Service":{"Service":"web","ID":"w2","Port":8080,"Address":"10.1.1.2","Tags":["V2"],"Weights":{"Passing":5,"Warning":2}},"Check":{"Name":"c","CheckID":"c2","ServiceID":"w2","Status":"warning"}}`,
	`{"Node":"web1","Address":"10.0.0.1","NodeMeta":{"z":"1"},"Service":{"Service":"web","ID":"w3","Port":8081,"Address":"10.1.1.3","Tags":["v3"]},"Check":{"Name":"c","CheckID":"c3","ServiceID":"w3","Status":"critical"}}`,
	`{"Node":"web1","Address":"10.0.0.1","NodeMeta":{"z":"1"},"Service":{"Service":"cn","Port":443,"Address":"web1.node.consul"}}`,
	`{"Node":"web1","Address":"10.0.0.1","NodeMeta":{"z":"1"},"Service":{"Service":"db-a","Port":5432}}`,
	`{"Node":"six1","Address":"fd00::1","Service":{"Service":"six","Port":1}}`,
	`{"Node":"ext1","Address":"www.example.com","Service":{"Service":"ext","Port":443}}`,
}

var (
	digStatus = regexp.MustCompile(`status: ([A-Z]+)`)
	digFlags  = regexp.MustCompile(`;; flags: ([a-z ]*);`)
	soaSerial = regexp.MustCompile(`(hostmaster\.\S+) \d+`)
)

// transcript is what dig shows, in the form of testdata/dig.txt: status and flags, then the records of each section
// in the order of the alphabet, with what changes from run to run left out.
func transcript(out, ip string) string {
	var b strings.Builder
	status, flags := digStatus.FindStringSubmatch(out), digFlags.FindStringSubmatch(out)
	if status == nil || flags == nil {
		return out
	}
	fmt.Fprintf(&b, "%s, flags %s\n", status[1], flags[1])
	for _, section := range []string{"ANSWER", "AUTHORITY", "ADDITIONAL"} {
		_, rest, ok := strings.Cut(out, ";; "+section+" SECTION:\n")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, "\n\n")
		var lines []string
		for line := range strings.Lines(rest) {
			if line = strings.Join(strings.Fields(line), " "); line != "" && line[0] != ';' {
				lines = append(lines, strings.ReplaceAll(soaSerial.ReplaceAllString(line, "$1 TIME"), ip, "SELF"))
			}
		}
		slices.Sort(lines)
		fmt.Fprintf(&b, ";; %s\n%s\n", section, strings.Join(lines, "\n"))
	}
	return b.String()
}

// TestRecordedDigAnswers asks with dig what was recorded, and compares all that dig shows.
func TestRecordedDigAnswers(t *testing.T) {
	dig := tool(t, "dig")
	n1 := newAgentHost(t, "n1", "-server", "-bootstrap-expect=1", "-hcl", recordedDNS)
	n1.start()
	(&cluster{t: t, servers: []*host{n1}}).ready(n1)
	for _, r := range recordedCatalog {
		n1.must(http.MethodPut, "/v1/catalog/register", r)
	}
	n1.must(http.MethodPost, "/v1/query", `{"Name":"q-web","Service":{"Service":"web"},"DNS":{"TTL":"11s"}}`)
	eventually(t, 30*time.Second, "the server is a service", func() bool { return digCount(t, n1, "consul.service.consul") == 1 })
	file, err := os.ReadFile("testdata/dig.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(string(file)), "\n\n") {
		command, want, _ := strings.Cut(block, "\n")
		args := strings.Fields(strings.TrimPrefix(command, "$ dig "))
		out, errs, _ := sh(t, nil, "", append([]string{dig, "@" + n1.ip, "-p", "8600", "+tries=1", "+time=5"}, args...)...)
		is := transcript(out+errs, n1.ip)
		if strings.TrimSpace(is) != strings.TrimSpace(want) {
			t.Errorf("%s\ngot  %s\nwant %s", command, is, want)
		}
		fmt.Fprintf(&got, "%s\n%s\n", command, is)
	}
	if out := os.Getenv("MUSTER_E2E_DIG"); out != "" { // where to write what was seen
		if err := os.WriteFile(out, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// certificate makes one for a name and an address that it signs itself, and gives its files.
func certificate(t *testing.T, name, ip string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return put(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		put(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})))
}

// TestDNSTools looks at a proxy with three programs that people look at DNS with.
func TestDNSTools(t *testing.T) {
	dig, kdig, delv := tool(t, "dig"), tool(t, "kdig"), tool(t, "delv")
	c := newCluster(t, 1, 0)
	p := newAgentHost(t, "p1", "-retry-join="+c.servers[0].ip, "-retry-interval=1s")
	cert, key := certificate(t, "agent.test", p.ip)
	p.args = append(p.args, "-hcl", fmt.Sprintf(`node_meta { rack = "r1" } ports { dns_tls = 8853 https = 8501 } tls { https { cert_file = %q key_file = %q } }`, cert, key))
	p.start()
	c.ready(p)
	for i := range 60 {
		instanceOf(c, "many", i, fmt.Sprint("10.1.3.", i), 80)
	}
	instanceOf(c, "web", 1, "10.1.2.1", 8081)
	eventually(t, 30*time.Second, "the proxy knows the services", func() bool {
		return digCount(t, p, "web.service.consul") == 1 && digCount(t, p, "many.service.consul") == 60
	})

	cases := []struct {
		args []string
		want []string // regular expressions that the output matches
		not  string   // one that it does not
		fail bool     // the exit code
	}{
		{args: []string{dig, "web.service.consul"}, want: []string{`status: NOERROR`, `flags: qr aa rd;`, `EDNS: version: 0, flags:; udp: 1232`, `COOKIE: [0-9a-f]{48} \(good\)`, `web\.service\.consul\.\s+1\s+IN\s+A\s+10\.1\.2\.1`}, not: `EDE`},
		{args: []string{dig, "WeB.sErViCe.CoNsUl", "SRV"}, want: []string{`WeB\.sErViCe\.CoNsUl\.\s+1\s+IN\s+SRV\s+1 1 8081 web1\.node\.dc1\.\S+`, `ADDITIONAL SECTION:\nweb1\.node\.dc1\.\S+\s+1\s+IN\s+A\s+10\.1\.2\.1`}},
		{args: []string{dig, "p1.node.consul", "TXT"}, want: []string{`"rack=r1"`}},
		{args: []string{dig, "-x", "10.1.2.1"}, want: []string{`1\.2\.1\.10\.in-addr\.arpa\.\s+0\s+IN\s+PTR\s+web1\.node\.dc1\.consul\.`}},
		{args: []string{dig, "p1.node.consul", "ANY"}, want: []string{`\(TCP\)`, `IN\s+A\s+` + regexp.QuoteMeta(p.ip), `"rack=r1"`}},
		{args: []string{dig, "+noedns", "+ignore", "many.service.consul"}, want: []string{`flags: qr aa tc rd;`, `ANSWER: 3,`}, not: `OPT PSEUDOSECTION`},
		{args: []string{dig, "+bufsize=600", "+ignore", "many.service.consul"}, want: []string{`flags: qr aa tc rd;`, `ANSWER: 3[0-9],`, `MSG SIZE  rcvd: (5[0-9][0-9]|600)\n`}},
		{args: []string{dig, "+bufsize=600", "many.service.consul"}, want: []string{`Truncated, retrying in TCP mode`, `ANSWER: 60,`}},
		{args: []string{dig, "+bufsize=4096", "many.service.consul"}, want: []string{`flags: qr aa rd;`, `ANSWER: 60,`, `\(UDP\)`}},
		{args: []string{dig, "+tcp", "many.service.consul", "SRV"}, want: []string{`ANSWER: 60, AUTHORITY: 0, ADDITIONAL: 61`}},
		{args: []string{dig, "+cookie=0011223344556677", "web.service.consul"}, want: []string{`COOKIE: 001122334455667701000000[0-9a-f]{24} \(good\)`}},
		{args: []string{dig, "+subnet=10.9.0.0/16", "web.service.consul"}, want: []string{`CLIENT-SUBNET: 10\.9\.0\.0/16/0`}},
		{args: []string{dig, "+edns=1", "+noednsnegotiation", "web.service.consul"}, want: []string{`status: BADVERS`}},
		{args: []string{dig, "+ednsopt=65001:00ff", "+nsid", "web.service.consul"}, want: []string{`status: NOERROR`, `ANSWER: 1,`}, not: `\n; (NSID|OPT=)`},
		{args: []string{dig, "+opcode=notify", "web.service.consul"}, want: []string{`status: NOTIMP`}},
		{args: []string{dig, "-c", "CH", "version.bind", "TXT"}, want: []string{`status: REFUSED`}},
		{args: []string{dig, "example.com"}, want: []string{`status: REFUSED`}, not: `flags: [^;]*(aa|ra)`},
		{args: []string{dig, "no.service.consul"}, want: []string{`status: NXDOMAIN`, `consul\.\s+1\s+IN\s+SOA\s+ns\.consul\. hostmaster\.consul\. \d+ 3600 600 86400 1`}},

		{args: []string{kdig, "web.service.consul", "SRV"}, want: []string{`status: NOERROR`, `SRV\s+1 1 8081 web1\.node\.dc1\.consul\.`}},
		{args: []string{kdig, "+tcp", "+keepopen", "web.service.consul", "A", "many.service.consul", "SRV", "no.service.consul", "A"}, want: []string{`10\.1\.2\.1`, `ANSWER: 60`, `status: NXDOMAIN`}},
		{args: []string{kdig, "-p", "8853", "+tls-ca=" + cert, "+tls-hostname=agent.test", "many.service.consul", "SRV"}, want: []string{`TLS session \(TLS1\.3\)`, `ANSWER: 60`}},
		{args: []string{kdig, "-p", "8853", "+tls-ca=" + cert, "+tls-hostname=other.test", "web.service.consul"}, want: []string{`handshake failed`}, fail: true},
		{args: []string{kdig, "-p", "8501", "+https", "+tls-ca=" + cert, "+tls-hostname=agent.test", "web.service.consul"}, want: []string{`HTTP/2-POST\)-\(agent\.test/dns-query\)-\(status: 200\)`, `10\.1\.2\.1`}},
		{args: []string{kdig, "-p", "8501", "+https", "+https-get", "+tls-ca=" + cert, "+tls-hostname=agent.test", "no.service.consul"}, want: []string{`HTTP/2-GET\)`, `status: NXDOMAIN`, `SOA`}},

		{args: []string{delv, "-i", "web.service.consul", "A"}, want: []string{`; authoritative\nweb\.service\.consul\.\s+1\s+IN\s+A\s+10\.1\.2\.1`}},
		{args: []string{delv, "-i", "no.service.consul", "A"}, want: []string{`ncache nxdomain`, `SOA ns\.consul\.`}},
		{args: []string{delv, "-i", "web.service.consul", "AAAA"}, want: []string{`ncache nxrrset`, `SOA ns\.consul\.`}},
	}
	run := func(argv []string) (string, int) {
		args := []string{argv[0], "@" + p.ip}
		if !slices.Contains(argv, "-p") {
			args = append(args, "-p", "8600")
		}
		out, errs, code := sh(t, nil, "", append(args, argv[1:]...)...)
		return out + errs, code
	}
	for _, x := range cases {
		t.Run(strings.Join(x.args[1:], " "), func(t *testing.T) {
			out, code := run(x.args)
			for _, re := range x.want {
				if !regexp.MustCompile(re).MatchString(out) {
					t.Errorf("the output does not match %s", re)
				}
			}
			if x.not != "" && regexp.MustCompile(x.not).MatchString(out) {
				t.Errorf("the output matches %s", x.not)
			}
			if t.Failed() || (code != 0) != x.fail {
				t.Errorf("exit code %d\n%s", code, out)
			}
		})
	}

	// The extended error says why an answer is old, or why there is none.
	c.servers[0].kill()
	eventually(t, 30*time.Second, "the answer is marked stale", func() bool {
		out, _ := run([]string{dig, "web.service.consul"})
		return strings.Contains(out, "EDE: 3 (Stale Answer)") && strings.Contains(out, "10.1.2.1")
	})
	eventually(t, 30*time.Second, "the other name is marked stale, over HTTPS too", func() bool { // each name finds out by itself
		out, _ := run([]string{kdig, "+https", "-p", "8501", "+tls-ca=" + cert, "many.service.consul", "SRV"})
		return strings.Contains(out, "Stale Answer") && strings.Contains(out, "ANSWER: 60")
	})
	if out, _ := run([]string{dig, "new.service.consul"}); !strings.Contains(out, "status: SERVFAIL") || !strings.Contains(out, "EDE: 22 (No Reachable Authority)") {
		t.Errorf("a name nobody asked for before:\n%s", out)
	}
	// The same after a restart, at once.
	p.signal(syscall.SIGTERM)
	p.wait(40 * time.Second)
	begin := time.Now()
	p.start()
	var out string
	eventually(t, 30*time.Second, "the restarted proxy answers", func() bool {
		out, _ = run([]string{dig, "+tries=1", "+time=1", "web.service.consul"})
		return strings.Contains(out, "10.1.2.1")
	})
	took := time.Since(begin)
	t.Logf("start of a proxy with every server down to its first answer: %v", took.Round(time.Millisecond))
	if !strings.Contains(out, "EDE: 3 (Stale Answer)") {
		t.Errorf("after a restart:\n%s", out)
	}
	out, _ = run([]string{dig, "+tcp", "+time=1", "many.service.consul", "SRV"})
	if !strings.Contains(out, "ANSWER: 60,") || !strings.Contains(out, "EDE: 3 (Stale Answer)") {
		t.Errorf("another name after a restart:\n%s", out)
	}
}
