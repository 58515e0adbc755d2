package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/fleet"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// defaultAdmin is where a node's admin API listens.
const defaultAdmin = "127.0.0.1:6082"

func statusCommand(s streams) *cobra.Command {
	var (
		c       client
		admins  []string
		format  string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what nodes serve and what etcd holds",
		Long: `Ask nodes and etcd, and show each node's revision and digest, what it rejects and what
refers to something missing, and the health of its backends: how many are healthy, and
which are not and why. Nodes whose digests differ at one revision are named.

Of a backend it shows, as Varnish's backend.list does, what an operator says (probe:
nothing), how many probes of the window are good, whether it gets requests, and when that
last changed. Of several nodes, the window is the worst and the change the newest. With
-v each node's backends follow, with the history of their probes: as backend.list -p.

The exit code is 1 if a node does not answer, is not ready or differs from the others,
and 5 if etcd does not answer.`,
		Example: `  roster status
  roster status --admin 127.0.0.1:6082,127.0.0.1:6083
  roster status -v
  roster status -o json | jq .nodes[0].status.rejected`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", format, []string{"table", "json"}); err != nil {
				return err
			}
			var f fleet.Fleet
			f.Ask(cmd.Context(), admins, c.limit(), verbose)
			unavailable := c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error { return f.Count(ctx, st) })
			var err error
			if format == "json" {
				err = show.JSON(s.out, f)
			} else {
				err = f.Write(s.out)
				if verbose && err == nil {
					err = f.WriteLists(s.out)
				}
			}
			if err == nil {
				err = unavailable
			}
			if err == nil {
				err = f.Fault()
			}
			return err
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().StringSliceVar(&admins, "admin", []string{defaultAdmin}, "addresses of nodes' admin APIs, HOST:PORT,...")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "with the history of each backend's probes")
	outputFlag(cmd, &format, []string{"table", "json"})
	return cmd
}

func healthcheckCommand() *cobra.Command {
	var (
		admin   string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 if a node is ready",
		Long:  `Ask a node's /readyz and exit with 0 if it is ready, else with 1: for containers.`,
		Example: `  roster healthcheck
  roster healthcheck --admin 127.0.0.1:6083`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			status, body, err := fleet.Get(ctx, admin, "/readyz")
			if err != nil {
				return fmt.Errorf("the node at %s does not answer: %w", admin, err)
			}
			if status != http.StatusOK {
				return fmt.Errorf("the node at %s is not ready: %d %s", admin, status, body)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&admin, "admin", defaultAdmin, "address of the node's admin API, HOST:PORT")
	cmd.Flags().Var(newDuration(&timeout, 2*time.Second), "timeout", "how long the node may take")
	return cmd
}
