package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/adminclient"
	"roster/cmd/roster/internal/show"
	"roster/node/admin"
)

func explainCommand(s streams) *cobra.Command {
	var (
		api     adminclient.Client
		at      string
		headers []string
		client  string
		timeout time.Duration
		format  string
	)
	cmd := &cobra.Command{
		Use:   "explain METHOD URL",
		Short: "Say what would become of a request, and why; nothing is sent",
		Long: `Ask a node which route a request would take and why others not, how the directors on
the way would choose and how each member is, which backend would get the request, and
what that would be sent. Nothing is sent, and nothing moves: of what is chosen by turns or
at random, the answer is what the next request may get.

The host is that of the URL, or of a header Host. The client is 127.0.0.1, unless --client
is given; a node that has it among its --trusted-proxies believes its X-Forwarded-For.
Routes that were not considered have another host or path, or come after the one taken.`,
		Example: `  roster explain GET http://www.example.com/java/x
  roster explain GET http://127.0.0.1:8080/ -H 'Host: www.example.com' -H 'Cookie: roster=x'
  roster explain POST https://www.example.com/upload --client 192.0.2.7 -o json | jq .backend.name`,
		Args:              args(2, 2, "a method and a URL"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", format, []string{"table", "json"}); err != nil {
				return err
			}
			query := url.Values{"method": {args[0]}, "url": {args[1]}, "header": headers}
			if cmd.Flags().Changed("client") {
				query.Set("client", client)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			code, body, err := api.Get(ctx, at, "/v1/explain?"+query.Encode())
			if err != nil {
				return fmt.Errorf("the node at %s does not answer: %w", at, err)
			}
			if code != http.StatusOK {
				return refusal(code, body)
			}
			var e admin.Explanation
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				return fmt.Errorf("the node at %s: %w", at, err)
			}
			if format == "json" {
				return show.JSON(s.out, e)
			}
			return writeExplanation(s.out, &e)
		},
	}
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a header `field` of the request, \"Name: value\"; may be given again")
	cmd.Flags().StringVar(&client, "client", "", "`address` of who connects to the node (default 127.0.0.1)")
	cmd.Flags().StringVar(&at, "admin", defaultAdmin, "address of the node's admin API, HOST:PORT")
	api.Add(cmd.Flags())
	cmd.Flags().Var(newDuration(&timeout, 5*time.Second), "timeout", "how long the node may take")
	outputFlag(cmd, &format, []string{"table", "json"})
	return cmd
}

// refusal is what a node answers instead of an explanation. 400 is about what was
// typed.
func refusal(code int, body string) error {
	var fault admin.Fault
	if json.Unmarshal([]byte(body), &fault) != nil || len(fault.Errors) == 0 {
		return fmt.Errorf("the node answers %d %s", code, body)
	}
	var all []error
	for _, e := range fault.Errors {
		all = append(all, fmt.Errorf("%s", e))
	}
	if code == http.StatusBadRequest {
		return withCode(exitUsage, joined(all))
	}
	return joined(all)
}

// writeExplanation writes an explanation for people.
func writeExplanation(out io.Writer, e *admin.Explanation) error {
	w := &explanation{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	w.line("%s %s from %s, at revision %d", e.Request.Method, cut(e.Request.URL), e.Request.Client, e.Revision)
	if e.Request.Path != "" && !strings.HasSuffix(e.Request.URL, e.Request.Path) {
		host := e.Request.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name // routes do not see the port
		}
		w.line("routes see the host %s and the path %s", host, cut(e.Request.Path))
	}
	w.routes(e)
	for i := range e.Choices {
		w.director(&e.Choices[i])
	}
	switch {
	case e.Backend != nil:
		w.backend(e.Backend)
	case e.Target != "" && len(e.Choices) == 0:
		w.line("\nno backend or director is named %s", e.Target)
	}
	w.result(e)
	return w.Flush()
}

type explanation struct{ *tabwriter.Writer }

// line writes a line that no column goes through.
func (w *explanation) line(format string, args ...any) {
	w.Flush() // ends the columns
	fmt.Fprintf(w, format+"\n", args...)
	w.Flush()
}

