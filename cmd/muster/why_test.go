package main

import "testing"

func TestWhyCommand(t *testing.T) {
	t.Setenv("TZ", "UTC")
	f := newFake(t, map[string]string{
		"GET /v1/agent/why/service/web": `{"Name":"web","Server":"s1","Agent":"n1","Records":[{"Kind":"service","Node":"n1","ID":"w1","Name":"web","Address":"10.0.0.1:80","CreateIndex":3,"ModifyIndex":7,
			"From":"2026-01-02T03:04:05Z","To":"2026-01-02T03:09:06Z","Writer":"file","By":"the agent of node n1, from web.hcl","Returns":"yes: that agent",
			"DNS":{"Shown":false,"Reasons":["a","b"]},"Checks":[{"Kind":"check","Node":"n1","ID":"c","Status":"critical","Output":"one\ntwo","CreateIndex":4,"ModifyIndex":4,"From":"0001-01-01T00:00:00Z","To":"2026-01-02T03:04:05Z","Writer":"agent","By":"x"}]}],
			"Notes":["something was removed"]}`,
		"GET /v1/agent/why/any/web":  `{"Name":"web","Notes":["only a note"]}`,
		"GET /v1/agent/why/any/a%2F": `{"Name":"a/"}`,
	})
	r := muster(t, f.URL, "", "why", "service", "web")
	r.want(t, 0, "Service web, instance w1 on node n1 at 10.0.0.1:80\n", "  in DNS      no, at agent n1: a; b\n", ":05 and 2026-01-02 ", "at index 7 (first at 3)\n",
		"  by          the agent of node n1, from web.hcl\n", "  comes back  yes: that agent\n", "  Check c: critical\n    written     before 2026-01-02 ", "output      one\n                two\n", "\nNote: something was removed\n")
	muster(t, f.URL, "", "why", "web").want(t, 0, "Note: only a note")
	muster(t, f.URL, "", "why", "-format=json", "web").want(t, 0, `"Notes"`)
	muster(t, f.URL, "", "why", "a/").want(t, exitUnhealthy)
	muster(t, f.URL, "", "why", "key", "web").want(t, exitUsage, "service, node or check")
	muster(t, f.URL, "", "why").want(t, exitUsage, "arg")
	muster(t, f.URL, "", "why", "service", "down").want(t, exitServer, "no answer for")
}
