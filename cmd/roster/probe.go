package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/show"
	"roster/pool"
	"roster/prober"
	"roster/store"
)

func probeCommand(s streams) *cobra.Command {
	var (
		c      client
		name   string
		format string
	)
	cmd := &cobra.Command{
		Use:   "probe NAME",
		Short: "Check a backend once, from here, and show what was sent and received",
		Long: `Read a backend and its probe from etcd, make the check once from this machine, and
show what was sent (>), what was received (<), how long each step took and whether it
was good; if not, at which stage it failed and why. Over TLS the bytes are those under
it. What is not printable is shown as in Go's strings.

Nodes are not asked and learn nothing of it. They judge by several probes; this is one.
Where a node may not connect to (--backend-deny and the like) is no concern of this
command.

The exit code is 0 if the check was good, 1 if not or if there is nothing to check, 3 if
a definition is invalid, and 5 if etcd does not answer.`,
		Example: `  roster probe web-1
  roster probe --backend team-a/web-1
  roster probe web-1 -o json | jq -r '.received | @base64d'`,
		Args: args(0, 1, "the name of a backend"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return c.completeKeys(cmd, append([]string{string(store.Backends)}, args...), word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && name != "":
				return usage("the backend is given twice, as %s and by --backend", args[0])
			case len(args) == 1:
				name = args[0]
			case name == "":
				return usage("no backend is named; roster probe --help has examples")
			}
			if err := oneOf("output", format, []string{"table", "json"}); err != nil {
				return err
			}
			var sub *subject
			if err := c.do(cmd.Context(), func(ctx context.Context, st *store.Store) (err error) {
				sub, err = readSubject(ctx, st, name)
				return err
			}); err != nil {
				return err
			}
			check := prober.CheckOf(sub.def, sub.probe, sub.deps)
			report, err := runOnce(cmd.Context(), check)
			if err != nil {
				return fmt.Errorf("backend %s: %w", name, err)
			}
			if format == "json" {
				err = show.JSON(s.out, probeJSON(sub, check, report))
			} else {
				err = writeProbe(s.out, sub, check, report)
			}
			switch {
			case err != nil:
				return err
			case report.Local:
				return fmt.Errorf("whether %s is good is not known, for a fault of this machine: %s: %s", name, report.Stage, report.Text)
			case !report.Good:
				return fmt.Errorf("the check of %s was bad: %s: %s", name, report.Stage, report.Text)
			}
			return nil
		},
	}
	c.add(cmd.Flags())
	cmd.Flags().StringVar(&name, "backend", "", "the backend, instead of as an argument")
	_ = cmd.RegisterFlagCompletionFunc("backend", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return c.completeKeys(cmd, []string{string(store.Backends)}, word)
	})
	outputFlag(cmd, &format, []string{"table", "json"})
	return cmd
}

// linkLocal is what a pool allows only if it is told to.
var linkLocal = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

// runOnce makes a check with a pool of its own.
func runOnce(ctx context.Context, check *prober.Check) (*prober.Report, error) {
	ctx, stop := context.WithCancel(ctx)
	pools := pool.New(pool.Config{
		Rules:  pool.Rules{Allow: linkLocal},
		Logger: slog.New(slog.DiscardHandler), // the report has it
	})
	ended := make(chan error, 1)
	go func() { ended <- pools.Run(ctx) }() // resolves names
	defer func() {
		stop()
		<-ended
	}()
	return prober.Once(ctx, pools, check)
}

// writeProbe writes a check and its run for people.
func writeProbe(w io.Writer, sub *subject, check *prober.Check, r *prober.Report) error {
	probe := "a probe of its own"
	if sub.probeName != "" {
		probe = fmt.Sprintf("the probe %s at revision %d", sub.probeName, sub.probeRevision)
	}
	how := ""
	if sub.def.TLS != nil {
		how += ", over TLS"
	}
	if sub.def.Via != "" {
		how += ", via " + sub.def.Via
	}
	if closes(sub) {
		how += ", the backend to close the connection"
	}
	p := sub.probe
	_, err := fmt.Fprintf(w, "backend %s at revision %d with %s\n%s%s, all within %s\n%sa node probes every %s, and needs %d good ones of the last %d\n",
		sub.name, sub.revision, probe, check, how, store.FormatDuration(check.Timeout()), r.Render(),
		store.FormatDuration(check.Interval()), p.Threshold, p.Window)
	if o := sub.override; err == nil && o != nil && o.State != store.Auto {
		_, err = fmt.Fprintf(w, "an operator's override says %s, which is above all probes\n", o.State)
	}
	return err
}

// closes says whether a check expects the backend to close the connection.
func closes(sub *subject) bool {
	return sub.probe.Type == store.HTTPProbe && sub.probe.ExpectClose && sub.def.Protocol == store.HTTP1
}

// probeRun is a check and its run in JSON. Bytes are in base64; times are since the
// start, null where that was not reached.
type probeRun struct {
	Backend       string            `json:"backend"`
	Revision      int64             `json:"revision"`
	Probe         string            `json:"probe,omitempty"` // empty: in the backend itself
	ProbeRevision int64             `json:"probe_revision,omitempty"`
	Override      store.HealthState `json:"override,omitempty"`
	Check         string            `json:"check"`
	Address       string            `json:"address"`
	TLS           bool              `json:"tls"`
	TimeoutMS     float64           `json:"timeout_ms"`

	Good          bool         `json:"good"`
	Stage         prober.Stage `json:"stage,omitempty"`
	Text          string       `json:"text"`
	Local         bool         `json:"local"`
	Remote        string       `json:"remote,omitempty"`
	Sent          []byte       `json:"sent"`
	Received      []byte       `json:"received"`
	SentTotal     int64        `json:"sent_total"`
	ReceivedTotal int64        `json:"received_total"`
	ConnectedMS   *float64     `json:"connected_ms"`
	FirstByteMS   *float64     `json:"first_byte_ms"`
	AnsweredMS    *float64     `json:"answered_ms"`
	EndedMS       *float64     `json:"ended_ms"`
}

func probeJSON(sub *subject, check *prober.Check, r *prober.Report) probeRun {
	run := probeRun{
		Backend: sub.name, Revision: sub.revision, Probe: sub.probeName, ProbeRevision: sub.probeRevision,
		Check: check.String(), Address: check.Address(), TLS: sub.def.TLS != nil, TimeoutMS: *milliseconds(check.Timeout()),
		Good: r.Good, Stage: r.Stage, Text: r.Text, Local: r.Local, Remote: r.Remote,
		Sent: r.Sent, Received: r.Received, SentTotal: r.SentTotal, ReceivedTotal: r.ReceivedTotal,
		ConnectedMS: milliseconds(r.Connected), FirstByteMS: milliseconds(r.FirstByte),
		AnsweredMS: milliseconds(r.Answered), EndedMS: milliseconds(r.Ended),
	}
	if sub.override != nil {
		run.Override = sub.override.State
	}
	return run
}

// milliseconds is nil for a time that was not reached.
func milliseconds(d time.Duration) *float64 {
	if d < 0 {
		return nil
	}
	ms := float64(d) / float64(time.Millisecond)
	return &ms
}
