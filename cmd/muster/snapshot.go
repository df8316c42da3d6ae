package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/archive"
)

// snapshotCommand saves, restores and looks into copies of everything the servers hold.
func snapshotCommand(c *client) *cobra.Command {
	return group(c, "snapshot", "Save and restore everything the servers hold", snapshotSave(c), snapshotRestore(c), snapshotInspect())
}

func snapshotSave(c *client) *cobra.Command {
	var parts string
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Save a snapshot to a file", Args: cobra.ExactArgs(1),
		Long: `Save everything the servers hold to a file, and verify what was written before it gets its name. With -stale any
server may answer, also when there is no leader. The file holds all keys and, where they are used, tokens: keep it safe.`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := snapshotName(cmd, c, args[0], parts)
		if err != nil {
			return err
		}
		st, err := saveSnapshot(cmd, c, name)
		if err != nil {
			return doing(err, "saving snapshot")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "Saved and verified snapshot to index %d\n", st.Index)
		return nil
	}
	cmd.Flags().StringVar(&parts, "append-filename", "", "put these into the name of the file: version, dc, node, status, separated by commas")
	return cmd
}

// snapshotName puts facts about the agent before the extension of the file.
func snapshotName(cmd *cobra.Command, c *client, name, parts string) (string, error) {
	if parts == "" {
		return name, nil
	}
	var self struct {
		Config struct{ Datacenter, NodeName, Version string }
		Stats  struct{ Consul map[string]string }
	}
	if err := c.get(cmd.Context(), "/v1/agent/self", nil, &self); err != nil {
		return "", doing(err, "querying the agent")
	}
	ext := filepath.Ext(name)
	name = strings.TrimSuffix(name, ext)
	for _, part := range strings.Split(parts, ",") {
		switch strings.TrimSpace(part) {
		case "version":
			name += "-" + self.Config.Version
		case "dc":
			name += "-" + self.Config.Datacenter
		case "node":
			name += "-" + self.Config.NodeName
		case "status":
			status := "follower"
			if self.Stats.Consul["leader"] == "true" {
				status = "leader"
			}
			name += "-" + status
		default:
			return "", fmt.Errorf("-append-filename %q: want version, dc, node or status", part)
		}
	}
	return name + ext, nil
}

// snapshotFile is the file that a name leads to. What is there may be replaced if it is a file: a device would be gone
// for everybody.
func snapshotFile(name string) (string, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file that a snapshot could replace", name)
	}
	return filepath.EvalSymlinks(name)
}

// saveSnapshot writes to a file beside the final one, which takes the name only when it is whole and on disk.
func saveSnapshot(cmd *cobra.Command, c *client, name string) (st archive.Meta, err error) {
	if name, err = snapshotFile(name); err != nil {
		return st, err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".unverified.tmp*")
	if err != nil {
		return st, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	resp, err := c.stream(cmd.Context(), http.MethodGet, "/v1/snapshot", nil, nil, nil)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return st, err
		}
		return st, c.refused(http.MethodGet, "/v1/snapshot", resp.StatusCode, body)
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		return st, &exitError{exitNoAgent, fmt.Errorf("the snapshot was cut: %w", err)}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return st, err
	}
	if st, err = archive.Read(f, io.Discard); err != nil {
		return st, fmt.Errorf("verifying it: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return st, err
	}
	return st, os.Rename(f.Name(), name)
}

func snapshotRestore(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Replace everything the servers hold by a snapshot", Args: cobra.ExactArgs(1),
		Long: "Replace everything the servers hold by what is in the file. A damaged file is noticed before anything is sent.",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := archive.Read(f, io.Discard); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			resp, err := c.stream(cmd.Context(), http.MethodPut, "/v1/snapshot", nil, nil, f)
			if err != nil {
				return doing(err, "restoring snapshot")
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
			if err != nil {
				return doing(err, "restoring snapshot")
			}
			if resp.StatusCode/100 != 2 {
				return doing(c.refused(http.MethodPut, "/v1/snapshot", resp.StatusCode, body), "restoring snapshot")
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Restored snapshot")
			return nil
		},
	}
}

