package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/adminclient"
	"roster/cmd/roster/internal/assign"
	"roster/cmd/roster/internal/fleet"
	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

func joined(errs []error) error { return &multierror.Error{Errors: errs} }

// completeKind completes a first argument that is a kind.
func completeKind(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var kinds []string
	if len(args) == 0 {
		for _, k := range store.Kinds() {
			kinds = append(kinds, string(k))
		}
	}
	return kinds, cobra.ShellCompDirectiveNoFileComp
}

func putCommand(s streams) *cobra.Command {
	var (
		c          client
		w          waiting
		file       string
		ifRevision int64
		dryRun     bool
		force      bool
	)
	cmd := &cobra.Command{
		Use:   "put KIND NAME (FIELD=VALUE... | JSON | -f FILE)",
		Short: "Write one definition",
		Long: `Write one definition, replacing the one of that name.

Fields are given as FIELD=VALUE. Dots lead into a field: probe.url=/health. A list is
VALUE,VALUE or the field given again. cert, key and tls.ca take @FILE. Or the whole
definition is given as JSON, or in a file as YAML or JSON.

An invalid definition is not written; all that is wrong with it is reported. So is what a
node of an older release does not take, unless there is --force.

` + waitHelp,
		Example: `  roster put backend web-1 host=10.0.0.7 port=8080
  roster put backend web-2 host=10.0.0.8 probe.url=/health labels.app=web
  roster put director default type=round_robin backends=web-1,web-2
  roster put route java match.host=www.foo.com 'match.path=/java/*' backend=java
  roster put backend web-1 '{"host": "10.0.0.7", "port": 8080}'
  roster put backend web-1 -f web-1.yaml
  roster put backend web-1 host=10.0.0.9 --wait
  roster put certificate www cert=@www.pem key=@www.key
  roster put health web-1 drain`,
		Args: args(2, math.MaxInt, "a kind, a name and a definition"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := key(args[0], args[1])
			if err != nil {
				return err
			}
			if err := w.check(); err != nil {
				return err
			}
			e, err := definition(k, args[2:], file, s.in)
			if err != nil {
				return err
			}
			if dryRun && w.format == "json" {
				return show.JSON(s.out, outcome{Keys: []string{k.String()}})
			}
			if dryRun {
				_, err := fmt.Fprintf(s.out, "%s is valid\n", k)
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				p, err := plan.Make(ctx, st, []manifest.Entry{e})
				if err != nil {
					return err
				}
				if err := checkLevels(ctx, st, force, map[store.Key][]byte{k: e.Value}); err != nil {
					return err
				}
				began := time.Now()
				rev, err := st.Put(ctx, k, e.Value, ifRevision)
				if err != nil {
					return err
				}
				if k.Kind != store.HealthKind && p.Steps[0].Before.Lease != 0 { // overrides replace each other
					fmt.Fprintf(s.err, "roster: note: %s was under a lease, by roster register, and is no more: it stays until it is deleted\n", k)
				}
				return w.finish(ctx, s, st, change{
					began: began, revision: rev, keys: []store.Key{k},
					text: fmt.Sprintf("put %s at revision %d\n", k, rev),
				})
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the definition, YAML or JSON; - is stdin")
	cmd.Flags().Int64Var(&ifRevision, "if-revision", -1, "write only if the newest value has this revision; 0: only if there is none")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "validate and write nothing")
	forceFlag(cmd, &force)
	w.add(cmd)
	return cmd
}

// definition reads the definition of a put from its words or its file.
func definition(k store.Key, words []string, file string, stdin io.Reader) (manifest.Entry, error) {
	switch {
	case file != "" && len(words) > 0:
		return manifest.Entry{}, usage("the definition is given twice, by -f and as %s", words[0])
	case file != "":
		e, err := manifest.LoadOne(file, stdin, k)
		return e, invalid(err)
	case len(words) == 0:
		return manifest.Entry{}, usage("%s has no definition: give fields such as host=10.0.0.7, JSON, or -f FILE", k)
	}
	var value []byte
	if len(words) == 1 && (strings.HasPrefix(words[0], "{") || k.Kind == store.HealthKind && !strings.Contains(words[0], "=")) {
		value = []byte(words[0])
	} else {
		var err error
		if value, err = assign.Value(k, words); err != nil {
			return manifest.Entry{}, invalid(prefixed(k, err))
		}
	}
	def, _, err := store.Decode(k, value, store.Reject)
	if err != nil {
		return manifest.Entry{}, invalid(prefixed(k, err))
	}
	return manifest.Entry{Key: k, Value: value, Definition: def}, nil
}

// invalid gives an error of reading definitions its code: 3 if any of it is about what
// they say, 1 if it is all about files that cannot be read.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	for _, one := range manifest.Each(err) {
		var path *fs.PathError
		if !errors.As(one, &path) {
			return withCode(exitInvalid, err)
		}
	}
	return err
}

