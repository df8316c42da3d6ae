// Package e2e holds the end-to-end suite: the real binary, real clients, real signals. Every agent gets a
// loopback address of its own, so that all of them use the default ports as separate machines would.
//
//	go test -tags e2e ./test/e2e
//
// The suite wants the programs that .ci/run installs on the PATH; a test that lacks its tool is skipped, and fails
// when CI is set.
package e2e
