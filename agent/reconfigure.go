package agent

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// transaction is a change of several parts of which either all happen or none. Each part first does what can fail and nobody
// notices, and hands in how to go on and how to go back.
type transaction struct {
	commits, aborts []func()
}

// add hands in one prepared part; neither function may fail, abort may be nil.
func (t *transaction) add(commit, abort func()) {
	t.commits = append(t.commits, commit)
	if abort != nil {
		t.aborts = append(t.aborts, abort)
	}
}

func (t *transaction) commit() {
	for _, f := range t.commits {
		f()
	}
}

// abort takes back what was prepared, the last first.
func (t *transaction) abort() {
	for _, f := range slices.Backward(t.aborts) {
		f()
	}
}

// Reload reads the configuration again and takes over what can change while running (see reloadable), all of it or nothing: an
// error names what is wrong and where, and then nothing has changed. Keys that need a restart are left as they are, with a
// warning in the log for each that differs.
func (a *Agent) Reload() error {
	if a.opts.Reload == nil {
		return errors.New("this agent has no configuration to read again")
	}
	a.reloading.Lock()
	defer a.reloading.Unlock()
	cfg, warnings, err := a.opts.Reload()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.log.Warn("configuration", "warning", w.String())
	}
	for _, key := range needRestart(&a.cfg, &cfg) {
		a.log.Warn("a changed key needs a restart, its old value stays in use", "key", key)
	}
	if err := a.reconfigure(&cfg); err != nil {
		return err
	}
	a.log.Info("configuration reloaded")
	return nil
}

// reconfigure prepares every part, then lets the registry decide, whose own change is one step, and commits the rest.
func (a *Agent) reconfigure(cfg *Config) error {
	var t transaction
	for _, part := range []func(*transaction, *Config) error{a.prepareUpstreams, a.prepareCertificates, a.prepareDNS} {
		if err := part(&t, cfg); err != nil {
			t.abort()
			return fmt.Errorf("refused, nothing has changed: %w", err)
		}
	}
	err := a.registry.Reload(a.ctx, cfg.Services, cfg.Checks)
	if unsaved := errors.Is(err, errNotSaved); err != nil && !unsaved {
		t.abort()
		return fmt.Errorf("refused, nothing has changed: %w", err)
	}
	t.commit()
	a.watches.set(cfg.Watches)
	if a.limits != cfg.Limits { // new ones begin with a full burst
		a.limits = cfg.Limits
		a.rates.Store(newRateLimits(&cfg.Limits))
	}
	a.log.SetLevel(hclogLevel(cfg.LogLevel))
	if err != nil {
		return fmt.Errorf("all of it is in use, but saved registrations that it replaces may come back with a restart: %w", err)
	}
	return nil
}

// prepareUpstreams opens new local ports.
func (a *Agent) prepareUpstreams(t *transaction, cfg *Config) error {
	c, err := a.upstreams.Prepare(upstreamConfigs(cfg))
	if err != nil {
		return err
	}
	t.add(c.Commit, c.Abort)
	return nil
}

func (a *Agent) prepareDNS(t *transaction, cfg *Config) error {
	conf := a.dnsConfig(cfg)
	conf.Locality = locality(&a.cfg) // as in the catalog, until a restart
	if a.dns != nil {
		commit, err := a.dns.Prepare(conf)
		if err != nil {
			return err
		}
		t.add(commit, nil)
	}
	if a.view.follow != nil {
		t.add(func() { a.view.follow.SetMaxStale(conf.MaxStale) }, nil)
	}
	return nil
}

// reloadable are the keys that a reload takes over; a block covers everything below it.
var reloadable = []string{
	"services", "checks", "watches", "upstreams", "log_level", "limits.request_limits", "limits.rpc_max_burst", "limits.rpc_rate", "dns_config", "recursors", "tls.defaults",
	"tls.internal_rpc.ca_file", "tls.internal_rpc.ca_path", "tls.internal_rpc.cert_file", "tls.internal_rpc.key_file",
	"tls.https.ca_file", "tls.https.ca_path", "tls.https.cert_file", "tls.https.key_file",
}

// needRestart lists the keys of the new configuration that differ and are not reloadable.
func needRestart(old, now *Config) []string {
	var out []string
	var walk func(path string, a, b reflect.Value)
	walk = func(path string, a, b reflect.Value) {
		for i := range a.NumField() {
			name := a.Type().Field(i).Tag.Get("key")
			if name == "" {
				continue
			}
			key := strings.TrimPrefix(path+"."+name, ".")
			switch {
			case slices.Contains(reloadable, key):
			case a.Field(i).Kind() == reflect.Struct:
				walk(key, a.Field(i), b.Field(i))
			case !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
				out = append(out, key)
			}
		}
	}
	walk("", reflect.ValueOf(old).Elem(), reflect.ValueOf(now).Elem())
	// A stanza cannot begin or cease to have a certificate: listeners and connections would be other ones.
	for name, t := range map[string][2]*TLSConfig{"tls.https": {&old.TLS.HTTPS, &now.TLS.HTTPS}, "tls.internal_rpc": {&old.TLS.InternalRPC, &now.TLS.InternalRPC}} {
		if (t[0].CertFile == "") != (t[1].CertFile == "") {
			out = append(out, name+".cert_file")
		}
	}
	slices.Sort(out)
	return out
}
