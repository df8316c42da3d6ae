// Package policy holds no code of the product. Its tests are the rules of the house, each with its reason:
// who may import whom, how long a file may be, what every package must say about itself, and that the
// commands of the README are real. To see them all:
//
//	go test -v ./internal/policy
package policy
