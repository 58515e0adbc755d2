package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/show"
	"roster/node/presence"
	"roster/store"
)

func forgetCommand(s streams) *cobra.Command {
	var (
		c      client
		force  bool
		format string
	)
	cmd := &cobra.Command{
		Use:   "forget NODE[/INSTANCE]...",
		Short: "Take nodes off the fleet that are gone for good",
		Long: `Take nodes off the list of the fleet's members that are gone for good, so that --wait
does not wait for them any more.

A node that was killed, or that is cut off from etcd, stays a member: its presence has
ended, but it may still be serving clients by old definitions. Forget it when you know
that it is not. Of a node that was killed and started again, the process that was killed
is forgotten.

A member whose presence is there is not forgotten, except with --force. If it runs, it is
back with the next change.`,
		Example: `  roster status
  roster forget edge-3:8080
  roster forget edge-3:8080/4f1c09a2b3c4d5e6`,
		Args: args(1, 1000, "the names of nodes"),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeNodes(cmd, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, textOrJSON); err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				events, _, err := st.Members(ctx)
				if err != nil {
					return err
				}
				var all presence.Members
				all.Take(events)
				gone := []forgotten{}
				var errs []error
				for _, name := range args {
					some, err := forget(ctx, st, all, name, force)
					gone = append(gone, some...)
					if err != nil {
						errs = append(errs, err)
					}
				}
				if err := writeForgotten(s.out, gone, format); err != nil {
					errs = append(errs, err)
				}
				if errs != nil {
					return joined(errs)
				}
				return nil
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "also members whose presence is there")
	outputFlag(cmd, &format, textOrJSON)
	return cmd
}

// forgotten is a member that was taken off the list.
type forgotten struct {
	Node     string `json:"node"`
	Instance string `json:"instance"`
}

func writeForgotten(w io.Writer, all []forgotten, format string) error {
	if format == "json" {
		return show.JSON(w, map[string][]forgotten{"forgotten": all})
	}
	for _, m := range all {
		if _, err := fmt.Fprintf(w, "forgot %s/%s\n", m.Node, m.Instance); err != nil {
			return err
		}
	}
	return nil
}

// forget forgets the members that a name stands for, and returns them.
func forget(ctx context.Context, st *store.Store, all presence.Members, name string, force bool) (done []forgotten, err error) {
	var live []store.Instance
	for _, m := range all.Sorted() {
		if m.Node != name && m.String() != name {
			continue
		}
		gone := force
		if force {
			err = st.Withdraw(ctx, m.Instance)
		} else {
			gone, err = st.Forget(ctx, m.Instance) // which looks again whether it is back
		}
		if err != nil {
			return done, err
		}
		if gone {
			done = append(done, forgotten{m.Node, m.ID})
		} else {
			live = append(live, m.Instance)
		}
	}
	switch {
	case done != nil:
		return done, nil
	case live != nil:
		return nil, fmt.Errorf("node %s is present: it is running, or was until seconds ago; stop it, or use --force", live[0])
	}
	return nil, fmt.Errorf("there is no member %s; roster status lists them", name)
}
