// Package fleet asks nodes and etcd how they are.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/cmd/roster/internal/adminclient"
	"roster/cmd/roster/internal/manifest"
	"roster/node/presence"
	"roster/store"
)

// Fleet is what etcd and nodes answered.
type Fleet struct {
	Etcd         Etcd                   `json:"etcd"`
	Members      []presence.FleetMember `json:"members"` // by their presence in etcd
	MembersError string                 `json:"members_error,omitempty"`
	Differences  []presence.Difference  `json:"differences"`
	Nodes        []Node                 `json:"nodes"` // that were asked
	// NotAsked says why no node was; empty if one was.
	NotAsked string `json:"not_asked,omitempty"`

	Client adminclient.Client `json:"-"` // that asks nodes
}

// Etcd is what etcd holds under the prefix.
type Etcd struct {
	Error    string             `json:"error,omitempty"`
	Revision int64              `json:"revision"`
	Counts   map[store.Kind]int `json:"counts"`
	Invalid  []Invalid          `json:"invalid"`
}

// Invalid is a key whose value no node of this release takes.
type Invalid struct {
	Key      string   `json:"key"`
	Revision int64    `json:"revision"`
	Errors   []string `json:"errors"`
}

// Node is what one node answered.
type Node struct {
	Admin    string          `json:"admin"`
	Error    string          `json:"error,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"` // of /v1/status
	Backends []Backend       `json:"backends,omitempty"`

	status status
	err    error // that Error is of
}

// status is what is read of a node's status.
type status struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	Ready    bool   `json:"ready"`
	Revision int64  `json:"revision"`
	Digest   string `json:"digest"`
	Etcd     struct {
		Connected bool  `json:"connected"`
		FreshMS   int64 `json:"fresh_ms"` // 0 also for null, before the first time
	} `json:"etcd"`
	Rejected []rejected `json:"rejected"`
	Dangling []dangling `json:"dangling"`
	Cycles   []struct {
		Key    string `json:"key"`
		Member string `json:"member"`
	} `json:"cycles"`
	Warnings []struct {
		Key      string   `json:"key"`
		Warnings []string `json:"warnings"`
	} `json:"warnings"`
	Ignored  int    `json:"ignored"`
	HeldList string `json:"held_list"`
	Held     struct {
		Backends int       `json:"backends"`
		Names    []string  `json:"names"`
		Since    time.Time `json:"since"`
		Revision int64     `json:"revision"`
	} `json:"held"`
}

// rejected is an invalid value on a node, and what the node serves instead.
type rejected struct {
	Invalid
	InEffect int64 `json:"in_effect"` // a revision; 0: none
}

func (r rejected) instead() string {
	if r.InEffect == 0 {
		return "not served"
	}
	return fmt.Sprintf("revision %d is served", r.InEffect)
}

type dangling struct {
	Key     string `json:"key"`
	Missing string `json:"missing"`
}

func getJSON(ctx context.Context, c adminclient.Client, admin, path string, into any) error {
	code, body, err := c.Get(ctx, admin, path)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return refusal(path, code, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// refusedError is an answer that is not what was asked for.
type refusedError string

func (e refusedError) Error() string { return string(e) }

func refusal(path string, code int, body string) error {
	var fault struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal([]byte(body), &fault) == nil && len(fault.Errors) > 0 {
		body = strings.Join(fault.Errors, "; ")
	}
	return refusedError(fmt.Sprintf("GET %s: %d %s", path, code, body))
}

// Unasked says that and why the node at an address was not asked with success: it refuses,
// it does not answer, or a file of this machine is the cause.
func Unasked(admin string, err error) error {
	var refused refusedError
	var file *fs.PathError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("the node at %s refuses: %w", admin, err)
	case errors.As(err, &file):
		return fmt.Errorf("the node at %s was not asked: %w", admin, err)
	}
	return fmt.Errorf("the node at %s does not answer: %w; is it running, and its admin API there?", admin, err)
}

// Ask asks nodes at once, each for at most the time-out. What went wrong is in the
// nodes' errors.
//
// histories: with the history of backends' probes.
func (f *Fleet) Ask(ctx context.Context, admins []string, timeout time.Duration, histories bool) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f.Nodes = make([]Node, len(admins))
	var wg sync.WaitGroup
	for i, admin := range admins {
		f.Nodes[i].Admin = admin
		wg.Go(func() { f.Nodes[i].ask(ctx, f.Client, histories) })
	}
	wg.Wait()
}