func getCommand(s streams) *cobra.Command {
	var (
		c        client
		format   string
		revision int64
		verbose  bool
		admin    string
		asking   adminclient.Client
	)
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "Show definitions",
		Long: `Show the definitions that etcd holds: all of a kind, those below a name that ends in
a slash, or one. The key of a certificate is never shown.

On a terminal, a table fits its width: long cells end in "...", and what matters least is left
out. -o wide, or a pipe, has all columns. -o yaml writes a file that roster apply reads; -o json has the revision of each value
and, where nodes reject it, why.

With -v backends are shown as a node has them, by its admin API, and etcd is not asked:
what an operator says of each (probe: nothing), how many probes of its window are good,
whether it gets requests, when that last changed, and the history of its probes, the
newest to the right, as in Varnish's backend.list -p.`,
		Example: `  roster get backends
  roster get backends team-a/
  roster get backend web-1 -o yaml
  roster get backends -o json | jq -r '.items[].name'
  roster get backends -v
  roster get backend web-1 -v --admin 127.0.0.1:6083
  roster get backend web-1 --revision 42`,
		Args: args(1, 2, "a kind and perhaps a name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := key(args[0], "")
			if err != nil {
				return err
			}
			if err := oneOf("output", format, getFormats); err != nil {
				return err
			}
			columns := 0
			if format == "table" {
				columns, _ = width(s.out)
			}
			under := ""
			if len(args) == 2 {
				if k.Name = args[1]; strings.HasSuffix(k.Name, "/") {
					k.Name, under = "", k.Name
				}
			}
			if verbose {
				switch {
				case k.Kind != store.Backends:
					return usage("-v is for backends, not for %s", k.Kind)
				case cmd.Flags().Changed("revision"):
					return usage("-v shows what a node has now, and no --revision")
				case format == "yaml" || format == "wide":
					return usage("-v goes with -o table or json, not with %s", format)
				}
				ctx, cancel := context.WithTimeout(cmd.Context(), c.limit())
				defer cancel()
				return getVerbose(ctx, s.out, asking, admin, k.Name, under, format)
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				if k.Name != "" {
					return getOne(ctx, s.out, st, k, revision, format, columns)
				}
				entries, at, err := st.List(ctx, k.Kind, under, revision)
				if err != nil {
					return err
				}
				switch format {
				case "json":
					return show.JSON(s.out, show.List{Revision: at, Items: show.Items(entries)})
				case "yaml":
					return show.YAML(s.out, entries)
				}
				return show.Table(s.out, k.Kind, entries, columns)
			})
		},
	}
	c.add(cmd.Flags())
	outputFlag(cmd, &format, getFormats)
	cmd.Flags().Int64Var(&revision, "revision", 0, "as etcd had it at this revision; 0 is now")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "backends with their health and its history, as a node has them")
	cmd.Flags().StringVar(&admin, "admin", defaultAdmin, "address of that node's admin API, HOST:PORT or https://HOST:PORT")
	asking.Add(cmd.Flags())
	return cmd
}

// getFormats are the values of -o of get.
var getFormats = append(slices.Clone(show.Formats), "wide")

// getVerbose shows one backend, or those under a name, as a node has them.
func getVerbose(ctx context.Context, w io.Writer, asking adminclient.Client, admin, name, under, format string) error {
	raw, all := []json.RawMessage{}, []fleet.Backend{}
	var err error
	if name != "" {
		var one json.RawMessage
		var b fleet.Backend
		one, b, err = fleet.One(ctx, asking, admin, name)
		if errors.Is(err, fleet.ErrNoBackend) {
			return fmt.Errorf("the node at %s has no backend %s; roster get backends -v lists what it has", admin, name)
		}
		raw, all = append(raw, one), append(all, b)
	} else {
		err = fleet.Each(ctx, asking, admin, under, true, func(item json.RawMessage) error {
			var b fleet.Backend
			err := json.Unmarshal(item, &b)
			raw, all = append(raw, item), append(all, b)
			return err
		})
	}
	switch {
	case err != nil:
		return fleet.Unasked(admin, err)
	case format == "table":
		return fleet.WriteList(w, all)
	case name != "":
		return show.JSON(w, raw[0])
	}
	return show.JSON(w, map[string]any{"items": raw})
}

