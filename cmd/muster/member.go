package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// etcdMember is a server as /v2/members shows it. The name is empty until it has started.
type etcdMember struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// members lists the servers of the cluster.
func (c *etcdClient) members(ctx context.Context) ([]etcdMember, error) {
	a, err := c.do(ctx, &etcdRequest{method: http.MethodGet, path: "/v2/members"})
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, &messageError{fmt.Sprintf("unexpected status code %d", a.status)}
	}
	var list struct {
		Members []etcdMember `json:"members"`
	}
	if err := json.Unmarshal(a.body, &list); err != nil {
		return nil, &messageError{err.Error()}
	}
	return list.Members, nil
}

// changeMembers sends a change and decodes what it gives, into v unless that is nil.
func (c *etcdClient) changeMembers(ctx context.Context, method, id string, query url.Values, body, v any, want int) error {
	p := "/v2/members"
	if id != "" {
		p += "/" + id
	}
	a, err := c.do(ctx, &etcdRequest{method: method, path: p, query: query, json: body})
	switch {
	case err != nil:
		return err
	case a.status != want:
		return a.message()
	case v == nil:
		return nil
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return &messageError{err.Error()}
	}
	return nil
}

func memberCommand(c *client) *cobra.Command { return c.etcdVerbs().member() }

func (v *etcdVerbs) member() *cobra.Command {
	return v.group("member", "List, add, remove and move the servers of the cluster",
		v.plain("list", "List the servers", 0, "No arguments accepted", v.memberList),
		v.plain("add NAME URL", "Let a new server join", 2, "Provide a name and a single member peerURL", v.memberAdd),
		v.memberRemoveCommand(),
		v.plain("update ID URL[,URL...]", "Change the addresses at which a server is reached by the others", 2,
			"Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)", v.memberUpdate),
	)
}

// group makes a command that only has others below it.
func (v *etcdVerbs) group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownTopic(cmd, args[0])
	}}
	cmd.AddCommand(subs...)
	return cmd
}

// plain makes a command whose errors are printed as they are, with exit code 1, and that wants n arguments.
func (v *etcdVerbs) plain(use, short string, n int, wrong string, run func(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return plainly("%s", wrong)
		}
		c, err := v.connect(cmd, true)
		if err != nil {
			return err
		}
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		return run(ctx, cmd, c, args)
	}}
}

// plainFailure is the end of a command that prints errors as they are. Where nobody answers the root has its word.
func (v *etcdVerbs) plainFailure(err error) error {
	if v.own && !answered(err) {
		return v.failed(err)
	}
	return plainly("%v", err)
}

func (v *etcdVerbs) memberList(ctx context.Context, cmd *cobra.Command, c *etcdClient, _ []string) error {
	members, err := c.members(ctx)
	if err != nil {
		return v.plainFailure(err)
	}
	var leader etcdMember
	if err := c.leader(ctx, &leader); err != nil {
		return plainly("Failed to get leader:  %v", err)
	}
	for _, m := range members {
		if m.Name == "" {
			fmt.Fprintf(cmd.OutOrStdout(), "%s[unstarted]: peerURLs=%s\n", m.ID, strings.Join(m.PeerURLs, ","))
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: name=%s peerURLs=%s clientURLs=%s isLeader=%t\n", m.ID, m.Name,
			strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ","), m.ID == leader.ID)
	}
	return nil
}

func (c *etcdClient) leader(ctx context.Context, m *etcdMember) error {
	a, err := c.do(ctx, &etcdRequest{method: http.MethodGet, path: "/v2/members/leader"})
	switch {
	case err != nil:
		return err
	case a.status != http.StatusOK:
		return &messageError{fmt.Sprintf("unexpected status code %d", a.status)}
	}
	return json.Unmarshal(a.body, m)
}

// peerURLs is the body of a change of a member.
type peerURLs struct {
	PeerURLs []string `json:"peerURLs"`
}

// newPeerURLs checks the addresses of a server before anything is sent.
func newPeerURLs(list []string) (*peerURLs, error) {
	out := new(peerURLs)
	for _, text := range list {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		if err != nil {
			return nil, plainly("%v", err)
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, plainly(`URL address does not have the form "host:port": %s`, text)
			}
			if u.Path != "" {
				return nil, plainly("URL must not contain a path: %s", text)
			}
		case "unix", "unixs":
		default:
			return nil, plainly("URL scheme must be http, https, unix, or unixs: %s", text)
		}
		out.PeerURLs = append(out.PeerURLs, u.String())
	}
	return out, nil
}

func (v *etcdVerbs) memberAdd(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	body, err := newPeerURLs(args[1:])
	if err != nil {
		return err
	}
	var added etcdMember
	if err := c.changeMembers(ctx, http.MethodPost, "", nil, body, &added, http.StatusCreated); err != nil {
		return v.plainFailure(err)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Added member named %s with ID %s to cluster\n", args[0], added.ID)
	members, err := c.members(ctx)
	if err != nil {
		return v.plainFailure(err)
	}
	var cluster []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			name := m.Name
			if m.ID == added.ID {
				name = args[0]
			}
			cluster = append(cluster, name+"="+u)
		}
	}
	fmt.Fprintf(out, "\nETCD_NAME=%q\nETCD_INITIAL_CLUSTER=%q\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n", args[0], strings.Join(cluster, ","))
	return nil
}

// memberRemoveCommand has a flag more than etcdctl, under our own name only.
func (v *etcdVerbs) memberRemoveCommand() *cobra.Command {
	force := false
	cmd := v.plain("remove ID", "Remove a server", 1, "Provide a single member ID", func(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
		return v.memberRemove(ctx, cmd, c, args, force)
	})
	if v.own {
		cmd.Flags().BoolVar(&force, "force", false, "remove it even when the other servers lose their quorum by it")
	}
	return cmd
}

func (v *etcdVerbs) memberRemove(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string, force bool) error {
	id := args[0]
	members, err := c.members(ctx)
	switch {
	case err != nil && v.own:
		return v.plainFailure(err)
	case err != nil:
		return plainly("Error while verifying ID against known members: %v", err)
	}
	known := false
	for _, m := range members {
		known = known || m.ID == id
	}
	for _, m := range members {
		if !known && m.Name == id {
			fmt.Fprintf(cmd.ErrOrStderr(), "Found a member named %s; if this is correct, please use its ID, eg:\n\t%s %s\n"+
				"For more details, read the documentation at https://github.com/coreos/etcd/blob/master/Documentation/runtime-configuration.md#remove-a-member\n\n",
				m.Name, cmd.CommandPath(), m.ID)
		}
	}
	if !known {
		return plainly("Couldn't find a member in the cluster with an ID of %s.", id)
	}
	var q url.Values
	if force {
		q = url.Values{"force": {"1"}}
	}
	if err := c.changeMembers(ctx, http.MethodDelete, id, q, nil, nil, http.StatusNoContent); err != nil {
		if v.own {
			return v.plainFailure(err)
		}
		return plainly("Received an error trying to remove member %s: %s", id, strings.TrimSpace(err.Error()))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Removed member %s from cluster\n", id)
	return nil
}

func (v *etcdVerbs) memberUpdate(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	body, err := newPeerURLs(strings.Split(args[1], ","))
	if err != nil {
		return err
	}
	if err := c.changeMembers(ctx, http.MethodPut, args[0], nil, body, nil, http.StatusNoContent); err != nil {
		return v.plainFailure(err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Updated member with ID %s in cluster\n", args[0])
	return nil
}
