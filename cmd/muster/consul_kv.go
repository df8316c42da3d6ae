package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// flatPair is one element of GET /v1/kv.
type flatPair struct {
	Key                                        string
	Value                                      []byte
	Flags, CreateIndex, ModifyIndex, LockIndex uint64
	Session                                    string
}

// consulKV is `consul kv`: the flat view of the keys.
func consulKV(c *client) *cobra.Command {
	return group(c, "kv", "Read and write keys", flatGet(c), flatPut(c), flatDelete(c), flatExport(c), flatImport(c))
}

// flatKey is the key of an argument. No key begins with a slash here, but people write one.
func flatKey(arg string) string { return strings.TrimPrefix(arg, "/") }

// flatPath is the URL path of a key.
func flatPath(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/v1/kv/" + strings.Join(parts, "/")
}

// flatList reads keys; missing ones are an empty list.
func (c *client) flatList(ctx context.Context, key string, q url.Values, v any) error {
	err := c.get(ctx, flatPath(key), q, v)
	if hasStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func oneKey(args []string, empty bool) (string, error) {
	key := ""
	switch {
	case len(args) > 1:
		return "", plainly("Error! Too many arguments (expected 1, got %d)", len(args))
	case len(args) == 1:
		key = flatKey(args[0])
	}
	if key == "" && !empty {
		return "", plainly("Error! Missing KEY argument")
	}
	return key, nil
}

func flatGet(c *client) *cobra.Command {
	var asBase64, detailed, keys, recurse bool
	var separator string
	cmd := &cobra.Command{
		Use: "get [KEY]", Short: "Print a key, or all below a prefix",
		Long: "Print the value of a key, or with -recurse all keys that begin with it, or with -keys their names.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := oneKey(args, keys || recurse)
		if err != nil {
			return err
		}
		ctx, w := cmd.Context(), cmd.OutOrStdout()
		if keys {
			q := url.Values{"keys": {""}}
			if !recurse {
				q.Set("separator", separator)
			}
			var names []string
			if err := doing(c.flatList(ctx, key, q, &names), "querying Consul agent"); err != nil {
				return err
			}
			for _, n := range names {
				fmt.Fprintln(w, n)
			}
			return nil
		}
		q := url.Values{}
		if recurse {
			q.Set("recurse", "")
		}
		var all []flatPair
		if err := doing(c.flatList(ctx, key, q, &all), "querying Consul agent"); err != nil {
			return err
		}
		if len(all) == 0 && !recurse {
			return plainly("Error! No key exists at: %s", key)
		}
		for i, p := range all {
			value := string(p.Value)
			if asBase64 {
				value = base64.StdEncoding.EncodeToString(p.Value)
			}
			switch {
			case detailed:
				if i > 0 {
					fmt.Fprintln(w)
				}
				if err := p.print(w, value); err != nil {
					return err
				}
			case recurse:
				fmt.Fprintf(w, "%s:%s\n", p.Key, value)
			default:
				fmt.Fprintln(w, value)
			}
		}
		return nil
	}
	f := cmd.Flags()
	f.BoolVar(&asBase64, "base64", false, "print values in base64")
	f.BoolVar(&detailed, "detailed", false, "print the indexes, flags and lock of the key too")
	f.BoolVar(&keys, "keys", false, "print names only")
	f.BoolVar(&recurse, "recurse", false, "everything that begins with KEY")
	f.StringVar(&separator, "separator", "/", "with -keys: cut names after this text, as a listing of directories; empty: whole names")
	return cmd
}

func (p flatPair) print(w io.Writer, value string) error {
	session := p.Session
	if session == "" {
		session = "-"
	}
	tw := tabwriter.NewWriter(w, 0, 2, 6, ' ', 0)
	fmt.Fprintf(tw, "CreateIndex\t%d\nFlags\t%d\nKey\t%s\nLockIndex\t%d\nModifyIndex\t%d\nSession\t%s\nValue\t%s\n",
		p.CreateIndex, p.Flags, p.Key, p.LockIndex, p.ModifyIndex, session, value)
	return tw.Flush()
}

func flatPut(c *client) *cobra.Command {
	var asBase64, cas, acquire, release bool
	var flags, index uint64
	var session string
	cmd := &cobra.Command{
		Use: "put KEY [VALUE]", Short: "Write a key",
		Long: "Write a key. VALUE is the text itself, @FILE for the content of a file, or - for standard input; without it the\nkey becomes empty. Put -- before the key when the value begins with a dash.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var key, value string
		switch len(args) {
		case 2:
			value = args[1]
			fallthrough
		case 1:
			key = flatKey(args[0])
		case 0:
		default:
			return plainly("Error! Too many arguments (expected 1 or 2, got %d)", len(args))
		}
		if key == "" {
			return plainly("Error! Missing KEY argument")
		}
		data, err := valueOf(cmd.InOrStdin(), value)
		if err != nil {
			return plainly("Error! Failed to read the value: %s", err)
		}
		if asBase64 {
			if data, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(data))); err != nil {
				return plainly("Error! The value is not base64: %s", err)
			}
		}
		if (acquire || release) && session == "" {
			return plainly("Error! Missing -session (required with -acquire and -release)")
		}
		if acquire && release || cas && (acquire || release) {
			return plainly("Error! Give one of -cas, -acquire and -release")
		}
		q := url.Values{}
		if flags != 0 {
			q.Set("flags", strconv.FormatUint(flags, 10))
		}
		done, failed := "Success! Data written to: %s\n", "Error! Did not write to %s: CAS failed"
		switch {
		case cas:
			q.Set("cas", strconv.FormatUint(index, 10))
		case acquire:
			q.Set("acquire", session)
			done, failed = "Success! Lock acquired on: %s\n", "Error! Did not acquire lock on: %s"
		case release:
			q.Set("release", session)
			done, failed = "Success! Lock released on: %s\n", "Error! Did not release lock on: %s"
		}
		ok, err := c.flatWrite(cmd.Context(), http.MethodPut, key, q, data)
		if err != nil {
			return plainly("Error! Did not write to %s: %s", key, err)
		}
		if !ok {
			return plainly(failed, key)
		}
		fmt.Fprintf(cmd.OutOrStdout(), done, key)
		return nil
	}
	f := cmd.Flags()
	f.BoolVar(&asBase64, "base64", false, "VALUE is base64: decode it first")
	f.BoolVar(&cas, "cas", false, "write only if the key is still at -modify-index; 0: only if there is none")
	f.BoolVar(&acquire, "acquire", false, "lock the key for -session")
	f.BoolVar(&release, "release", false, "unlock the key, held by -session")
	f.Uint64Var(&flags, "flags", 0, "number kept with the key, for the application")
	f.Uint64Var(&index, "modify-index", 0, "ModifyIndex expected by -cas")
	f.StringVar(&session, "session", "", "id of the session for -acquire and -release")
	return cmd
}

