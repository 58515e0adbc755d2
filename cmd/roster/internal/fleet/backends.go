package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"roster/cmd/roster/internal/adminclient"
	"roster/prober"
)

// Backend is what a node says of one backend.
type Backend struct {
	Name     string `json:"name"`
	Health   Health `json:"health"`
	Requests struct {
		Active int64 `json:"active"`
		Queued int64 `json:"queued"`
		Total  int64 `json:"total"`
	} `json:"requests"`
	Connections struct {
		Active int64 `json:"active"`
		Idle   int64 `json:"idle"`
	} `json:"connections"`
}

// Health is whether a backend gets new requests, and who says so.
type Health struct {
	State  string    `json:"state"` // healthy or sick
	Admin  string    `json:"admin"` // the operator's word, else auto
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Probe  *Probe    `json:"probe"` // nil: there is none
}

// Probe is what a backend's probe says of it, whatever an operator says.
type Probe struct {
	Good           int          `json:"good"` // of the last Window probes
	Window         int          `json:"window"`
	Threshold      int          `json:"threshold"`
	State          string       `json:"state"`
	Since          time.Time    `json:"since"`
	Carried        bool         `json:"carried,omitempty"`
	Check          string       `json:"check"`
	Users          int          `json:"users"` // backends that share the check
	Probes         uint64       `json:"probes"`
	GoodProbes     uint64       `json:"good_probes"`
	Seeded         uint64       `json:"seeded,omitempty"` // of Probes, made by another node
	SeededFrom     string       `json:"seeded_from,omitempty"`
	LocalFaults    uint64       `json:"local_faults"`
	At             *time.Time   `json:"at"` // when the last one ended
	LastSeconds    float64      `json:"last_seconds"`
	AverageSeconds float64      `json:"average_seconds"`
	Stage          prober.Stage `json:"stage,omitempty"`
	Text           string       `json:"text,omitempty"`
	Rows           []Row        `json:"rows,omitempty"`
}

// Row is one register of a history.
type Row struct {
	Name  string `json:"name"`
	Label string `json:"label"`
	Bits  string `json:"bits"`
	Row   string `json:"row"`
}

// ErrNoBackend: the node has no backend of that name.
var ErrNoBackend = errors.New("no such backend")

// One asks a node for one backend, with its history: as the node's JSON has it, and
// what is read of that. The error is ErrNoBackend if there is none.
func One(ctx context.Context, c adminclient.Client, admin, name string) (raw json.RawMessage, b Backend, err error) {
	path := (&url.URL{Path: "/v1/backends/" + name}).EscapedPath()
	code, body, err := c.Get(ctx, admin, path)
	switch {
	case err != nil:
	case code == http.StatusNotFound:
		err = ErrNoBackend
	case code != http.StatusOK:
		err = refusal(path, code, body)
	default:
		raw = json.RawMessage(body)
		err = json.Unmarshal(raw, &b)
	}
	return raw, b, err
}

// Each asks a node for all backends whose names begin with under, page by page, and
// calls f with each as the node's JSON has it.
func Each(ctx context.Context, c adminclient.Client, admin, under string, histories bool, f func(json.RawMessage) error) error {
	query := "?under=" + url.QueryEscape(under)
	if histories {
		query += "&verbose"
	}
	for next := ""; ; {
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next"`
		}
		path := "/v1/backends" + query
		if next != "" {
			path += "&after=" + next // a name needs no escaping
		}
		if err := getJSON(ctx, c, admin, path, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := f(item); err != nil {
				return err
			}
		}
		if next = page.Next; next == "" {
			return nil
		}
	}
}

// backends reads the whole list.
func backends(ctx context.Context, c adminclient.Client, admin string, histories bool) (all []Backend, err error) {
	err = Each(ctx, c, admin, "", histories, func(item json.RawMessage) error {
		var b Backend
		err := json.Unmarshal(item, &b)
		all = append(all, b)
		return err
	})
	return all, err
}

// admin is the state by an operator in Varnish's words: probe, where nobody has said
// anything.
func (h *Health) admin() string {
	if h.Admin == "" || h.Admin == "auto" {
		return "probe"
	}
	return h.Admin
}

