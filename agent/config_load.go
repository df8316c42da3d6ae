package agent

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// EnvPrefix begins the environment variable of every flag: -http-port is also MUSTER_HTTP_PORT.
const EnvPrefix = "MUSTER_"

// EnvName gives the environment variable of a flag.
func EnvName(flagName string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// Load makes the Config of `muster agent`: args are the arguments after the command's name, env the environment
// as of os.Environ. Later sources win: defaults, -dev, files and directories in the order given, environment,
// flags, -hcl fragments; lists append and maps merge through all of them. Usage goes to usage when help is asked
// for; the error is flag.ErrHelp then. Any other error joins all that is wrong, each naming its source and key.
func Load(args, env []string, usage io.Writer) (Config, []Warning, error) {
	return LoadFrom(nil, args, env, usage)
}

// LoadFrom is Load with other defaults: change is applied to the built-in ones, before all other sources.
func LoadFrom(change func(*Config), args, env []string, usage io.Writer) (Config, []Warning, error) {
	l := newLoader()
	l.change = change
	return l.load(args, env, usage)
}

// LoadPaths loads and checks files and directories alone, as `muster validate` does. format is "hcl", "json" or ""
// to go by the extension.
func LoadPaths(paths []string, format string) (Config, []Warning, error) {
	l := newLoader()
	l.paths, l.format = paths, format
	return l.finish(nil)
}

// loader is one run of loading.
type loader struct {
	dev       bool
	change    func(*Config) // of the defaults
	force     bool          // -force-new-cluster
	etcd      etcdFlags
	paths     []string
	format    string
	fragments []string
	given     []setting // from environment, then from flags
	warns     []Warning
	errs      []error
	host      hostFacts
}

// setting is one value for one field by flag or environment.
type setting struct {
	source, key string
	field       []int // index path in Config
	text        string
}

func newLoader() *loader { return &loader{host: systemHost()} }

func (l *loader) load(args, env []string, usage io.Writer) (Config, []Warning, error) {
	fs := l.flags(usage)
	if err := l.environment(env, fs); err != nil {
		return Config{}, nil, err
	}
	if err := fs.Parse(joinProxyValue(args)); err != nil {
		return Config{}, nil, err
	}
	if err := l.etcdEnvironment(env); err != nil {
		return Config{}, nil, err
	}
	if rest := fs.Args(); len(rest) > 0 {
		return Config{}, nil, fmt.Errorf("unexpected argument %q: the agent takes only flags", rest[0])
	}
	return l.finish(l.given)
}

// finish applies the sources in their order and checks the result.
func (l *loader) finish(given []setting) (Config, []Warning, error) {
	c := Defaults()
	if l.dev {
		c = DevDefaults()
	}
	if l.change != nil {
		l.change(&c)
	}
	c.ForceNewCluster = l.force
	c.origins = map[string]string{}
	for _, path := range l.paths {
		l.path(&c, path)
	}
	c.ConfigFiles = slices.Clone(l.paths)
	for _, s := range l.etcdSources() {
		d := decoder{source: s.name, origins: c.origins}
		d.config(&c, s.tree)
		l.take(d)
	}
	for _, s := range given {
		d := decoder{source: s.source, origins: c.origins}
		d.setting(reflect.ValueOf(&c).Elem().FieldByIndex(s.field), s)
		l.take(d)
	}
	for i, text := range l.fragments {
		l.source(&c, fmt.Sprintf("-hcl fragment %d", i+1), []byte(text), "hcl")
	}
	if len(l.errs) > 0 { // values that could not be read would only be complained of twice
		return Config{}, l.warns, errors.Join(l.errs...)
	}
	l.finishEtcd(&c)
	v := validator{c: &c, host: l.host, files: len(l.paths) > 0}
	v.run()
	l.warns = append(l.warns, v.warns...)
	if len(v.errs) > 0 {
		return Config{}, l.warns, errors.Join(v.errs...)
	}
	return c, l.warns, nil
}

func (l *loader) take(d decoder) {
	l.errs = append(l.errs, d.errs...)
	l.warns = append(l.warns, d.warns...)
}

// path loads a file, or the .hcl and .json files of a directory in lexical order, not recursively.
func (l *loader) path(c *Config, path string) {
	info, err := os.Stat(path)
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("configuration: %w", err))
		return
	}
	if !info.IsDir() {
		format := l.format
		if format == "" {
			if format = formatOf(path); format == "" {
				l.errs = append(l.errs, fmt.Errorf("%s: expected the extension .hcl or .json, or -config-format", path))
				return
			}
		}
		l.file(c, path, format)
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("configuration: %w", err))
		return
	}
	for _, e := range entries { // os.ReadDir sorts
		name := filepath.Join(path, e.Name())
		format := formatOf(name)
		if info, err := os.Stat(name); err == nil && info.IsDir() || format == "" && l.format == "" {
			continue
		}
		if l.format != "" {
			format = l.format
		}
		l.file(c, name, format)
	}
}

