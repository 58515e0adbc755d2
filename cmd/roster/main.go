// Command roster runs nodes and reads and writes the definitions they serve.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"roster/cmd/roster/internal/nearest"
	"roster/cmd/roster/internal/settings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}, os.LookupEnv)
	stop()
	os.Exit(code)
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, s streams, env func(string) (string, bool)) int {
	begun := false
	fill := func(flags *pflag.FlagSet) error {
		begun = true
		// What a command is to do is said each time, and never by the environment.
		err := settings.FromEnv(flags, env, "file", "apply", "dry-run", "if-revision", "revision", "backend", "force", "reason", "for", "header", "client", "owner", "prune", "since", "limit", "non-atomic")
		if file := flags.Lookup("config"); file != nil && file.Value.String() != "" {
			err = multierror.Append(err, settings.FromFile(flags, file.Value.String())).ErrorOrNil()
		}
		return err
	}
	root := rootCommand(s, fill)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, first error) error {
		_, rest, err := root.Find(args)
		if err != nil {
			rest = nil
		}
		return withCode(exitUsage, multierror.Append(flagErrors(cmd, rest, first), fill(cmd.Flags())))
	})
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	cmd, err := root.ExecuteContextC(ctx)
	if !begun {
		err = withCode(exitUsage, err) // of cobra's own
	}
	// Where YAML is what there is without -o, a file is written, for people.
	if output := cmd.Flags().Lookup("output"); output != nil && output.Value.String() == "json" && output.DefValue != "yaml" {
		return reportJSON(s.err, err)
	}
	return report(s.err, err)
}

// rootCommand is the whole command line. fill sets the flags that the command line left
// open; it is called once before a command runs.
func rootCommand(s streams, fill func(*pflag.FlagSet) error) *cobra.Command {
	root := &cobra.Command{
		Use:   "roster",
		Short: "HTTP backends, defined in etcd, served by every node",
		Long: `roster is an HTTP proxy whose backends, directors and routes are keys in etcd.
Every node watches them and serves a change as soon as it is written.

Flags may also be given in the environment: --drain-delay as ROSTER_DRAIN_DELAY.

With -o json, what went wrong is JSON too, on the standard error: {"code": 3, "errors": [...]}.

Exit codes: 0 done, 1 failed, 2 usage, 3 invalid definition, 4 conflict,
5 etcd not reachable, 6 --wait timed out.`,
		Example: `  roster node                                      # with an etcd of its own
  roster put backend web-1 host=10.0.0.7 port=8080
  roster get backends
  roster status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			if near := nearest.Word(args[0], names); near != "" {
				return usage("%q is not a command of roster, did you mean %s?", args[0], near)
			}
			return usage("%q is not a command of roster; roster --help lists them", args[0])
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return withCode(exitUsage, fill(cmd.Flags()))
		},
	}
	root.AddCommand(
		schemaCommand(s),
		nodeCommand(s), putCommand(s), getCommand(s), deleteCommand(s), applyCommand(s), diffCommand(s), validateCommand(s),
		historyCommand(s), rollbackCommand(s), watchCommand(s),
		importVCLCommand(s), exportCommand(s),
		statusCommand(s), healthCommand(s), drainCommand(s), registerCommand(s), ackCommand(s), forgetCommand(s), probeCommand(s), explainCommand(s), healthcheckCommand(s), originCommand(s), versionCommand(s), manCommand(s),
	)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Example = `  source <(roster completion bash)
  roster completion fish > ~/.config/fish/completions/roster.fish`
			cmd.RunE = func(*cobra.Command, []string) error {
				return usage("roster completion takes the name of a shell: bash, zsh or fish")
			}
		}
	}
	return root
}

// args makes a check of a command's arguments, for cobra: between lo and hi of them.
func args(lo, hi int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < lo || len(args) > hi {
			return usage("%s takes %s; %s --help has examples", cmd.CommandPath(), want, cmd.CommandPath())
		}
		return nil
	}
}
