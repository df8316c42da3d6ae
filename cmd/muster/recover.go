package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
)

// recoverSpec are the flags of recover.
type recoverSpec struct {
	dataDirs     []string
	apply, force bool
	address      string
}

// recoverCommand is the way back when so many servers are lost that the others can elect no leader.
func recoverCommand() *cobra.Command {
	var s recoverSpec
	cmd := &cobra.Command{
		Use: "recover", Short: "Bring a cluster back that has lost its quorum", Args: cobra.NoArgs,
		Long: `Compare the data directories of servers that survived the loss of a quorum, and make a cluster of the best one.

All servers must be stopped. Without -apply nothing is changed: each directory is checked and shown, with the newest
term and log entry it holds. The best one has the highest last term, then the highest last entry: it has everything
that any of those shown was told. With the directories on several machines, run the command on each and compare the
lines; then run it with -apply on the machine of the best.

  muster recover -data-dir /mnt/s1/muster -data-dir /mnt/s2/muster
  muster recover -data-dir /mnt/s2/muster -apply

With -apply that server becomes the only member of a new cluster that has all keys, indexes, times to live and the
catalog. Start it as before; empty the data directories of the other servers and start them, so that they join it.`,
	}
	f := cmd.Flags()
	f.StringArrayVar(&s.dataDirs, "data-dir", nil, "data directory of a stopped server; may be repeated")
	f.BoolVar(&s.apply, "apply", false, "make a cluster of the best one")
	f.BoolVar(&s.force, "force", false, "apply although something speaks against it")
	f.StringVar(&s.address, "address", "", "host:port of the server port that the server will have; default the one it had")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return s.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func (s *recoverSpec) run(ctx context.Context, out, errw io.Writer) error {
	if len(s.dataDirs) == 0 {
		return errors.New("-data-dir is needed: the data directory of a stopped server")
	}
	var all []agent.Survivor
	for _, dir := range s.dataDirs {
		v, err := agent.ReadSurvivor(dir, errw)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	best, objection, err := agent.BestSurvivor(all)
	if err != nil {
		return err
	}
	if err := s.show(out, all, best, objection); err != nil || !s.apply {
		return err
	}
	if objection != nil && !s.force {
		return fmt.Errorf("nothing was changed: %w (-force does it nevertheless)", objection)
	}
	id, err := agent.RecoverSurvivor(ctx, all[best], s.address, s.force, errw)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s is a cluster of its own now, %s.\nStart its agent as before. Empty the data directories of the other servers and start them: they join it.\n", all[best].DataDir, id)
	return nil
}

func (s *recoverSpec) show(out io.Writer, all []agent.Survivor, best int, objection error) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tData directory\tNode\tCluster\tLast term\tLast entry\tCommitted\tSnapshot\tLast alive\tVoters")
	for i, v := range all {
		mark := ""
		if i == best {
			mark = "*"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%d\n", mark, v.DataDir, v.NodeID, orNone(v.ClusterID), v.LastTerm, v.LastIndex,
			numberOrNone(v.Committed), numberOrNone(v.SnapshotIndex), aliveText(v.Alive), len(v.Voters()))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	b := all[best]
	fmt.Fprintf(out, "\nThe best is %s: it ends at entry %d of term %d.\n", b.DataDir, b.LastIndex, b.LastTerm)
	if b.Committed > 0 && b.LastIndex > b.Committed {
		fmt.Fprintf(out, "Of these, the last %d were not known to be committed; they will count as committed.\n", b.LastIndex-b.Committed)
	}
	if objection != nil {
		fmt.Fprintf(out, "Against it: %v.\n", objection)
	} else {
		fmt.Fprintf(out, "Lost is what was acknowledged after that by servers not shown here: with %d of %d voting servers shown, nobody can tell how much.\n", len(all), len(b.Voters()))
		fmt.Fprintln(out, "The servers of the old cluster besides it:")
		for _, m := range b.Servers {
			if m.ID != b.NodeID {
				fmt.Fprintf(out, "  %s at %s\n", m.ID, m.Addr)
			}
		}
	}
	if !s.apply {
		fmt.Fprintln(out, "Nothing was changed; -apply makes a cluster of the best.")
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func numberOrNone(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func aliveText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
