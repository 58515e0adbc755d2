package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/node/certs/certstest"
	"roster/prober"
	"roster/store"
)

// written makes files with a certificate of a CA, which trust another.
func written(t testing.TB, of, trusted *certstest.CA) Files {
	t.Helper()
	dir := t.TempDir()
	cert, key := of.Issue(t).Write(t, dir, "node")
	ca := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, ca, trusted.PEM)
	return Files{cert, key, ca}
}

func credentials(t testing.TB, of, trusted *certstest.CA) *Credentials {
	t.Helper()
	c, err := Open(written(t, of, trusted), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func identity(node string) Identity {
	return Identity{Prefix: "/roster/", Cluster: "c1", Instance: store.Instance{Node: node, ID: "i"}}
}

// telling is a server that knows one history.
func telling(t testing.TB, ca *certstest.CA, node string, key byte, h prober.History) *Server {
	return &Server{
		Credentials: credentials(t, ca, ca),
		Identity:    func() Identity { return identity(node) },
		Histories: func() iter.Seq2[prober.Key, prober.History] {
			return func(yield func(prober.Key, prober.History) bool) { yield(prober.Key{key}, h) }
		},
		Drains: func() Drains { return Drains{Items: []store.Leaving{{Name: "web-1", Active: 2}}, More: 3} },
		Logger: slog.New(slog.DiscardHandler),
	}
}

// listen opens a place to serve at.
func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve serves until the test ends.
func serve(t testing.TB, s *Server) (address string) {
	t.Helper()
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func at(node, address string) Peer {
	return Peer{store.Instance{Node: node, ID: "i"}, address}
}

func client(t testing.TB, ca *certstest.CA) *Client {
	return &Client{Credentials: credentials(t, ca, ca), Identity: identity("me")}
}

// faults are the errors of peers, by node.
func faults(asked []Asked) map[string]string {
	all := map[string]string{}
	for _, a := range asked {
		if all[a.Node] = ""; a.Err != nil {
			all[a.Node] = a.Err.Error()
		}
	}
	return all
}

func TestTheNewestHistoryOfEachCheckIsTaken(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	h := func(happy uint64, age time.Duration) prober.History {
		return prober.History{Probes: 8, Happy: happy, At: time.Now().Add(-age), Text: "fine"}
	}
	// Two nodes have the check 1, one the check 2, and one knows nothing that anybody reads.
	peers := []Peer{
		at("a", serve(t, telling(t, ca, "a", 1, h(0xa, time.Hour)))),
		at("b", serve(t, telling(t, ca, "b", 1, h(0xb, time.Minute)))),
		at("c", serve(t, telling(t, ca, "c", 2, h(0xc, time.Hour)))),
	}
	before := time.Now()
	seeds, asked := client(t, ca).Ask(t.Context(), peers)
	if len(asked) != 3 || len(seeds) != 2 {
		t.Fatalf("%d asked, %d histories: %v", len(asked), len(seeds), faults(asked))
	}
	for _, a := range asked {
		if a.Err != nil || a.Histories != 1 {
			t.Errorf("%+v", a)
		}
	}
	one, two := seeds[prober.Key{1}], seeds[prober.Key{2}]
	if one.Peer != "b" || one.History.Happy != 0xb || two.Peer != "c" || two.History.Happy != 0xc {
		t.Errorf("%+v and %+v", one, two)
	}
	if age := before.Sub(one.History.At); age > time.Minute+time.Second || age < time.Minute-30*time.Second {
		t.Errorf("a minute old, and taken for %v", age)
	}
}

// Peers that are no good, each in its way, keep nobody from what a good one knows.
func TestPeersThatAreNoGood(t *testing.T) {
	t.Parallel()
	ca, other := certstest.NewCA(t), certstest.NewCA(t)
	h := prober.History{Probes: 8, Happy: 1, At: time.Now()}
	bad := func(change func(*Server)) string {
		s := telling(t, ca, "bad", 1, h)
		change(s)
		return serve(t, s)
	}
	mute := listen(t) // accepts in the kernel, and says nothing
	gone := listen(t)
	gone.Close()
	for _, row := range []struct{ name, address, want string }{
		{"of another prefix", bad(func(s *Server) {
			s.Identity = func() Identity { return Identity{"/other/", "c1", store.Instance{Node: "bad", ID: "i"}} }
		}), `it answers 421 Misdirected Request: "this is bad, whose prefix is \"/other/\", and not \"/roster/\""`},
		{"of another etcd", bad(func(s *Server) {
			s.Identity = func() Identity { return Identity{"/roster/", "c2", store.Instance{Node: "bad", ID: "i"}} }
		}), `it answers 421 Misdirected Request: "this is bad, whose cluster is \"c2\", and not \"c1\""`},
		{"the node itself", bad(func(s *Server) { s.Identity = func() Identity { return identity("me") } }), "it is this node itself"},
		{"with a certificate of another CA", bad(func(s *Server) { s.Credentials = credentials(t, other, ca) }),
			"its certificate (CN=test) is not of --peer-tls-ca: x509: certificate signed by unknown authority"},
		{"that does not trust this node", bad(func(s *Server) { s.Credentials = credentials(t, ca, other) }),
			"it refuses the certificate of --peer-tls-cert: remote error: tls: "},
		{"gone", gone.Addr().String(), "connection refused"},
		{"mute", mute.Addr().String(), "TLS handshake timeout"},
		{"another server", serveHTTP(t, ca, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }), `its Roster-`},
		{"lying", serveHTTP(t, ca, signed(func(w io.Writer, _ *http.Request) { w.Write(bytes.Repeat([]byte{0xff}, 99)) })), "record 0: binary: varint overflows"},
		{"broken off", serveHTTP(t, ca, signed(func(w io.Writer, _ *http.Request) {
			w.Write((&record{Key: prober.Key{9}, History: prober.History{Probes: 1}}).append([]byte(nil)))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})), "EOF"},
		{"slow", serveHTTP(t, ca, signed(func(w io.Writer, r *http.Request) {
			w.Write([]byte{1})
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})), "no whole answer within 2s"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := client(t, ca)
			seeds, asked := c.Ask(t.Context(), []Peer{at("bad", row.address)})
			if got := faults(asked)["bad"]; !strings.Contains(got, row.want) {
				t.Errorf("alone: %q, want %q", got, row.want)
			}
			if brokenOff := row.name == "broken off"; brokenOff != (len(seeds) == 1) {
				t.Errorf("%d histories: what came whole is good", len(seeds))
			}
			good := serve(t, telling(t, ca, "good", 1, h))
			seeds, asked = c.Ask(t.Context(), []Peer{at("bad", row.address), at("good", good)})
			if got, ok := faults(asked)["good"]; !ok || got != "" || seeds[prober.Key{1}].Peer != "good" {
				t.Errorf("beside a good one: %q, %v", got, seeds)
			}
		})
	}
}

// serveHTTP is a peer whose answers are f's.
func serveHTTP(t *testing.T, ca *certstest.CA, f http.HandlerFunc) string {
	t.Helper()
	ended := make(chan struct{})
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{ca.Issue(t).TLS(t)}})
	s := &http.Server{Handler: f, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() {
		defer close(ended)
		s.Serve(l)
	}()
	t.Cleanup(func() { s.Close(); <-ended })
	return l.Addr().String()
}

