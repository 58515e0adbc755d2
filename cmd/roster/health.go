package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/store"
)

// override is an operator's word on backends or directors, for some time.
type override struct {
	reason, by string
	lasts      time.Duration // 0: until somebody says otherwise
}

func (o *override) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.reason, "reason", "", "why, for those who see it")
	cmd.Flags().StringVar(&o.by, "by", "", "who says so; by default user@host")
	cmd.Flags().Var(newDuration(&o.lasts, 0), "for", "how long, in whole seconds; it ends by itself then; 0s is until somebody says otherwise")
}

func (o *override) check() error {
	if o.lasts != 0 && o.lasts < time.Second {
		return usage("--for is %v, want 1s or more", o.lasts)
	}
	return nil
}

// operator is who runs this program: user@host.
func operator() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// put writes the override of some names in one transaction. The lease is 0 without one.
func (o *override) put(ctx context.Context, st *store.Store, names []string, state store.HealthState) (keys []store.Key, rev, lease int64, err error) {
	value := store.Encode(&store.Health{State: state, Reason: o.reason, By: cmp.Or(o.by, operator())})
	if o.lasts > 0 {
		if lease, err = st.Grant(ctx, o.lasts); err != nil {
			return nil, 0, 0, err
		}
	}
	var ops []store.Op
	for _, name := range names {
		k := store.Key{Kind: store.HealthKind, Name: name}
		keys = append(keys, k)
		ops = append(ops, store.Op{Key: k, Value: value, IfRevision: store.AnyRevision, Lease: lease})
	}
	if rev, err = st.Apply(ctx, ops); err != nil && lease != 0 && !errors.Is(err, store.ErrOutcomeUnknown) {
		_ = st.Revoke(ctx, lease) // nothing is under it
	}
	return keys, rev, lease, err
}

// lasting says until when, for people.
func (o *override) lasting() string {
	if o.lasts == 0 {
		return ""
	}
	return " for " + store.FormatDuration(o.lasts)
}

var healthStates = []string{string(store.Sick), string(store.Healthy), string(store.Auto), string(store.Drain)}

func healthCommand(s streams) *cobra.Command {
	var (
		c client
		w waiting
		o override
	)
	cmd := &cobra.Command{
		Use:   "health NAME... sick|healthy|auto|drain",
		Short: "Say how a backend or director is, whatever its probe says",
		Long: `Say how a backend or director is, whatever its probe says, as Varnish's
backend.set_health does: sick gets no requests, healthy gets them, drain gets no new
ones while those in progress finish, and auto is what the probe says.

The word holds until another is said, or for as long as --for says. roster drain also
waits until nothing is left on a backend. What is said of a director is of the director
alone, not of its backends. Of several names it is said in one transaction.

` + waitHelp,
		Example: `  roster health web-1 sick --reason "disk is full"
  roster health web-1 auto
  roster health web-1 web-2 auto
  roster health web-1 drain --for 10m --wait`,
		Args: args(2, 1001, "names and a state: sick, healthy, auto or drain"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return c.completeNames(cmd, word)
			case slices.Contains(healthStates, args[len(args)-1]):
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return healthStates, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			names, word := args[:len(args)-1], args[len(args)-1]
			for _, name := range names {
				if err := store.ValidateName(name); err != nil {
					return withCode(exitInvalid, err)
				}
			}
			if !slices.Contains(healthStates, word) {
				return usage("the state is %q, want %s", word, strings.Join(healthStates, ", "))
			}
			slices.Sort(names)
			names = slices.Compact(names) // a transaction has each key once
			if err := cmp.Or(w.check(), o.check()); err != nil {
				return err
			}
			state := store.HealthState(word)
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				for _, name := range names {
					known, err := defined(ctx, st, name)
					if err != nil {
						return err
					}
					if !known {
						fmt.Fprintf(s.err, "roster: there is no backend or director %s yet; it will be %s when there is\n", name, state)
					}
				}
				began := time.Now()
				keys, rev, _, err := o.put(ctx, st, names, state)
				if err != nil {
					return err
				}
				are := "is"
				if len(names) > 1 {
					are = "are"
				}
				return w.finish(ctx, s, st, change{
					began: began, revision: rev, keys: keys,
					text: fmt.Sprintf("%s %s %s%s, at revision %d\n", strings.Join(names, ", "), are, state, o.lasting(), rev),
				})
			})
		},
	}
	c.add(cmd.Flags())
	o.add(cmd)
	w.add(cmd)
	return cmd
}

// defined says whether etcd has a backend or a director of a name. Where it does not let
// us look, there is one.
func defined(ctx context.Context, st *store.Store, name string) (bool, error) {
	for _, kind := range []store.Kind{store.Backends, store.Directors} {
		_, _, err := st.Get(ctx, store.Key{Kind: kind, Name: name}, 0)
		switch {
		case err == nil, errors.Is(err, store.ErrDenied):
			return true, nil
		case !errors.Is(err, store.ErrNotFound):
			return false, err
		}
	}
	return false, nil
}
