package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/cmd/roster/internal/show"
	"roster/store"
	"roster/vcl"
)

func importVCLCommand(s streams) *cobra.Command {
	var (
		c      client
		write  bool
		dryRun bool
		force  bool
		format string
	)
	formats := []string{"yaml", "json"}
	cmd := &cobra.Command{
		Use:   "import-vcl FILE",
		Short: "Make definitions of a VCL file's backends, probes and directors",
		Long: `Make definitions of the backends, probes and directors that a VCL file declares, and of
its default backend a route. They are written to stdout as roster apply reads them, or
with --apply to etcd, all in one transaction.

Nothing else of the file is imported. Each statement that is not, such as those of
vcl_recv, is named on stderr with its line and column. Files that it includes are read,
too, if they lie beside it.

If anything is invalid nothing is written, all that is wrong is reported, and the exit
code is 3.`,
		Example: `  roster import-vcl /etc/varnish/default.vcl > site.yaml
  roster import-vcl /etc/varnish/default.vcl --dry-run
  roster import-vcl /etc/varnish/default.vcl --apply
  roster import-vcl default.vcl -o json 2> not-imported.txt
  varnishadm vcl.show boot | roster import-vcl -`,
		Args: args(1, 1, "a VCL file, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, formats); err != nil {
				return err
			}
			if (write || dryRun) && cmd.Flags().Changed("output") {
				return usage("-o is of the definitions, which are not shown with --apply or --dry-run")
			}
			result, err := readVCL(args[0], s.in)
			if err != nil {
				return err
			}
			entries := make([]manifest.Entry, 0, len(result.Definitions))
			for _, d := range result.Definitions {
				entries = append(entries, manifest.Entry{Key: d.Key, Value: store.Encode(d.Definition), Definition: d.Definition,
					File: d.Position.File, Line: d.Position.Line})
			}
			if write || dryRun {
				err = c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
					return applyVCL(ctx, s, st, entries, dryRun, force)
				})
			} else {
				err = writeManifest(s.out, format, entries)
			}
			if err != nil {
				return err
			}
			return reportVCL(s.err, result)
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().BoolVar(&write, "apply", false, "write the definitions to etcd")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what --apply would write and write nothing")
	forceFlag(cmd, &force)
	outputFlag(cmd, &format, formats)
	return cmd
}

func readVCL(file string, stdin io.Reader) (*vcl.Result, error) {
	var data []byte
	var err error
	name := file
	if file == "-" {
		name = "stdin"
		data, err = io.ReadAll(stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	result, err := vcl.Parse(name, string(data), vcl.FromDisk)
	return result, withCode(exitInvalid, err)
}

// applyVCL writes the definitions. It says so if a probe that VCL knows nothing of will
// be that of backends that have none there.
func applyVCL(ctx context.Context, s streams, st *store.Store, entries []manifest.Entry, dryRun, force bool) error {
	p, err := plan.Make(ctx, st, entries)
	if err != nil {
		return err
	}
	if err := checkLevels(ctx, st, force, written(p)); err != nil {
		return err
	}
	unprobed, own := 0, false
	for _, e := range entries {
		if b, ok := e.Definition.(*store.Backend); ok && !b.None && b.Probe == (store.ProbeRef{}) {
			unprobed++
		}
		own = own || e.Key == defaultProbe
	}
	if unprobed > 0 && !own {
		if _, _, err := st.Get(ctx, defaultProbe, 0); err == nil {
			fmt.Fprintf(s.err, "note: etcd has a probe default: it probes the %d backends that have no probe in the VCL; \"probe\": \"none\" prevents that\n", unprobed)
		} else if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrDenied) {
			return err
		}
	}
	ops := p.Ops()
	if len(ops) > 0 && !dryRun {
		if p.Revision, err = st.Apply(ctx, ops); err != nil {
			return err
		}
	}
	return reportPlan(s.out, p, dryRun)
}

var defaultProbe = store.Key{Kind: store.Probes, Name: "default"}

// reportVCL writes the notes, and a summary.
func reportVCL(w io.Writer, result *vcl.Result) error {
	for _, n := range result.Notes {
		if _, err := fmt.Fprintf(w, "%s: note: %s\n", n.Position, n.Text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d backends, %d probes, %d directors and %d routes imported, %d statements not imported\n",
		result.Count(store.Backends), result.Count(store.Probes), result.Count(store.Directors), result.Count(store.Routes), result.Skipped())
	return err
}

// writeManifest writes definitions as roster apply reads them.
func writeManifest(w io.Writer, format string, entries []manifest.Entry) error {
	if format == "yaml" {
		_, err := w.Write(manifest.Write(entries))
		return err
	}
	file := map[store.Kind]map[string]json.RawMessage{}
	for _, e := range entries {
		if file[e.Key.Kind] == nil {
			file[e.Key.Kind] = map[string]json.RawMessage{}
		}
		value := json.RawMessage(e.Value)
		if !json.Valid(value) {
			value, _ = json.Marshal(string(e.Value)) // a health state as plain text
		}
		file[e.Key.Kind][e.Key.Name] = value
	}
	return show.JSON(w, file)
}
