// Package whole replays the recorded exchanges of both dialects against whole agents, a server and a proxy: all
// layers, real sockets. The tests of api/etcd and api/consul replay them against the translators alone and are
// quicker to find out why.
//
//	go test ./test/conformance/whole
package whole
