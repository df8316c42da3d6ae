package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
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
	index  uint64  // X-Etcd-Index of the answer
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

// etcdVerbs makes the commands of the hierarchical interface: keys, members, users. They hang under two roots,
// muster and etcdctl, which differ in how a cluster is named and in how they say that nobody answers.
type etcdVerbs struct {
	output string // simple, extended or json
	// connect makes the client of one command line; with sync it asks the cluster for its endpoints first.
	connect func(cmd *cobra.Command, sync bool) (*etcdClient, error)
	// failed gives an error of a request the words and the exit code of the root.
	failed func(err error) error
	// own is set under muster: errors carry what the agent said, and watches survive its restart. Scripts of etcdctl
	// expect that they end.
	own bool
}

func kvCommand(c *client) *cobra.Command {
	v := c.etcdVerbs()
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
	v.bindOutput(cmd)
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch v.output {
		case "simple", "extended", "json":
			return nil
		}
		return fmt.Errorf("-o %q: want simple, extended or json", v.output)
	}
	cmd.AddCommand(v.keyCommands()...)
	cmd.AddCommand(flatAliases(c)...)
	return cmd
}

// etcdVerbs are the commands of the hierarchical interface against the agent.
func (c *client) etcdVerbs() *etcdVerbs {
	return &etcdVerbs{output: "simple", own: true, failed: c.failed, connect: func(*cobra.Command, bool) (*etcdClient, error) {
		if err := c.open(); err != nil {
			return nil, err
		}
		e := &etcdClient{endpoints: []string{c.base}, rt: c.http.Transport, timeout: c.timeout, header: make(http.Header)}
		if c.token != "" {
			e.header.Set("X-Consul-Token", c.token)
		}
		if user, password, ok := strings.Cut(c.env.auth, ":"); ok || user != "" {
			e.user = url.UserPassword(user, password)
		}
		return e, nil
	}}
}

// failed tells an answer that is an error from no answer.
func (c *client) failed(err error) error {
	if all, ok := errors.AsType[*endpointsError](err); ok {
		err = all.errs[0] // there is one endpoint
	}
	if fault, ok := errors.AsType[*faultError](err); ok {
		var ke kvError
		if json.Unmarshal(fault.body, &ke) == nil && ke.Code != 0 {
			return &exitError{exitServer, &ke}
		}
		return &exitError{exitServer, fmt.Errorf("status %d: %s", fault.status, strings.TrimSpace(string(fault.body)))}
	}
	if answered(err) {
		return &exitError{exitServer, err}
	}
	return &exitError{exitNoAgent, fmt.Errorf("no answer from the agent at %s (is it running? see -http-addr): %w", c.base, err)}
}

// answered reports whether err is what somebody answered, as opposed to no answer.
func answered(err error) bool {
	_, isKey := errors.AsType[*kvError](err)
	_, isMessage := errors.AsType[*messageError](err)
	return isKey || isMessage || errors.Is(err, errNoJSON) || errors.Is(err, errEmptyBody)
}

func (v *etcdVerbs) bindOutput(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVarP(&v.output, "output", "o", "simple", "output format: simple, extended or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"simple", "extended", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (v *etcdVerbs) keyCommands() []*cobra.Command {
	return []*cobra.Command{
		v.set(), v.get(), v.update(), v.rm(), v.mk(), v.ls(), v.watch(), v.execWatch(), v.rmdir(),
		v.dir("mkdir KEY", "Make a directory", url.Values{"dir": {"true"}, "prevExist": {"false"}}),
		v.dir("setdir KEY", "Make a directory, also in place of a key", url.Values{"dir": {"true"}}),
		v.dir("updatedir KEY", "Change the lifetime of a directory", url.Values{"dir": {"true"}, "prevExist": {"true"}}),
	}
}

// keyPath is the path of a key, cleaned, but with the slash it may end in.
func keyPath(key string) string {
	p := path.Clean("/" + key)
	if strings.HasSuffix(key, "/") && p != "/" {
		p += "/"
	}
	return "/v2/keys" + p
}

// do makes one request on a key and decodes event or error.
func (v *etcdVerbs) do(ctx context.Context, c *etcdClient, r *etcdRequest) (*kvEvent, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, v.failed(err)
	}
	ev, err := a.event()
	if err != nil {
		return nil, v.failed(err)
	}
	return ev, nil
}

// event decodes an answer of /v2/keys.
func (a *answer) event() (*kvEvent, error) {
	if a.status != http.StatusOK && a.status != http.StatusCreated {
		var ke kvError
		if json.Unmarshal(a.body, &ke) != nil {
			return nil, errNoJSON
		}
		return nil, &ke
	}
	if len(a.body) == 0 {
		return nil, errEmptyBody
	}
	ev := new(kvEvent)
	if json.Unmarshal(a.body, ev) != nil || ev.Node == nil {
		return nil, errNoJSON
	}
	ev.index = a.index()
	return ev, nil
}

