package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/spf13/cobra"
)

// etcdPermissions are the patterns of keys that a role may read and write. Null and empty differ on the wire.
type etcdPermissions struct {
	KV struct {
		Read  []string `json:"read"`
		Write []string `json:"write"`
	} `json:"kv"`
}

// etcdRole and etcdUser are what /v2/auth takes and gives. A user's roles come whole or by name.
type etcdRole struct {
	Role        string           `json:"role"`
	Permissions etcdPermissions  `json:"permissions"`
	Grant       *etcdPermissions `json:"grant,omitempty"`
	Revoke      *etcdPermissions `json:"revoke,omitempty"`
}

type etcdUser struct {
	User     string   `json:"user"`
	Password string   `json:"password,omitempty"`
	Roles    []string `json:"roles"`
	Grant    []string `json:"grant,omitempty"`
	Revoke   []string `json:"revoke,omitempty"`
}

const (
	needUser = "Please provide a username"
	needRole = "Please provide a role name"
)

// authCommands manage users and roles, as far as the server has them.
func (v *etcdVerbs) authCommands() []*cobra.Command {
	toggle := func(use, short, method, done string) *cobra.Command {
		return v.plain(use, short, 0, "No arguments accepted", func(ctx context.Context, cmd *cobra.Command, c *etcdClient, _ []string) error {
			return v.auth(ctx, cmd, c, method, "enable", nil, nil, done)
		})
	}
	remove := func(kind, short, wrong, done string) *cobra.Command {
		return v.plain("remove NAME", short, 1, wrong, func(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
			return v.auth(ctx, cmd, c, http.MethodDelete, kind+"/"+args[0], nil, nil, fmt.Sprintf(done, args[0]))
		})
	}
	return []*cobra.Command{
		v.group("auth", "Turn access control on and off",
			toggle("enable", "Turn access control on", http.MethodPut, "Authentication Enabled"),
			toggle("disable", "Turn access control off", http.MethodDelete, "Authentication Disabled")),
		v.group("user", "Manage users",
			v.plain("list", "List the users", 0, "No arguments accepted", v.userList),
			v.plain("get NAME", "Show a user", 1, needUser, v.userGet),
			v.plain("add NAME[:PASSWORD]", "Add a user", 1, needUser, v.userAdd),
			remove("users", "Remove a user", needUser, "User %s removed"),
			v.plain("passwd NAME[:PASSWORD]", "Change a password", 1, needUser, v.userPassword),
			v.userGrant("grant NAME", "Give a user roles", func(u *etcdUser, roles []string) { u.Grant = roles }),
			v.userGrant("revoke NAME", "Take roles from a user", func(u *etcdUser, roles []string) { u.Revoke = roles })),
		v.group("role", "Manage roles",
			v.plain("list", "List the roles", 0, "No arguments accepted", v.roleList),
			v.plain("get NAME", "Show a role", 1, needRole, v.roleGet),
			v.plain("add NAME", "Add a role", 1, needRole, v.roleAdd),
			remove("roles", "Remove a role", needRole, "Role %s removed"),
			v.roleGrant("grant NAME", "Let a role reach keys", func(r *etcdRole, p *etcdPermissions) { r.Grant = p }),
			v.roleGrant("revoke NAME", "Take keys from a role", func(r *etcdRole, p *etcdPermissions) { r.Revoke = p })),
	}
}

// auth makes one request below /v2/auth, decodes the answer into out unless that is nil, and says that it is done.
func (v *etcdVerbs) auth(ctx context.Context, cmd *cobra.Command, c *etcdClient, method, what string, body, out any, done string) error {
	a, err := c.do(ctx, &etcdRequest{method: method, path: "/v2/auth/" + what, json: body})
	switch {
	case err != nil:
		if fault, ok := errors.AsType[*faultError](err); ok && fault.status == http.StatusNotImplemented {
			return plainly("%v", (&answer{status: fault.status, body: fault.body}).message()) // the reason is of more use
		}
		return v.plainFailure(err)
	case a.status != http.StatusOK && a.status != http.StatusCreated:
		return v.plainFailure(a.message())
	case out != nil:
		if err := json.Unmarshal(a.body, out); err != nil {
			return plainly("%v", err)
		}
	}
	if done != "" {
		fmt.Fprintln(cmd.OutOrStdout(), done)
	}
	return nil
}

func (v *etcdVerbs) userList(ctx context.Context, cmd *cobra.Command, c *etcdClient, _ []string) error {
	var list struct {
		Users []struct {
			User string `json:"user"`
		} `json:"users"`
	}
	if err := v.auth(ctx, cmd, c, http.MethodGet, "users", nil, &list, ""); err != nil {
		return err
	}
	for _, u := range list.Users {
		fmt.Fprintln(cmd.OutOrStdout(), u.User)
	}
	return nil
}

func (v *etcdVerbs) userGet(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	var u struct {
		User  string `json:"user"`
		Roles []struct {
			Role string `json:"role"`
		} `json:"roles"`
	}
	if err := v.auth(ctx, cmd, c, http.MethodGet, "users/"+args[0], nil, &u, ""); err != nil {
		return err
	}
	// One empty entry per role stands before the names; scripts that cut the line into fields do not notice.
	names := make([]string, len(u.Roles))
	for _, r := range u.Roles {
		names = append(names, r.Role)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "User: %s\nRoles: %s\n", u.User, strings.Join(names, " "))
	return nil
}

