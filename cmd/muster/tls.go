package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/pki"
)

// tlsCommand makes the certificates of a cluster, as files in the working directory.
func tlsCommand(c *client) *cobra.Command {
	return group(c, "tls", "Make the certificates of a cluster",
		group(c, "ca", "The authority that signs all others", caCreate()),
		group(c, "cert", "Certificates for agents and commands", certCreate()))
}

// caCreate is tls ca create.
func caCreate() *cobra.Command {
	a := pki.Authority{}
	var domain, clusterID string
	var constrain bool
	var more []string
	cmd := &cobra.Command{
		Use: "create", Short: "Make an authority: its certificate, for every machine, and its key, for none of them", Args: cobra.NoArgs,
		Long: "Make an authority. Two files are written: DOMAIN-agent-ca.pem goes to every machine, DOMAIN-agent-ca-key.pem signs\ncertificates and is kept where nobody reads it.",
	}
	f := cmd.Flags()
	f.IntVar(&a.Days, "days", 1825, "days of validity")
	f.StringVar(&domain, "domain", "consul", "domain of the cluster")
	f.StringVar(&a.Name, "common-name", "", "name of the authority")
	f.BoolVar(&constrain, "name-constraint", false, "let it sign for the domain and localhost only")
	f.StringSliceVar(&more, "additional-name-constraint", nil, "with -name-constraint, sign for this domain too; may be repeated")
	f.StringVar(&clusterID, "cluster-id", "", "accepted, for an id in the mesh: there is none")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case a.Days < 1:
			return errors.New("-days must be positive")
		case len(more) > 0 && !constrain:
			return errors.New("-additional-name-constraint needs -name-constraint")
		}
		if a.Name == "" {
			a.Name = "Muster Agent CA"
		}
		if constrain {
			a.Domains = append([]string{domain, "localhost"}, more...)
		}
		p, err := pki.NewAuthority(a)
		if err != nil {
			return err
		}
		return savePair(cmd.OutOrStdout(), domain+"-agent-ca", p)
	}
	return cmd
}

// certCreate is tls cert create.
func certCreate() *cobra.Command {
	var s certSpec
	cmd := &cobra.Command{
		Use: "create -server|-client|-cli", Short: "Make a certificate for a server, for another agent, or for commands", Args: cobra.NoArgs,
		Long: "Make a key and a certificate, signed by the authority whose files are in the working directory (or -ca and -key).\n" +
			"Names of servers say so (server.DC.DOMAIN): keep their keys on servers. Files are numbered and never replaced.",
	}
	f := cmd.Flags()
	f.BoolVar(&s.server, "server", false, "for a server")
	f.BoolVar(&s.client, "client", false, "for an agent that is no server")
	f.BoolVar(&s.cli, "cli", false, "for commands")
	f.StringVar(&s.dc, "dc", "dc1", "datacenter")
	f.StringVar(&s.domain, "domain", "consul", "domain of the cluster")
	f.StringVar(&s.ca, "ca", "", "certificate of the authority (default DOMAIN-agent-ca.pem)")
	f.StringVar(&s.key, "key", "", "key of the authority (default DOMAIN-agent-ca-key.pem)")
	f.IntVar(&s.days, "days", 365, "days of validity")
	f.StringVar(&s.node, "node", "", "with -server, the name of the node, which becomes a name of the certificate")
	f.StringSliceVar(&s.names, "additional-dnsname", nil, "another name; may be repeated")
	f.StringSliceVar(&s.ips, "additional-ipaddress", nil, "an IP address; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return s.create(cmd.OutOrStdout()) }
	return cmd
}

type certSpec struct {
	server, client, cli       bool
	dc, domain, ca, key, node string
	days                      int
	names, ips                []string
}

// role is what the certificate is for.
func (s *certSpec) role() (string, error) {
	var roles []string
	for _, r := range []struct {
		name string
		on   bool
	}{{"server", s.server}, {"client", s.client}, {"cli", s.cli}} {
		if r.on {
			roles = append(roles, r.name)
		}
	}
	switch {
	case len(roles) != 1:
		return "", errors.New("one of -server, -client and -cli is needed")
	case s.node != "" && !s.server:
		return "", errors.New("-node goes with -server only")
	case s.days < 1:
		return "", errors.New("-days must be positive")
	}
	return roles[0], nil
}

func (s *certSpec) certificate(role string) (pki.Certificate, error) {
	c := pki.Certificate{Name: role + "." + s.dc + "." + s.domain, Days: s.days, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if role == "cli" {
		c.Usage, c.IPs = pki.ClientOnly, nil
	}
	c.Names = append(c.Names, s.names...)
	if s.node != "" {
		c.Names = append(c.Names, s.node+"."+c.Name)
	}
	if c.Names = append(c.Names, c.Name); role != "cli" {
		c.Names = append(c.Names, "localhost")
	}
	for _, text := range s.ips {
		ip := net.ParseIP(text)
		if ip == nil {
			return c, fmt.Errorf("-additional-ipaddress %q is no IP address", text)
		}
		c.IPs = append(c.IPs, ip)
	}
	return c, nil
}

func (s *certSpec) create(out io.Writer) error {
	role, err := s.role()
	if err != nil {
		return err
	}
	want, err := s.certificate(role)
	if err != nil {
		return err
	}
	if s.ca == "" {
		s.ca = s.domain + "-agent-ca.pem"
	}
	if s.key == "" {
		s.key = s.domain + "-agent-ca-key.pem"
	}
	var p pki.Pair
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{s.ca, &p.Cert}, {s.key, &p.Key}} {
		if *f.to, err = os.ReadFile(f.name); err != nil {
			return fmt.Errorf("reading the authority (muster tls ca create makes one): %w", err)
		}
	}
	signer, err := pki.NewSigner(p)
	if err != nil {
		return fmt.Errorf("authority %s with key %s: %w", s.ca, s.key, err)
	}
	made, err := signer.Sign(want)
	if err != nil {
		return fmt.Errorf("signing for %s: %w", strings.Join(want.Names, ", "), err)
	}
	if role == "server" {
		fmt.Fprint(out, "==> WARNING: whoever holds this key can pose as a server and read and change\n    everything. Put it on servers only, readable by nobody but the agent.\n")
	}
	fmt.Fprintf(out, "==> Using %s and %s\n", s.ca, s.key)
	for n := 0; ; n++ {
		err := savePair(out, fmt.Sprintf("%s-%s-%s-%d", s.dc, role, s.domain, n), made)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// savePair writes NAME.pem and NAME-key.pem. A file that exists is left alone, and so is its partner.
func savePair(out io.Writer, name string, p pki.Pair) error {
	if name != strings.ReplaceAll(name, string(os.PathSeparator), "") {
		return fmt.Errorf("%q cannot be part of a file's name", name)
	}
	cert, key := name+".pem", name+"-key.pem"
	if err := saveNew(key, p.Key, 0o600); err != nil {
		return err
	}
	if err := saveNew(cert, p.Cert, 0o644); err != nil {
		return errors.Join(err, os.Remove(key))
	}
	fmt.Fprintf(out, "==> Saved %s\n==> Saved %s\n", cert, key)
	return nil
}

func saveNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
