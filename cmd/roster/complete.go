package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/node/presence"
	"roster/store"
)

// completing is how long somebody who has pressed a key waits for etcd.
const completing = time.Second

// complete gives completions that begin with a word, from etcd; none if that does not
// answer.
func (c *client) complete(cmd *cobra.Command, word string, read func(context.Context, *store.Store) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completing)
	defer cancel()
	if fill := cmd.Root().PersistentPreRunE; fill != nil && fill(cmd, nil) != nil { // the environment says where etcd is
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []string
	_ = c.do(ctx, func(ctx context.Context, st *store.Store) (err error) {
		all, err = read(ctx, st)
		return err
	})
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, word) })
	slices.Sort(all)
	return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
}

// completeKeys completes KIND and then the name of one.
func (c *client) completeKeys(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return completeKind(cmd, args, word)
	case 1:
		return c.completeMore(cmd, args, word)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// completeMore completes KIND and then names of that kind, any number.
func (c *client) completeMore(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeKind(cmd, args, word)
	}
	kind, ok := store.ParseKind(args[0])
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd, word, func(ctx context.Context, st *store.Store) (names []string, err error) {
		// Those whose names begin so, and no more: there may be very many.
		entries, _, err := st.List(ctx, kind, word, 0)
		for _, e := range entries {
			if !slices.Contains(args[1:], e.Key.Name) {
				names = append(names, e.Key.Name)
			}
		}
		return names, err
	})
}

// completeFiles completes files of definitions.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeNames completes the name of a backend or director.
func (c *client) completeNames(cmd *cobra.Command, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, word, func(ctx context.Context, st *store.Store) (names []string, err error) {
		for _, kind := range []store.Kind{store.Backends, store.Directors} {
			entries, _, err := st.List(ctx, kind, "", 0)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				names = append(names, e.Key.Name)
			}
		}
		return names, nil
	})
}

// completeNodes completes the name of a node.
func (c *client) completeNodes(cmd *cobra.Command, word string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, word, func(ctx context.Context, st *store.Store) (names []string, err error) {
		events, _, err := st.Members(ctx)
		var all presence.Members
		all.Take(events)
		for i := range all {
			names = append(names, i.Node)
		}
		return names, err
	})
}
