package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/difference"
	"roster/cmd/roster/internal/effect"
	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// fileSet is what apply and diff have in common: files, and whose they are.
type fileSet struct {
	files        []string
	owner        string
	prune, force bool
}

func (f *fileSet) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "file with definitions; - is stdin; may be given again")
	cmd.Flags().StringVar(&f.owner, "owner", "", "name of whose definitions these are; remembered in etcd")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "delete what --owner has and the files have no more")
	cmd.Flags().BoolVar(&f.force, "force", false, "take over what another owner has; let --prune delete all that the owner has; write also what nodes of an older release do not take")
}

// read reads the files.
func (f *fileSet) read(args []string, stdin io.Reader) ([]manifest.Entry, error) {
	if f.prune && f.owner == "" {
		return nil, usage("--prune deletes what an owner has and the files have not: name the owner with --owner")
	}
	if f.owner != "" {
		if err := store.ValidateName(f.owner); err != nil {
			return nil, usage("--owner: %w", err)
		}
	}
	return load(append(f.files, args...), stdin)
}

// plan compares them with etcd.
func (f *fileSet) plan(ctx context.Context, s streams, st *store.Store, entries []manifest.Entry) (plan.Plan, error) {
	p, err := plan.Make(ctx, st, entries)
	if err != nil || f.owner == "" {
		return p, err
	}
	notes, err := p.Claim(ctx, st, f.owner, f.prune, f.force)
	if err != nil {
		return p, err
	}
	for _, n := range notes {
		fmt.Fprintf(s.err, "roster: note: %s\n", n)
	}
	if n := p.Count(plan.Delete); len(entries) == 0 && n > 0 && !f.force {
		return p, fmt.Errorf("the files define nothing, and --prune would delete all %d definitions of the owner %s; if that is meant, add --force", n, f.owner)
	}
	return p, nil
}

func applyCommand(s streams) *cobra.Command {
	var (
		c         client
		w         waiting
		f         fileSet
		dryRun    bool
		nonAtomic bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE...",
		Short: "Write many definitions in one transaction",
		Long: `Write all definitions of some files in one etcd transaction: nodes serve all of them
or none. Definitions that etcd has already are not written again, and what the files
do not name stays as it is.

A file, YAML or JSON, maps kinds to names to definitions:

    backends:
      web-1: {host: 10.0.0.7, port: 8080}
      web-2: {host: 10.0.0.8, port: 8080}
    directors:
      default: {type: round_robin, backends: [web-1, web-2]}

If any of them is invalid none is written, and all that is wrong is reported. So it is if a
node of an older release does not take one, unless there is --force.

With --owner NAME, etcd remembers that these definitions are NAME's, and --prune deletes,
in the same transaction, those that NAME has and the files have no more. Nothing else is
ever deleted: not what others wrote, nor what somebody deleted and made anew. A definition
is of one owner; --force takes over another's. Files without any definition are refused
with --prune, unless there is --force. Look with --dry-run first.

--dry-run writes nothing, and says what would be written and what a node would do then:
which pools of connections and which probers, with their history, are kept, and which
directors get other members.

etcd takes 128 keys in one transaction, or as many as its --max-txn-ops says; roster's own
takes 4096, and 1.5 MiB. What is more is refused. --non-atomic writes it in several:
probes before backends, those before directors and routes, and deletes the other way
round, so that nothing dangles meanwhile. If that fails half-way, apply again.

` + waitHelp,
		Example: `  roster apply -f site.yaml
  roster apply -f backends.yaml -f routes.yaml
  roster apply -f conf.d/*.yaml
  roster apply --dry-run -f site.yaml
  roster apply --owner web --prune -f site.yaml
  roster get backends -o yaml | sed s/8080/8081/ | roster apply -f -
  roster apply --wait -f site.yaml
  roster apply --non-atomic -f ten-thousand-backends.yaml`,
		ValidArgsFunction: completeFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			entries, err := f.read(args, s.in)
			if err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				p, err := f.plan(ctx, s, st, entries)
				if err != nil {
					return err
				}
				if err := checkLevels(ctx, st, f.force, written(p)); err != nil {
					return err
				}
				if dryRun {
					return reportDryRun(ctx, s.out, st, p, w.format)
				}
				done := change{began: time.Now(), revision: p.Written()} // where there is nothing to write
				if ops := p.Ops(); len(ops) > 0 {
					if p.Revision, err = write(ctx, s, st, &p, ops, nonAtomic); err != nil {
						return err
					}
					for _, op := range ops {
						if op.Key.Kind != store.OwnerKind {
							done.keys = append(done.keys, op.Key)
							done.revision = p.Revision
						}
					}
				}
				var text strings.Builder
				reportPlan(&text, p, dryRun)
				done.text = text.String()
				return w.finish(ctx, s, st, done)
			})
		},
	}
	c.add(cmd.Flags())
	f.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be written, and what a node would do; write nothing")
	cmd.Flags().BoolVar(&nonAtomic, "non-atomic", false, "write in several transactions if etcd does not take all in one")
	w.add(cmd)
	return cmd
}

