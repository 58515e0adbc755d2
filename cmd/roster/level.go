package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/node/presence"
	"roster/store"
)

// forceFlag adds --force to a command where it overrides checkLevels, and nothing else.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "write also what nodes of an older release do not take")
}

// checkLevels refuses definitions with something that the release of a member does not
// take, unless that is forced.
func checkLevels(ctx context.Context, st *store.Store, force bool, values map[store.Key][]byte) error {
	if force {
		return nil
	}
	err := presence.CheckLevels(ctx, st, values)
	var level *presence.LevelError
	if !errors.As(err, &level) {
		return err
	}
	var all []error
	for _, one := range manifest.Each(err) {
		all = append(all, fmt.Errorf("%w; bring all nodes to a release that has it first, or write it all the same with --force", one))
	}
	return withCode(exitInvalid, joined(all))
}

// written are the values that a plan writes.
func written(p plan.Plan) map[store.Key][]byte {
	values := map[store.Key][]byte{}
	for _, op := range p.Ops() {
		if op.Value != nil {
			values[op.Key] = op.Value
		}
	}
	return values
}
