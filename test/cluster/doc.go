// Package cluster holds the tests of whole clusters inside one process: real agents with real sockets on loopback
// addresses of their own, no tool needed but go.
//
//	go test ./test/cluster
//
// What needs the binary, signals or other people's clients is in test/e2e.
package cluster
