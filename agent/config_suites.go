package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// cipherSuites reads tls_cipher_suites: names as in RFC 8446 and package crypto/tls, separated by commas. They are those of TLS
// 1.2 and only the safe ones; every name that is none of them is an error.
func cipherSuites(list string) ([]uint16, error) {
	safe, insecure, later := map[string]uint16{}, map[string]bool{}, map[string]bool{}
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			safe[s.Name] = s.ID
		} else {
			later[s.Name] = true
		}
	}
	for _, s := range tls.InsecureCipherSuites() {
		insecure[s.Name] = true
	}
	var out []uint16
	var errs []error
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		id, ok := safe[name]
		switch {
		case ok && !slices.Contains(out, id):
			out = append(out, id)
		case ok, name == "":
		case later[name]:
			errs = append(errs, fmt.Errorf("%s is a suite of TLS 1.3, which are not configurable and always on: leave it out", name))
		case insecure[name]:
			errs = append(errs, fmt.Errorf("%s is not safe and not offered: leave it out", name))
		default:
			errs = append(errs, fmt.Errorf("%q is no cipher suite, expected some of %s", name, strings.Join(sortedKeys(safe), ", ")))
		}
	}
	return out, errors.Join(errs...)
}

// http2Fit says whether one of the suites of TLS 1.2 may carry HTTP/2, which forbids those with CBC (RFC 9113, appendix A). None at
// all are those of package crypto/tls.
func http2Fit(suites []uint16) bool {
	return len(suites) == 0 || slices.ContainsFunc(suites, func(id uint16) bool { return !strings.Contains(tls.CipherSuiteName(id), "_CBC_") })
}
