package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// kvNode and kvEvent are the answers of /v2/keys.
type kvNode struct {
	Key        string    `json:"key"`
	Dir        bool      `json:"dir,omitempty"`
	Value      string    `json:"value"`
	Nodes      []*kvNode `json:"nodes"`
	Created    uint64    `json:"createdIndex"`
	Modified   uint64    `json:"modifiedIndex"`
	Expiration string    `json:"expiration,omitempty"`
	TTL        int64     `json:"ttl,omitempty"`
}

type kvEvent struct {
	Action string  `json:"action"`
	Node   *kvNode `json:"node"`
	Prev   *kvNode `json:"prevNode"`
	index  string  // X-Etcd-Index of the answer
}

// kvError is an error answer of /v2/keys.
type kvError struct {
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
	Cause   string `json:"cause"`
	Index   uint64 `json:"index"`
}

func (e *kvError) Error() string {
	return fmt.Sprintf("%d: %s (%s) [%d]", e.Code, e.Message, e.Cause, e.Index)
}

// kv bundles what the key commands share.
type kv struct {
	*client
	output string
}

func kvCommand(c *client) *cobra.Command {
	k := &kv{client: c}
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Read, write and watch keys",
		Long:  "Read, write and watch keys of the hierarchical tree. A missing VALUE is read from standard input.",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return &exitError{exitUnknown, fmt.Errorf("unknown command %q; muster kv -h lists the commands", args[0])}
		},
	}
	cmd.PersistentFlags().StringVarP(&k.output, "output", "o", "simple", "output format: simple, extended or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"simple", "extended", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch k.output {
		case "simple", "extended", "json":
			return nil
		}
		return fmt.Errorf("-o %q: want simple, extended or json", k.output)
	}
	cmd.AddCommand(k.set(), k.get(), k.update(), k.rm(), k.mk(), k.ls(), k.watch(), k.execWatch())
	cmd.AddCommand(
		k.dir("mkdir KEY", "Make a directory", url.Values{"dir": {"true"}, "prevExist": {"false"}}),
		k.dir("setdir KEY", "Make a directory, also in place of a key", url.Values{"dir": {"true"}}),
		k.dir("updatedir KEY", "Change the lifetime of a directory", url.Values{"dir": {"true"}, "prevExist": {"true"}}),
		k.rmdir(),
	)
	return cmd
}

// keyPath is the request path of a key; segments are escaped, empty keys mean the root.
func keyPath(key string) string {
	segs := strings.Split(strings.Trim(key, "/"), "/")
	for i, s := range segs {
		segs[i] = url.PathEscape(s)
	}
	return strings.TrimSuffix("/v2/keys/"+strings.Join(segs, "/"), "/")
}

// do makes one request on a key and decodes event or error.
func (k *kv) do(ctx context.Context, method, key string, q, form url.Values) (*kvEvent, error) {
	a, err := k.send(ctx, method, keyPath(key), q, form, nil)
	if err != nil {
		return nil, err
	}
	return decodeKV(a.status, a.header, a.body)
}

func decodeKV(status int, h http.Header, body []byte) (*kvEvent, error) {
	if status/100 != 2 {
		var ke kvError
		if json.Unmarshal(body, &ke) != nil || ke.Code == 0 {
			return nil, &exitError{exitServer, fmt.Errorf("status %d: %s", status, strings.TrimSpace(string(body)))}
		}
		return nil, &exitError{exitServer, &ke}
	}
	ev := &kvEvent{index: h.Get("X-Etcd-Index")}
	if err := json.Unmarshal(body, ev); err != nil {
		return nil, &exitError{exitServer, fmt.Errorf("the answer is not the expected JSON: %w", err)}
	}
	return ev, nil
}

func needKey(args []string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("key required")
	}
	return args[0], nil
}

// keyValue takes KEY and VALUE from the arguments, VALUE from standard input when it is not there.
func keyValue(cmd *cobra.Command, args []string) (key, value string, err error) {
	if key, err = needKey(args); err != nil {
		return
	}
	if len(args) > 1 {
		return key, args[1], nil
	}
	b, err := io.ReadAll(cmd.InOrStdin())
	if err != nil {
		return "", "", fmt.Errorf("reading the value from standard input: %w", err)
	}
	if len(b) == 0 {
		return "", "", errors.New("value required")
	}
	return key, string(b), nil
}