func formatOf(path string) string {
	switch filepath.Ext(path) {
	case ".hcl":
		return "hcl"
	case ".json":
		return "json"
	}
	return ""
}

func (l *loader) file(c *Config, path, format string) {
	text, err := os.ReadFile(path)
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("configuration: %w", err))
		return
	}
	l.source(c, path, text, format)
}

func (l *loader) source(c *Config, name string, text []byte, format string) {
	tree, err := parseConfig(text, format)
	if err != nil {
		l.errs = append(l.errs, fmt.Errorf("%s: %w", name, err))
		return
	}
	d := decoder{source: name, origins: c.origins}
	d.config(c, tree)
	l.take(d)
}

// flagField is a field of Config that has a flag.
type flagField struct {
	name, key, usage string
	index            []int
	kind             reflect.Type
}

// flagFields lists the fields of Config, nested blocks included, that have a flag.
func flagFields() []flagField {
	var out []flagField
	var walk func(t reflect.Type, index []int, path string)
	walk = func(t reflect.Type, index []int, path string) {
		for i := range t.NumField() {
			f := t.Field(i)
			at := append(slices.Clone(index), i)
			key := path + f.Tag.Get("key")
			if name := f.Tag.Get("flag"); name != "" {
				out = append(out, flagField{name, key, f.Tag.Get("usage"), at, f.Type})
			}
			if f.Type.Kind() == reflect.Struct && f.Tag.Get("key") != "" {
				walk(f.Type, at, key+".")
			}
		}
	}
	walk(reflect.TypeFor[Config](), nil, "")
	return out
}

// flagValue lets the flag package hand texts to a function; bool flags need no value.
type flagValue struct {
	set    func(string) error
	isBool bool
}

func (v flagValue) String() string     { return "" }
func (v flagValue) Set(s string) error { return v.set(s) }
func (v flagValue) IsBoolFlag() bool   { return v.isBool }