// signed answers as a peer, but for the body.
func signed(body func(io.Writer, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(prefixField, "/roster/")
		w.Header().Set(clusterField, "c1")
		body(w, r)
	}
}

// Six are asked at most, three until three are good; and of those who answer, none twice.
func TestHowManyAreAsked(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	c := client(t, ca)
	var dead, good []Peer
	for i := range 8 {
		l := listen(t)
		l.Close()
		dead = append(dead, at(fmt.Sprint("dead-", i), l.Addr().String()))
		name := fmt.Sprint("good-", i)
		good = append(good, at(name, serve(t, telling(t, ca, name, byte(i), prober.History{Probes: 1, At: time.Now()}))))
	}
	if seeds, asked := c.Ask(t.Context(), dead); len(asked) != attempts || len(faults(asked)) != attempts || len(seeds) != 0 {
		t.Errorf("of 8 dead ones %d were asked: %v", len(asked), faults(asked))
	}
	if seeds, asked := c.Ask(t.Context(), good); len(asked) != enough || len(seeds) == 0 {
		t.Errorf("of 8 good ones %d were asked", len(asked))
	}
	if _, asked := c.Ask(t.Context(), slices.Concat(dead[:5], good[:1])); faults(asked)["good-0"] != "" {
		t.Errorf("five dead ones and a good one: %v", faults(asked))
	}
	if seeds, asked := c.Ask(t.Context(), nil); len(asked) != 0 || len(seeds) != 0 {
		t.Error("nobody was there to be asked")
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	var mute []Peer
	for i := range 9 {
		mute = append(mute, at(fmt.Sprint(i), listen(t).Addr().String()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, asked := client(t, ca).Ask(ctx, mute); len(asked) != attempts {
		t.Errorf("%v", faults(asked))
	}
}

// lines are those of a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

// until waits for a line with s in it, and returns all.
func (l *lines) until(s string) []string {
	for {
		l.mu.Lock()
		all := slices.Clone(l.all)
		l.mu.Unlock()
		if slices.ContainsFunc(all, func(line string) bool { return strings.Contains(line, s) }) {
			return all
		}
		runtime.Gosched()
	}
}

// Who has no certificate, or one of another CA, is told nothing, and the log says why.
func TestWhoeverHasNoCertificateIsRefused(t *testing.T) {
	t.Parallel()
	ca, other := certstest.NewCA(t), certstest.NewCA(t)
	for want, config := range map[string]*tls.Config{
		"client didn't provide a certificate":         {},
		"certificate signed by unknown authority":     {Certificates: []tls.Certificate{other.Issue(t).TLS(t)}},
		"certificate has expired or is not yet valid": {Certificates: []tls.Certificate{ca.IssueUntil(t, time.Now().Add(-time.Minute)).TLS(t)}},
	} {
		var log lines
		s := telling(t, ca, "a", 1, prober.History{Probes: 1})
		s.Logger = slog.New(slog.NewTextHandler(&log, nil))
		address := serve(t, s)
		config.InsecureSkipVerify = true
		for range 3 {
			h := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			if r, err := h.Get("https://" + address + "/v1/drains"); err == nil {
				r.Body.Close()
				t.Errorf("%s: answered %s", want, r.Status)
			}
		}
		if all := log.until(want); len(all) != 1 {
			t.Errorf("%d lines, want one in ten seconds: %q", len(all), all)
		}
	}
	h := &http.Client{}
	if r, err := h.Get("http://" + serve(t, telling(t, ca, "a", 1, prober.History{Probes: 1})) + "/v1/drains"); err == nil {
		r.Body.Close()
		if r.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %s", r.Status)
		}
	}
}

// What is there: two answers, to reads only.
func TestWhatAPeerIsTold(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	address := serve(t, telling(t, ca, "a", 1, prober.History{Probes: 1}))
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.Issue(t).TLS(t)}}}}
	for request, want := range map[string]int{
		"GET /v1/drains": 200, "GET /v1/histories": 200, "GET /v1/drains?prefix=/roster/&cluster=c1": 200,
		"GET /v1/drains?prefix=/x/": 421, "GET /v1/drains?cluster=": 421,
		"POST /v1/drains": 405, "PUT /v1/histories": 405, "DELETE /v1/histories": 405,
		"GET /": 404, "GET /v1/backends": 404, "GET /metrics": 404, "GET /debug/pprof/": 404,
	} {
		method, path, _ := strings.Cut(request, " ")
		r, _ := http.NewRequest(method, "https://"+address+path, nil)
		answer, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", request, answer.Status)
		}
		if request == "GET /v1/drains" {
			var d Drains
			if err := json.Unmarshal(body, &d); err != nil || len(d.Items) != 1 || d.Items[0].Active != 2 || d.More != 3 || answer.Header.Get(instanceField) != "a/i" {
				t.Errorf("%s, %v, %v", body, err, answer.Header)
			}
		}
	}
}

