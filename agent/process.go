package agent

import (
	"reflect"
	"strings"
)

// withoutSecrets returns the arguments of a process as they may be shown to anybody: values that are secret, or that
// may hold secrets, are replaced.
//
//	muster agent -encrypt=abc -node n1    →    muster agent -encrypt=hidden -node n1
func withoutSecrets(args []string) []string {
	out := make([]string, len(args))
	hide := false
	for i, arg := range args {
		name, value, valued := strings.Cut(arg, "=")
		flag := strings.HasPrefix(arg, "-")
		switch {
		case hide:
			arg, hide = hidden, false
		case !flag:
			if secretText(arg) {
				arg = hidden
			}
		case secretFlag(strings.TrimLeft(name, "-")):
			if hide = !valued; valued {
				arg = name + "=" + hidden
			}
		case valued && secretText(value):
			arg = name + "=" + hidden
		}
		out[i] = arg
	}
	return out
}

// secretFlag says whether the value of a flag is not for everybody. A fragment of configuration may hold anything.
func secretFlag(name string) bool {
	return name == "hcl" || secretText(name) || secretFields(reflect.TypeFor[Config]())[name]
}

// secretFields are the flags of fields that are marked as secret.
func secretFields(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		if name := f.Tag.Get("flag"); name != "" && f.Tag.Get("secret") != "" {
			out[name] = true
		}
		if f.Type.Kind() == reflect.Struct && f.Tag.Get("key") != "" {
			for name := range secretFields(f.Type) {
				out[name] = true
			}
		}
	}
	return out
}

// secretText says whether a text speaks of something secret, such as a join address with the key of a cloud in it.
func secretText(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"secret", "token", "password", "passwd", "access_key", "api_key"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
