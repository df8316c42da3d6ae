package doctor

import (
	"fmt"
	"slices"
	"time"
)

// Thresholds of a machine.
const (
	clockWarn = 100 * time.Millisecond
	clockFail = time.Second

	syncWarn = 20 * time.Millisecond
	syncFail = 100 * time.Millisecond

	gib        = 1 << 30
	spaceWarn  = gib       // bytes free, or 10 %
	spaceFail  = 100 << 20 // or 1 %
	filesWarn  = 4096
	certWarn   = 30 * 24 * time.Hour
	certFail   = 7 * 24 * time.Hour
	keyAllowed = 0o007 // what others may not do with a key
)

// Clock judges by how much a server's clock is ahead of ours, known to half the round trip.
func Clock(server string, ahead, roundTrip time.Duration) Finding {
	f := Finding{Time, server, OK, "", ""}
	off, word := ahead, "ahead"
	if ahead < 0 {
		off, word = -ahead, "behind"
	}
	f.Text = fmt.Sprintf("%s %s (within %s)", ms(off), word, ms(roundTrip/2))
	// What the round trip may hide is no reason for alarm.
	switch sure := off - roundTrip/2; {
	case sure > clockFail:
		f.Status = Fail
	case sure > clockWarn:
		f.Status = Warn
	default:
		return f
	}
	f.Advice = "synchronise the clocks (NTP, chrony): times to live after an election, the validity of certificates and the times in logs go by them"
	return f
}

// Sync judges how long writes to the data directory took until they were on the disk.
func Sync(dir string, took []time.Duration) Finding {
	if len(took) == 0 {
		return Finding{}
	}
	took = slices.Clone(took)
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)-1]
	f := Finding{Disk, "fsync in " + dir, OK, fmt.Sprintf("median %s, longest %s of %d", ms(median), ms(most), len(took)), ""}
	switch {
	case median > syncFail:
		f.Status = Fail
	case median > syncWarn, most > syncFail:
		f.Status = Warn
	default:
		return f
	}
	f.Advice = "every write waits for this: give the data directory a disk of its own, or a faster one (SSD), and look who else writes there (iostat)"
	return f
}

// Space judges the room on the disk of the data directory, in bytes.
func Space(dir string, free, total uint64) Finding {
	if total == 0 {
		return Finding{}
	}
	share := float64(free) / float64(total)
	f := Finding{Disk, "space in " + dir, OK, fmt.Sprintf("%s free of %s (%.0f %%)", size(free), size(total), 100*share), ""}
	switch {
	case free < spaceFail || share < 0.01:
		f.Status = Fail
	case free < spaceWarn || share < 0.10:
		f.Status = Warn
	default:
		return f
	}
	f.Advice = "make room: a server whose disk is full takes no writes"
	return f
}

func size(n uint64) string {
	if n >= gib {
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}

// Stalls judges what the watch on the log's disk has seen since the start.
func Stalls(stalled bool, stalls, gaveUp uint64) Finding {
	f := Finding{Disk, "stalls", OK, "none since the start", ""}
	switch {
	case stalled:
		f.Status, f.Text = Fail, "an append to the log does not come back"
	case stalls > 0:
		f.Status, f.Text = Warn, fmt.Sprintf("%d since the start, leadership given up %d times for it", stalls, gaveUp)
	default:
		return f
	}
	f.Advice = "look at the disk of the data directory and at the kernel's log (dmesg)"
	return f
}

// Certificate is one certificate in a file of the configuration.
type Certificate struct {
	Stanza, File, Subject string
	From, Until           time.Time // a zero From is unknown
}

// Cert judges how long a certificate is good.
func Cert(c Certificate, now time.Time) Finding {
	left := c.Until.Sub(now)
	days := int(left.Hours() / 24)
	f := Finding{Certificates, c.Stanza + " " + c.File, OK, fmt.Sprintf("%s: %s left, until %s", c.Subject, plural(days, "day"), c.Until.UTC().Format(time.DateOnly)), ""}
	switch {
	case now.Before(c.From):
		f.Status, f.Text = Fail, fmt.Sprintf("%s: not valid before %s", c.Subject, c.From.UTC().Format(time.RFC3339))
		f.Advice = "look at the clock of this machine, and of the one that made the certificate"
		return f
	case left <= 0:
		f.Status, f.Text = Fail, fmt.Sprintf("%s: expired on %s", c.Subject, c.Until.UTC().Format(time.RFC3339))
	case left < certFail:
		f.Status = Fail
	case left < certWarn:
		f.Status = Warn
	default:
		return f
	}
	f.Advice = "make a new one (`muster tls cert create`) and replace the file: the agent takes it over without a restart"
	return f
}

// Key judges who may read a private key by the mode of its file.
func Key(stanza, file string, mode uint32) Finding {
	if mode&keyAllowed == 0 {
		return Finding{}
	}
	return Finding{Certificates, stanza + " " + file, Warn, fmt.Sprintf("everybody on this machine has access to the private key (mode %04o)", mode&0o777), "chmod 600 " + file}
}

// Files judges the limit of open files; 0 is unknown.
func Files(limit uint64) Finding {
	f := Finding{Agent, "open files", OK, fmt.Sprintf("%d allowed", limit), ""}
	switch {
	case limit == 0:
		return Finding{}
	case limit < filesWarn:
		f.Status, f.Advice = Warn, "every client and every blocking query takes one: raise the limit (LimitNOFILE= in the unit, ulimit -n)"
	}
	return f
}