// userPasswordOf splits NAME:PASSWORD and asks for a password that is missing.
func userPasswordOf(cmd *cobra.Command, arg string) (*etcdUser, error) {
	name, password, ok := strings.Cut(arg, ":")
	if !ok {
		var err error
		if password, err = readPassword(cmd, "New password: "); err != nil {
			return nil, err
		}
	}
	return &etcdUser{User: name, Password: password}, nil
}

func (v *etcdVerbs) userAdd(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	u, err := userPasswordOf(cmd, args[0])
	if err != nil {
		return err
	}
	return v.auth(ctx, cmd, c, http.MethodPut, "users/"+u.User, u, nil, "User "+u.User+" created")
}

func (v *etcdVerbs) userPassword(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	u, err := userPasswordOf(cmd, args[0])
	if err != nil {
		return err
	}
	return v.auth(ctx, cmd, c, http.MethodPut, "users/"+u.User, u, nil, "Password updated")
}

func (v *etcdVerbs) userGrant(use, short string, set func(*etcdUser, []string)) *cobra.Command {
	var roles []string
	cmd := v.plain(use, short, 1, needUser, func(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
		if len(roles) == 0 {
			return plainly("No roles specified; please use `--roles`")
		}
		u := &etcdUser{User: args[0]}
		set(u, roles)
		return v.auth(ctx, cmd, c, http.MethodPut, "users/"+u.User, u, nil, "User "+u.User+" updated")
	})
	cmd.Flags().StringArrayVar(&roles, "roles", nil, "a role; repeat the flag for several")
	return cmd
}

func (v *etcdVerbs) roleList(ctx context.Context, cmd *cobra.Command, c *etcdClient, _ []string) error {
	var list struct {
		Roles []etcdRole `json:"roles"`
	}
	if err := v.auth(ctx, cmd, c, http.MethodGet, "roles", nil, &list, ""); err != nil {
		return err
	}
	for _, r := range list.Roles {
		fmt.Fprintln(cmd.OutOrStdout(), r.Role)
	}
	return nil
}

func (v *etcdVerbs) roleGet(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	var r etcdRole
	if err := v.auth(ctx, cmd, c, http.MethodGet, "roles/"+args[0], nil, &r, ""); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Role: %s\nKV Read:\n", r.Role)
	for _, p := range r.Permissions.KV.Read {
		fmt.Fprintf(out, "\t%s\n", p)
	}
	fmt.Fprintln(out, "KV Write:")
	for _, p := range r.Permissions.KV.Write {
		fmt.Fprintf(out, "\t%s\n", p)
	}
	return nil
}

func (v *etcdVerbs) roleAdd(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
	a, err := c.do(ctx, &etcdRequest{method: http.MethodGet, path: "/v2/auth/roles/" + args[0]})
	switch {
	case err != nil:
		return v.plainFailure(err)
	case a.status == http.StatusOK:
		return plainly("Role %s already exists", args[0])
	}
	return v.auth(ctx, cmd, c, http.MethodPut, "roles/"+args[0], &etcdRole{Role: args[0]}, nil, "Role "+args[0]+" created")
}

func (v *etcdVerbs) roleGrant(use, short string, set func(*etcdRole, *etcdPermissions)) *cobra.Command {
	var key string
	var read, write, both bool
	cmd := v.plain(use, short, 1, needRole, func(ctx context.Context, cmd *cobra.Command, c *etcdClient, args []string) error {
		ways := 0
		for _, on := range []bool{read, write, both} {
			if on {
				ways++
			}
		}
		switch {
		case key == "":
			return plainly("No path specified; please use `--path`")
		case !strings.HasPrefix(key, "/") || path.Clean(key) != key:
			return plainly("Not canonical path; please use `--path=%s`", path.Clean("/"+key))
		case ways != 1:
			return plainly("Please specify exactly one of --read, --write or --readwrite")
		}
		// Grants of a role that is not there are refused before anything is sent.
		if err := v.auth(ctx, cmd, c, http.MethodGet, "roles/"+args[0], nil, nil, ""); err != nil {
			return err
		}
		p := new(etcdPermissions)
		if read || both {
			p.KV.Read = []string{key}
		}
		if write || both {
			p.KV.Write = []string{key}
		}
		r := &etcdRole{Role: args[0]}
		set(r, p)
		return v.auth(ctx, cmd, c, http.MethodPut, "roles/"+args[0], r, nil, "Role "+args[0]+" updated")
	})
	f := cmd.Flags()
	f.StringVar(&key, "path", "", "key, or the beginning of keys and *")
	f.BoolVar(&read, "read", false, "for reading")
	f.BoolVar(&write, "write", false, "for writing")
	f.BoolVar(&both, "readwrite", false, "for reading and writing")
	f.BoolVar(&both, "rw", false, "short for --readwrite")
	return cmd
}