func (w *explanation) routes(e *admin.Explanation) {
	w.line("")
	switch {
	case e.Route != nil:
	case e.Target != "":
		w.line("no route matches, so the request goes to %s", e.Target)
	case e.Answer != nil && e.Answer.Status == http.StatusBadRequest:
		w.line("the request is not valid, so no route is asked")
	default:
		w.line("no route matches, and there is no backend")
	}
	for _, r := range e.Routes {
		verdict := "matches, not needed"
		switch {
		case r.Taken && r.Error != "":
			verdict = "taken, and fails: " + cut(r.Error)
		case r.Taken:
			verdict = "taken"
		case r.Error != "":
			verdict = "skipped: " + cut(r.Error)
		case !r.Matches && r.Got == "":
			verdict = fmt.Sprintf("%s is absent, want %s", r.Field, cut(r.Want))
		case !r.Matches:
			verdict = fmt.Sprintf("%s is %s, want %s", r.Field, cut(r.Got), cut(r.Want))
		}
		mark := " "
		switch {
		case r.Taken:
			mark = "*"
		case r.Considered:
			mark = "-"
		}
		fmt.Fprintf(w, "%s route %s\t%s\n", mark, r.Name, verdict)
	}
	if e.LeftOut > 0 {
		w.line("  and %d more routes", e.LeftOut)
	}
}

func (w *explanation) director(c *admin.ExplainChoice) {
	var states []string
	for _, state := range slices.Sorted(maps.Keys(c.States)) {
		states = append(states, fmt.Sprintf("%d %s", c.States[state], state))
	}
	if len(states) == 0 {
		states = []string{"it has no members"}
	}
	w.line("\ndirector %s, %s: %s (%s)", c.Name, c.Type, c.Why, strings.Join(states, ", "))
	shown := 0
	for _, m := range c.Members {
		if shown >= maxExplained && !m.Chosen {
			continue
		}
		shown++
		mark := " "
		if m.Chosen {
			mark = "*"
		}
		state := m.State
		if m.Left > 0 {
			state = fmt.Sprintf("%s for %.0fs", state, m.Left)
		}
		fmt.Fprintf(w, "%s %s\t%s\tweight %g\t%.3g%%\n", mark, m.Name, state, m.Weight, 100*m.Share)
	}
	total := 0
	for _, n := range c.States {
		total += n
	}
	if more := total - shown; more > 0 {
		w.line("  and %d more", more)
	}
}

// maxExplained is how many members of a director are shown, the chosen one apart.
const maxExplained = 20

func (w *explanation) backend(b *admin.Backend) {
	health := string(b.Health.State)
	if p := b.Health.Probe; p != nil {
		health += fmt.Sprintf(", %d of %d probes good, threshold %d", p.Good, p.Window, p.Threshold)
	}
	if b.Health.Admin != "auto" {
		health += fmt.Sprintf(", by the operator's word %s", b.Health.Admin)
	}
	if b.Health.Reason != "" {
		health += ": " + cut(b.Health.Reason)
	}
	if b.Health.State != "healthy" && b.Health.Probe == nil && b.Health.Admin == "auto" && b.Health.Reason == "" {
		health += ": it is none, which always fails"
	}
	w.line("\nbackend %s is %s", b.Name, health)
	if b.Removed != nil {
		w.line("  it was removed from etcd at %s, and is held by --guard until roster ack", b.Removed.Format(time.RFC3339))
	}
	// An answer in JSON may have it in several lines.
	var definition bytes.Buffer
	if json.Compact(&definition, b.Definition) != nil {
		definition.Write(b.Definition)
	}
	w.line("  %s", cut(definition.String()))
}

func (w *explanation) result(e *admin.Explanation) {
	switch {
	case e.Sent != nil:
		w.line("\nit would be sent (retries %d, connect %s, first byte %s, between bytes %s, in all %s):", e.Sent.Retries,
			limit(e.Sent.Timeouts.Connect), limit(e.Sent.Timeouts.FirstByte), limit(e.Sent.Timeouts.BetweenBytes), limit(e.Sent.Timeouts.Total))
		w.line("  %s %s", e.Sent.Method, cut(e.Sent.Target))
		w.line("  Host: %s", e.Sent.Host)
		w.fields(e.Sent.Fields)
	case e.Answer != nil:
		why := "the route answers by itself"
		if e.Answer.Error != "" {
			why = e.Answer.Error
		}
		w.line("\nthe node would answer %d (%s):", e.Answer.Status, why)
		w.fields(e.Answer.Fields)
		if e.Answer.Body != "" {
			w.line("\n  %s", cut(strings.TrimSpace(e.Answer.Body)))
		}
	}
}

func (w *explanation) fields(fields []admin.ExplainField) {
	for _, f := range fields {
		w.line("  %s: %s", f.Name, cut(f.Value))
	}
}

func limit(d string) string {
	if d == "0s" {
		return "no limit"
	}
	return d
}

// cut makes a value fit a terminal's line, and spells out what a terminal would obey.
func cut(s string) string {
	const most = 72
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-3]) + "..."
	}
	return s
}
