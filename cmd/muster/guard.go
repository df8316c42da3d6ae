package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// guardCommand shows what the mass-removal guard holds, and makes it let go.
func guardCommand(c *client) *cobra.Command {
	cmd := group(c, "guard", "What is kept because an unlikely share would vanish at once", guardRelease(c))
	cmd.Long = "List the services whose last good instances are shown although most of them are said to be unhealthy, and the\nnodes of which nobody knows whether they live. Services are those that the agent that is asked holds; nodes are the leader's."
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var st struct {
			Enabled    bool
			Services   []heldSet
			NodesHeld  *heldSet
			Unknown    []struct{ Node, Why, Since, Until string }
			NodesError string
		}
		if err := doing(c.get(cmd.Context(), "/v1/agent/guard", nil, &st), "asking the guard"); err != nil {
			return err
		}
		if st.NodesError != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "The leader could not be asked about nodes: %s\n", st.NodesError)
		}
		var rows [][]string
		for _, h := range st.Services {
			rows = append(rows, append([]string{"service"}, h.row()...))
		}
		if st.NodesHeld != nil {
			rows = append(rows, append([]string{"nodes"}, st.NodesHeld.row()...))
		}
		for _, u := range st.Unknown {
			rows = append(rows, []string{"node", u.Node, u.Why, "", u.Since, u.Until})
		}
		if len(rows) == 0 {
			text := "Nothing is held"
			if !st.Enabled {
				text = "The guard is turned off"
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		}
		return format("table").print(cmd.OutOrStdout(), nil, []string{"Kind", "Name", "Held", "Of", "Since", "Until"}, rows)
	}
	return cmd
}

// heldSet is a set that is held, as the agent tells it.
type heldSet struct {
	Service      string
	Lost, Of     int
	Since, Until time.Time
}

func (h *heldSet) row() []string {
	return []string{h.Service, strconv.Itoa(h.Lost), strconv.Itoa(h.Of), h.Since.UTC().Format(time.RFC3339), h.Until.UTC().Format(time.RFC3339)}
}

func guardRelease(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "release [SERVICE]", Short: "Say that the losses are true: every agent shows instances as they are",
		Long: "Say that the losses of one service, or of all services and nodes, are true. Every agent that gossip reaches then\nshows instances as they are said to be, and believes what follows within the guard's window.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, what := url.Values{}, "everything"
			if len(args) == 1 {
				q.Set("service", args[0])
				what = strconv.Quote(args[0])
			}
			if _, err := c.ok(cmd.Context(), http.MethodPut, "/v1/agent/guard/release", q, nil); err != nil {
				return doing(err, "releasing")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Released %s\n", what)
			return nil
		},
	}
}
