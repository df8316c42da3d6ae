// Package version says which Muster this is. Every part that shows or exchanges a version takes it from here:
//
//	fmt.Println(version.Version, version.Revision())
package version

import "runtime/debug"

// Version of this release, semantic versioning, without a leading v.
const Version = "0.1.0"

// Consul is the release of Consul whose interfaces the flat dialect follows. Clients decide by it what they may ask
// for, so it is what they are told where they look for Consul's version.
const Consul = "1.21.4"

// Revision is the commit the binary was built from, as the Go tool chain recorded it; empty when unknown. A
// trailing "+" says that the work tree had changes.
func Revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var rev, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+"
		}
	}
	if rev == "" {
		return ""
	}
	return rev + dirty
}
