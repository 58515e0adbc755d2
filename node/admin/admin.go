// Package admin is a node's admin API: what an operator, a balancer's health
// check or Prometheus asks one node over HTTP, and what they may write to etcd by way of
// it. Answers are JSON; /openapi.json describes them.
//
// On loopback nobody needs a password. So that a web page which the operator visits
// cannot read or write there, by way of a DNS name that points to 127.0.0.1 for one, a
// request's Host has to be a loopback name or one of Access.Hosts, and no page of another
// site may even ask. Anywhere else there are tokens and TLS.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"roster/exchange"
	"roster/node/certs"
	"roster/node/presence"
	"roster/node/table"
	"roster/prober"
	"roster/store"
)

// Node is what the API shows.
type Node interface {
	Table() *table.Table
	Status() Status
	Ready() bool
	Probes() []prober.State
}

// Server answers for one node.
type Server struct {
	Node    Node
	Access  Access
	Metrics http.Handler    // of /metrics
	Events  *Events         // of /v1/events
	Store   Store           // of writes
	Members presence.Source // of /v1/fleet; nil: there are none
	Traffic func() Traffic
	// HeldSince says since when a backend is held, if it is; nil: none ever is.
	HeldSince func(name string) (time.Time, bool)
	Logger    *slog.Logger // gets writes and faults; nil discards
	// Policy is that of the node's exchanges, and Start the zero of its clock, see
	// table.Applier.Start: for /v1/explain. Without a policy it goes by the defaults.
	Policy *exchange.Policy
	Start  time.Time
	// Retire is closed when another process answers on the listener: what is in progress
	// is finished. Nil: that never is so.
	Retire <-chan struct{}

	tokens *tokens // nil: none are asked for
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// Serve answers on ln until ctx ends, then closes it and all connections. Its files are
// as Access.Validate has found them good.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.Access.TokenFile != "" {
		var err error
		if s.tokens, err = newTokens(s.Access.TokenFile, s.log()); err != nil {
			return fmt.Errorf("admin: tokens: %w", err)
		}
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // answers without an end have one
		ErrorLog:          slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	serve := func() error { return server.Serve(ln) }
	if s.Access.Cert != "" {
		set, err := certs.New(s.Access.certificates(s.log()))
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		server.TLSConfig = set.TLS().Clone()
		serve = func() error { return server.ServeTLS(ln, "", "") }
		g.Go(func() error { return set.Run(ctx) })
	}
	g.Go(func() error {
		if err := serve(); ctx.Err() == nil && err != http.ErrServerClosed {
			return fmt.Errorf("admin: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-s.Retire:
			server.Shutdown(ctx)
		case <-ctx.Done():
		}
		server.Close()
		return nil
	})
	return g.Wait()
}

// Handler is the API without its listener.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	all := s.routes()
	for _, r := range all {
		mux.Handle(r.method+" "+r.pattern(), r.handle)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var allow []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete} {
			try := r.Clone(r.Context())
			try.Method = method
			if _, pattern := mux.Handler(try); pattern != "/" {
				allow = append(allow, method)
			}
		}
		if allow == nil {
			fail(w, http.StatusNotFound, "nothing is at %s; /openapi.json has what there is", r.URL.Path)
			return
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		fail(w, http.StatusMethodNotAllowed, "method is %s, want %s", r.Method, strings.Join(allow, ", "))
	})
	open := func(r *http.Request) bool {
		_, pattern := mux.Handler(r)
		return slices.ContainsFunc(all, func(known route) bool { return known.open && known.method+" "+known.pattern() == pattern })
	}
	return s.guard(open, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// ServeMux would send the client elsewhere, and curl, without a word, does not go.
		if clean := path.Clean(r.URL.Path); r.URL.Path != clean && r.URL.Path != clean+"/" {
			fail(w, http.StatusNotFound, "nothing is at %s: a path has neither empty segments nor those of dots; /openapi.json has what there is", r.URL.Path)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.Node.Ready() {
		fmt.Fprintln(w, "ready")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, "not ready:", s.Node.Status().Waiting)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if known(w, r) {
		answer(w, http.StatusOK, s.Node.Status())
	}
}

// List is how lists come: one revision, and where the next page begins.
type List[T any] struct {
	Revision int64  `json:"revision"`
	Items    []T    `json:"items"`
	Next     string `json:"next,omitempty"` // value of ?after= for the next page; none if this was the last
}

// limits of a page.
const (
	defaultLimit = 1000
	maxLimit     = 10_000
)

// page is the part of a list that was asked for.
type page struct {
	under, after string
	limit        int
}

// pageOf reads the parameters of a list; more are allowed besides. If it is not ok,
// it has answered.
func pageOf(w http.ResponseWriter, r *http.Request, more ...string) (p page, ok bool) {
	q := r.URL.Query()
	if !known(w, r, append([]string{"under", "limit", "after"}, more...)...) {
		return p, false
	}
	p = page{under: q.Get("under"), after: q.Get("after"), limit: defaultLimit}
	if v := q.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxLimit {
			fail(w, http.StatusBadRequest, "limit is %q, want 1 to %d", v, maxLimit)
			return p, false
		}
		p.limit = n
	}
	return p, true
}

// known refuses parameters that a path does not have, that are there twice, or that cannot
// be read: one that is left out would do nothing, or, dry_run for one, the contrary. Only
// header, of /v1/explain, is a list. If it is false, it has answered.
func known(w http.ResponseWriter, r *http.Request, names ...string) bool {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, "the query is %q, which cannot be read: %v", r.URL.RawQuery, err)
		return false
	}
	for name, values := range q {
		if len(values) > 1 && name != "header" {
			fail(w, http.StatusBadRequest, "%s is given %d times, want it once", name, len(values))
			return false
		}
		if !slices.Contains(names, name) {
			want := "none"
			if names != nil {
				want = strings.Join(names, ", ")
			}
			fail(w, http.StatusBadRequest, "parameter %q is not known, want %s", name, want)
			return false
		}
	}
	return true
}

func (s *Server) backends(w http.ResponseWriter, r *http.Request) {
	p, ok := pageOf(w, r, "verbose")
	if !ok {
		return
	}
	verbose, err := flag(r, "verbose")
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	t := s.Node.Table()
	list := List[Backend]{Revision: t.Revision(), Items: []Backend{}}
	for slot := range t.Slots(p.under, p.after) {
		if slot.Backend == nil {
			continue
		}
		if len(list.Items) == p.limit {
			list.Next = list.Items[p.limit-1].Name
			break
		}
		list.Items = append(list.Items, s.backendOf(slot, verbose))
	}
	answer(w, http.StatusOK, list)
}

// flag is a parameter that is true if it is there, but for an explicit false.
func flag(r *http.Request, name string) (bool, error) {
	q := r.URL.Query()
	if v := q.Get(name); v != "" {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return false, fmt.Errorf("%s is %q, want true or false", name, v)
		}
		return b, nil
	}
	return q.Has(name), nil
}

func (s *Server) backend(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	t := s.Node.Table()
	name := r.PathValue("name")
	slot := t.Lookup(name)
	if slot == nil || slot.Backend == nil {
		notFound(w, t, store.Key{Kind: store.Backends, Name: name})
		return
	}
	revision(w, slot.Backend.ModRevision)
	answer(w, http.StatusOK, s.backendOf(slot, true))
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // it is read as JSON, and errors quote what was typed
	enc.Encode(v)            // an error means that the client has gone
}

func fail(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, Fault{Errors: []string{fmt.Sprintf(format, args...)}})
}
