package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/store"
)

func rollbackCommand(s streams) *cobra.Command {
	var (
		c        client
		w        waiting
		revision int64
		dryRun   bool
		force    bool
	)
	cmd := &cobra.Command{
		Use:   "rollback --revision N [KIND [NAME]]",
		Short: "Put definitions back to what they were at a revision",
		Long: `Put all definitions, those of a kind, those below a name that ends in a slash, or one back
to what they were at a revision, in one transaction: what was made since is deleted, what
was deleted is made again, what was changed is changed back. If anybody changes one of them
meanwhile, nothing is written and the exit code is 4.

These stay as they are, and are named: what is under a lease now, or was then, because the
lease, and with it whoever kept it alive, is not what it was; values that nodes would
reject; and, unless the kind health is asked for, operators' overrides of health, lest a
rollback puts a machine back into service that somebody has drained.

A revision that etcd has compacted away cannot be gone back to; the exit code is 1.
roster history shows the revisions. A rollback is a change as any other: to undo it, roll
back to the revision before it.

` + waitHelp,
		Example: `  roster history --limit 20
  roster rollback --revision 4711 --dry-run
  roster rollback --revision 4711 --wait
  roster rollback --revision 4711 backend web-1
  roster rollback --revision 4711 routes team-a/`,
		Args: args(0, 2, "perhaps a kind and a name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			if revision < 1 {
				return usage("--revision N says what to go back to: roster history shows the revisions")
			}
			r, err := rangeOf(args)
			if err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				p, kept, err := planRollback(ctx, st, r, revision)
				if err != nil {
					return err
				}
				for _, note := range kept {
					fmt.Fprintf(s.err, "roster: note: %s\n", note)
				}
				if err := checkLevels(ctx, st, force, written(p)); err != nil {
					return err
				}
				if dryRun {
					return reportDryRun(ctx, s.out, st, p, w.format)
				}
				done := change{began: time.Now(), revision: p.Written()} // where there is nothing to write
				ops := guarded(p)
				if len(ops) > 0 {
					if p.Revision, err = st.Apply(ctx, ops); err != nil {
						return err
					}
					done.revision = p.Revision
				}
				for _, op := range ops {
					done.keys = append(done.keys, op.Key)
				}
				var text strings.Builder
				reportPlan(&text, p, false)
				done.text = text.String()
				return w.finish(ctx, s, st, done)
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().Int64Var(&revision, "revision", 0, "the revision to go back to")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be written, and what a node would do; write nothing")
	forceFlag(cmd, &force)
	w.add(cmd)
	return cmd
}

// guarded are the writes of a plan, each only if its key is what it was.
func guarded(p plan.Plan) []store.Op {
	ops := p.Ops()
	before := map[store.Key]int64{}
	for _, step := range p.Steps {
		before[step.Entry.Key] = step.Before.ModRevision
	}
	for i := range ops {
		ops[i].IfRevision = before[ops[i].Key]
	}
	return ops
}

// planRollback compares a range with what it was, and says what stays as it is.
func planRollback(ctx context.Context, st *store.Store, r store.Range, revision int64) (p plan.Plan, kept []string, err error) {
	now, at, err := st.Read(ctx, r, 0)
	if err != nil {
		return p, nil, err
	}
	was, _, err := st.Read(ctx, r, revision)
	switch {
	case errors.Is(err, store.ErrCompacted):
		return p, nil, fmt.Errorf("etcd does not have revision %d any more: %w; roster history --limit 1000 shows how far back it goes", revision, store.ErrCompacted)
	case errors.Is(err, store.ErrFuture):
		return p, nil, fmt.Errorf("etcd is at revision %d, and has no revision %d yet", at, revision)
	case err != nil:
		return p, nil, err
	}
	if r.Name != "" && len(now)+len(was) == 0 {
		return p, nil, fmt.Errorf("there is no %s %s, neither now nor at revision %d", r.Kind.Singular(), r.Name, revision)
	}
	p.Revision = at
	overrides := 0
	current := map[store.Key]store.Entry{}
	for _, e := range now {
		current[e.Key] = e
	}
	keep := func(key store.Key, format string, args ...any) {
		kept = append(kept, fmt.Sprintf("%s stays as it is: "+format, append([]any{key}, args...)...))
	}
	for _, e := range was {
		before, there := current[e.Key]
		delete(current, e.Key)
		def, _, invalid := store.Decode(e.Key, e.Value, store.Reject)
		step := plan.Step{Action: plan.Change, Entry: manifest.Entry{Key: e.Key, Value: e.Value, Definition: def}, Before: before}
		switch {
		case there && bytes.Equal(before.Value, e.Value):
			step.Action = plan.Keep
			p.Steps = append(p.Steps, step)
		case e.Key.Kind == store.HealthKind && r.Kind != store.HealthKind:
			overrides++
		case e.Lease != 0 || before.Lease != 0:
			keep(e.Key, "%s", underLease(e.Lease, before.Lease))
		case invalid != nil:
			keep(e.Key, "nodes would reject what it was: %v", manifest.Each(invalid)[0])
		default:
			if !there {
				step.Action = plan.Create
			}
			p.Steps = append(p.Steps, step)
		}
	}
	for _, e := range now {
		if _, made := current[e.Key]; !made {
			continue
		}
		switch {
		case e.Key.Kind == store.HealthKind && r.Kind != store.HealthKind:
			overrides++
		case e.Lease != 0:
			keep(e.Key, "%s", underLease(0, e.Lease))
		default:
			p.Steps = append(p.Steps, plan.Step{Action: plan.Delete, Entry: manifest.Entry{Key: e.Key}, Before: e})
		}
	}
	if overrides > 0 {
		kept = append(kept, fmt.Sprintf("%d overrides of health stay as they are; roster rollback --revision %d health puts them back, too", overrides, revision))
	}
	return p, kept, nil
}

func underLease(then, now int64) string {
	if then != 0 && now == 0 {
		return "it was under a lease, which has ended"
	}
	return "it is under a lease now"
}