// write writes a plan in one transaction or, if that is allowed, in several.
func write(ctx context.Context, s streams, st *store.Store, p *plan.Plan, ops []store.Op, nonAtomic bool) (int64, error) {
	rev, err := st.Apply(ctx, ops)
	var large *store.TooLargeError
	if !errors.As(err, &large) {
		return rev, err
	}
	if !nonAtomic {
		return 0, fmt.Errorf("%w; or let --non-atomic write it in several transactions, of which nodes see one after the other", err)
	}
	var progress func(done, of int)
	if _, terminal := width(s.err); terminal {
		progress = func(done, of int) {
			end := ""
			if done == of {
				end = "\n"
			}
			fmt.Fprintf(s.err, "\rwritten: %d of %d definitions%s", done, of, end)
		}
	}
	return p.Split(ctx, st, progress)
}

// reportPlan says what was, or would be, written.
func reportPlan(w io.Writer, p plan.Plan, dryRun bool) error {
	done := map[plan.Action]string{plan.Create: "created", plan.Change: "changed", plan.Delete: "deleted"}
	if dryRun {
		done = map[plan.Action]string{plan.Create: "would create", plan.Change: "would change", plan.Delete: "would delete"}
	}
	for _, step := range p.Steps {
		if step.Action == plan.Keep {
			continue
		}
		fields := ""
		if dryRun && step.Action == plan.Change {
			fields = ": " + cut(strings.Join(stepFields(step), ", "))
		}
		if _, err := fmt.Fprintf(w, "%s %s%s\n", done[step.Action], step.Entry.Key, fields); err != nil {
			return err
		}
	}
	created, changed, deleted, kept := p.Count(plan.Create), p.Count(plan.Change), p.Count(plan.Delete), p.Count(plan.Keep)
	var err error
	switch {
	case dryRun && deleted > 0:
		_, err = fmt.Fprintf(w, "%d to create, %d to change, %d to delete, %d unchanged; nothing was written\n", created, changed, deleted, kept)
	case dryRun:
		_, err = fmt.Fprintf(w, "%d to create, %d to change, %d unchanged; nothing was written\n", created, changed, kept)
	case deleted > 0:
		_, err = fmt.Fprintf(w, "%d created, %d changed, %d deleted, %d unchanged, at revision %d\n", created, changed, deleted, kept, p.Revision)
	default:
		_, err = fmt.Fprintf(w, "%d created, %d changed, %d unchanged, at revision %d\n", created, changed, kept, p.Revision)
	}
	return err
}

// stepFields are the fields that a step changes, without secrets.
func stepFields(step plan.Step) []string {
	key := step.Entry.Key
	all := difference.Fields(store.RedactValue(key, step.Before.Value), store.RedactValue(key, step.Entry.Value))
	if len(all) == 0 {
		all = []string{"the private key"} // the only thing that is not shown
	}
	return all
}

