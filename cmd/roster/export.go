package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
	"roster/vcl"
)

func exportCommand(s streams) *cobra.Command {
	var (
		c      client
		format string
	)
	formats := []string{"yaml", "json", "vcl"}
	cmd := &cobra.Command{
		Use:   "export [KIND [NAME]]",
		Short: "Write the definitions in etcd as a file",
		Long: `Write what etcd holds, all as it was at one revision, as a file that roster apply reads:
all definitions, those of one kind, those below a name that ends in a slash, or one.

Certificates are left out, as their keys are never exported, and so are values that
nodes reject, which roster apply would reject, too. What is left out is named in a
comment and on stderr.

--format vcl writes backends and probes as Varnish's VCL, with a comment for all that
VCL cannot say.`,
		Example: `  roster export > backup.yaml
  roster export backends team-a/ | roster apply --etcd 10.1.0.1:2379 -f -
  roster export --format json | jq '.backends | length'
  roster export --format vcl > backends.vcl
  roster export backend web-1 --format vcl`,
		Args: args(0, 2, "perhaps a kind and a name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("format", format, formats); err != nil {
				return err
			}
			var k store.Key
			if len(args) > 0 {
				var err error
				if k, err = key(args[0], ""); err != nil {
					return err
				}
			}
			if len(args) == 2 {
				k.Name = args[1]
			}
			if format == "vcl" && k.Kind != "" && k.Kind != store.Backends && k.Kind != store.Probes {
				return usage("VCL is written of backends and probes, not of %s", k.Kind)
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				entries, err := readExport(ctx, st, k)
				if err != nil {
					return err
				}
				return export(s, format, entries)
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", formats[0], strings.Join(formats, ", "))
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// readExport reads one key, those under a name, or all.
func readExport(ctx context.Context, st *store.Store, k store.Key) ([]store.Entry, error) {
	if k.Name == "" || strings.HasSuffix(k.Name, "/") {
		entries, _, err := st.List(ctx, k.Kind, k.Name, 0)
		return entries, err
	}
	e, _, err := st.Get(ctx, k, 0)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("there is no %s %s; roster get %s lists what there is", k.Kind.Singular(), k.Name, k.Kind)
	}
	return []store.Entry{e}, err
}

// export writes entries in a format.
func export(s streams, format string, entries []store.Entry) error {
	var valid []manifest.Entry
	var created []int64 // of each
	var remarks []string
	for _, e := range entries {
		if e.Key.Kind == store.Certificates {
			remarks = append(remarks, fmt.Sprintf("%s is left out: the key of a certificate is never exported", e.Key))
			continue
		}
		def, _, err := store.Decode(e.Key, e.Value, store.Reject)
		if err != nil {
			for _, err := range manifest.Each(err) {
				remarks = append(remarks, fmt.Sprintf("%s is left out, nodes reject it: %v", e.Key, err))
			}
			continue
		}
		if !bytes.Equal(store.RedactValue(e.Key, e.Value), e.Value) {
			remarks = append(remarks, fmt.Sprintf("%s is left out: it seems to hold a private key, which belongs in a certificate", e.Key))
			continue
		}
		if e.Lease != 0 && format != "vcl" {
			remarks = append(remarks, fmt.Sprintf("%s is under a lease and ends with it; applied from here, it stays", e.Key))
		}
		valid = append(valid, manifest.Entry{Key: e.Key, Value: e.Value, Definition: def})
		created = append(created, e.CreateRevision)
	}
	for i, r := range remarks {
		remarks[i] = strings.Join(strings.Fields(r), " ") // an error may quote what is of several lines
		if _, err := fmt.Fprintf(s.err, "note: %s\n", remarks[i]); err != nil {
			return err
		}
	}
	if format != "json" {
		for _, r := range remarks {
			if _, err := fmt.Fprintf(s.out, "# %s\n", r); err != nil {
				return err
			}
		}
	}
	if format == "vcl" {
		return exportVCL(s, valid, created)
	}
	return writeManifest(s.out, format, valid)
}

// exportVCL writes that backend first, as VCL's default, which serves what no other route
// matches: by a route for everything, or as the oldest.
func exportVCL(s streams, entries []manifest.Entry, created []int64) error {
	last := catchAll(entries)
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
		if e := entries[i]; last != "" && e.Key == (store.Key{Kind: store.Backends, Name: last}) {
			created[i] = 0
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(created[a], created[b]) })
	all := make([]vcl.Definition, 0, len(entries))
	for _, i := range order {
		all = append(all, vcl.Definition{Key: entries[i].Key, Definition: entries[i].Definition})
	}
	var b bytes.Buffer
	left, err := vcl.Write(&b, all)
	if err != nil {
		return err
	}
	if _, err := io.Copy(s.out, &b); err != nil {
		return err
	}
	if left > 0 {
		_, err = fmt.Fprintf(s.err, "note: %d definitions are left out of the VCL, which says why\n", left)
	}
	return err
}

// catchAll is what the first of the routes that match everything names; "" if there is
// none among the entries, which are in the order of names.
func catchAll(entries []manifest.Entry) string {
	var first *store.Route
	for _, e := range entries {
		r, ok := e.Definition.(*store.Route)
		if ok && r.When == "" && reflect.DeepEqual(r.Match, store.Match{}) && (first == nil || r.Priority > first.Priority) {
			first = r
		}
	}
	if first == nil {
		return ""
	}
	return first.Backend
}
