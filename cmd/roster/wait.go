package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/fleet"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// waitHelp is what commands with --wait say of it.
const waitHelp = `With --wait it returns once every member of the fleet has applied the change, and says
how long each took, by the clock of this machine. A member whose presence has ended is
unknown: it is named at once, and waited for. After --wait-timeout the exit code is 6; the
change stays written.`

// waiting is what the commands have in common that can wait for the fleet, and say how
// it went.
type waiting struct {
	on     bool
	limit  time.Duration
	format string
}

func (w *waiting) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.on, "wait", false, "return once every member has applied the change")
	cmd.Flags().Var(newDuration(&w.limit, 30*time.Second), "wait-timeout", "how long --wait waits; 0s is without limit")
	outputFlag(cmd, &w.format, []string{"table", "json"})
}

func (w *waiting) check() error { return oneOf("output", w.format, []string{"table", "json"}) }

// outcome is what a command has written, and what became of it.
type outcome struct {
	Revision int64          `json:"revision"`
	Keys     []string       `json:"keys"`
	Receipt  *fleet.Receipt `json:"receipt,omitempty"` // with --wait
}

// change is what a command has done to etcd.
type change struct {
	began    time.Time // before it was sent
	revision int64     // 0: nothing was ever written
	keys     []store.Key
	quiet    []string      // backends that are to have no request or connection
	ends     time.Duration // after which a drain that is waited for ends by itself; 0: never
	text     string        // for people, whole lines
	done     string        // for people, once all members are done; a default if empty
}

// finish reports a change, after waiting for it if that is wanted.
func (w *waiting) finish(ctx context.Context, s streams, st *store.Store, c change) error {
	out := outcome{Revision: c.revision, Keys: []string{}}
	for _, k := range c.keys {
		out.Keys = append(out.Keys, k.String())
	}
	table := w.format != "json"
	if table {
		if _, err := io.WriteString(s.out, c.text); err != nil {
			return err
		}
	}
	var late error
	if w.on {
		limit, expires := w.limit, false
		if c.ends > 0 && (limit == 0 || c.ends < limit) { // from then on no node says what is left
			limit, expires = c.ends, true
			fmt.Fprintf(s.err, "roster: the drain ends after %s, and with it the wait: --for is shorter than --wait-timeout\n", store.FormatDuration(limit))
		}
		limited, cancel := ctx, context.CancelFunc(func() {})
		if limit > 0 {
			limited, cancel = context.WithTimeout(ctx, limit)
		}
		defer cancel()
		var news func(fleet.NodeReceipt)
		if table {
			news = func(n fleet.NodeReceipt) {
				if n.State == fleet.Unknown {
					fmt.Fprint(s.out, "waiting for ")
				}
				fmt.Fprintln(s.out, n)
			}
		}
		r, err := fleet.Wait(limited, st, fleet.Goal{Revision: c.revision, Quiet: c.quiet}, c.began, news)
		if err != nil {
			return fmt.Errorf("revision %d is written, and cannot be waited for: %w", c.revision, err)
		}
		out.Receipt = r
		switch {
		case ctx.Err() != nil:
			return joined(append([]error{fmt.Errorf("revision %d is written; its wait was interrupted: %w", c.revision, ctx.Err())}, missing(r)...))
		case !r.Done:
			late = tooLate(r, limit, expires)
		case table:
			if err := writeDone(s.out, c, r); err != nil {
				return err
			}
		}
	}
	if !table {
		if err := show.JSON(s.out, out); err != nil {
			return err
		}
	}
	return late
}

// tooLate is the error of a wait that timed out, or whose drain expired: who is missing.
func tooLate(r *fleet.Receipt, limit time.Duration, expired bool) error {
	why := fmt.Sprintf("not done after %v: revision %d is written, ", limit, r.Revision)
	errs := missing(r)
	switch {
	case errs == nil:
		return withCode(exitWaiting, errors.New(why+"and the members are not known: "+r.ErrorText))
	case expired:
		why += "and its drain has expired"
	default:
		why += "but not in effect on all members"
	}
	return withCode(exitWaiting, joined(append([]error{errors.New(why)}, errs...)))
}

// missing are errors that name the members which are not done.
func missing(r *fleet.Receipt) (errs []error) {
	for _, n := range r.Missing() {
		errs = append(errs, errors.New(n.String()))
	}
	return errs
}

func writeDone(w io.Writer, c change, r *fleet.Receipt) error {
	var ended []string
	done := 0
	for _, n := range r.Nodes {
		if n.State == fleet.Left {
			ended = append(ended, n.Node)
		} else {
			done++
		}
	}
	var err error
	switch {
	case done == 0 && len(ended) == 0:
		_, err = fmt.Fprintln(w, "the fleet has no members: nothing to wait for")
	case c.done != "":
		_, err = fmt.Fprintf(w, "%s\n", c.done)
	default:
		_, err = fmt.Fprintf(w, "applied by all members, %d, after %d ms\n", done, r.Milliseconds)
	}
	if err == nil && ended != nil {
		_, err = fmt.Fprintf(w, "ended meanwhile: %s\n", strings.Join(ended, ", "))
	}
	return err
}