// flatWrite sends one PUT or DELETE and gives its verdict.
func (c *client) flatWrite(ctx context.Context, method, key string, q url.Values, data []byte) (bool, error) {
	body, err := c.ok(ctx, method, flatPath(key), q, bytes.NewReader(data))
	if err != nil {
		return false, err
	}
	return strings.TrimSpace(string(body)) == "true", nil
}

// valueOf reads a value argument: @FILE, - for standard input, or the text itself.
func valueOf(in io.Reader, arg string) ([]byte, error) {
	switch {
	case arg == "-":
		return io.ReadAll(io.LimitReader(in, maxAnswer))
	case strings.HasPrefix(arg, "@"):
		return os.ReadFile(arg[1:])
	}
	return []byte(arg), nil
}

func flatDelete(c *client) *cobra.Command {
	var cas, recurse bool
	var index uint64
	cmd := &cobra.Command{Use: "delete KEY", Short: "Delete a key, or all below a prefix"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := oneKey(args, recurse)
		switch {
		case err != nil:
			return err
		case cas && recurse:
			return plainly("Error! Cannot specify both -cas and -recurse!")
		case cas && index == 0:
			return plainly("Error! Must specify -modify-index with -cas!")
		case !cas && index != 0:
			return plainly("Error! Cannot specify -modify-index without -cas!")
		}
		q := url.Values{}
		if recurse {
			q.Set("recurse", "")
		}
		if cas {
			q.Set("cas", strconv.FormatUint(index, 10))
		}
		ok, err := c.flatWrite(cmd.Context(), http.MethodDelete, key, q, nil)
		switch {
		case err != nil:
			return plainly("Error! Did not delete key %s: %s", key, err)
		case !ok:
			return plainly("Error! Did not delete key %s: CAS failed", key)
		case recurse:
			fmt.Fprintf(cmd.OutOrStdout(), "Success! Deleted keys with prefix: %s\n", key)
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "Success! Deleted key: %s\n", key)
		}
		return nil
	}
	f := cmd.Flags()
	f.BoolVar(&cas, "cas", false, "delete only if the key is still at -modify-index")
	f.Uint64Var(&index, "modify-index", 0, "ModifyIndex expected by -cas")
	f.BoolVar(&recurse, "recurse", false, "everything that begins with KEY")
	return cmd
}

