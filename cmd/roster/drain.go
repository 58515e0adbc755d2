package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/fleet"
	"roster/store"
)

func drainCommand(s streams) *cobra.Command {
	var (
		c client
		w waiting
		o override
	)
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Take a backend out of service, and wait until nothing is left on it",
		Long: `Take a backend out of service: it gets no new requests, those in progress and those
queued for it finish, and its connections are closed as they come back. Of a director, all
backends that it has are drained, also those that other directors have.

With --wait it returns once every member of the fleet has applied that, and none has a
request, a place in the queue or a connection of the backend any more: it is safe to kill.
Connections are those to its address: a backend that is not drained and has the same
address keeps them. A client with a sticky cookie still reaches a backend that is drained.
No node is asked: each says in etcd what is left.

A backend that others connect through, as their via, is refused until those are drained,
too: --wait waits for theirs.

It may be given after the backend was deleted, too, to wait for what is left of it. That is
refused while a node holds removed backends (--guard), and where neither etcd's history nor
a member knows of such a backend: the name may be misspelt.

A member whose presence has ended is unknown: it is named, and waited for, because it may
still be serving. After --wait-timeout the exit code is 6, and the backend is still
drained. roster health NAME auto puts it back. Of a director that is to be said of each of
its backends, not of the director: the command for it is printed.

With --for the drain may end while it is waited for: then the wait ends, too, with 6.`,
		Example: `  roster drain web-1 --wait && ssh web-1 systemctl restart app
  roster drain web-1 --wait --wait-timeout 5m --reason "new kernel"
  roster drain team-a/www --for 1h
  roster delete backend web-1 && roster drain web-1 --wait`,
		Args: args(1, 1, "the name of a backend or director"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeNames(cmd, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := store.ValidateName(name); err != nil {
				return withCode(exitInvalid, err)
			}
			if err := cmp.Or(w.check(), o.check()); err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				names, err := drained(ctx, st, name)
				if err != nil {
					return err
				}
				gone := names == nil
				if gone {
					if !w.on {
						return fmt.Errorf("there is no backend or director %s; roster get backends lists what there is", name)
					}
					if err := deleted(ctx, st, name); err != nil {
						return err
					}
					if err := fleet.Holding(ctx, st, 0); err != nil { // perhaps this one: it would get requests again afterwards
						return fmt.Errorf("%s was deleted, but may be held: %w", name, err)
					}
					fmt.Fprintf(s.err, "roster: there is no backend or director %s: waiting for what is left of one that was deleted\n", name)
					names = []string{name}
					o.lasts = 0
					if w.limit > 0 {
						o.lasts = w.limit + time.Minute // should we be killed
					}
				}
				through, err := connectedVia(ctx, st, names)
				if err != nil {
					return err
				}
				if n := len(names) + len(through); w.on && n > store.MaxLeaving {
					return fmt.Errorf("nothing is drained: these are %d backends, and --wait can follow %d; drain them in parts, or without --wait", n, store.MaxLeaving)
				}
				began := time.Now()
				keys, rev, lease, err := o.put(ctx, st, names, store.Drain)
				if err != nil {
					return err
				}
				if gone { // nobody is to find a backend of that name drained
					defer func() {
						ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.limit())
						defer cancel()
						if _, _, err := st.Delete(ctx, keys[0], rev); err == nil && lease != 0 {
							_ = st.Revoke(ctx, lease)
						}
					}()
				}
				text := fmt.Sprintf("draining %s%s, at revision %d\n", strings.Join(names, ", "), o.lasting(), rev)
				if !slices.Equal(names, []string{name}) {
					text += fmt.Sprintf("roster health %s auto puts back what was drained\n", strings.Join(names, " "))
				}
				return w.finish(ctx, s, st, change{
					began: began, revision: rev, keys: keys, quiet: slices.Concat(names, through), ends: o.lasts, text: text,
					done: fmt.Sprintf("no member has a request or connection of %s: safe to kill", strings.Join(names, ", ")),
				})
			})
		},
	}
	c.add(cmd.Flags())
	o.add(cmd)
	w.add(cmd)
	return cmd
}

