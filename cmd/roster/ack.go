package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/fleet"
	"roster/node/presence"
	"roster/store"
)

func ackCommand(s streams) *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "ack REVISION",
		Short: "Acknowledge removals that nodes hold",
		Long: `Acknowledge that the removals up to a revision were meant, so that nodes let go of what
they hold: backends that were removed, too many at once for --guard, and an empty etcd that
they do not believe. roster status names what is held, and the revision to acknowledge.

What is removed by later revisions is held anew. A backend that is put again returns by
itself, and needs no acknowledgement.`,
		Example: `  roster status
  roster ack 4711`,
		Args: args(1, 1, "a revision, which roster status names"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeHeld(cmd, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			revision, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || revision < 1 {
				return usage("the revision is %q, want a number above 0; roster status names it", args[0])
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				done, err := st.Acknowledge(ctx, revision)
				var future *store.FutureError
				switch {
				case errors.As(err, &future):
					return fmt.Errorf("%w: what is not removed yet cannot be acknowledged; roster status names the revision", err)
				case err != nil:
					return err
				case done > revision:
					_, err = fmt.Fprintf(s.out, "removals up to revision %d are acknowledged already\n", done)
				default:
					_, err = fmt.Fprintf(s.out, "acknowledged removals up to revision %d\n", done)
				}
				if err != nil {
					return err
				}
				if more := fleet.Holding(ctx, st, done); more != nil {
					fmt.Fprintf(s.err, "roster: not released: %v\n", more)
				}
				return nil
			})
		},
	}
	c.add(cmd.Flags())
	return cmd
}

// completeHeld completes a revision that releases what nodes hold.
func (c *client) completeHeld(cmd *cobra.Command, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, word, func(ctx context.Context, st *store.Store) (revisions []string, err error) {
		events, _, err := st.Members(ctx)
		var all presence.Members
		all.Take(events)
		for _, m := range all {
			if m.Presence != nil && m.Presence.Held != nil {
				revisions = append(revisions, strconv.FormatInt(m.Presence.Held.Revision, 10))
			}
		}
		return revisions, err
	})
}