// window is how many of the last probes were good: 0/0 without a probe, as in Varnish.
func (h *Health) window() string {
	if h.Probe == nil {
		return "0/0"
	}
	return fmt.Sprintf("%d/%d", h.Probe.Good, h.Probe.Window)
}

// why says what is known of the reason for the state.
func (h *Health) why() string {
	p := h.Probe
	switch {
	case h.admin() != "probe":
		why := "the operator says " + h.Admin
		if h.Reason != "" {
			why += ": " + oneLine(h.Reason)
		}
		return why
	case h.Reason != "":
		return oneLine(h.Reason)
	case p == nil: // without a check a backend is healthy, unless there is nothing to check
		return "it is none, which always fails"
	case p.Probes == 0 && p.Carried:
		return "it was so before its check changed, which has no answer yet"
	case p.Probes == 0:
		return "no answer to its probe yet"
	case p.Stage != "":
		return string(p.Stage) + ": " + oneLine(p.Text)
	}
	return fmt.Sprintf("%d of the last %d probes were good, of which it needs %d", p.Good, p.Window, p.Threshold)
}

// oneLine is text from elsewhere without what could move the cursor.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// lastChange is a time as Varnish shows it.
func lastChange(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(http.TimeFormat)
}

// WriteList writes what a node says of backends as Varnish's backend.list -p does.
func WriteList(w io.Writer, all []Backend) error {
	name := len("Backend name")
	for i := range all {
		name = max(name, len(all[i].Name))
	}
	line := func(cells ...any) error {
		_, err := fmt.Fprintf(w, "%-*s  %-7s  %-5s  %-7s  %s\n", append([]any{name}, cells...)...)
		return err
	}
	if err := line("Backend name", "Admin", "Probe", "Health", "Last change"); err != nil {
		return err
	}
	for i := range all {
		b := &all[i]
		if err := line(b.Name, b.Health.admin(), b.Health.window(), b.Health.State, lastChange(b.Health.Since)); err != nil {
			return err
		}
		if b.Health.Probe == nil {
			continue
		}
		s := b.Health.Probe.snapshot()
		if _, err := io.WriteString(w, s.Render()); err != nil {
			return err
		}
	}
	return nil
}

// snapshot is what Render shows of a probe.
func (p *Probe) snapshot() *prober.Snapshot {
	s := &prober.Snapshot{Good: p.Good, Judge: prober.Judge{Window: uint8(p.Window), Threshold: uint8(p.Threshold)}}
	s.Average = time.Duration(p.AverageSeconds * float64(time.Second))
	s.Stage, s.Text = p.Stage, oneLine(p.Text)
	s.Probes, s.Seeded, s.Peer = p.Probes, p.Seeded, oneLine(p.SeededFrom)
	registers := map[string]*uint64{
		"4": &s.IPv4, "6": &s.IPv6, "U": &s.Unix, "x": &s.SendFailed, "X": &s.Sent,
		"r": &s.ReceiveFailed, "R": &s.Received, "H": &s.Happy,
	}
	for _, row := range p.Rows {
		if register := registers[row.Name]; register != nil {
			fmt.Sscanf(row.Bits, "%x", register)
		}
	}
	return s
}

// How many backends a table lists, and how many sick ones are named; all are in the
// JSON.
const (
	shown     = 50
	shownSick = 20
)

// writeSick writes how many backends are healthy on all nodes, and names the others.
func (f *Fleet) writeSick(w io.Writer) {
	type ailing struct {
		node    string
		backend *Backend
	}
	var sick []ailing
	names, ill := map[string]bool{}, map[string]bool{}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		for j := range n.Backends {
			b := &n.Backends[j]
			names[b.Name] = true
			if b.Health.State != "healthy" {
				ill[b.Name] = true
				sick = append(sick, ailing{n.status.Node, b})
			}
		}
	}
	if len(names) == 0 {
		return
	}
	on := ""
	if len(f.Nodes) > 1 {
		on = " on a node or more"
	}
	fmt.Fprintf(w, "\nhealthy: %d backends, sick%s: %d\n", len(names)-len(ill), on, len(ill))
	slices.SortStableFunc(sick, func(a, b ailing) int { return cmp.Compare(a.backend.Name, b.backend.Name) })
	for _, c := range sick[:min(len(sick), shownSick)] {
		h := &c.backend.Health
		fmt.Fprintf(w, "sick on %s: %s since %s: %s\n", c.node, c.backend.Name, lastChange(h.Since), h.why())
	}
	if more := len(sick) - shownSick; more > 0 {
		fmt.Fprintf(w, "and %d more: roster status -o json has them all\n", more)
	}
}