func snapshotInspect() *cobra.Command {
	var layout, filter string
	var kvDetails bool
	var depth int
	cmd := &cobra.Command{
		Use: "inspect FILE", Short: "Show what is in a snapshot file", Args: cobra.ExactArgs(1),
		Long: "Show what is in a snapshot file, without an agent. A damaged file is an error.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if layout != "pretty" && layout != "json" {
			return fmt.Errorf("-format %q: want pretty or json", layout)
		}
		if depth < 1 {
			return fmt.Errorf("-kvdepth %d: want 1 or more", depth)
		}
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		count := &agent.SnapshotCount{}
		if kvDetails {
			count.KeyDepth, count.KeyPrefix = depth, filter
		}
		st, err := readSnapshot(f, count)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if layout == "json" {
			return format("json").print(cmd.OutOrStdout(), inspected(st, count), nil, nil)
		}
		return printInspected(cmd.OutOrStdout(), st, count)
	}
	f := cmd.Flags()
	f.StringVar(&layout, "format", "pretty", "pretty or json")
	f.BoolVar(&kvDetails, "kvdetails", false, "break keys down by their beginnings")
	f.IntVar(&depth, "kvdepth", 2, "how many parts of a key make a beginning")
	f.StringVar(&filter, "kvfilter", "", "only keys that begin with this")
	return cmd
}

// readSnapshot checks a whole file and counts what is in its state on the way.
func readSnapshot(f io.Reader, count *agent.SnapshotCount) (archive.Meta, error) {
	r, w := io.Pipe()
	counted := make(chan error, 1)
	go func() {
		err := agent.CountSnapshot(r, count)
		// What is left over must not hold up the reader, which has the checksums to check.
		_, _ = io.Copy(io.Discard, r)
		counted <- err
	}()
	st, err := archive.Read(f, w)
	if err := errors.Join(err, w.CloseWithError(err)); err != nil {
		<-counted
		return st, err
	}
	return st, <-counted
}

// inspected is the JSON form.
func inspected(st archive.Meta, count *agent.SnapshotCount) any {
	type sum struct {
		Name       string
		Sum, Count int64
	}
	list := func(m map[string]agent.SnapshotSum) (out []sum, total int64) {
		for _, name := range sortedKeys(m) {
			out = append(out, sum{name, m[name].Bytes, m[name].Count})
			total += m[name].Bytes
		}
		return out, total
	}
	stats, total := list(count.Types)
	keys, totalKeys := list(count.Keys)
	return map[string]any{
		"Meta":  map[string]any{"ID": st.ID, "Size": st.Size, "Index": st.Index, "Term": st.Term, "Version": st.Version},
		"Stats": stats, "StatsKV": keys, "TotalSize": total, "TotalSizeKV": totalKeys,
	}
}

func printInspected(w io.Writer, st archive.Meta, count *agent.SnapshotCount) error {
	tw := tabwriter.NewWriter(w, 8, 8, 6, ' ', 0)
	fmt.Fprintf(tw, " ID\t%s\n Size\t%d\n Index\t%d\n Term\t%d\n Version\t%d\n\n", st.ID, st.Size, st.Index, st.Term, st.Version)
	if err := tw.Flush(); err != nil {
		return err
	}
	if err := printSums(w, "Type", count.Types); err != nil || count.Keys == nil {
		return err
	}
	fmt.Fprintln(w)
	return printSums(w, "Key Name", count.Keys)
}

func printSums(w io.Writer, what string, m map[string]agent.SnapshotSum) error {
	if m == nil {
		fmt.Fprintln(w, " The state is in an encoding that only its writer can read.")
		return nil
	}
	tw := tabwriter.NewWriter(w, 8, 8, 6, ' ', 0)
	fmt.Fprintf(tw, " %s\tCount\tSize\n ----\t----\t----\n", what)
	var total int64
	for _, name := range sortedKeys(m) {
		fmt.Fprintf(tw, " %s\t%d\t%s\n", name, m[name].Count, byteSize(m[name].Bytes))
		total += m[name].Bytes
	}
	fmt.Fprintf(tw, " ----\t----\t----\n Total\t\t%s\n", byteSize(total))
	return tw.Flush()
}

// byteSize writes a number of bytes as people read it: 80.2KB.
func byteSize(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	v, unit := float64(n), 0
	for v >= 1024 && unit < 4 {
		v /= 1024
		unit++
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + []string{"B", "KB", "MB", "GB", "TB"}[unit]
}
