// Package show writes definitions for people (tables) and for scripts (JSON, YAML). A
// certificate's key is in none of it.
package show

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

// Formats are the values of -o.
var Formats = []string{"table", "json", "yaml"}

// Definition is one key of etcd in JSON.
type Definition struct {
	Kind       store.Kind      `json:"kind"`
	Name       string          `json:"name"`
	Revision   int64           `json:"revision"` // of the value
	Definition json.RawMessage `json:"definition"`
	Errors     []string        `json:"errors,omitempty"` // why nodes reject it
}

// List is several keys in JSON, as etcd had them at a revision.
type List struct {
	Revision int64        `json:"revision"`
	Items    []Definition `json:"items"`
}

// Of is a key as JSON shows it: the value as somebody put it, or as a string where it is
// no JSON.
func Of(e store.Entry) Definition {
	value := store.RedactValue(e.Key, e.Value)
	if !json.Valid(value) {
		value, _ = json.Marshal(string(value)) // a string has always a JSON form
	}
	d := Definition{Kind: e.Key.Kind, Name: e.Key.Name, Revision: e.ModRevision, Definition: value}
	if _, _, err := store.Decode(e.Key, e.Value, store.Reject); err != nil {
		for _, err := range manifest.Each(err) {
			d.Errors = append(d.Errors, err.Error())
		}
	}
	return d
}

// JSON writes a value, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Line is a value in JSON on one line.
func Line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}

// Items makes the items of a List.
func Items(entries []store.Entry) []Definition {
	items := make([]Definition, 0, len(entries))
	for _, e := range entries {
		items = append(items, Of(e))
	}
	return items
}

// YAML writes keys as a file that roster apply reads.
func YAML(w io.Writer, entries []store.Entry) error {
	var file []manifest.Entry
	for _, e := range entries {
		file = append(file, manifest.Entry{Key: e.Key, Value: store.RedactValue(e.Key, e.Value)})
	}
	_, err := w.Write(manifest.Write(file))
	return err
}

// columnsOf are a kind's table: titles, cells of a valid definition, and what is left out
// first where the line is short.
var columnsOf = map[store.Kind]struct {
	titles []string
	cells  func(store.Definition) []string
	least  []string
}{
	store.Backends: {[]string{"ADDRESS", "PROTOCOL", "PROBE", "LABELS"}, func(d store.Definition) []string {
		b := d.(*store.Backend)
		return []string{address(b), protocol(b), probe(b.Probe), labels(b.Labels)}
	}, []string{"PROTOCOL", "REVISION", "PROBE", "LABELS"}},
	store.Probes: {[]string{"TYPE", "CHECK", "INTERVAL", "TIMEOUT", "GOOD"}, func(d store.Definition) []string {
		p := d.(*store.Probe)
		return []string{string(p.Type), check(p), store.FormatDuration(p.Interval), store.FormatDuration(p.Timeout),
			fmt.Sprintf("%d of %d", p.Threshold, p.Window)}
	}, []string{"REVISION", "TIMEOUT", "GOOD", "TYPE"}},
	store.Directors: {[]string{"TYPE", "BACKENDS"}, func(d store.Definition) []string {
		v := d.(*store.Director)
		return []string{string(v.Type), members(v)}
	}, []string{"REVISION", "TYPE"}},
	store.Routes: {[]string{"PRIORITY", "HOST", "PATH", "TO"}, func(d store.Definition) []string {
		r := d.(*store.Route)
		to := r.Backend
		if r.Respond != nil {
			to = "answer " + strconv.Itoa(r.Respond.Status)
		}
		return []string{strconv.Itoa(r.Priority), strings.Join(r.Match.Host, ","),
			strings.Join(append(append([]string{}, r.Match.Path...), r.Match.PathRegex...), ","), to}
	}, []string{"REVISION", "PRIORITY"}},
	store.Certificates: {[]string{"HOSTS", "EXPIRES"}, func(d store.Definition) []string {
		c := d.(*store.Certificate)
		return []string{strings.Join(c.Hosts, ","), expiry(c.Cert)}
	}, []string{"REVISION"}},
	store.HealthKind: {[]string{"STATE", "REASON", "BY"}, func(d store.Definition) []string {
		h := d.(*store.Health)
		return []string{string(h.State), h.Reason, h.By}
	}, []string{"REVISION", "BY"}},
}