// writeBackends writes a line per backend, the sick first: what nodes say of its health, where they
// differ, and what they count together. Of several nodes' windows the worst is shown, of
// changes the newest.
func (f *Fleet) writeBackends(w io.Writer) {
	sum := map[string]*Backend{}
	health, admin := map[string]map[string][]string{}, map[string]map[string][]string{} // by backend and state, the nodes
	for _, n := range f.Nodes {
		for _, b := range n.Backends {
			s := sum[b.Name]
			if s == nil {
				s = &Backend{Name: b.Name, Health: b.Health}
				sum[b.Name], health[b.Name], admin[b.Name] = s, map[string][]string{}, map[string][]string{}
			}
			s.Requests.Active += b.Requests.Active
			s.Requests.Queued += b.Requests.Queued
			s.Requests.Total += b.Requests.Total
			s.Connections.Active += b.Connections.Active
			s.Connections.Idle += b.Connections.Idle
			if worse(b.Health.Probe, s.Health.Probe) {
				s.Health.Probe = b.Health.Probe
			}
			if b.Health.Since.After(s.Health.Since) {
				s.Health.Since = b.Health.Since
			}
			health[b.Name][b.Health.State] = append(health[b.Name][b.Health.State], n.status.Node)
			admin[b.Name][b.Health.admin()] = append(admin[b.Name][b.Health.admin()], n.status.Node)
		}
	}
	if len(sum) == 0 {
		return
	}
	fmt.Fprintln(w, "\nBACKEND\tADMIN\tPROBE\tHEALTH\tLAST CHANGE\tACTIVE\tQUEUED\tREQUESTS\tCONNECTIONS\tIDLE")
	names := slices.Sorted(maps.Keys(sum))
	slices.SortStableFunc(names, func(a, b string) int { // the sick first
		_, wellA := health[a]["healthy"]
		_, wellB := health[b]["healthy"]
		return cmp.Compare(ill(wellA, len(health[a])), ill(wellB, len(health[b])))
	})
	for _, name := range names[:min(len(names), shown)] {
		b := sum[name]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\n", name, agreed(admin[name]), b.Health.window(), agreed(health[name]),
			lastChange(b.Health.Since), b.Requests.Active, b.Requests.Queued, b.Requests.Total, b.Connections.Active, b.Connections.Idle)
	}
	if len(names) > shown {
		fmt.Fprintf(w, "and %d more: roster status -o json has them all\n", len(names)-shown)
	}
}

// ill orders backends by how many nodes say that they are sick: all, some, none.
func ill(wellSomewhere bool, states int) int {
	switch {
	case !wellSomewhere:
		return 0
	case states > 1:
		return 1
	}
	return 2
}

// worse says whether a's window has fewer good probes of as many than b's.
func worse(a, b *Probe) bool {
	return a != nil && (b == nil || a.Good*b.Window < b.Good*a.Window)
}

// agreed is one state where all nodes agree, else each with its nodes.
func agreed(states map[string][]string) string {
	var all []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		if len(states) == 1 {
			return state
		}
		all = append(all, state+" on "+strings.Join(states[state], ","))
	}
	return strings.Join(all, "; ")
}

// WriteLists writes each node's backends as WriteList does.
func (f *Fleet) WriteLists(w io.Writer) error {
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.Error != "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\nnode %s\n", n.status.Node); err != nil {
			return err
		}
		if err := WriteList(w, n.Backends); err != nil {
			return err
		}
	}
	return nil
}
