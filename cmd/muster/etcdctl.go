package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// etcdctlRelease is the release whose command line the name etcdctl gives.
const etcdctlRelease = "3.4.23"

// defaultEndpoints are asked when neither flag nor variable names any.
const defaultEndpoints = "http://127.0.0.1:2379,http://127.0.0.1:4001"

// etcdctl holds the flags that stand before the command of etcdctl.
type etcdctl struct {
	endpoints, endpoint, peers string
	noSync, debug, insecure    bool
	certFile, keyFile, caFile  string
	username, srv              string
	timeout, total             time.Duration
	lookupSRV                  func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// runEtcdctl is the command line of etcdctl for version 2 of the interface, as the binary takes it when it is started
// under that name.
func runEtcdctl(args []string, in io.Reader, out, errw io.Writer) int {
	if v := os.Getenv("ETCDCTL_API"); v != "" && v != "2" {
		fmt.Fprintf(errw, "ETCDCTL_API is %q: only version 2 of the interface is offered; set it to 2 or leave it out\n", v)
		return exitUsage
	}
	root := newEtcdctlRoot()
	root.SetArgs(normalize(root, args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	// No signal is caught here: only watches have something better to do than to end.
	return report(root.ExecuteContext(context.Background()), errw)
}

func newEtcdctlRoot() *cobra.Command {
	var version bool
	e := &etcdctl{lookupSRV: net.DefaultResolver.LookupSRV}
	v := &etcdVerbs{connect: e.connect, failed: func(err error) error { return &exitError{exitServer, err} }}
	root := &cobra.Command{
		Use:   "etcdctl",
		Short: "Muster, in the words of etcdctl",
		Long: `This is Muster, started under the name etcdctl: it takes the command line of etcdctl for version 2 of
the interface, with its flags, its ETCDCTL_ variables, its output and its exit codes.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if version {
				fmt.Fprintf(cmd.OutOrStdout(), "etcdctl version: %s\nAPI version: 2\n", etcdctlRelease)
				return nil
			}
			if len(args) == 0 || args[0] == "" {
				return cmd.Help()
			}
			return unknownTopic(cmd, args[0])
		},
	}
	// A flag of our own, because a version in a template of cobra's would bring the whole of text/template's execution.
	root.Flags().BoolVarP(&version, "version", "v", false, "print the version")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
			return unknownTopic(cmd, args[0]) // its flags are unknown because it is
		}
		err = flagWords(err)
		fmt.Fprintf(cmd.OutOrStdout(), "Incorrect Usage: %v\n\n", err)
		_ = cmd.Help()
		return plainly("%v", err)
	})
	e.bind(root.PersistentFlags())
	v.bindOutput(root)
	root.AddCommand(v.keyCommands()...)
	root.AddCommand(v.member(), v.clusterHealth())
	root.AddCommand(v.authCommands()...)
	if backup := subcommand(newRoot(), "backup"); backup != nil {
		_ = backup.MarkFlagRequired("data-dir") // no agent is asked under this name
		root.AddCommand(backup)                 // it takes etcdctl's flags under both names
	}
	root.SetHelpCommand(helpCommand())
	return root
}

func (e *etcdctl) bind(f *pflag.FlagSet) {
	f.StringVar(&e.endpoints, "endpoints", "", "comma-separated URLs of the servers; also ETCDCTL_ENDPOINTS; "+defaultEndpoints+" if not given")
	f.StringVar(&e.endpoint, "endpoint", "", "old name of --endpoints; also ETCDCTL_ENDPOINT")
	f.StringVarP(&e.peers, "peers", "C", "", "older name of --endpoints; also ETCDCTL_PEERS")
	f.BoolVar(&e.noSync, "no-sync", false, "use the endpoints as given, instead of those that the cluster publishes")
	f.BoolVar(&e.debug, "debug", false, "print a curl command for every request")
	f.DurationVar(&e.timeout, "timeout", 2*time.Second, "how long one request may take; watches have no limit")
	f.DurationVar(&e.total, "total-timeout", 5*time.Second, "how long the command may take; watches have no limit")
	f.StringVar(&e.certFile, "cert-file", "", "PEM file of the client certificate; also ETCDCTL_CERT_FILE")
	f.StringVar(&e.keyFile, "key-file", "", "PEM file of the client key; also ETCDCTL_KEY_FILE")
	f.StringVar(&e.caFile, "ca-file", "", "PEM file of the authority that signed the servers' certificates; also ETCDCTL_CA_FILE")
	f.StringVarP(&e.username, "username", "u", "", "user:password; asks for a password that is missing; also ETCDCTL_USERNAME")
	f.StringVarP(&e.srv, "discovery-srv", "D", "", "domain whose SRV records name the servers; also ETCDCTL_DISCOVERY_SRV")
	f.BoolVar(&e.insecure, "insecure-discovery", false, "accept servers without TLS from SRV records; also ETCDCTL_INSECURE_DISCOVERY")
}

// unknownTopic is the answer to a command that does not exist.
func unknownTopic(cmd *cobra.Command, name string) error {
	if cmd.Root().Name() == "etcdctl" {
		return &exitError{exitUnknown, plainError(fmt.Sprintf("No help topic for '%s'", name))}
	}
	return &exitError{exitUnknown, fmt.Errorf("unknown command %q; %s -h lists the commands", name, cmd.CommandPath())}
}

// flagWords says what is wrong with a flag in the words of etcdctl.
func flagWords(err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		return fmt.Errorf("flag provided but not defined: -%s", e.GetSpecifiedName())
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("flag needs an argument: -%s", e.GetSpecifiedName())
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		words, why := "invalid value %q for flag -%s: %s", "parse error"
		if e.GetFlag().Value.Type() == "bool" {
			words = "invalid boolean value %q for -%s: %s"
		}
		if errors.Is(err, strconv.ErrRange) {
			why = "value out of range"
		}
		return fmt.Errorf(words, e.GetValue(), e.GetFlag().Name, why)
	}
	return err
}

func helpCommand() *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND...]", Aliases: []string{"h"}, Short: "Explain a command", RunE: func(cmd *cobra.Command, args []string) error {
		at := cmd.Root()
		for _, name := range args {
			sub := subcommand(at, name)
			if sub == nil {
				return unknownTopic(cmd, name)
			}
			at = sub
		}
		return at.Help()
	}}
}

// connect makes the client, in the order of etcdctl: addresses, TLS files, user, then the cluster's own endpoints.
func (e *etcdctl) connect(cmd *cobra.Command, sync bool) (*etcdClient, error) {
	list, err := e.addresses(cmd)
	if err != nil {
		return nil, err
	}
	if err := checkEndpoints(list); err != nil {
		return nil, err
	}
	cfg, err := e.tls()
	if err != nil {
		return nil, err
	}
	c := &etcdClient{endpoints: list, rt: etcdTransport(cfg), timeout: e.timeout, total: max(e.total, 1)} // no time at all is not "without a limit"
	if c.user, err = e.credentials(cmd); err != nil {
		return nil, err
	}
	errw := cmd.ErrOrStderr()
	if e.debug {
		c.trace = errw
	}
	if sync && !e.noSync {
		if err := e.sync(cmd, c); err != nil {
			return nil, err
		}
	} else {
		c.shuffle()
	}
	if e.debug {
		fmt.Fprintf(errw, "Cluster-Endpoints: %s\n", strings.Join(c.endpoints, ", "))
	}
	return c, nil
}

// sync asks for the published endpoints. An answer that makes no sense is no reason to stop: the command itself will tell.
func (e *etcdctl) sync(cmd *cobra.Command, c *etcdClient) error {
	errw := cmd.ErrOrStderr()
	given := strings.Join(c.endpoints, ",")
	c.shuffle()
	if e.debug {
		fmt.Fprintf(errw, "start to sync cluster using endpoints(%s)\n", given)
	}
	switch err := c.sync(cmd.Context()); {
	case errors.Is(err, errNoEndpoints):
		fmt.Fprintf(errw, "etcd cluster has no published client endpoints.\nTry '--no-sync' if you want to access non-published client endpoints(%s).\n", given)
		return &exitError{exitServer, err}
	case err != nil && noConnection(err):
		return &exitError{exitNoAgent, err}
	}
	if e.debug {
		fmt.Fprintf(errw, "got endpoints(%s) after sync\n", strings.Join(c.endpoints, ","))
	}
	return nil
}

// addresses are the URLs to ask, by flag, variable or SRV record.
func (e *etcdctl) addresses(cmd *cobra.Command) ([]string, error) {
	if domain := cmp.Or(e.srv, os.Getenv("ETCDCTL_DISCOVERY_SRV")); domain != "" {
		return e.discover(cmd, domain)
	}
	return strings.Split(cmp.Or(e.endpoints, os.Getenv("ETCDCTL_ENDPOINTS"), e.endpoint, os.Getenv("ETCDCTL_ENDPOINT"),
		e.peers, os.Getenv("ETCDCTL_PEERS"), defaultEndpoints), ","), nil
}

// discover reads the SRV records of a domain.
func (e *etcdctl) discover(cmd *cobra.Command, domain string) ([]string, error) {
	insecure, _ := strconv.ParseBool(os.Getenv("ETCDCTL_INSECURE_DISCOVERY"))
	insecure = insecure || e.insecure
	var list []string
	var failed []error
	for _, s := range []struct{ service, scheme string }{{"etcd-client-ssl", "https"}, {"etcd-client", "http"}} {
		_, records, err := e.lookupSRV(cmd.Context(), s.service, "tcp", domain)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		for _, r := range records {
			at := s.scheme + "://" + net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			if s.scheme == "http" && !insecure {
				fmt.Fprintf(cmd.ErrOrStderr(), "ignoring discovered insecure endpoint %q\n", at)
				continue
			}
			list = append(list, at)
		}
	}
	if len(list) == 0 {
		switch len(failed) {
		case 0:
			return nil, plainly("%v", errNoEndpoints)
		case 1:
			return nil, plainly("%v", failed[0])
		}
		return nil, plainly("dns lookup errors: %v and %v", failed[0], failed[1])
	}
	return list, nil
}

func (e *etcdctl) tls() (*tls.Config, error) {
	cert, key := cmp.Or(e.certFile, os.Getenv("ETCDCTL_CERT_FILE")), cmp.Or(e.keyFile, os.Getenv("ETCDCTL_KEY_FILE"))
	ca := cmp.Or(e.caFile, os.Getenv("ETCDCTL_CA_FILE"))
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if (cert == "") != (key == "") {
		return nil, plainly("KeyFile and CertFile must both be present[key: %s, cert: %s]", key, cert)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, plainly("%v", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, plainly("%v", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, plainly("%s: holds no PEM certificate", ca)
		}
	}
	return cfg, nil
}

// credentials are those of -u, with a password from the terminal where it is missing.
func (e *etcdctl) credentials(cmd *cobra.Command) (*url.Userinfo, error) {
	text := cmp.Or(e.username, os.Getenv("ETCDCTL_USERNAME"))
	if text == "" {
		return nil, nil
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok {
		var err error
		if password, err = readPassword(cmd, "Password: "); err != nil {
			return nil, err
		}
	}
	return url.UserPassword(user, password), nil
}

// readPassword asks for a password: on a terminal without showing it, elsewhere as a line of standard input.
func readPassword(cmd *cobra.Command, prompt string) (string, error) {
	fmt.Fprint(cmd.OutOrStdout(), prompt)
	defer fmt.Fprintln(cmd.OutOrStdout())
	if f, ok := cmd.InOrStdin().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		return string(b), err
	}
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
