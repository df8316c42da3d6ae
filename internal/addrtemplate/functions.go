package addrtemplate

import (
	"fmt"

	"github.com/hashicorp/go-sockaddr"
)

// function takes its arguments as they stand in the template, the piped one last.
type function func(args []any) (any, error)

var functions = map[string]function{
	"GetAllInterfaces":     none(sockaddr.GetAllInterfaces),
	"GetDefaultInterfaces": none(sockaddr.GetDefaultInterfaces),
	"GetPrivateInterfaces": none(sockaddr.GetPrivateInterfaces),
	"GetPublicInterfaces":  none(sockaddr.GetPublicInterfaces),
	"GetPrivateIP":         none(sockaddr.GetPrivateIP),
	"GetPrivateIPs":        none(sockaddr.GetPrivateIPs),
	"GetPublicIP":          none(sockaddr.GetPublicIP),
	"GetPublicIPs":         none(sockaddr.GetPublicIPs),
	"GetInterfaceIP":       one(sockaddr.GetInterfaceIP),
	"GetInterfaceIPs":      one(sockaddr.GetInterfaceIPs),
	"sort":                 two(sockaddr.SortIfBy),
	"unique":               two(sockaddr.UniqueIfAddrsBy),
	"attr":                 two(sockaddr.IfAttrs),
	"limit":                two(limit),
	"offset":               two(sockaddr.OffsetIfAddrs),
	"include":              three(sockaddr.IncludeIfs),
	"exclude":              three(sockaddr.ExcludeIfs),
	"join":                 three(sockaddr.JoinIfAddrs),
	"math":                 three(sockaddr.IfAddrsMath),
}

func limit(n int, in sockaddr.IfAddrs) (sockaddr.IfAddrs, error) {
	if n < 0 {
		return nil, fmt.Errorf("expected a number from 0, got %d", n)
	}
	return sockaddr.LimitIfAddrs(uint(n), in)
}

func none[R any](f func() (R, error)) function {
	return func(args []any) (any, error) {
		if err := count(args, 0); err != nil {
			return nil, err
		}
		return f()
	}
}

func one[A, R any](f func(A) (R, error)) function {
	return func(args []any) (any, error) {
		if err := count(args, 1); err != nil {
			return nil, err
		}
		a, err := arg[A](args, 0)
		if err != nil {
			return nil, err
		}
		return f(a)
	}
}

func two[A, B, R any](f func(A, B) (R, error)) function {
	return func(args []any) (any, error) {
		if err := count(args, 2); err != nil {
			return nil, err
		}
		a, err := arg[A](args, 0)
		if err != nil {
			return nil, err
		}
		return one(func(b B) (R, error) { return f(a, b) })(args[1:])
	}
}

func three[A, B, C, R any](f func(A, B, C) (R, error)) function {
	return func(args []any) (any, error) {
		if err := count(args, 3); err != nil {
			return nil, err
		}
		a, err := arg[A](args, 0)
		if err != nil {
			return nil, err
		}
		return two(func(b B, c C) (R, error) { return f(a, b, c) })(args[1:])
	}
}

func count(args []any, want int) error {
	if len(args) != want {
		return fmt.Errorf("expected %d arguments with the piped one, got %d", want, len(args))
	}
	return nil
}

func arg[T any](args []any, i int) (T, error) {
	v, ok := args[i].(T)
	if !ok {
		return v, fmt.Errorf("expected %s, got %v", kind(v), args[i])
	}
	return v, nil
}

// kind names a type in the words of a template.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a text"
	case int:
		return "a whole number"
	}
	return "addresses"
}
