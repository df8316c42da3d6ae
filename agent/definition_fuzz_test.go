package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/health"
)

// definitions takes what the HTTP interface has read as far as a registry would, and starts nothing.
type definitions struct {
	consul.LocalRegistry
	service *consul.ServiceDefinition
	check   *consul.CheckDefinition
}

var everything = rules{scripts: true, host: &health.Host{Systemctl: "/bin/true"}}

func (d *definitions) RegisterService(_ context.Context, def consul.ServiceDefinition, _ bool) error {
	def, err := normaliseService(def, everything)
	if err == nil {
		d.service = &def
	}
	return err
}

func (d *definitions) RegisterCheck(_ context.Context, def consul.CheckDefinition) error {
	def, err := normaliseCheck(def, everything)
	if err == nil {
		d.check = &def
	}
	return err
}

// FuzzDefinition sends bodies to the two registrations. Whatever comes is accepted or refused with a text; what is
// accepted can be run, means the same when it is normalised again, and survives being saved.
func FuzzDefinition(f *testing.F) {
	for _, body := range []string{
		`{"Name":"web","ID":"w1","Port":80,"Tags":["a"],"Meta":{"k":"v"},"Weights":{"Passing":2,"Warning":1},"Check":{"TTL":"10s"}}`,
		`{"name":"x","Address":"10.0.0.1","tagged_addresses":{"lan":{"address":"a"}},"Checks":[{"HTTP":"http://h/","Interval":1000000000,"Header":{"A":["b"]}},{"TCP":"h:1","Interval":"1s"}]}`,
		`{"Name":"x","Check":{"Args":["a","b"],"DockerContainerID":"c","Interval":"1s","Shell":"sh"}}`,
		`{"Name":"x","ServiceID":"","GRPC":"h:1/s","GRPCUseTLS":true,"Interval":"5s","FailuresBeforeCritical":2,"deregister_critical_service_after":"1s"}`,
		`{"Name":"x","AliasService":"y"}`, `{"Name":"x","OSService":"a.service","Interval":"1s"}`, `{"Name":"x","H2PING":"h:1","H2PingUseTLS":false,"Interval":"1s"}`,
		`{"Name":"x","UDP":"h:1","Interval":"-1s"}`, `{"Name":"x","TTL":-5}`, `{"Name":"x","TTL":"1e9h"}`, `[`, `null`, `{"Checks":[null]}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/v1/agent/service/register", "/v1/agent/check/register"} {
			d := &definitions{}
			router, err := api.NewRouter(api.RouterConfig{Routes: consul.NewAgentAPI(consul.AgentConfig{Datacenter: "dc1", Registry: d}).Routes(), NotFound: consul.NotFound()})
			must(t, err)
			w := httptest.NewRecorder()
			router.ServeHTTP(w, httptest.NewRequest(http.MethodPut, path, strings.NewReader(body)))
			accepted := d.service != nil || d.check != nil
			if accepted != (w.Code == http.StatusOK) || !accepted && w.Body.Len() == 0 {
				t.Fatalf("%s: status %d %q, accepted %t", path, w.Code, w.Body, accepted)
			}
			var checks []consul.CheckDefinition
			switch {
			case d.service != nil:
				checks = d.service.Checks
				var back savedService
				must(t, json.Unmarshal(encodeSaved(savedService{*d.service}), &back))
				again, err := normaliseService(back.Def, everything)
				must(t, err)
				if string(encodeSaved(again)) != string(encodeSaved(*d.service)) {
					t.Fatalf("saved and normalised again:\n%s\n%s", encodeSaved(*d.service), encodeSaved(again))
				}
			case d.check != nil:
				checks = []consul.CheckDefinition{*d.check}
			}
			for _, c := range checks {
				if spec := specOf(c, everything.host); spec.Validate() != nil || spec.Kind() != c.Kind() || spec.Kind() == "" {
					t.Fatalf("%+v was accepted: %v, kinds %q and %q", c, spec.Validate(), spec.Kind(), c.Kind())
				}
			}
		}
	})
}

// TestDefinitionsLoseNothing: every field of a definition is kept by being saved.
func TestDefinitionsLoseNothing(t *testing.T) {
	var def consul.CheckDefinition
	fill(reflect.ValueOf(&def).Elem())
	var back savedCheck
	must(t, json.Unmarshal(encodeSaved(savedCheck{Def: def}), &back))
	if !reflect.DeepEqual(back.Def, def) {
		t.Errorf("saved %+v\nread %+v", def, back.Def)
	}
	if _, err := normaliseCheck(consul.CheckDefinition{}, everything); !errors.As(err, new(*consul.LocalError)) {
		t.Errorf("an empty check: %v", err)
	}
}

// fill sets every field to something that is not zero.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("text")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int, reflect.Int64:
			f.SetInt(7)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"a"}))
		case reflect.Map:
			f.Set(reflect.ValueOf(http.Header{"A": {"b"}}))
		}
	}
}