func getOne(ctx context.Context, w io.Writer, st *store.Store, k store.Key, revision int64, format string, columns int) error {
	e, _, err := st.Get(ctx, k, revision)
	if errors.Is(err, store.ErrNotFound) && revision != 0 {
		return fmt.Errorf("there was no %s %s at revision %d; roster history %s %s shows when there was one", k.Kind.Singular(), k.Name, revision, k.Kind.Singular(), k.Name)
	}
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("there is no %s %s; roster get %s lists what there is", k.Kind.Singular(), k.Name, k.Kind)
	}
	if err != nil {
		return err
	}
	switch format {
	case "json":
		return show.JSON(w, show.Of(e))
	case "yaml":
		return show.YAML(w, []store.Entry{e})
	}
	return show.Table(w, k.Kind, []store.Entry{e}, columns)
}

// outputFlag adds -o with its values.
func outputFlag(cmd *cobra.Command, format *string, formats []string) {
	cmd.Flags().StringVarP(format, "output", "o", formats[0], strings.Join(formats, ", "))
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// textOrJSON are the values of -o of commands that have a line or two to say.
var textOrJSON = []string{"text", "json"}

func oneOf(flag, value string, values []string) error {
	if slices.Contains(values, value) {
		return nil
	}
	return usage("--%s is %q, want %s", flag, value, strings.Join(values, ", "))
}

func deleteCommand(s streams) *cobra.Command {
	var (
		c          client
		w          waiting
		ifRevision int64
	)
	cmd := &cobra.Command{
		Use:   "delete KIND NAME...",
		Short: "Delete definitions",
		Long: `Delete definitions of one kind, all in one transaction. If one of them is not there,
none is deleted.

` + waitHelp,
		Example: `  roster delete backend web-1
  roster delete backends web-1 web-2
  roster delete backend web-1 --if-revision 42`,
		Args: args(2, math.MaxInt, "a kind and one name or more"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeMore(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := key(args[0], "")
			if err != nil {
				return err
			}
			names := args[1:]
			if cmd.Flags().Changed("if-revision") && len(names) > 1 {
				return usage("--if-revision is for one name, and %d are given", len(names))
			}
			if err := w.check(); err != nil {
				return err
			}
			return c.do(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				var ops []store.Op
				var missing []error
				for _, name := range names {
					k.Name = name
					e, _, err := st.Get(ctx, k, 0)
					switch {
					case errors.Is(err, store.ErrNotFound):
						missing = append(missing, fmt.Errorf("there is no %s %s; roster get %s lists what there is", k.Kind.Singular(), name, k.Kind))
						continue
					case err != nil:
						return err
					}
					if ifRevision >= 0 {
						e.ModRevision = ifRevision
					}
					ops = append(ops, store.Op{Key: k, IfRevision: e.ModRevision})
				}
				if missing != nil {
					return joined(missing)
				}
				began := time.Now()
				rev, err := st.Apply(ctx, ops)
				if err != nil {
					return err
				}
				done := change{began: began, revision: rev}
				for _, op := range ops {
					done.keys = append(done.keys, op.Key)
					done.text += fmt.Sprintf("deleted %s at revision %d\n", op.Key, rev)
				}
				return w.finish(ctx, s, st, done)
			})
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().Int64Var(&ifRevision, "if-revision", -1, "delete only if the newest value has this revision")
	w.add(cmd)
	return cmd
}

// load reads the files of apply and validate.
func load(files []string, stdin io.Reader) ([]manifest.Entry, error) {
	if len(files) == 0 {
		return nil, usage("no file is given: name one with -f FILE, or - for stdin")
	}
	entries, err := manifest.Load(files, stdin)
	return entries, invalid(err)
}

func validateCommand(s streams) *cobra.Command {
	var (
		files  []string
		format string
	)
	cmd := &cobra.Command{
		Use:   "validate -f FILE...",
		Short: "Check files of definitions, without etcd",
		Long: `Check files as roster apply reads them and report everything that is wrong, without
asking etcd. A reference to something that no file defines is no error.`,
		Example: `  roster validate -f site.yaml
  roster validate -f conf.d/*.yaml
  roster get backends -o yaml | roster validate -f -
  roster validate -f site.yaml -o json 2>&1 | jq -r '.errors[]?'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, []string{"table", "json"}); err != nil {
				return err
			}
			files := append(files, args...)
			entries, err := load(files, s.in)
			if err != nil {
				return err
			}
			if format == "json" {
				return show.JSON(s.out, struct {
					Valid int `json:"valid"`
				}{len(entries)})
			}
			_, err = fmt.Fprintf(s.out, "%d definitions are valid\n", len(entries))
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file with definitions; - is stdin; may be given again")
	outputFlag(cmd, &format, []string{"table", "json"})
	return cmd
}
