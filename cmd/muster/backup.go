package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/musterhq/muster/agent"
)

// backupSpec are the flags of a backup: those of `etcdctl backup`.
type backupSpec struct {
	dataDir, backupDir   string
	walDir, backupWALDir string
	withV3               bool
}

func (b *backupSpec) bind(f *pflag.FlagSet) {
	f.StringVar(&b.dataDir, "data-dir", "", "data directory of a server, running or not")
	f.StringVar(&b.backupDir, "backup-dir", "", "data directory to make; it must not exist or be empty")
	f.StringVar(&b.walDir, "wal-dir", "", "accepted and unused: the log lies in the data directory")
	f.StringVar(&b.backupWALDir, "backup-wal-dir", "", "accepted and unused, as -wal-dir")
	f.BoolVar(&b.withV3, "with-v3", false, "accepted and unused: there is one kind of data")
}

// backupCommand makes a data directory from which a new cluster can be started; also mounted as `etcdctl backup`.
func backupCommand(c *client) *cobra.Command {
	var b backupSpec
	cmd := &cobra.Command{
		Use: "backup", Short: "Make a data directory to start a new cluster from", Args: cobra.NoArgs,
		Long: `Make a data directory from which a new cluster can be started, of the data of a server.

With -data-dir, read the data directory of a server on this machine, running or not; it takes about a second while the
server runs. Without, ask the agent at -http-addr for its state. Nothing is printed on standard output.

  muster backup -data-dir /var/lib/muster -backup-dir /srv/backup/monday
  muster agent -server -force-new-cluster -data-dir /srv/backup/monday -bind 10.0.0.1     # once, then without the flag`,
	}
	b.bind(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context(), c, cmd.ErrOrStderr()) }
	return cmd
}

// run makes the backup; progress and warnings go to errw.
func (b *backupSpec) run(ctx context.Context, c *client, errw io.Writer) error {
	if b.backupDir == "" {
		return errors.New("-backup-dir is needed: the directory to make")
	}
	for name, value := range map[string]string{"-wal-dir": b.walDir, "-backup-wal-dir": b.backupWALDir} {
		if value != "" {
			fmt.Fprintf(errw, "warning: %s %s is unused: the log lies in the data directory\n", name, value)
		}
	}
	began := time.Now()
	var info agent.BackupInfo
	var err error
	if b.dataDir != "" {
		fmt.Fprintf(errw, "reading %s\n", b.dataDir)
		info, err = agent.Backup(ctx, b.dataDir, b.backupDir, errw)
	} else {
		info, err = b.fetch(ctx, c, errw)
	}
	if err != nil {
		return err
	}
	if info.Uncommitted > 0 {
		fmt.Fprintf(errw, "the last %d log entries may not have been acknowledged to anyone; they are included\n", info.Uncommitted)
	}
	fmt.Fprintf(errw, "backup of cluster %s at index %d (log entry %d, state hash %016x): %d keys, in %v\n",
		info.ClusterID, info.Index, info.RaftIndex, info.Hash, info.Keys, time.Since(began).Round(time.Millisecond))
	fmt.Fprintf(errw, "start a new cluster from it with: muster agent -server -force-new-cluster -data-dir %s\n", b.backupDir)
	return nil
}

// fetch asks an agent for the state.
func (b *backupSpec) fetch(ctx context.Context, c *client, errw io.Writer) (agent.BackupInfo, error) {
	resp, err := c.stream(ctx, http.MethodGet, "/v1/snapshot", nil, nil, nil)
	if err != nil {
		return agent.BackupInfo{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return agent.BackupInfo{}, err
		}
		return agent.BackupInfo{}, c.refused(http.MethodGet, "/v1/snapshot", resp.StatusCode, body)
	}
	fmt.Fprintf(errw, "receiving the state from %s\n", c.base)
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		at = time.Now()
	}
	return agent.BackupArchive(&progress{r: resp.Body, w: errw, next: progressStep}, at, b.backupDir, errw)
}

const progressStep = 64 << 20

// progress tells how much has been read.
type progress struct {
	r       io.Reader
	w       io.Writer
	n, next int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if p.n += int64(n); p.n >= p.next {
		fmt.Fprintf(p.w, "received %s\n", byteSize(p.n))
		p.next += progressStep
	}
	return n, err
}
