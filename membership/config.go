package membership

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Defaults of a Config.
const (
	DefaultReconnectTimeout = 72 * time.Hour // a failed member is forgotten after this
	DefaultReapTimeout      = 72 * time.Hour // a member that left is forgotten after this
)

// maxNameLength of a member, in bytes.
const maxNameLength = 128

// Config of a Pool. Only Name is required.
type Config struct {
	Name          string            // unique in the cluster; at most 128 bytes, no "/" and no control characters
	Bind          string            // IP to listen on, "" = all
	Port          int               // TCP and UDP, 0 = any free one
	Advertise     string            // IP told to others, "" = Bind, or a private address of this machine when Bind is "all"
	AdvertisePort int               // 0 = the port listened on; needs Advertise
	Tags          map[string]string // see the Tag constants; at most 512 bytes encoded
	Dir           string            // holds the rejoin snapshot and the keyring, created with mode 0700; "" = keep both in memory
	EncryptKey    string            // base64 of 16, 24 or 32 bytes, "" = no encryption; a keyring already in Dir wins over it
	// AcceptPlain takes gossip that is not encrypted although there is a key, SendPlain does not encrypt: for the time in
	// which a cluster begins with encryption.
	AcceptPlain, SendPlain bool

	NoKeyringFile bool           // keep the keys in memory only, and start with EncryptKey
	Allowed       []netip.Prefix // networks whose addresses are taken as members; none = all. What they may read is up to EncryptKey

	Dev    bool   // timing for one machine: failures are seen within about a second
	Tuning Tuning // overrides single values of the timing
	// RejoinAfterLeave keeps the snapshot's addresses after Leave, so that the next Open joins again by itself.
	RejoinAfterLeave bool
	NoCoordinates    bool             // do not estimate where members stand in the network, see Coordinate
	ReconnectTimeout time.Duration    // 0 = DefaultReconnectTimeout
	ReapTimeout      time.Duration    // 0 = DefaultReapTimeout
	Logger           hclog.Logger     // nil = silent
	Metrics          *metrics.Metrics // nil = none
}

// Tuning of the failure detector and of gossip; see memberlist's Config for the meaning. Zero values keep the
// preset.
type Tuning struct {
	GossipInterval, ProbeInterval, ProbeTimeout time.Duration
	GossipNodes, SuspicionMult, RetransmitMult  int
}

func (t Tuning) apply(c *memberlist.Config) {
	override(&c.GossipInterval, t.GossipInterval)
	override(&c.ProbeInterval, t.ProbeInterval)
	override(&c.ProbeTimeout, t.ProbeTimeout)
	override(&c.GossipNodes, t.GossipNodes)
	override(&c.SuspicionMult, t.SuspicionMult)
	override(&c.RetransmitMult, t.RetransmitMult)
}

func override[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

// check refuses what cannot work, before anything is opened.
func (c *Config) check() error {
	switch {
	case c.Name == "":
		return errors.New("membership: the node name is empty")
	case len(c.Name) > maxNameLength:
		return fmt.Errorf("membership: the node name has %d bytes, at most %d are allowed", len(c.Name), maxNameLength)
	case strings.ContainsRune(c.Name, '/') || strings.ContainsFunc(c.Name, unicode.IsControl):
		return fmt.Errorf("membership: the node name %q contains \"/\" or a control character", c.Name)
	case c.Bind != "" && net.ParseIP(c.Bind) == nil:
		return fmt.Errorf("membership: bind address %q is not an IP address", c.Bind)
	case c.Advertise != "" && net.ParseIP(c.Advertise) == nil:
		return fmt.Errorf("membership: advertise address %q is not an IP address", c.Advertise)
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("membership: port %d is not between 0 and 65535", c.Port)
	case c.AdvertisePort < 0 || c.AdvertisePort > 65535:
		return fmt.Errorf("membership: advertise port %d is not between 0 and 65535", c.AdvertisePort)
	case c.AdvertisePort != 0 && c.Advertise == "":
		return fmt.Errorf("membership: advertise port %d needs an advertise address", c.AdvertisePort)
	}
	return nil
}

// prepare checks the Config, fills its defaults and creates its directory.
func (c *Config) prepare() error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Bind == "" {
		c.Bind = "0.0.0.0"
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.ReconnectTimeout <= 0 {
		c.ReconnectTimeout = DefaultReconnectTimeout
	}
	if c.ReapTimeout <= 0 {
		c.ReapTimeout = DefaultReapTimeout
	}
	if c.Dir != "" {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return fmt.Errorf("membership: data directory: %w", err)
		}
	}
	return nil
}