// exportedPair is an element of the files of export and import.
type exportedPair struct {
	Key   string `json:"key"`
	Flags uint64 `json:"flags"`
	Value string `json:"value"` // base64
}

func flatExport(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "export [PREFIX]", Short: "Print all keys below a prefix as JSON",
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := oneKey(args, true)
			if err != nil {
				return err
			}
			var all []flatPair
			if err := doing(c.flatList(cmd.Context(), key, url.Values{"recurse": {""}}, &all), "querying Consul agent"); err != nil {
				return err
			}
			out := make([]exportedPair, 0, len(all))
			for _, p := range all {
				out = append(out, exportedPair{p.Key, p.Flags, base64.StdEncoding.EncodeToString(p.Value)})
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "\t")
			e.SetEscapeHTML(false)
			return e.Encode(out)
		},
	}
}

func flatImport(c *client) *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use: "import FILE|@FILE|-|JSON", Short: "Write the keys of an export",
		Long: "Write the keys that kv export printed: from a file, from standard input (-), or given as an argument. The whole\ninput is checked before anything is written.",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return plainly("Error! Expected one argument (the data, @file or -), got %d", len(args))
		}
		arg := args[0]
		if !strings.HasPrefix(arg, "[") && !strings.HasPrefix(arg, "@") && arg != "-" {
			arg = "@" + arg
		}
		raw, err := valueOf(cmd.InOrStdin(), arg)
		if err != nil {
			return plainly("Error! %s", err)
		}
		var list []exportedPair
		if err := json.Unmarshal(raw, &list); err != nil {
			return plainly("Cannot unmarshal data: %s", err)
		}
		values := make([][]byte, len(list))
		for i, p := range list {
			if values[i], err = base64.StdEncoding.DecodeString(p.Value); err != nil {
				return plainly("Error! The value of %q is not base64: %s", p.Key, err)
			}
			if flatKey(p.Key) == "" {
				return plainly("Error! Element %d has no key", i)
			}
		}
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			prefix += "/"
		}
		for i, p := range list {
			key := flatKey(prefix + p.Key)
			q := url.Values{}
			if p.Flags != 0 {
				q.Set("flags", strconv.FormatUint(p.Flags, 10))
			}
			ok, err := c.flatWrite(cmd.Context(), http.MethodPut, key, q, values[i])
			if err == nil && !ok {
				err = errors.New("refused")
			}
			if err != nil {
				return plainly("Error! Failed writing data for key %s: %s", key, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Imported: %s\n", key)
		}
		return nil
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "put this before every key")
	return cmd
}

// flatAliases are the verbs of consul's kv that do not collide with those of the hierarchical keys.
func flatAliases(c *client) []*cobra.Command {
	list := []*cobra.Command{flatPut(c), flatDelete(c), flatExport(c), flatImport(c)}
	for _, cmd := range list {
		cmd.Short += ", as consul does"
		endFlags(cmd)
	}
	return list
}
