// Package members tests how servers come and go, with whole agents over loopback addresses (internal/testcluster):
// announced, learning, voting, dead, replaced, leaving, removed, and what is refused so that the cluster goes on.
//
//	go test -race ./test/members
package members
