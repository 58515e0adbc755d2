package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"roster/prober"
	"roster/store"
)

// Identity says whose a node is. Nodes with another prefix or cluster are no peers.
type Identity struct {
	Prefix   string
	Cluster  string // etcd's id; "" if it is not known yet
	Instance store.Instance
}

// The fields of an answer's header that say whose it is.
const (
	prefixField   = "Roster-Prefix"
	clusterField  = "Roster-Cluster"
	instanceField = "Roster-Instance"
)

// Drains is the answer of /v1/drains.
type Drains struct {
	Items []store.Leaving `json:"items"`
	More  int             `json:"more"` // how many besides, that are not told
}

// Server tells peers what a node knows. All fields are required.
type Server struct {
	Credentials *Credentials
	Identity    func() Identity
	Histories   func() iter.Seq2[prober.Key, prober.History]
	Drains      func() Drains
	Logger      *slog.Logger
}

// Bounds of what peers may ask for at a time, and of how long they may take.
const (
	maxConnections = 256
	maxAnswers     = 8
	headTimeout    = 2 * time.Second
	writeTimeout   = 10 * time.Second
)

// Serve answers on ln until ctx ends, then closes it and all connections.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler:           s.handler(),
		TLSConfig:         s.Credentials.set.TLS().Clone(),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       headTimeout, // there are no bodies
		WriteTimeout:      writeTimeout,
		IdleTimeout:       writeTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(&refusals{logger: s.Logger}, "", 0),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.ServeTLS(netutil.LimitListener(ln, maxConnections), "", ""); ctx.Err() == nil {
			return fmt.Errorf("peer: %w", err)
		}
		return nil
	})
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	return g.Wait()
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	places := make(chan struct{}, maxAnswers)
	handle := func(pattern string, answer func(http.ResponseWriter)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			id := s.Identity()
			w.Header().Set(prefixField, id.Prefix)
			w.Header().Set(clusterField, id.Cluster)
			w.Header().Set(instanceField, id.Instance.String())
			q := r.URL.Query()
			for name, want := range map[string]string{"prefix": id.Prefix, "cluster": id.Cluster} {
				if q.Has(name) && q.Get(name) != want {
					http.Error(w, fmt.Sprintf("this is %s, whose %s is %q, and not %q", id.Instance.Node, name, want, q.Get(name)), http.StatusMisdirectedRequest)
					return
				}
			}
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
				answer(w)
			default:
				w.Header().Set("Retry-After", "1")
				http.Error(w, fmt.Sprintf("%d others are being answered", maxAnswers), http.StatusServiceUnavailable)
			}
		})
	}
	handle("GET /v1/histories", s.histories)
	handle("GET /v1/drains", s.drains)
	return mux
}

func (s *Server) histories(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/octet-stream")
	const piece = 64 << 10
	b := make([]byte, 0, piece+maxRecord)
	n := 0
	for key, h := range s.Histories() {
		if n++; n > maxRecords {
			break
		}
		b = appendRecord(b, key, &h, time.Since(h.At))
		if len(b) >= piece {
			if _, err := w.Write(b); err != nil {
				return
			}
			b = b[:0]
		}
	}
	w.Write(b)
}

func (s *Server) drains(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s.Drains())
}

// refusals logs why connections ended before a request: at most a line each refusalPause
// about certificates, and at debug those that say nothing, such as a balancer's checks.
type refusals struct {
	logger *slog.Logger

	mu   sync.Mutex
	last time.Time
	more int // since then
}

const refusalPause = 10 * time.Second

func (r *refusals) Write(line []byte) (int, error) {
	text := string(bytes.TrimPrefix(bytes.TrimSpace(line), []byte("http: TLS handshake error from ")))
	if !bytes.Contains(line, []byte("tls: ")) {
		r.logger.Debug("a peer's connection ended", "error", text)
		return len(line), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more++; time.Since(r.last) >= refusalPause {
		r.logger.Warn("a peer is refused, which has to have a certificate of --peer-tls-ca, for clients", "error", text, "times", r.more)
		r.last, r.more = time.Now(), 0
	}
	return len(line), nil
}
