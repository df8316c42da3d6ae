package main

import "io"

// runEtcdctl is the command line under the name etcdctl: the key commands stand at its root.
func runEtcdctl(args []string, in io.Reader, out, errw io.Writer) int {
	return run(append([]string{"kv"}, args...), in, out, errw)
}
