package main

import (
	"net"
	"testing"
)

const doctorReport = `{"Node":"s1","Server":true,"Version":"1.2.3","Took":812000000,"Findings":[
{"Area":"cluster","Subject":"leader","Status":"ok","Text":"s1"},
{"Area":"cluster","Subject":"quorum","Status":"warn","Text":"2 of 3 voters healthy","Advice":"bring a server back"}`

const deadPort = `,{"Area":"network","Subject":"s3 server port 10.0.0.3:8300/tcp","Status":"fail","Text":"refused","Advice":"is it running?"}`

func TestDoctor(t *testing.T) {
	report := func(more string) *fake {
		return newFake(t, map[string]string{"GET /v1/agent/doctor": `200|` + doctorReport + more + `]}`})
	}
	failing, warning := report(deadPort), report("")
	r := muster(t, failing.URL, "", "doctor")
	r.want(t, exitUnhealthy)
	const golden = `cluster
  ok    leader: s1
  warn  quorum: 2 of 3 voters healthy
        -> bring a server back
network
  FAIL  s3 server port 10.0.0.3:8300/tcp: refused
        -> is it running?

s1 (server, 1.2.3): ok 1, warnings 1, failures 1, in 812ms
`
	if r.out != golden {
		t.Errorf("got\n%swant\n%s", r.out, golden)
	}
	muster(t, failing.URL, "", "doctor", "-format=json").want(t, exitUnhealthy, `"Subject": "s3 server port 10.0.0.3:8300/tcp"`)
	muster(t, warning.URL, "", "doctor").want(t, 0, "warnings 1")
	muster(t, warning.URL, "", "doctor", "-strict").want(t, exitUnhealthy, "warnings 1")
	muster(t, warning.URL, "", "doctor", "-format=xml").want(t, exitUsage, "table or json")
}

func TestDoctorWithoutAgent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	muster(t, "http://"+addr, "", "doctor").want(t, exitNoAgent, "Nothing listens at http://"+addr, "journalctl", "sport = :"+port, "muster validate")
	muster(t, newFake(t, map[string]string{"GET /v1/agent/doctor": "429|another"}).URL, "", "doctor").want(t, exitServer, "another")
	muster(t, newFake(t, map[string]string{"GET /v1/agent/doctor": "404|no"}).URL, "", "doctor").want(t, exitServer, "older than this command")
}
