package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"
)

// keygenCommand makes a key for the encryption of gossip.
func keygenCommand() *cobra.Command {
	return &cobra.Command{Use: "keygen", Short: "Make a key for encrypting gossip", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		key := make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), base64.StdEncoding.EncodeToString(key))
		return nil
	}}
}

// keyringCommand changes the keys of all agents while they run.
func keyringCommand(c *client) *cobra.Command {
	var install, use, remove string
	var list, primary, local bool
	var relay int
	cmd := &cobra.Command{
		Use: "keyring", Short: "List and change the keys that encrypt gossip", Args: cobra.NoArgs,
		Long: "List and change the keys that encrypt gossip, on all agents at once. To rotate: -install a new key, -use it,\n-remove the old one.",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		chosen := 0
		for _, on := range []bool{install != "", use != "", remove != "", list, primary} {
			if on {
				chosen++
			}
		}
		switch {
		case chosen != 1:
			return errors.New("give exactly one of -install, -use, -remove, -list and -list-primary")
		case relay < 0 || relay > 5:
			return fmt.Errorf("-relay-factor %d: want 0 to 5", relay)
		case local && !list && !primary:
			return errors.New("-local-only goes with -list and -list-primary only")
		}
		q := url.Values{}
		if relay > 0 {
			q.Set("relay-factor", strconv.Itoa(relay))
		}
		if list || primary {
			if local {
				q.Set("local-only", "true")
			}
			return listKeys(c, cmd, q, primary)
		}
		method, key, say := http.MethodPost, install, "Installing new gossip encryption key..."
		switch {
		case use != "":
			method, key, say = http.MethodPut, use, "Changing primary gossip encryption key..."
		case remove != "":
			method, key, say = http.MethodDelete, remove, "Removing gossip encryption key..."
		}
		if b, err := base64.StdEncoding.DecodeString(key); err != nil || len(b) != 16 && len(b) != 24 && len(b) != 32 {
			return errors.New("a key is the base64 of 16, 24 or 32 bytes; keygen makes one")
		}
		fmt.Fprintln(cmd.OutOrStdout(), "==> "+say)
		_, err := c.sendJSON(cmd.Context(), method, "/v1/operator/keyring", q, map[string]string{"Key": key})
		return doing(err, "changing keys")
	}
	f := cmd.Flags()
	f.StringVar(&install, "install", "", "give all agents this key, without using it yet")
	f.StringVar(&use, "use", "", "encrypt with this installed key from now on")
	f.StringVar(&remove, "remove", "", "forget this key; not the one in use")
	f.BoolVar(&list, "list", false, "list the keys, and how many agents have each")
	f.BoolVar(&primary, "list-primary", false, "list the keys in use")
	f.BoolVar(&local, "local-only", false, "ask the agent's own pool only")
	f.IntVar(&relay, "relay-factor", 0, "how many agents repeat each answer, 0 to 5")
	return cmd
}

func listKeys(c *client, cmd *cobra.Command, q url.Values, primary bool) error {
	w := cmd.OutOrStdout()
	fmt.Fprintln(w, "==> Gathering installed encryption keys...")
	var pools []struct {
		WAN                 bool
		Datacenter, Segment string
		Keys, PrimaryKeys   map[string]int
		NumNodes            int
	}
	if err := doing(c.get(cmd.Context(), "/v1/operator/keyring", q, &pools), "listing keys"); err != nil {
		return err
	}
	for _, p := range pools {
		name := p.Datacenter + " (LAN)"
		if p.WAN {
			name = "WAN"
		}
		if p.Segment != "" {
			name += " [" + p.Segment + "]"
		}
		fmt.Fprintf(w, "\n%s:\n", name)
		keys := p.Keys
		if primary {
			keys = p.PrimaryKeys
		}
		for _, k := range sortedKeys(keys) {
			fmt.Fprintf(w, "  %s [%d/%d]\n", k, keys[k], p.NumNodes)
		}
	}
	return nil
}
