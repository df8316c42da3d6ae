package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// format is the -format flag of commands that print lists.
type format string

func (f *format) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(f), "format", "table", "output format: table or json")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f format) check() error {
	if f != "table" && f != "json" {
		return fmt.Errorf("-format %q: want table or json", string(f))
	}
	return nil
}

// print writes v as JSON, or header (nil: none) and rows as an aligned table.
func (f format) print(w io.Writer, v any, header []string, rows [][]string) error {
	if f == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "    ")
		return e.Encode(v)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if header != nil {
		fmt.Fprintln(tw, strings.Join(header, "\t"))
	}
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}
