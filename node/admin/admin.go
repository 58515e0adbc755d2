// Package admin is a node's admin API: what an operator, a balancer's health
// check or Prometheus asks one node over HTTP. Answers are JSON.
//
// It listens on loopback, where nobody needs a password. So that a web page
// which the operator visits cannot read it by way of a DNS name that points to
// 127.0.0.1, a request's Host has to be a loopback name or one of
// Server.Hosts; a page of another site may not even ask. Nothing here writes.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"roster/node/table"
	"roster/prober"
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
	Hosts   []string     // names that Host may be, besides loopback's
	Metrics http.Handler // of /metrics
	Events  *Events      // of /v1/events
}

// Serve answers on ln until ctx ends, then closes it and all connections.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // answers without an end have one
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); ctx.Err() == nil {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// Handler is the API without its listener.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.Metrics)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.Node.Status()) })
	mux.HandleFunc("GET /v1/backends", s.backends)
	mux.HandleFunc("GET /v1/backends/{name...}", s.backend)
	mux.HandleFunc("GET /v1/probes", s.probes)
	mux.Handle("GET /v1/events", s.Events)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "method is %s, want GET: definitions are written to etcd", r.Method)
			return
		}
		fail(w, http.StatusNotFound, "nothing is at %s; see /v1/status, /v1/backends, /v1/probes, /v1/events, /metrics, /healthz and /readyz", r.URL.Path)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.allowed(r.Host) {
			fail(w, http.StatusMisdirectedRequest, "Host is %q, want a loopback name or one given by --admin-host", r.Host)
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			fail(w, http.StatusForbidden, "the request comes from a page of another site")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// allowed says whether a Host is one that only a user of this machine sends.
func (s *Server) allowed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return host == "localhost" || slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.Node.Ready() {
		fmt.Fprintln(w, "ready")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, "not ready:", s.Node.Status().Waiting)
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
	known := append([]string{"under", "limit", "after"}, more...)
	for name := range q {
		if !slices.Contains(known, name) {
			fail(w, http.StatusBadRequest, "parameter %q is not known, want %s", name, strings.Join(known, ", "))
			return p, false
		}
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
		list.Items = append(list.Items, backendOf(slot, verbose))
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
	t := s.Node.Table()
	name := r.PathValue("name")
	slot := t.Lookup(name)
	if slot == nil || slot.Backend == nil {
		fail(w, http.StatusNotFound, "backend %q is not defined at revision %d", name, t.Revision())
		return
	}
	answer(w, http.StatusOK, backendOf(slot, true))
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v) // an error means that the client has gone
}

func fail(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, map[string][]string{"errors": {fmt.Sprintf(format, args...)}})
}