// flags makes the flag set; parsing it fills l.
func (l *loader) flags(usage io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet("muster agent", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.Usage = func() { printUsage(fs, usage) }
	add := func(name, help string, isBool bool, set func(string) error) {
		fs.Var(flagValue{set, isBool}, name, help)
	}
	for _, f := range flagFields() {
		add(f.name, f.usage, f.kind.Kind() == reflect.Bool, func(s string) error {
			if f.name == "proxy" && slices.Contains([]string{"on", "off", "readonly"}, s) {
				l.etcd.set(f.name, s, "flag -"+f.name)
				return nil
			}
			l.given = append(l.given, setting{"flag -" + f.name, f.key, f.index, s})
			return nil
		})
	}
	add("dev", "one server in memory on 127.0.0.1, for trying out", true, func(s string) (err error) {
		l.dev, err = strconv.ParseBool(s)
		return err
	})
	add("force-new-cluster", "make a cluster of this one server out of the data it has, or of a backup; once", true, func(s string) (err error) {
		l.force, err = strconv.ParseBool(s)
		return err
	})
	addPath := func(s string) error { l.paths = append(l.paths, s); return nil }
	add("config-file", "configuration file (.hcl or .json); may be repeated", false, addPath)
	add("config-dir", "directory of configuration files; may be repeated", false, addPath)
	add("config-format", "read every configuration file as hcl or json", false, func(s string) error {
		if s != "hcl" && s != "json" {
			return fmt.Errorf("expected hcl or json")
		}
		l.format = s
		return nil
	})
	add("hcl", "a fragment of configuration in HCL; may be repeated", false, func(s string) error {
		l.fragments = append(l.fragments, s)
		return nil
	})
	for _, name := range etcdNames() {
		add(name, "as with etcd", etcdBool[name], func(s string) error {
			l.etcd.set(name, s, "flag -"+name)
			return nil
		})
	}
	for name, isBool := range ignoredFlags {
		add(name, "accepted and unused", isBool, func(string) error {
			l.warns = append(l.warns, Warning{"flag -" + name, name, "accepted and unused"})
			return nil
		})
	}
	return fs
}

// environment sets every flag that has a variable, before the command line is read, so that flags win. Flags that
// may be repeated take several values separated by commas.
func (l *loader) environment(env []string, fs *flag.FlagSet) error {
	fields := map[string]flagField{}
	for _, f := range flagFields() {
		fields[f.name] = f
	}
	values := map[string]string{}
	for _, kv := range env {
		if name, value, ok := strings.Cut(kv, "="); ok && value != "" && strings.HasPrefix(name, EnvPrefix) {
			values[name] = value
		}
	}
	var errs []error
	ofEtcd := etcdNames()
	fs.VisitAll(func(f *flag.Flag) {
		if slices.Contains(ofEtcd, f.Name) {
			return // their variables begin with ETCD_
		}
		name := EnvName(f.Name)
		value, ok := values[name]
		if !ok {
			return
		}
		field, isField := fields[f.Name]
		texts := []string{value}
		repeats := f.Name == "config-file" || f.Name == "config-dir"
		if isField {
			repeats = field.kind.Kind() == reflect.Slice || field.kind.Kind() == reflect.Map
		}
		if repeats {
			texts = strings.Split(value, ",")
		}
		for _, text := range texts {
			if isField {
				l.given = append(l.given, setting{"environment " + name, field.key, field.index, strings.TrimSpace(text)})
			} else if err := f.Value.Set(strings.TrimSpace(text)); err != nil {
				errs = append(errs, fmt.Errorf("environment %s: %q: %w", name, text, err))
			}
		}
	})
	return errors.Join(errs...)
}

// setting decodes the text of a flag or variable.
func (d *decoder) setting(v reflect.Value, s setting) {
	if v.Kind() != reflect.Map {
		d.value(v, s.text, s.key)
		return
	}
	key, value, ok := strings.Cut(s.text, ":")
	if !ok || key == "" {
		d.fail(s.key, "expected key:value, got %q", s.text)
		return
	}
	d.value(v, map[string]any{key: value}, s.key)
}

// printUsage lists the flags with their environment variables.
func printUsage(fs *flag.FlagSet, w io.Writer) {
	fmt.Fprint(w, "Usage: muster agent [flags]\n\n"+
		"Runs the agent. Every flag can also be given as an environment variable. Order, later wins: defaults,\n"+
		"-dev, configuration files, environment, flags, -hcl.\n\n")
	ofEtcd := etcdNames()
	fs.VisitAll(func(f *flag.Flag) {
		if _, unused := ignoredFlags[f.Name]; !unused && !slices.Contains(ofEtcd, f.Name) {
			fmt.Fprintf(w, "  -%-28s %s [%s]\n", f.Name, f.Usage, EnvName(f.Name))
		}
	})
	fmt.Fprintf(w, "\nThe flags of etcd (-name, -listen-client-urls, -initial-cluster and so on) and their ETCD_ variables are understood\ntoo: docs/migrating-from-etcd.md lists them.\n")
}
