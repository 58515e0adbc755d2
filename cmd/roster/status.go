package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v2"

	"roster/cmd/roster/internal/adminclient"
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
		asking  adminclient.Client
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the fleet: its nodes, and the health of backends",
		Long: `Show the fleet. What nodes there are, and how far each is, comes from etcd, where each
has its presence: no node need be reachable. A member whose presence has ended is unknown:
it may still be serving. LAG is how many revisions a node is behind the newest that one has
applied; nodes whose digests differ at one revision are named.

The health of backends comes from nodes: from the one of this machine, if it answers, or
from those that --admin names. Of a backend it shows, as Varnish's backend.list does, what
an operator says (probe: nothing), how many probes of the window are good, whether it gets
requests, and when that last changed; the sick come first. Of several nodes, the window is
the worst and the change the newest. With -v each node's backends follow, with the history
of their probes: as backend.list -p.

The exit code is 1 if a node is unknown, is not ready and is not draining either, holds removed backends (--guard),
differs from the others, or was named by --admin and does not answer; and 5 if etcd does not
answer.`,
		Example: `  roster status
  roster status --admin 127.0.0.1:6082,127.0.0.1:6083
  roster status -v
  roster status -o json | jq '.members[] | select(.state != "ready")'`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", format, show.Formats); err != nil {
				return err
			}
			f := fleet.Fleet{Client: asking}
			if cmd.Flags().Changed("admin") {
				f.Ask(cmd.Context(), admins, c.limit(), verbose)
			} else {
				f.AskLocal(cmd.Context(), defaultAdmin, min(c.limit(), localTimeout), verbose)
			}
			unavailable := c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				// Who may not see the members, or not all definitions, is told so, and sees the rest.
				counted := f.Count(ctx, st)
				if counted != nil && !errors.Is(counted, store.ErrDenied) {
					return counted
				}
				if err := f.Read(ctx, st); !errors.Is(err, store.ErrDenied) || counted != nil {
					return err
				}
				return nil
			})
			var err error
			switch format {
			case "json":
				err = show.JSON(s.out, f)
			case "yaml":
				err = writeYAML(s.out, f)
			default:
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
	cmd.Flags().StringSliceVar(&admins, "admin", []string{defaultAdmin}, "addresses of nodes' admin APIs to ask for the health of backends, HOST:PORT or https://HOST:PORT,...")
	asking.Add(cmd.Flags())
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "with the history of each backend's probes")
	outputFlag(cmd, &format, show.Formats)
	return cmd
}

// localTimeout is how long the node of this machine may take, which perhaps is not there.
const localTimeout = 2 * time.Second

// writeYAML writes what JSON would have, as YAML.
func writeYAML(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var tree yaml.MapSlice // in the order of the fields; JSON is YAML
	if err := yaml.Unmarshal(data, &tree); err != nil {
		return err
	}
	if data, err = yaml.Marshal(tree); err == nil {
		_, err = w.Write(data)
	}
	return err
}

func healthcheckCommand(s streams) *cobra.Command {
	var (
		admin   string
		asking  adminclient.Client
		timeout time.Duration
		format  string
	)
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 if a node is ready",
		Long:  `Ask a node's /readyz and exit with 0 if it is ready, else with 1: for containers.`,
		Example: `  roster healthcheck
  roster healthcheck --admin 127.0.0.1:6083`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", format, textOrJSON); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			status, body, err := asking.Get(ctx, admin, "/readyz")
			if format == "json" {
				out := map[string]any{"admin": admin, "ready": err == nil && status == http.StatusOK, "answer": body}
				if err != nil {
					out["error"] = err.Error()
				}
				if err := show.JSON(s.out, out); err != nil {
					return err
				}
			}
			if err != nil {
				return fmt.Errorf("the node at %s does not answer: %w", admin, err)
			}
			if status != http.StatusOK {
				return fmt.Errorf("the node at %s is not ready: %d %s", admin, status, body)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&admin, "admin", defaultAdmin, "address of the node's admin API, HOST:PORT or https://HOST:PORT")
	asking.Add(cmd.Flags())
	cmd.Flags().Var(newDuration(&timeout, 2*time.Second), "timeout", "how long the node may take")
	outputFlag(cmd, &format, textOrJSON)
	return cmd
}
