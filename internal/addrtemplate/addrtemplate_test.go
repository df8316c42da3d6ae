package addrtemplate_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-sockaddr/template"

	"github.com/musterhq/muster/internal/addrtemplate"
)

func ExampleExpand() {
	ip, err := addrtemplate.Expand(`{{ GetAllInterfaces | include "name" "^lo$" | include "type" "IPv4" | limit 1 | attr "address" }}`)
	fmt.Println(ip, err)
	// Output: 127.0.0.1 <nil>
}

// understood are templates of every function; the library's own walker is the oracle.
var understood = []string{
	"",
	"no template",
	`{{ GetAllInterfaces }}`,
	`{{ . }}`,
	`{{- GetPrivateIP -}}`,
	`{{ GetPrivateIPs }}`,
	`{{ GetPublicIP }} {{ GetPublicIPs }}`,
	`{{ GetInterfaceIP "lo" }}`,
	`{{ GetInterfaceIPs "^lo$" }}:{{ GetInterfaceIP "none" }}`,
	`{{ GetDefaultInterfaces | attr "address" }}`,
	`{{ GetPrivateInterfaces | include "network" "0.0.0.0/0" | attr "address" }}`,
	`{{ GetPublicInterfaces | sort "default" | join "name" " " }}`,
	`{{ GetAllInterfaces | sort "default,-type,size,+address" | join "address" "," }}`,
	`{{ GetAllInterfaces | exclude "type" "IPv6" | unique "name" | join "name" "," }}`,
	`{{ GetAllInterfaces | include "flags" "loopback|up" | include "type" "IPv4" | limit 1 | attr "address" }}`,
	`{{ GetAllInterfaces | include "type" "IPv4" | sort "address" | offset 0 | limit 1 | attr "size" }}`,
	`{{ GetAllInterfaces | include "name" "^lo$" | include "type" "IPv4" | math "network" "+2" | attr "address" }}`,
	`{{ attr "address" (include "name" "^lo$" .) }}`,
	`{{ . | include "name" "^lo$" | include "rfc" "5735" | attr "address" }}{{ "text" }}{{ 7 }}`,
	`{{ (GetAllInterfaces) | limit 0 }}`,
	`{{/* nothing */}}x`,
	`{{ define "t" }}never{{ end }}`,
	`{{ "10.0.0.1" | GetInterfaceIP }}`,
}

func TestExpandAsTheLibrary(t *testing.T) {
	for _, text := range understood {
		want, err := template.Parse(text)
		if err != nil {
			t.Fatalf("the library refuses %s: %v", text, err)
		}
		if got, err := addrtemplate.Expand(text); got != want || err != nil {
			t.Errorf("%s gave %q, %v, want %q", text, got, err, want)
		}
	}
	text := `{{ . | include "flags" "loopback" | limit 1 | attr "address" }}`
	if got, err := addrtemplate.Expand(text); err != nil || !net.ParseIP(got).IsLoopback() {
		t.Errorf("the address of the loopback interface is %q, %v", got, err)
	}
}

func TestExpandRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{{ Nope }}`:                           `template:1: function "Nope" not defined`,
		`{{ GetPrivateIP`:                      "template:1: unclosed action",
		`{{ GetPrivateIP 1 }}`:                 "GetPrivateIP: expected 0 arguments with the piped one, got 1",
		`{{ GetInterfaceIP 7 }}`:               "GetInterfaceIP: expected a text, got 7",
		`{{ . | limit "1" }}`:                  "limit: expected a whole number, got 1",
		`{{ . | limit -1 }}`:                   "expected a number from 0",
		`{{ . | offset 10000 }}`:               "offset: ",
		`{{ . | include "flags" "up" | "x" }}`: "non executable command in pipeline",
		`{{ "x" | attr "address" }}`:           "attr: expected addresses, got x",
		`{{ . | include "size" "x" }}`:         "include: ",
		`{{ .Name }}`:                          `not .Name`,
		`{{ 1.5 }}`:                            "not 1.5",
		`{{ nil }}`:                            "nil",
		`{{ $x := GetPrivateIP }}{{ $x }}`:     "not a variable",
		`{{ if . }}a{{ end }}`:                 "expected a pipeline of functions",
		"a\n{{ range . }}{{ end }}":            "template:2",
		`{{ template "t" }}`:                   "expected a pipeline of functions",
		`{{ . 1 }}`:                            "is not a function",
		`{{ attr "address" (. | limit -1) }}`:  "limit: ",
	} {
		if got, err := addrtemplate.Expand(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %q and the error %v, want one with %s", text, got, err, want)
		}
	}
}

// FuzzExpand holds every text that is understood against the library.
func FuzzExpand(f *testing.F) {
	for _, text := range understood {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := addrtemplate.Expand(text)
		if err != nil {
			return
		}
		if want, err := template.Parse(text); err != nil || got != want {
			t.Errorf("%q gave %q, the library %q, %v", text, got, want, err)
		}
	})
}