// AskLocal asks the node of this machine, if there is one. That there is none is no
// fault.
func (f *Fleet) AskLocal(ctx context.Context, admin string, timeout time.Duration, histories bool) {
	f.Ask(ctx, []string{admin}, timeout, histories)
	if err := f.Nodes[0].err; err != nil {
		f.Nodes = []Node{}
		f.NotAsked = fmt.Sprintf("no node answers at %s; --admin HOST:PORT,... names those to ask", admin)
		var refused refusedError
		if errors.As(err, &refused) {
			f.NotAsked = Unasked(admin, err).Error()
		}
	}
}

func (n *Node) ask(ctx context.Context, c adminclient.Client, histories bool) {
	err := getJSON(ctx, c, n.Admin, "/v1/status", &n.Status)
	if err == nil {
		err = json.Unmarshal(n.Status, &n.status)
	}
	if err == nil {
		n.Backends, err = backends(ctx, c, n.Admin, histories)
	}
	if err != nil {
		n.Error, n.err = err.Error(), err
	}
}

// Count reads all definitions of etcd.
func (f *Fleet) Count(ctx context.Context, s *store.Store) error {
	f.Etcd.Counts, f.Etcd.Invalid = map[store.Kind]int{}, []Invalid{}
	entries, revision, err := s.List(ctx, "", "", 0)
	if err != nil {
		f.Etcd.Error = err.Error()
		return err
	}
	f.Etcd.Revision = revision
	for _, e := range entries {
		f.Etcd.Counts[e.Key.Kind]++
		if _, _, err := store.Decode(e.Key, e.Value, store.Reject); err != nil {
			bad := Invalid{Key: e.Key.String(), Revision: e.ModRevision}
			for _, err := range manifest.Each(err) {
				bad.Errors = append(bad.Errors, err.Error())
			}
			f.Etcd.Invalid = append(f.Etcd.Invalid, bad)
		}
	}
	return nil
}

// Fault says what is wrong with nodes: those that do not answer, are unknown, are not
// ready, hold removed backends, or whose digest differs from that of others at the same
// revision. It is nil if nothing is.
func (f *Fleet) Fault() error {
	var errs *multierror.Error
	digests := map[int64]map[string][]string{}
	for _, n := range f.Nodes {
		switch {
		case n.Error != "":
			errs = multierror.Append(errs, Unasked(n.Admin, n.err))
			continue
		case !n.status.Ready:
			errs = multierror.Append(errs, fmt.Errorf("node %s is not ready", n.status.Node))
		}
		of := digests[n.status.Revision]
		if of == nil {
			of = map[string][]string{}
			digests[n.status.Revision] = of
		}
		of[n.status.Digest] = append(of[n.status.Digest], n.status.Node)
	}
	for _, revision := range slices.Sorted(maps.Keys(digests)) {
		if of := digests[revision]; len(of) > 1 {
			errs = multierror.Append(errs, differ(revision, of))
		}
	}
	for _, err := range f.memberFaults() { // which may be of a node that was asked, too
		if errs == nil || !slices.ContainsFunc(errs.Errors, func(e error) bool { return e.Error() == err.Error() }) {
			errs = multierror.Append(errs, err)
		}
	}
	return errs.ErrorOrNil()
}