// Eight are answered at a time, and others told to come again.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := telling(t, ca, "a", 1, prober.History{})
	begun, release := make(chan struct{}), make(chan struct{})
	s.Drains = func() Drains {
		begun <- struct{}{}
		<-release
		return Drains{}
	}
	address := serve(t, s)
	get := func() *http.Response {
		h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.Issue(t).TLS(t)}}}}
		r, err := h.Get("https://" + address + "/v1/drains")
		if err != nil {
			t.Error(err)
			return &http.Response{}
		}
		r.Body.Close()
		return r
	}
	var all sync.WaitGroup
	for range maxAnswers {
		all.Go(func() {
			if r := get(); r.StatusCode != 200 {
				t.Errorf("%s", r.Status)
			}
		})
		<-begun
	}
	if r := get(); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", r.Status)
	}
	close(release)
	all.Wait()
}

func TestFilesValidate(t *testing.T) {
	t.Parallel()
	ca, other := certstest.NewCA(t), certstest.NewCA(t)
	good := written(t, ca, ca)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	expired := good
	expired.Cert, expired.Key = ca.IssueUntil(t, time.Now().Add(-time.Minute)).Write(t, t.TempDir(), "old")
	if err := expired.Validate(); err != nil {
		t.Errorf("expired: %v: the node starts without its peers", err)
	}
	for want, f := range map[string]Files{
		"peer-tls-cert is missing":   {Key: good.Key, CA: good.CA},
		"peer-tls-key is missing":    {Cert: good.Cert, CA: good.CA},
		"peer-tls-ca is missing":     {Cert: good.Cert, Key: good.Key},
		"no such file or directory":  {Cert: good.Cert, Key: good.Key, CA: "/none"},
		"private key does not match": {Cert: good.Cert, Key: written(t, ca, ca).Key, CA: good.CA},
		"does not go with":           written(t, other, ca),
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