// drained are the backends that a name stands for: itself, or all that a director has,
// through other directors, too. It is nil if there is no such thing.
func drained(ctx context.Context, st *store.Store, name string) ([]string, error) {
	// One whose newest value nodes reject may be served by an older one.
	_, at, err := st.Get(ctx, store.Key{Kind: store.Backends, Name: name}, 0)
	if err == nil {
		return []string{name}, nil
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	r := &reader{ctx: ctx, st: st, at: at}
	var all []string
	asked := map[string]bool{}
	var walk func(name string) (found bool)
	walk = func(name string) bool {
		if asked[name] {
			return true
		}
		asked[name] = true
		d, _ := readDefinition[*store.Director](r, store.Directors, name)
		if d == nil {
			return false
		}
		for _, m := range d.Members {
			if !walk(m.Name) && !slices.Contains(all, m.Name) {
				all = append(all, m.Name)
			}
		}
		if d.Select != nil && r.err == nil {
			under := ""
			if i := strings.LastIndexByte(name, '/'); i >= 0 {
				under = name[:i+1]
			}
			entries, _, err := st.List(ctx, store.Backends, under, r.at)
			if err != nil {
				r.err = err
			}
			for _, e := range entries {
				def, _, err := store.Decode(e.Key, e.Value, store.Reject)
				if b, ok := def.(*store.Backend); err == nil && ok && b.Labels.Match(d.Select) && !slices.Contains(all, e.Key.Name) {
					all = append(all, e.Key.Name)
				}
			}
		}
		return true
	}
	if !walk(name) || r.err != nil {
		return nil, r.err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("director %s has no backends to drain", name)
	}
	slices.Sort(all)
	return all, nil
}

// deleted is nil if a backend was deleted that had this name, by what etcd remembers or a
// member still has of it. Otherwise no wait is an answer: whoever misspells a name is not
// to be told that it is safe to kill. A drained name alone, which members repeat, is none.
func deleted(ctx context.Context, st *store.Store, name string) error {
	all, oldest, _, err := readHistory(ctx, st, store.Range{Kind: store.Backends, Name: name}, 0)
	if err != nil || len(all) > 0 {
		return err
	}
	if left, err := fleet.StillHas(ctx, st, name); err != nil || left {
		return err
	}
	switch all, _, _, err := readHistory(ctx, st, store.Range{Kind: store.Directors, Name: name}, 0); {
	case err != nil && !errors.Is(err, store.ErrDenied):
		return err
	case len(all) > 0:
		return fmt.Errorf("the director %s was deleted: drain the backends that it had, each by its name; roster history director %s has them", name, name)
	}
	since := ""
	if oldest > 0 {
		since = fmt.Sprintf(", which is since revision %d", oldest)
	}
	return fmt.Errorf("there is no backend or director %s, and none was deleted as far as etcd remembers%s; roster get backends lists what there is", name, since)
}

// connectedVia are the other backends that connect through one of those names. As a drain
// ends none of that, each has to be drained itself, or it is an error. Who may not read
// all backends is not told.
func connectedVia(ctx context.Context, st *store.Store, names []string) (through []string, err error) {
	entries, at, err := st.List(ctx, store.Backends, "", 0)
	if errors.Is(err, store.ErrDenied) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &reader{ctx: ctx, st: st, at: at}
	serving := map[string][]string{}
	for _, e := range entries {
		def, _, err := store.Decode(e.Key, e.Value, store.Reject)
		b, ok := def.(*store.Backend)
		if err != nil || !ok || !slices.Contains(names, b.Via) || slices.Contains(names, e.Key.Name) {
			continue
		}
		through = append(through, e.Key.Name)
		if word, _ := readDefinition[*store.Health](r, store.HealthKind, e.Key.Name); word == nil || word.State != store.Drain {
			serving[b.Via] = append(serving[b.Via], e.Key.Name)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	var errs []error
	for _, via := range names {
		if users := serving[via]; users != nil {
			errs = append(errs, fmt.Errorf("%s is the via of %s: drain what connects through it, or give that another via, first", via, listed(users)))
		}
	}
	if errs != nil {
		return nil, joined(errs)
	}
	return through, nil
}