// lanTiming is memberlist's preset for one network with every interval of the failure detector halved: a silent
// member is suspected after at most ProbeInterval times two and declared failed 2 s later (SuspicionMult ×
// ProbeInterval; times log10 of the members above ten), unless it refutes, which takes one gossip round. Lower
// values would make a busy machine look dead; the connection of Watch, not a shorter timeout, is what sees a
// killed process at once.
func lanTiming() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.ProbeInterval = 500 * time.Millisecond
	c.ProbeTimeout = 250 * time.Millisecond
	c.GossipInterval = 100 * time.Millisecond
	c.TCPTimeout = 5 * time.Second
	return c
}

// devTiming is for agents on one machine: silence is a failure after about a second.
func devTiming() *memberlist.Config {
	c := memberlist.DefaultLocalConfig()
	c.ProbeInterval = 200 * time.Millisecond
	c.ProbeTimeout = 100 * time.Millisecond
	c.GossipInterval = 20 * time.Millisecond
	c.PushPullInterval = 5 * time.Second
	c.RetransmitMult = 4 // with 2, both copies of a message may go to members that have just died
	return c
}

// serfConfig translates a prepared Config. The caller adds the transport, the delegates, the keyring and the channel.
func (c *Config) serfConfig() (*serf.Config, error) {
	// The library's default config panics without a host name.
	if _, err := os.Hostname(); err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	s := serf.DefaultConfig()
	if c.Dev {
		s.MemberlistConfig = devTiming()
		s.ReapInterval = 100 * time.Millisecond
		s.ReconnectInterval = 500 * time.Millisecond
		s.BroadcastTimeout = time.Second
		s.LeavePropagateDelay = 100 * time.Millisecond
	} else {
		s.MemberlistConfig = lanTiming()
	}
	// Key operations wait this long for a member that does not answer: gossip interval × this × log10 of the members.
	s.QueryTimeoutMult = int(4 * time.Second / s.MemberlistConfig.GossipInterval)
	c.Tuning.apply(s.MemberlistConfig)
	s.MemberlistConfig.GossipVerifyIncoming, s.MemberlistConfig.GossipVerifyOutgoing = !c.AcceptPlain, !c.SendPlain
	s.NodeName = c.Name
	s.Tags = c.Tags
	s.DisableCoordinates = c.NoCoordinates
	s.UserEventSizeLimit = MaxUserEvent
	s.MinQueueDepth = s.MaxQueueDepth // grows with the cluster from there
	s.ReconnectTimeout = c.ReconnectTimeout
	s.TombstoneTimeout = c.ReapTimeout
	s.RejoinAfterLeave = c.RejoinAfterLeave
	// The library's way to solve a name conflict is a vote that stops the loser's gossip; this package refuses and
	// reports instead, and its owner decides.
	s.EnableNameConflictResolution = false
	if c.Dir != "" {
		s.SnapshotPath = filepath.Join(c.Dir, "local.snapshot")
		if !c.NoKeyringFile {
			s.KeyringFile = c.keyringPath()
		}
	}
	std := newLibraryLog(c.Logger)
	s.Logger, s.LogOutput = std, nil

	m := s.MemberlistConfig
	m.Logger, m.LogOutput = std, nil
	for _, p := range c.Allowed {
		p = p.Masked()
		m.CIDRsAllowed = append(m.CIDRsAllowed, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	m.BindAddr, m.BindPort = c.Bind, c.Port
	m.AdvertiseAddr, m.AdvertisePort = c.Advertise, c.AdvertisePort
	// A name is free again as soon as its holder has left or failed, from whatever address it is claimed.
	m.DeadNodeReclaimTime = time.Nanosecond
	return s, nil
}