func addTTL(form url.Values, ttl int64) url.Values {
	if ttl > 0 {
		form.Set("ttl", strconv.FormatInt(ttl, 10))
	}
	return form
}

func (k *kv) set() *cobra.Command {
	var ttl int64
	var withValue string
	var withIndex uint64
	cmd := &cobra.Command{Use: "set KEY [VALUE]", Short: "Write a key", RunE: func(cmd *cobra.Command, args []string) error {
		key, value, err := keyValue(cmd, args)
		if err != nil {
			return err
		}
		q := url.Values{}
		if withValue != "" {
			q.Set("prevValue", withValue)
		}
		if withIndex != 0 {
			q.Set("prevIndex", strconv.FormatUint(withIndex, 10))
		}
		return k.run(cmd, http.MethodPut, key, q, addTTL(url.Values{"value": {value}}, ttl))
	}}
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; 0 means for ever")
	cmd.Flags().StringVar(&withValue, "swap-with-value", "", "only if the key has this value now")
	cmd.Flags().Uint64Var(&withIndex, "swap-with-index", 0, "only if the key was last changed at this index")
	return cmd
}

func (k *kv) mk() *cobra.Command {
	var ttl int64
	var inOrder bool
	cmd := &cobra.Command{Use: "mk KEY [VALUE]", Short: "Create a key that must not exist yet", RunE: func(cmd *cobra.Command, args []string) error {
		key, value, err := keyValue(cmd, args)
		if err != nil {
			return err
		}
		form := addTTL(url.Values{"value": {value}}, ttl)
		if inOrder {
			return k.run(cmd, http.MethodPost, key, nil, form)
		}
		return k.run(cmd, http.MethodPut, key, url.Values{"prevExist": {"false"}}, form)
	}}
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; 0 means for ever")
	cmd.Flags().BoolVar(&inOrder, "in-order", false, "create a key with the next number as its name in the directory KEY")
	return cmd
}

func (k *kv) update() *cobra.Command {
	var ttl int64
	cmd := &cobra.Command{Use: "update KEY [VALUE]", Short: "Change a key that must exist", RunE: func(cmd *cobra.Command, args []string) error {
		key, value, err := keyValue(cmd, args)
		if err != nil {
			return err
		}
		return k.run(cmd, http.MethodPut, key, url.Values{"prevExist": {"true"}}, addTTL(url.Values{"value": {value}}, ttl))
	}}
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; without it the key stays for ever")
	return cmd
}

func (k *kv) get() *cobra.Command {
	var sorted, quorum bool
	cmd := &cobra.Command{Use: "get KEY", Short: "Read a key", RunE: func(cmd *cobra.Command, args []string) error {
		key, err := needKey(args)
		if err != nil {
			return err
		}
		ev, err := k.do(cmd.Context(), http.MethodGet, key, readQuery(sorted, quorum, false), nil)
		if err != nil {
			return err
		}
		if ev.Node.Dir {
			return &exitError{exitUsage, fmt.Errorf("%s: is a directory", ev.Node.Key)}
		}
		return k.print(cmd.OutOrStdout(), ev)
	}}
	cmd.Flags().BoolVar(&sorted, "sort", false, "sort the answer by key")
	cmd.Flags().BoolVarP(&quorum, "quorum", "q", false, "read what a quorum agrees on")
	return cmd
}

func readQuery(sorted, quorum, recursive bool) url.Values {
	return url.Values{
		"sorted":    {strconv.FormatBool(sorted)},
		"quorum":    {strconv.FormatBool(quorum)},
		"recursive": {strconv.FormatBool(recursive)},
	}
}

func (k *kv) rm() *cobra.Command {
	var dir, recursive bool
	var withValue string
	var withIndex uint64
	cmd := &cobra.Command{Use: "rm KEY", Short: "Remove a key or a directory", RunE: func(cmd *cobra.Command, args []string) error {
		key, err := needKey(args)
		if err != nil {
			return err
		}
		q := url.Values{}
		if dir {
			q.Set("dir", "true")
		}
		if recursive {
			q.Set("recursive", "true")
		}
		if withValue != "" {
			q.Set("prevValue", withValue)
		}
		if withIndex != 0 {
			q.Set("prevIndex", strconv.FormatUint(withIndex, 10))
		}
		return k.run(cmd, http.MethodDelete, key, q, nil)
	}}
	cmd.Flags().BoolVar(&dir, "dir", false, "also remove an empty directory")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove a directory and everything below it")
	cmd.Flags().StringVar(&withValue, "with-value", "", "only if the key has this value now")
	cmd.Flags().Uint64Var(&withIndex, "with-index", 0, "only if the key was last changed at this index")
	return cmd
}

