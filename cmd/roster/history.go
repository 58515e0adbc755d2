package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/difference"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// event is what a revision did to a key, for history and watch.
type event struct {
	Revision   int64           `json:"revision"`
	Key        string          `json:"key"`
	Action     string          `json:"action"` // create, change, delete; is: it was so before
	Lease      string          `json:"lease,omitempty"`
	Definition json.RawMessage `json:"definition,omitempty"`
	Fields     []string        `json:"fields,omitempty"` // that changed
	Errors     []string        `json:"errors,omitempty"` // why nodes reject it

	key store.Key
}

// past turns events into what they changed: it knows each key's value before.
type past map[store.Key]store.Entry

// take makes an event for people of one of the store.
func (p past) take(e store.Event) event {
	before, there := p[e.Key]
	out := event{Revision: e.ModRevision, Key: e.Key.String(), key: e.Key}
	if e.Deleted {
		delete(p, e.Key)
		out.Action = "delete"
		if before.Lease != 0 {
			out.Lease = leaseName(before.Lease) // with which it may have ended
		}
		return out
	}
	p[e.Key] = e.Entry
	shown := show.Of(e.Entry)
	out.Action, out.Definition, out.Errors = "change", shown.Definition, shown.Errors
	if !there {
		out.Action = "create"
		if e.Version > 1 {
			out.Action = "change" // of what is not known
		}
	}
	if e.Lease != 0 {
		out.Lease = leaseName(e.Lease)
	}
	if there {
		out.Fields = difference.Fields(store.RedactValue(e.Key, before.Value), store.RedactValue(e.Key, e.Value))
	}
	return out
}

func leaseName(id int64) string { return fmt.Sprintf("%x", id) } // as etcdctl has it

// what says in a few words what an event changed.
func (e event) what() string {
	var text string
	switch {
	case e.Action == "delete" && e.Lease != "":
		return "or its lease ended"
	case e.Action == "delete":
		return ""
	case len(e.Errors) > 0:
		return "invalid: " + e.Errors[0]
	case e.Fields != nil:
		text = strings.Join(e.Fields, ", ")
	case e.Action == "change":
		text = "nothing that is shown"
	}
	if e.Action != "change" || e.Fields == nil && len(e.Definition) > 0 {
		text = string(e.Definition)
		var plain string
		if json.Unmarshal(e.Definition, &plain) == nil {
			text = plain
		}
	}
	return text
}

func historyCommand(s streams) *cobra.Command {
	var (
		c      client
		format string
		since  int64
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "history [KIND [NAME]]",
		Short: "Show what changed, and at which revisions, as far as etcd remembers",
		Long: `Show the changes of one definition, of those below a name that ends in a slash, of a kind,
or of all, the newest first: with their revisions, and the lease that a value is under.

etcd keeps the values of earlier revisions until they are compacted: for as long as its
--auto-compaction-retention says; the etcd of roster node keeps the newest 100,000. What is older is
gone. The line "is" then has what the oldest revision that there is finds. Who made a
change etcd does not know. A private key is never shown.

roster get KIND NAME --revision N has a value as it was, roster rollback puts it back.`,
		Example: `  roster history backend web-1
  roster history backends team-a/
  roster history --limit 20
  roster history route java -o json | jq '.items[] | select(.action == "delete")'`,
		Args: args(0, 2, "perhaps a kind and a name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, show.Formats); err != nil {
				return err
			}
			r, err := rangeOf(args)
			if err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				all, oldest, at, err := readHistory(ctx, st, r, since)
				if err != nil {
					return err
				}
				if len(all) == 0 {
					return noHistory(r, oldest)
				}
				slices.Reverse(all)
				more := 0
				if limit > 0 && len(all) > limit {
					more = len(all) - limit
					all = all[:limit]
				}
				list := struct {
					Revision int64   `json:"revision"`
					Oldest   int64   `json:"oldest"` // before it, all is compacted away; 0: there is all
					Items    []event `json:"items"`
				}{at, oldest, all}
				switch format {
				case "json":
					return show.JSON(s.out, list)
				case "yaml":
					return writeYAML(s.out, list)
				}
				return writeHistory(s.out, r, all, more, oldest)
			})
		},
	}
	c.add(cmd.Flags())
	outputFlag(cmd, &format, show.Formats)
	cmd.Flags().Int64Var(&since, "since", 0, "changes of this revision and later ones; 0 is all that etcd has")
	cmd.Flags().IntVar(&limit, "limit", 0, "how many of the newest; 0 is all")
	return cmd
}

// readHistory reads what happened in a range, the oldest first, from a revision on or, if
// that is 0, as far back as etcd goes; oldest is 0 if that is the beginning. at is the
// revision that it was read at.
func readHistory(ctx context.Context, st *store.Store, r store.Range, since int64) (all []event, oldest, at int64, err error) {
	if _, at, err = st.Read(ctx, r, 0); err != nil {
		return nil, 0, 0, err
	}
	from := max(since, 1)
	for {
		all = nil
		known := past{}
		if from > 1 {
			before, _, err := st.Read(ctx, r, from-1)
			if errors.Is(err, store.ErrCompacted) && since > 0 {
				return nil, 0, 0, compacted(err)
			}
			if err != nil && !errors.Is(err, store.ErrCompacted) {
				return nil, 0, 0, err
			}
			for _, e := range before {
				was := known.take(store.Event{Entry: e})
				was.Action = "is"
				if since == 0 {
					all = append(all, was)
				}
			}
			slices.SortStableFunc(all, func(a, b event) int { return int(a.Revision - b.Revision) })
		}
		err := st.Follow(ctx, r, from, at, func(_ int64, events []store.Event) error {
			for _, e := range events {
				all = append(all, known.take(e))
			}
			return nil
		})
		var gone *store.CompactedError
		if since == 0 && errors.As(err, &gone) {
			oldest, from = gone.Oldest, gone.Oldest+1
			continue
		}
		return all, oldest, at, compacted(err)
	}
}

func noHistory(r store.Range, oldest int64) error {
	what := "there is nothing of that"
	if r.Name != "" {
		what = fmt.Sprintf("there is no %s %s, and there was none", r.Kind.Singular(), r.Name)
	}
	if oldest > 0 {
		what += fmt.Sprintf(" since revision %d; what was before is compacted away", oldest)
	}
	return fmt.Errorf("%s; roster get lists what there is", what)
}

// writeHistory writes events for people.
func writeHistory(w io.Writer, r store.Range, all []event, more int, oldest int64) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	one := r.Name != "" && !strings.HasSuffix(r.Name, "/")
	title, row := "REVISION\tKEY\tACTION\tLEASE\tWHAT\n", func(e event) string { return e.Key + "\t" }
	if one {
		title, row = "REVISION\tACTION\tLEASE\tWHAT\n", func(event) string { return "" }
	}
	fmt.Fprint(t, title)
	for _, e := range all {
		lease := e.Lease
		if lease == "" {
			lease = "-"
		}
		fmt.Fprintf(t, "%d\t%s%s\t%s\t%s\n", e.Revision, row(e), e.Action, lease, cut(e.what()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d older ones\n", more)
	}
	if oldest > 0 {
		_, err := fmt.Fprintf(w, "what was before revision %d is compacted away\n", oldest)
		return err
	}
	return nil
}
