package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/internal/version"
)

// runEtcd is the command line under the name etcd: the agent with etcd's flags, variables and defaults.
func runEtcd(args []string, _ io.Reader, out, errw io.Writer) int {
	if slices.ContainsFunc(args, func(a string) bool { return a == "-version" || a == "--version" }) {
		fmt.Fprintf(out, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n", agent.EtcdRelease, orNone(version.Revision()), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	if slices.ContainsFunc(args, func(a string) bool { return a == "-config-file" || a == "--config-file" }) || os.Getenv("ETCD_CONFIG_FILE") != "" {
		return report(errors.New("configuration files of etcd are not read: give their settings as flags or ETCD_ variables"), errw)
	}
	load := func() (agent.Config, []agent.Warning, error) { return agent.LoadEtcd(args, os.Environ(), out) }
	return report(runLoaded(load, out, errw, func(a *agent.Agent) {
		if a.AwaitLeader(context.Background()) != nil {
			return
		}
		fmt.Fprintln(errw, "ready to serve client requests")
		if err := notifyReady(os.Getenv("NOTIFY_SOCKET")); err != nil {
			fmt.Fprintf(errw, "warning: telling the service manager: %v\n", err)
		}
	}), errw)
}

// notifyReady tells a service manager that the start is over (sd_notify), if it asked to be told.
func notifyReady(socket string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}