// Table writes keys of one kind, a line each. An invalid value has its first error in
// place of the cells. Columns is how many a line may have, 0 any number: then what does
// not fit is cut, or left out, the least important first.
func Table(w io.Writer, kind store.Kind, entries []store.Entry, columns int) error {
	c := columnsOf[kind]
	rows := [][]string{append([]string{"NAME", "REVISION"}, c.titles...)}
	for _, e := range entries {
		row := []string{cell(e.Key.Name), strconv.FormatInt(e.ModRevision, 10)}
		def, _, err := store.Decode(e.Key, e.Value, store.Reject)
		if err != nil {
			rows = append(rows, append(row, "invalid: "+printable(first(err))))
			continue
		}
		for _, text := range c.cells(def) {
			row = append(row, cell(text))
		}
		rows = append(rows, row)
	}
	if columns > 0 {
		rows = fit(rows, columns, c.least)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// fit makes a table fit a line's length: columns go in the order of least, then cells are
// cut, the longest first.
func fit(rows [][]string, columns int, least []string) [][]string {
	titles := rows[0]
	widths := make([]int, len(titles))
	for _, row := range rows {
		if len(row) < len(titles) {
			row = row[:len(row)-1] // an error goes over all columns, and is cut below
		}
		for i, text := range row {
			widths[i] = max(widths[i], len([]rune(text)))
		}
	}
	total := func() int {
		n := -gap
		for _, w := range widths {
			if w > 0 {
				n += w + gap
			}
		}
		return n
	}
	for _, title := range least {
		if i := slices.Index(titles, title); i >= 0 && total() > columns {
			widths[i] = 0
		}
	}
	for total() > columns {
		i := slices.Index(widths, slices.Max(widths))
		if widths[i] <= leastCell {
			break // a terminal as narrow as that wraps
		}
		widths[i]--
	}
	var fitted [][]string
	for _, row := range rows {
		var out []string
		at := 0
		for i, text := range row {
			if last := i == len(row)-1 && len(row) < len(titles); last {
				out = append(out, shorten(text, max(columns-at, leastCell)))
			} else if widths[i] > 0 {
				out = append(out, shorten(text, widths[i]))
				at += widths[i] + gap
			}
		}
		fitted = append(fitted, out)
	}
	return fitted
}

const (
	gap       = 2  // between columns
	leastCell = 10 // so much of a cell is always shown
)

func shorten(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-3]) + "..."
	}
	return s
}

func first(err error) string {
	var many *multierror.Error
	if errors.As(err, &many) && len(many.Errors) > 1 {
		return fmt.Sprintf("%v (and %d more)", many.Errors[0], len(many.Errors)-1)
	}
	return err.Error()
}

// maxCell bounds a cell, so that a table of long lists stays one.
const maxCell = 60

// cell makes text fit a table: short, and something where there is nothing.
func cell(s string) string {
	s = printable(s)
	return cmp.Or(shorten(s, maxCell), "-")
}

// printable makes text one line, without what moves a terminal's cursor or colours it.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s))
}

func address(b *store.Backend) string {
	switch {
	case b.None:
		return "none"
	case b.Path != "":
		return b.Path
	}
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
}

func protocol(b *store.Backend) string {
	if b.TLS != nil {
		return string(b.Protocol) + " over TLS"
	}
	return string(b.Protocol)
}

func probe(p store.ProbeRef) string {
	switch {
	case p.None:
		return "none"
	case p.Inline != nil:
		return "inline"
	}
	return cmp.Or(p.Name, "(default)")
}

func labels(l store.Labels) string {
	var all []string
	for _, l := range l {
		all = append(all, l.Name+"="+l.Value)
	}
	return strings.Join(all, ",")
}

func check(p *store.Probe) string {
	switch {
	case len(p.Request) > 0:
		return p.Request[0]
	case p.Type == store.GRPCProbe:
		return p.Service
	}
	return p.URL
}

func members(v *store.Director) string {
	var all []string
	for _, m := range v.Members {
		name := m.Name
		if m.Weight != 1 {
			name += "*" + strconv.FormatFloat(m.Weight, 'g', -1, 64)
		}
		all = append(all, name)
	}
	if v.Select != nil {
		all = append(all, "select "+labels(v.Select))
	}
	return strings.Join(all, ",")
}

func expiry(chain string) string {
	block, _ := pem.Decode([]byte(chain))
	if block == nil {
		return ""
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	return c.NotAfter.UTC().Format(time.DateOnly)
}