// Write writes tables for people.
func (f *Fleet) Write(w io.Writer) error {
	if f.Members != nil || f.MembersError != "" {
		f.writeMembers(w)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if len(f.Nodes) > 0 {
		fmt.Fprintln(t, "NODE\tADMIN\tVERSION\tREADY\tREVISION\tDIGEST\tETCD\tREJECTED\tDANGLING")
	}
	for _, n := range f.Nodes {
		s := n.status
		if n.Error != "" {
			fmt.Fprintf(t, "-\t%s\t-\tno answer\t-\t-\t-\t-\t-\n", n.Admin) // all cells, or those below are not in line
			continue
		}
		etcd := "connected"
		if !s.Etcd.Connected {
			etcd = fmt.Sprintf("lost %v ago", (time.Duration(s.Etcd.FreshMS) * time.Millisecond).Round(100*time.Millisecond))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d\n", s.Node, n.Admin, s.Version, yes(s.Ready), s.Revision, s.Digest, etcd, len(s.Rejected), len(s.Dangling))
	}
	t.Flush()
	if f.Etcd.Error == "" {
		var counts []string
		for _, k := range store.Kinds() {
			if n := f.Etcd.Counts[k]; n > 0 {
				counts = append(counts, fmt.Sprintf("%d %s", n, k))
			}
		}
		if counts == nil {
			counts = []string{"no definitions"}
		}
		fmt.Fprintf(t, "\netcd at revision %d: %s\n", f.Etcd.Revision, strings.Join(counts, ", "))
	} else if f.Members != nil {
		fmt.Fprintf(t, "\nwhat etcd holds is not known: %s\n", f.Etcd.Error)
	}
	told := map[string]bool{}
	for _, n := range f.Nodes {
		for _, r := range n.status.Rejected {
			told[r.Key] = true
		}
	}
	for _, bad := range f.Etcd.Invalid {
		if told[bad.Key] {
			continue
		}
		for _, err := range bad.Errors {
			fmt.Fprintf(t, "invalid: %s at revision %d: %s\n", bad.Key, bad.Revision, err)
		}
	}
	for _, n := range f.Nodes {
		for _, r := range n.status.Rejected {
			for _, err := range r.Errors {
				fmt.Fprintf(t, "rejected by %s: %s at revision %d (%s): %s\n", n.status.Node, r.Key, r.Revision, r.instead(), err)
			}
		}
		for _, d := range n.status.Dangling {
			fmt.Fprintf(t, "dangling on %s: %s refers to %s, which is not defined\n", n.status.Node, d.Key, d.Missing)
		}
		for _, c := range n.status.Cycles {
			fmt.Fprintf(t, "cycle on %s: %s has the member %s, which leads back to it\n", n.status.Node, c.Key, c.Member)
		}
		for _, w := range n.status.Warnings {
			for _, text := range w.Warnings {
				fmt.Fprintf(t, "warning on %s: %s: %s\n", n.status.Node, w.Key, text)
			}
		}
		if n.status.Ignored > 0 {
			fmt.Fprintf(t, "ignored by %s: %d keys under the prefix that are no definitions (is a kind misspelt?)\n", n.status.Node, n.status.Ignored)
		}
		if n.status.HeldList != "" {
			fmt.Fprintf(t, "held by %s: %s\n", n.status.Node, n.status.HeldList)
		}
		if h := n.status.Held; h.Backends > 0 {
			names := strings.Join(h.Names[:min(len(h.Names), shown)], ", ")
			if h.Backends > len(h.Names) || len(h.Names) > shown {
				names += ", ..."
			}
			fmt.Fprintf(t, "held by %s: %d removed backends since %s (%s); roster ack %d, if that was meant\n",
				n.status.Node, h.Backends, h.Since.Format(time.RFC3339), names, h.Revision)
		}
	}
	if f.NotAsked != "" {
		fmt.Fprintf(t, "\nhealth of backends: %s\n", f.NotAsked)
	}
	f.writeSick(t)
	f.writeBackends(t)
	return t.Flush()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
