package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/musterhq/muster/api/consul"
)

// ServiceBodies reads the `service` and `services` blocks of a configuration file (.hcl or .json) and gives each as the
// body of PUT /v1/agent/service/register. Other keys are an error: whoever hands over a whole configuration by mistake
// learns it. Nothing is checked beyond the form; that is for the agent which gets the bodies.
func ServiceBodies(path string) ([]json.RawMessage, error) {
	format := formatOf(path)
	if format == "" {
		return nil, fmt.Errorf("%s: expected the extension .hcl or .json", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	tree, err := parseConfig(text, format)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for key := range tree {
		if key != "service" && key != "services" {
			return nil, fmt.Errorf("%s: unexpected key %q: expected service or services", path, key)
		}
	}
	c := Config{}
	d := decoder{source: path, origins: map[string]string{}}
	d.config(&c, tree)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	out := make([]json.RawMessage, 0, len(c.Services))
	for _, s := range c.Services {
		b, err := serviceBody(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, b)
	}
	return out, nil
}

// serviceBody is a definition in the field names of the HTTP interface, which differ from ours in one: the id of a
// check inside a service is its CheckID.
func serviceBody(s consul.ServiceDefinition) (json.RawMessage, error) {
	checks := s.Checks
	if s.Check != nil {
		checks = append([]consul.CheckDefinition{*s.Check}, checks...)
	}
	s.Check, s.Checks = nil, nil
	body, err := fields(s)
	if err != nil {
		return nil, err
	}
	if s.ID == "" {
		delete(body, "ID")
	}
	list := make([]map[string]any, 0, len(checks))
	for _, def := range checks {
		one, err := fields(def)
		if err != nil {
			return nil, err
		}
		if id, ok := one["ID"]; ok {
			delete(one, "ID")
			one["CheckID"] = id
		}
		list = append(list, one)
	}
	if len(list) > 0 {
		body["Checks"] = list
	}
	return json.Marshal(body)
}

func fields(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(b, &m)
}
