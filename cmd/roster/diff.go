package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/difference"
	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

// errDiffers ends the program with exit code 1, and nothing is to be said.
var errDiffers = endedError(exitFailed)

func diffCommand(s streams) *cobra.Command {
	var (
		c      client
		f      fileSet
		format string
	)
	formats := []string{"diff", "json"}
	cmd := &cobra.Command{
		Use:   "diff -f FILE...",
		Short: "Show how files differ from etcd",
		Long: `Show what roster apply would change, as diff -u does: - is what etcd has, + what the files
have. Each definition is shown as YAML without defaults, so that its spelling makes no
difference. Private keys are not shown. With --owner and --prune, what would be deleted is
shown, too.

As of diff, the exit code is 0 if there is no difference and 1 if there is one. What fails
otherwise with 1 fails with 2 here.`,
		Example: `  roster diff -f site.yaml
  roster diff -f conf.d/*.yaml --owner web --prune
  roster diff -f site.yaml -o json | jq -r '.[].key'
  roster diff -f site.yaml || roster apply -f site.yaml`,
		ValidArgsFunction: completeFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, formats); err != nil {
				return err
			}
			entries, err := f.read(args, s.in)
			if err != nil {
				return trouble(err)
			}
			differs := false
			err = c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				p, err := f.plan(ctx, s, st, entries)
				if err != nil {
					return err
				}
				differs = p.Count(plan.Keep) < len(p.Steps)
				if format == "json" {
					return diffJSON(s.out, p)
				}
				return diffText(s.out, p)
			})
			if err == nil && differs {
				return errDiffers
			}
			return trouble(err)
		},
	}
	c.add(cmd.Flags())
	f.add(cmd)
	outputFlag(cmd, &format, formats)
	return cmd
}

// trouble is an error of diff, where 1 means something else.
func trouble(err error) error {
	if err == nil || report(io.Discard, err) != exitFailed {
		return err
	}
	return withCode(exitUsage, err)
}

// diffText writes the steps of a plan as diff -u does.
func diffText(w io.Writer, p plan.Plan) error {
	paint := painter(w)
	for _, step := range p.Steps {
		if step.Action == plan.Keep {
			continue
		}
		key := step.Entry.Key
		before, after := "/dev/null", "/dev/null"
		if step.Action != plan.Create {
			before = fmt.Sprintf("etcd %s, revision %d", key, step.Before.ModRevision)
		}
		if step.Action != plan.Delete {
			after = fmt.Sprintf("%s %s", step.Entry.File, key)
			if step.Entry.Line > 0 {
				after = fmt.Sprintf("%s:%d %s", step.Entry.File, step.Entry.Line, key)
			}
		}
		body := difference.Unified(canonical(key, step.Before.Value), canonical(key, step.Entry.Value))
		if body == "" {
			body = "@@ the private key differs, and is not shown @@\n"
		}
		for line := range strings.Lines("--- " + before + "\n+++ " + after + "\n" + body) {
			if _, err := io.WriteString(w, paint(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// canonical is a value as YAML, without its defaults or a private key, one spelling for
// all; as it is, where it is invalid.
func canonical(key store.Key, value []byte) string {
	if value == nil {
		return ""
	}
	if def, _, err := store.Decode(key, value, store.Reject); err == nil {
		value = store.Encode(def)
	}
	return string(manifest.Write([]manifest.Entry{{Key: key, Value: store.RedactValue(key, value)}}))
}

// keyDiff is the difference of one key, in JSON.
type keyDiff struct {
	Action   plan.Action `json:"action"`
	Key      string      `json:"key"`
	Revision int64       `json:"revision"` // of what etcd has; 0: nothing
	Fields   []string    `json:"fields"`
}

func diffJSON(w io.Writer, p plan.Plan) error {
	all := []keyDiff{}
	for _, step := range p.Steps {
		if step.Action != plan.Keep {
			all = append(all, keyDiff{step.Action, step.Entry.Key.String(), step.Before.ModRevision, stepFields(step)})
		}
	}
	return show.JSON(w, all)
}

// painter colours the lines of a diff, on a terminal whose user has not said NO_COLOR.
func painter(w io.Writer) func(line string) string {
	if _, terminal := width(w); !terminal || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return func(line string) string { return line }
	}
	return func(line string) string {
		colour := ""
		switch {
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
			colour = "\x1b[1m"
		case strings.HasPrefix(line, "-"):
			colour = "\x1b[31m"
		case strings.HasPrefix(line, "+"):
			colour = "\x1b[32m"
		case strings.HasPrefix(line, "@@"):
			colour = "\x1b[36m"
		default:
			return line
		}
		return colour + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
	}
}

// rangeOf reads the arguments KIND and NAME, of which both may be missing.
func rangeOf(args []string) (r store.Range, err error) {
	if len(args) > 0 {
		k, err := key(args[0], "")
		if err != nil {
			return r, err
		}
		r.Kind = k.Kind
	}
	if len(args) > 1 {
		r.Name = args[1]
		if err := store.ValidateName(strings.TrimSuffix(r.Name, "/")); err != nil {
			return r, withCode(exitInvalid, err)
		}
	}
	return r, nil
}

// compacted says what to do where etcd's history does not reach.
func compacted(err error) error {
	var c *store.CompactedError
	if errors.As(err, &c) {
		return fmt.Errorf("%w; etcd keeps as much history as its --auto-compaction-retention says", err)
	}
	return err
}