// index is X-Etcd-Index.
func (a *answer) index() uint64 {
	n, _ := strconv.ParseUint(a.header.Get("X-Etcd-Index"), 10, 64)
	return n
}

// keyed makes a command whose first argument is a key.
func (v *etcdVerbs) keyed(use, short string, run func(cmd *cobra.Command, c *etcdClient, key string, rest []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		c, err := v.connect(cmd, true)
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return errors.New("key required")
		}
		return run(cmd, c, args[0], args[1:])
	}}
}

// valued makes a command that writes a value, the second argument or what standard input holds.
func (v *etcdVerbs) valued(use, short string, request func(key string, form url.Values) *etcdRequest) *cobra.Command {
	var ttl int64
	cmd := v.keyed(use, short, func(cmd *cobra.Command, c *etcdClient, key string, rest []string) error {
		value, err := readValue(cmd, rest)
		if err != nil {
			return err
		}
		return v.write(cmd, c, request(key, addTTL(url.Values{"value": {value}}, ttl)))
	})
	cmd.Annotations = map[string]string{dashes: "value"} // certificates begin with dashes
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; without it the key stays for ever")
	return cmd
}

// readValue takes the value from the arguments or, to the end, from standard input. An interrupt ends the waiting.
func readValue(cmd *cobra.Command, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	type input struct {
		text []byte
		err  error
	}
	read := make(chan input, 1)
	go func() {
		b, err := io.ReadAll(cmd.InOrStdin())
		read <- input{b, err}
	}()
	select {
	case got := <-read:
		switch {
		case got.err != nil:
			return "", fmt.Errorf("reading the value from standard input: %w", got.err)
		case len(got.text) == 0:
			return "", errors.New("value required")
		}
		return string(got.text), nil
	case <-cmd.Context().Done():
		return "", errors.New("interrupted while reading the value from standard input")
	}
}

func addTTL(form url.Values, ttl int64) url.Values {
	if ttl > 0 {
		form.Set("ttl", strconv.FormatInt(ttl, 10))
	}
	return form
}

// condition makes the query of a compare-and-swap or a compare-and-delete.
func condition(value string, index uint64) url.Values {
	q := url.Values{}
	if value != "" {
		q.Set("prevValue", value)
	}
	if index != 0 {
		q.Set("prevIndex", strconv.FormatUint(index, 10))
	}
	return q
}

func (v *etcdVerbs) set() *cobra.Command {
	var withValue string
	var withIndex uint64
	cmd := v.valued("set KEY [VALUE]", "Write a key", func(key string, form url.Values) *etcdRequest {
		return &etcdRequest{method: http.MethodPut, path: keyPath(key), query: condition(withValue, withIndex), form: form}
	})
	cmd.Flags().StringVar(&withValue, "swap-with-value", "", "only if the key has this value now")
	cmd.Flags().Uint64Var(&withIndex, "swap-with-index", 0, "only if the key was last changed at this index")
	return cmd
}

func (v *etcdVerbs) mk() *cobra.Command {
	var inOrder bool
	cmd := v.valued("mk KEY [VALUE]", "Create a key that must not exist yet", func(key string, form url.Values) *etcdRequest {
		if inOrder {
			return &etcdRequest{method: http.MethodPost, path: keyPath(key), form: form, once: true}
		}
		return &etcdRequest{method: http.MethodPut, path: keyPath(key), query: url.Values{"prevExist": {"false"}}, form: form, once: true}
	})
	cmd.Flags().BoolVar(&inOrder, "in-order", false, "create a key with the next number as its name in the directory KEY")
	return cmd
}

func (v *etcdVerbs) update() *cobra.Command {
	return v.valued("update KEY [VALUE]", "Change a key that must exist", func(key string, form url.Values) *etcdRequest {
		return &etcdRequest{method: http.MethodPut, path: keyPath(key), query: url.Values{"prevExist": {"true"}}, form: form}
	})
}

func (v *etcdVerbs) get() *cobra.Command {
	var sorted, quorum bool
	cmd := v.keyed("get KEY", "Read a key", func(cmd *cobra.Command, c *etcdClient, key string, _ []string) error {
		ev, err := v.do(cmd.Context(), c, read(key, sorted, quorum, false))
		if err != nil {
			return err
		}
		if ev.Node.Dir {
			return plainly("%s: is a directory", ev.Node.Key)
		}
		return v.print(cmd, ev)
	})
	cmd.Flags().BoolVar(&sorted, "sort", false, "sort the answer by key")
	cmd.Flags().BoolVarP(&quorum, "quorum", "q", false, "read what a quorum agrees on")
	return cmd
}