func (k *kv) rmdir() *cobra.Command {
	return &cobra.Command{Use: "rmdir KEY", Short: "Remove an empty directory", RunE: func(cmd *cobra.Command, args []string) error {
		key, err := needKey(args)
		if err != nil {
			return err
		}
		return k.run(cmd, http.MethodDelete, key, url.Values{"dir": {"true"}}, nil)
	}}
}

func (k *kv) dir(use, short string, q url.Values) *cobra.Command {
	var ttl int64
	cmd := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		key, err := needKey(args)
		if err != nil {
			return err
		}
		return k.run(cmd, http.MethodPut, key, q, addTTL(url.Values{}, ttl))
	}}
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; 0 means for ever")
	return cmd
}

// run makes one request and prints the event. Directories print nothing in the simple format.
func (k *kv) run(cmd *cobra.Command, method, key string, q, form url.Values) error {
	ev, err := k.do(cmd.Context(), method, key, q, form)
	if err != nil {
		return err
	}
	isDir := ev.Node.Dir || (method == http.MethodPut && q.Get("dir") == "true") || (ev.Prev != nil && ev.Prev.Dir && ev.Action == "delete")
	if k.output == "simple" && isDir {
		return nil
	}
	return k.print(cmd.OutOrStdout(), ev)
}

func (k *kv) ls() *cobra.Command {
	var sorted, recursive, slash, quorum bool
	cmd := &cobra.Command{Use: "ls [KEY]", Short: "List a directory", RunE: func(cmd *cobra.Command, args []string) error {
		key := "/"
		if len(args) > 0 {
			key = args[0]
		}
		ev, err := k.do(cmd.Context(), http.MethodGet, key, readQuery(sorted, quorum, recursive), nil)
		if err != nil {
			return err
		}
		if k.output != "simple" {
			return k.print(cmd.OutOrStdout(), ev)
		}
		if !ev.Node.Dir {
			fmt.Fprintln(cmd.OutOrStdout(), ev.Node.Key)
			return nil
		}
		printTree(cmd.OutOrStdout(), ev.Node.Nodes, slash)
		return nil
	}}
	cmd.Flags().BoolVar(&sorted, "sort", false, "sort the answer by key")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "list everything below")
	cmd.Flags().BoolVarP(&slash, "slash", "p", false, "append / to directories")
	cmd.Flags().BoolVarP(&quorum, "quorum", "q", false, "read what a quorum agrees on")
	return cmd
}

func printTree(w io.Writer, nodes []*kvNode, slash bool) {
	for _, n := range nodes {
		name := n.Key
		if n.Dir && slash {
			name += "/"
		}
		fmt.Fprintln(w, name)
		printTree(w, n.Nodes, slash)
	}
}

// print writes an event in the chosen format; the layouts are those that scripts of v2 users parse.
func (k *kv) print(w io.Writer, ev *kvEvent) error {
	switch k.output {
	case "json":
		return json.NewEncoder(w).Encode(ev)
	case "extended":
		fmt.Fprintf(w, "Key: %s\nCreated-Index: %d\nModified-Index: %d\n", ev.Node.Key, ev.Node.Created, ev.Node.Modified)
		if ev.Prev != nil {
			fmt.Fprintf(w, "PrevNode.Value: %s\n", ev.Prev.Value)
		}
		fmt.Fprintf(w, "TTL: %d\nIndex: %s\n", ev.Node.TTL, ev.index)
		if ev.Action != "delete" {
			fmt.Fprintf(w, "\n%s\n", ev.Node.Value)
		}
	default:
		if ev.Action == "delete" && ev.Prev != nil {
			fmt.Fprintf(w, "PrevNode.Value: %s\n", ev.Prev.Value)
			return nil
		}
		fmt.Fprintln(w, ev.Node.Value)
	}
	return nil
}
