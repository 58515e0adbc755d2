package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/show"
	"roster/store"
)

func watchCommand(s streams) *cobra.Command {
	var (
		c      client
		format string
		since  int64
	)
	cmd := &cobra.Command{
		Use:   "watch [KIND [NAME]]",
		Short: "Show changes as they happen",
		Long: `Show the changes of all definitions, of a kind, of those below a name that ends in a slash,
or of one, a line each, as they happen, until it is interrupted or nobody reads them any
more. With --since, those from that revision on come first.

It goes on when etcd was away. If etcd has compacted meanwhile what it has not seen, or was
restored from a backup, it says so, and shows the difference to what it knew.

With -o json each line is an object: revision, key, action, definition, and the fields that
changed. A private key is never shown.`,
		Example: `  roster watch
  roster watch backends team-a/
  roster watch backend web-1 --since 4711
  roster watch -o json | jq -r 'select(.action == "delete") | .key'`,
		Args: args(0, 2, "perhaps a kind and a name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, []string{"lines", "json"}); err != nil {
				return err
			}
			r, err := rangeOf(args)
			if err != nil {
				return err
			}
			ctx, cancel := whileRead(cmd.Context(), s.out)
			defer cancel()
			return c.do(ctx, func(ctx context.Context, st *store.Store) error {
				w := &following{st: st, r: r, out: s.out, err: s.err, json: format == "json"}
				if err := w.begin(ctx, since); err != nil {
					return err
				}
				return w.run(ctx)
			})
		},
	}
	c.add(cmd.Flags())
	outputFlag(cmd, &format, []string{"lines", "json"})
	cmd.Flags().Int64Var(&since, "since", 0, "changes of this revision and later ones; 0 is from now on")
	return cmd
}

// following shows changes as they come.
type following struct {
	st   *store.Store
	r    store.Range
	out  io.Writer
	err  io.Writer
	json bool

	known past
	next  int64 // the revision to go on with
}

// begin reads what there is before the first change to show.
func (w *following) begin(ctx context.Context, since int64) error {
	at := max(since-1, 0)
	if since == 1 {
		w.known, w.next = past{}, 1
		return nil
	}
	entries, at, err := w.st.Read(ctx, w.r, at)
	switch {
	case errors.Is(err, store.ErrCompacted):
		return fmt.Errorf("etcd does not have revision %d any more: %w; roster watch without --since shows what changes from now on", since-1, store.ErrCompacted)
	case errors.Is(err, store.ErrFuture):
		return fmt.Errorf("etcd has not reached revision %d yet; roster watch without --since shows what changes from now on", since)
	case err != nil:
		return err
	}
	w.known, w.next = past{}, at+1
	for _, e := range entries {
		w.known[e.Key] = e
	}
	return nil
}

// run shows changes until ctx ends.
func (w *following) run(ctx context.Context) error {
	var lost error // why it is not sure that etcd has what is known; nil: it has
	said := false
	for {
		var err error
		if lost != nil {
			err = w.catchUp(ctx, lost)
		}
		if err == nil {
			lost = w.st.Follow(ctx, w.r, w.next, 0, func(rev int64, events []store.Event) error {
				said = false
				return w.show(rev, events)
			})
			if errors.Is(lost, store.ErrInterrupted) {
				said = false
			} else if !errors.Is(lost, store.ErrCompacted) {
				err = lost
			}
		}
		var failed *writeError
		switch {
		case ctx.Err() != nil:
			return nil // that is how it ends
		case errors.As(err, &failed):
			return failed.err
		case errors.Is(err, store.ErrDenied):
			return err
		case err == nil:
			continue
		}
		if !said {
			said = true
			fmt.Fprintf(w.err, "roster: %v; trying again\n", err)
		}
		select {
		case <-time.After(retryRegister / 4):
		case <-ctx.Done():
		}
	}
}

// writeError is one of the output.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

func (w *following) show(rev int64, events []store.Event) error {
	for _, e := range events {
		if err := w.line(w.known.take(e)); err != nil {
			return &writeError{err}
		}
	}
	w.next = rev + 1
	return nil
}

// catchUp finds out whether etcd has what is known, after it could not be followed for some
// reason. If it has not, or has compacted what lies between, the difference is shown.
func (w *following) catchUp(ctx context.Context, lost error) error {
	compacted := errors.Is(lost, store.ErrCompacted)
	if !compacted {
		if w.next == 1 {
			return nil // nothing is known
		}
		then, _, err := w.st.Read(ctx, w.r, w.next-1)
		compacted = errors.Is(err, store.ErrCompacted)
		if err == nil && w.known.are(then) || err != nil && !compacted && !errors.Is(err, store.ErrFuture) {
			return err
		}
	}
	entries, at, err := w.st.Read(ctx, w.r, 0)
	if err != nil {
		return err
	}
	if compacted {
		fmt.Fprintf(w.err, "roster: etcd has compacted revisions that were not seen, %d to %d at most: what follows is the difference\n", w.next, at)
	} else {
		fmt.Fprintf(w.err, "roster: etcd does not have what it had at revision %d any more, and is at revision %d: it was restored from a backup, or is another one; what follows is the difference\n", w.next-1, at)
	}
	there := map[store.Key]bool{}
	var events []store.Event
	for _, e := range entries {
		there[e.Key] = true
		if !w.known.has(e) {
			events = append(events, store.Event{Entry: e})
		}
	}
	for key := range w.known {
		if !there[key] {
			events = append(events, store.Event{Entry: store.Entry{Key: key, ModRevision: at}, Deleted: true})
		}
	}
	return w.show(at, events)
}

// has says whether this version of a key is known. After a restore the same revision may
// have another value.
func (p past) has(e store.Entry) bool {
	known, ok := p[e.Key]
	return ok && known.ModRevision == e.ModRevision && bytes.Equal(known.Value, e.Value)
}

// are says whether these are all that is known.
func (p past) are(entries []store.Entry) bool {
	return len(entries) == len(p) && !slices.ContainsFunc(entries, func(e store.Entry) bool { return !p.has(e) })
}

func (w *following) line(e event) error {
	if w.json {
		data, err := show.Line(e)
		if err != nil {
			return err
		}
		_, err = w.out.Write(data)
		return err
	}
	text := fmt.Sprintf("%d %s %s", e.Revision, e.Action, e.Key)
	if what := e.what(); what != "" {
		text += ": " + cut(what)
	}
	if e.Lease != "" && e.Action != "delete" {
		text += " (under the lease " + e.Lease + ")"
	}
	_, err := fmt.Fprintln(w.out, text)
	return err
}