func read(key string, sorted, quorum, recursive bool) *etcdRequest {
	return &etcdRequest{method: http.MethodGet, path: keyPath(key), query: url.Values{
		"sorted":    {strconv.FormatBool(sorted)},
		"quorum":    {strconv.FormatBool(quorum)},
		"recursive": {strconv.FormatBool(recursive)},
	}}
}

func (v *etcdVerbs) rm() *cobra.Command {
	var dir, recursive bool
	var withValue string
	var withIndex uint64
	cmd := v.keyed("rm KEY", "Remove a key or a directory", func(cmd *cobra.Command, c *etcdClient, key string, _ []string) error {
		q := condition(withValue, withIndex)
		if dir {
			q.Set("dir", "true")
		}
		if recursive {
			q.Set("recursive", "true")
		}
		return v.write(cmd, c, &etcdRequest{method: http.MethodDelete, path: keyPath(key), query: q, once: true})
	})
	cmd.Flags().BoolVar(&dir, "dir", false, "also remove an empty directory")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove a directory and everything below it")
	cmd.Flags().StringVar(&withValue, "with-value", "", "only if the key has this value now")
	cmd.Flags().Uint64Var(&withIndex, "with-index", 0, "only if the key was last changed at this index")
	return cmd
}

func (v *etcdVerbs) rmdir() *cobra.Command {
	return v.keyed("rmdir KEY", "Remove an empty directory", func(cmd *cobra.Command, c *etcdClient, key string, _ []string) error {
		return v.write(cmd, c, &etcdRequest{method: http.MethodDelete, path: keyPath(key), query: url.Values{"dir": {"true"}}, once: true})
	})
}

func (v *etcdVerbs) dir(use, short string, q url.Values) *cobra.Command {
	var ttl int64
	cmd := v.keyed(use, short, func(cmd *cobra.Command, c *etcdClient, key string, _ []string) error {
		return v.write(cmd, c, &etcdRequest{method: http.MethodPut, path: keyPath(key), query: q, form: addTTL(url.Values{}, ttl), once: q.Get("prevExist") == "false"})
	})
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "lifetime in seconds; without it the directory stays for ever")
	return cmd
}

// write makes one request and prints the event. Directories print nothing in the simple format.
func (v *etcdVerbs) write(cmd *cobra.Command, c *etcdClient, r *etcdRequest) error {
	ev, err := v.do(cmd.Context(), c, r)
	if err != nil {
		return err
	}
	ofDir := r.method == http.MethodPut && r.query.Get("dir") == "true"
	if v.output == "simple" && (ofDir || ev.Node.Dir) {
		return nil
	}
	return v.print(cmd, ev)
}

func (v *etcdVerbs) ls() *cobra.Command {
	var sorted, recursive, slash, quorum bool
	cmd := &cobra.Command{Use: "ls [KEY]", Short: "List a directory", RunE: func(cmd *cobra.Command, args []string) error {
		c, err := v.connect(cmd, true)
		if err != nil {
			return err
		}
		key := "/"
		if len(args) > 0 {
			key = args[0]
		}
		ev, err := v.do(cmd.Context(), c, read(key, sorted, quorum, recursive))
		switch {
		case err != nil:
			return err
		case v.output != "simple":
			return v.print(cmd, ev)
		case !ev.Node.Dir:
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
func (v *etcdVerbs) print(cmd *cobra.Command, ev *kvEvent) error {
	w := cmd.OutOrStdout()
	switch v.output {
	case "json":
		return json.NewEncoder(w).Encode(ev)
	case "extended":
		fmt.Fprintf(w, "Key: %s\nCreated-Index: %d\nModified-Index: %d\n", ev.Node.Key, ev.Node.Created, ev.Node.Modified)
		if ev.Prev != nil {
			fmt.Fprintf(w, "PrevNode.Value: %s\n", ev.Prev.Value)
		}
		fmt.Fprintf(w, "TTL: %d\nIndex: %d\n", ev.Node.TTL, ev.index)
		if ev.Action != "delete" {
			fmt.Fprintf(w, "\n%s\n", ev.Node.Value)
		}
	case "simple":
		if ev.Action == "delete" && ev.Prev != nil {
			fmt.Fprintf(w, "PrevNode.Value: %s\n", ev.Prev.Value)
			return nil
		}
		fmt.Fprintln(w, ev.Node.Value)
	default: // the command has been executed: this is no error
		fmt.Fprintf(cmd.ErrOrStderr(), "Unsupported output format: %s\n", v.output)
	}
	return nil
}
