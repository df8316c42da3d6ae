package agent

import (
	"reflect"
	"time"

	"github.com/musterhq/muster/api/consul"
)

// hidden stands in the place of a secret.
const hidden = "hidden"

// Redacted gives the configuration as nested maps by field name, for /v1/agent/self: durations as texts, secrets
// replaced by "hidden". It is made anew with every call.
func (c *Config) Redacted() map[string]any {
	m := redactStruct(reflect.ValueOf(c).Elem())
	return m
}

func redactStruct(v reflect.Value) map[string]any {
	out := make(map[string]any, v.NumField())
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Tag.Get("secret") != "" || f.Name == "Token" {
			if !v.Field(i).IsZero() {
				out[f.Name] = hidden
				continue
			}
		}
		out[f.Name] = redactValue(v.Field(i))
	}
	if v.Type() == reflect.TypeFor[consul.CheckDefinition]() { // headers carry credentials
		if h := v.FieldByName("Header"); h.Len() > 0 {
			out["Header"] = hidden
		}
	}
	return out
}

func redactValue(v reflect.Value) any {
	if d, ok := v.Interface().(time.Duration); ok {
		return d.String()
	}
	switch v.Kind() {
	case reflect.Struct:
		return redactStruct(v)
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return redactValue(v.Elem())
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = redactValue(v.Index(i))
		}
		return out
	case reflect.Map:
		out := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			out[it.Key().String()] = redactValue(it.Value())
		}
		return out
	}
	return v.Interface()
}