// dryRunReport is what apply would do, in JSON.
type dryRunReport struct {
	Revision int64          `json:"revision"` // of etcd, compared with
	Steps    []dryRunStep   `json:"steps"`
	Effect   *effect.Effect `json:"effect"` // null: not all could be read
}

type dryRunStep struct {
	Action plan.Action `json:"action"`
	Key    string      `json:"key"`
	Fields []string    `json:"fields,omitempty"` // that change
}

// reportDryRun says what would be written, and what a node would do then. Who may not read
// all definitions is told the first alone.
func reportDryRun(ctx context.Context, w io.Writer, st *store.Store, p plan.Plan, format string) error {
	e, err := effectOf(ctx, st, p)
	if err != nil {
		return err
	}
	if format == "json" {
		r := dryRunReport{Revision: p.Revision, Steps: []dryRunStep{}, Effect: e}
		for _, step := range p.Steps {
			one := dryRunStep{Action: step.Action, Key: step.Entry.Key.String()}
			if step.Action == plan.Change {
				one.Fields = stepFields(step)
			}
			r.Steps = append(r.Steps, one)
		}
		return show.JSON(w, r)
	}
	if err := reportPlan(w, p, true); err != nil {
		return err
	}
	if len(p.Ops()) == 0 {
		return nil
	}
	if e == nil {
		_, err := fmt.Fprintln(w, "what a node would do is not known: etcd does not let you read all definitions")
		return err
	}
	return writeEffect(w, e)
}

// effectOf is nil for who may not read all definitions.
func effectOf(ctx context.Context, st *store.Store, p plan.Plan) (*effect.Effect, error) {
	entries, _, err := st.List(ctx, "", "", p.Revision)
	if errors.Is(err, store.ErrDenied) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before := effect.Decode(entries)
	after := make(effect.Definitions, len(before))
	for key, def := range before {
		after[key] = def
	}
	for _, step := range p.Steps {
		switch step.Action {
		case plan.Keep:
		case plan.Delete:
			delete(after, step.Entry.Key)
		default:
			after[step.Entry.Key] = step.Entry.Definition
		}
	}
	e := effect.Of(before, after)
	return &e, nil
}

// writeEffect writes what a node would do, for people.
func writeEffect(w io.Writer, e *effect.Effect) error {
	var b strings.Builder
	b.WriteString("a node would:\n")
	fmt.Fprintf(&b, "  backends: %d added, %d changed, %d removed\n", len(e.Backends.Added), len(e.Backends.Changed), len(e.Backends.Removed))
	fmt.Fprintf(&b, "  pools of connections: %d kept, %d new, %d closed\n", e.Pools.Kept, e.Pools.New, e.Pools.Ended)
	fmt.Fprintf(&b, "  probers: %d kept with their history, %d new, %d ended\n", e.Probers.Kept, e.Probers.New, e.Probers.Ended)
	for _, d := range e.Directors {
		fmt.Fprintf(&b, "  director %s: %s%s\n", d.Name, d.Change, gains(d))
	}
	fmt.Fprintf(&b, "  routes: %d added, %d changed, %d removed\n", len(e.Routes.Added), len(e.Routes.Changed), len(e.Routes.Removed))
	for _, d := range e.Dangling {
		fmt.Fprintf(&b, "  dangling: %s, which is not there\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func gains(d effect.Director) string {
	var parts []string
	if len(d.Gains) > 0 && d.Change != "added" {
		parts = append(parts, "gains "+listed(d.Gains))
	}
	if len(d.Loses) > 0 && d.Change != "removed" {
		parts = append(parts, "loses "+listed(d.Loses))
	}
	if parts == nil {
		return ""
	}
	return ", " + strings.Join(parts, ", ")
}

// listed names some, and counts the others.
func listed(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
