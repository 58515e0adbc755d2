package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// authority is a certificate that signs itself, for localhost and 127.0.0.1.
type authority struct {
	tls  tls.Certificate
	pem  string
	pool *x509.CertPool
}

var localhost = sync.OnceValue(func() authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	a := authority{
		tls:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		pem:  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		pool: x509.NewCertPool(),
	}
	a.pool.AddCert(leaf)
	return a
})

// serverTLS is what a listener with TLS has.
func serverTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{localhost().tls}, NextProtos: []string{"h2", "http/1.1"}}
}

// listen adds a listener to the proxy.
func (r *rig) listen(l Listener) (addr string) {
	r.t.Helper()
	if l.Listener == nil {
		addr = open(r.t, r.config.Loops, &l)
	} else {
		addr = l.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Serve(ctx, l); err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	})
	r.t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return addr
}

// A side is how a connection speaks HTTP.
type side struct {
	name string
	tls  bool
	two  bool // HTTP/2
}

var sides = []side{{"http1", false, false}, {"http1-tls", true, false}, {"h2c", false, true}, {"h2", true, true}}

func (s side) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!s.two)
	p.SetHTTP2(s.two && s.tls)
	p.SetUnencryptedHTTP2(s.two && !s.tls)
	return p
}

// client is a client of net/http that speaks as s does to addr.
func (s side) client(t testing.TB) *http.Client {
	transport := &http.Transport{
		Protocols: s.protocols(), TLSClientConfig: &tls.Config{RootCAs: localhost().pool},
		DisableCompression: true, ExpectContinueTimeout: patience,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 3 * patience}
}

func (s side) url(addr string) string {
	if s.tls {
		return "https://" + addr
	}
	return "http://" + addr
}

// origin starts a server of net/http that speaks as s does, and returns its
// definition.
func (s side) origin(t testing.TB, h http.Handler, more ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, Protocols: s.protocols(), ErrorLog: log.New(io.Discard, "", 0)}
	fields := append([]string{fmt.Sprintf(`"host": %q`, ln.Addr())}, more...)
	if s.tls {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{localhost().tls}}
		ca, _ := json.Marshal(localhost().pem)
		fields = append(fields, fmt.Sprintf(`"tls": {"ca": %s}`, ca))
	}
	switch {
	case s.two && s.tls:
		fields = append(fields, `"protocol": "h2"`)
	case s.two:
		fields = append(fields, `"protocol": "h2c"`)
	}
	var done sync.WaitGroup
	done.Go(func() {
		if s.tls {
			server.ServeTLS(ln, "", "")
		} else {
			server.Serve(ln)
		}
	})
	t.Cleanup(func() {
		server.Close()
		done.Wait()
	})
	return "{" + strings.Join(fields, ", ") + "}"
}

// lab is the origin's handler of the matrix.
type lab struct {
	t        testing.TB
	entered  chan struct{} // receives when a request has come that will have no answer,
	gone     chan struct{} // and when it was cancelled
	sawProto atomic.Value
}

func (l *lab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.sawProto.Store(r.Proto)
	var n int
	switch cmd, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); cmd {
	case "bytes": // an answer of n bytes with a length
		fmt.Sscan(arg, &n)
		w.Header().Set("Content-Length", arg)
		w.Write(pattern(n))
	case "stream": // the same without one
		fmt.Sscan(arg, &n)
		w.WriteHeader(200)
		for p := pattern(n); len(p) > 0; {
			k := min(len(p), 1+n/7)
			w.Write(p[:k])
			http.NewResponseController(w).Flush()
			p = p[k:]
		}
	case "echo":
		w.Header().Set("Trailer", "X-Sum")
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		n, err := io.Copy(w, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Sum", fmt.Sprint(n, "/", r.Trailer.Get("X-Client")))
	case "status":
		fmt.Sscan(arg, &n)
		w.WriteHeader(n)
	case "hints":
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(103)
		w.WriteHeader(200)
		io.WriteString(w, "after")
	case "continue": // net/http sends 100 when the body is read
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d", len(b))
	case "refuse": // without reading
		w.WriteHeader(403)
		io.WriteString(w, "no")
	case "cut":
		fmt.Sscan(arg, &n)
		w.Header().Set("Content-Length", fmt.Sprint(n+1))
		w.Write(pattern(n))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "cutstream":
		fmt.Sscan(arg, &n)
		w.Write(pattern(n))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "reset": // before any answer
		panic(http.ErrAbortHandler)
	case "hang":
		l.entered <- struct{}{}
		<-r.Context().Done()
		l.gone <- struct{}{}
	case "fields":
		json.NewEncoder(w).Encode(r.Header)
	}
}

// pattern is n bytes that no shift of them equals.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// TestEveryWayHTTPIsSpoken: whatever clients and backends speak, requests and
// answers pass unchanged, and what is cut short is seen to be.
func TestEveryWayHTTPIsSpoken(t *testing.T) {
	t.Parallel()
	for _, front := range sides {
		for _, back := range sides {
			t.Run(front.name+"_to_"+back.name, func(t *testing.T) {
				t.Parallel()
				l := &lab{t: t, entered: make(chan struct{}, 1), gone: make(chan struct{}, 1)}
				r := newRig(t, Config{}, definitions{"backends/a": back.origin(t, l)})
				listener := Listener{}
				if front.tls {
					listener.TLS = serverTLS()
				}
				m := &matrix{T: t, lab: l, url: front.url(r.listen(listener)), client: front.client(t)}
				want := "HTTP/1.1"
				if back.two {
					want = "HTTP/2.0"
				}
				m.run(front, back)
				if got := l.sawProto.Load(); got != want {
					t.Errorf("the backend was spoken to in %v, want %s", got, want)
				}
			})
		}
	}
}

type matrix struct {
	*testing.T
	lab    *lab
	url    string
	client *http.Client
}

func (m *matrix) run(front, back side) {
	t := m.T
	proto := "HTTP/1.1"
	if front.two {
		proto = "HTTP/2.0"
	}
	for _, n := range []int{0, 1, 1 << 10, 64 << 10, 1<<20 + 1} {
		for _, kind := range []string{"bytes", "stream"} {
			res, body := m.get(fmt.Sprintf("/%s/%d", kind, n))
			if !bytes.Equal(body, pattern(n)) || res.Proto != proto || res.StatusCode != 200 {
				t.Errorf("%s of %d: %s %d with %d bytes", kind, n, res.Proto, res.StatusCode, len(body))
			}
			if kind == "bytes" && res.ContentLength != int64(n) {
				t.Errorf("length of %d is said to be %d", n, res.ContentLength)
			}
		}
	}
	for _, n := range []int{0, 1, 4 << 10, 100 << 10, 1<<20 + 1} {
		for _, length := range []int64{int64(n), -1} {
			m.echo(n, length)
		}
	}
	for _, status := range []int{204, 304, 404} {
		if res, body := m.get(fmt.Sprintf("/status/%d", status)); res.StatusCode != status || len(body) > 0 {
			t.Errorf("status %d: %d with %d bytes", status, res.StatusCode, len(body))
		}
	}
	if res, _ := m.do("HEAD", "/bytes/77", nil); res.ContentLength != 77 {
		t.Errorf("HEAD: length %d", res.ContentLength)
	}

	// Interim answers.
	var hints atomic.Int32
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == 103 && h.Get("Link") != "" {
			hints.Add(1)
		}
		return nil
	}}
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", m.url+"/hints", nil)
	if _, body := m.send(req); hints.Load() != 1 || string(body) != "after" {
		t.Errorf("hints: %d times, then %q", hints.Load(), body)
	}
	req, _ = http.NewRequest("POST", m.url+"/continue", bytes.NewReader(pattern(20_000)))
	req.Header.Set("Expect", "100-continue")
	if res, body := m.send(req); string(body) != "20000" {
		t.Errorf("100-continue: %d %q", res.StatusCode, body)
	}

	// An answer before the body ended. A client of HTTP/1 may see the end of the
	// connection before it sees the answer.
	res, err := m.client.Post(m.url+"/refuse", "", io.LimitReader(endless{}, 64<<20))
	if err == nil {
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 403 || string(body) != "no" || err != nil {
			t.Errorf("early answer: %d %q, %v", res.StatusCode, body, err)
		}
	} else if front.two {
		t.Errorf("early answer: %v", err)
	}

	// Never a short body.
	for _, path := range []string{"/cut/1000", "/cutstream/1000", "/cut/200000", "/cutstream/200000"} {
		res, err := m.client.Get(m.url + path)
		if err != nil {
			continue
		}
		if res.StatusCode == 502 {
			res.Body.Close()
			continue
		}
		if body, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: taken for whole, with %d bytes", path, len(body))
		}
		res.Body.Close()
	}
	if res, _ := m.do("POST", "/reset", nil); res.StatusCode != 502 || !strings.Contains(res.Header.Get("Proxy-Status"), "error=") {
		t.Errorf("no answer: %d %q", res.StatusCode, res.Header.Get("Proxy-Status"))
	}

	// A client that goes cancels.
	ctx, cancel := context.WithCancel(context.Background())
	req, _ = http.NewRequestWithContext(ctx, "GET", m.url+"/hang", nil)
	go func() {
		<-m.lab.entered
		cancel()
	}()
	if _, err := m.client.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("hang: %v", err)
	}
	select {
	case <-m.lab.gone:
	case <-time.After(patience):
		t.Error("the backend's request was not cancelled")
	}

	// Who asked, and how.
	_, body := m.get("/fields")
	var fields http.Header
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	scheme := map[bool]string{false: "http", true: "https"}[front.tls]
	via := map[bool]string{false: "1.1 roster", true: "2 roster"}[front.two]
	if got := fields.Get("X-Forwarded-Proto"); got != scheme {
		t.Errorf("X-Forwarded-Proto %q, want %q", got, scheme)
	}
	if got := fields.Get("Via"); !strings.HasPrefix(got, via) {
		t.Errorf("Via %q, want %q", got, via)
	}
	if got := fields.Get("X-Forwarded-For"); got != "127.0.0.1" {
		t.Errorf("X-Forwarded-For %q", got)
	}

	// Many at once.
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if i%2 == 0 {
				m.echo(1000*i, int64(1000*i))
			} else if _, body := m.get(fmt.Sprintf("/stream/%d", 3000*i)); !bytes.Equal(body, pattern(3000*i)) {
				m.Errorf("one of many: %d bytes of %d", len(body), 3000*i)
			}
		})
	}
	all.Wait()
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// echo sends n bytes and a trailer, and wants them back.
func (m *matrix) echo(n int, length int64) {
	req, err := http.NewRequest("POST", m.url+"/echo", io.NopCloser(bytes.NewReader(pattern(n))))
	if err != nil {
		m.Fatal(err)
	}
	req.ContentLength = length
	want := fmt.Sprint(n, "/")
	if length < 0 {
		req.Trailer = http.Header{"X-Client": {"yes"}}
		want += "yes"
	}
	if n == 0 && length == 0 {
		req.Body = http.NoBody
	}
	res, body := m.send(req)
	if res.StatusCode != 200 || !bytes.Equal(body, pattern(n)) {
		m.Errorf("echo of %d (length %d): %d with %d bytes", n, length, res.StatusCode, len(body))
	}
	if got := res.Trailer.Get("X-Sum"); got != want {
		m.Errorf("echo of %d (length %d): trailer %q, want %q", n, length, got, want)
	}
	if got := res.Header.Get("X-Length"); length > 0 && got != fmt.Sprint(length) {
		m.Errorf("echo of %d: the backend was told a length of %s", n, got)
	}
}

func (m *matrix) get(path string) (*http.Response, []byte) { return m.do("GET", path, nil) }

func (m *matrix) do(method, path string, body io.Reader) (*http.Response, []byte) {
	req, err := http.NewRequest(method, m.url+path, body)
	if err != nil {
		m.Fatal(err)
	}
	return m.send(req)
}

// send returns the answer with its whole body.
func (m *matrix) send(req *http.Request) (*http.Response, []byte) {
	m.Helper()
	res, err := m.client.Do(req)
	if err != nil {
		m.Errorf("%s %s: %v", req.Method, req.URL, err)
		return &http.Response{}, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		m.Errorf("%s %s: body: %v", req.Method, req.URL, err)
	}
	return res, body
}

// TestPROXYHeaderSaysWhoTheClientIs, on plain and TLS listeners, together with the first
// request or before it.
func TestPROXYHeaderSaysWhoTheClientIs(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	plain := r.listen(Listener{AcceptProxy: trusted})
	secure := r.listen(Listener{AcceptProxy: trusted, TLS: serverTLS()})
	none := r.listen(Listener{AcceptProxy: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	const v1 = "PROXY TCP4 192.0.2.9 192.0.2.1 5555 80\r\n"
	go o.serve("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

	c := dial(t, plain)
	c.send(v1 + get)
	expect(t, "status", status(c.head()), "200")
	c = dial(t, plain)
	c.send(v1)
	c.send(get)
	expect(t, "status of the second packet", status(c.head()), "200")

	c = dial(t, plain)
	c.send(get)
	expect(t, "status without a header", status(c.rest()), "400")
	c = dial(t, none)
	c.send(v1 + get)
	expect(t, "status of a header from elsewhere", status(c.rest()), "400")

	c = dial(t, secure)
	c.send(v1)
	conn := tls.Client(c.Conn, &tls.Config{RootCAs: localhost().pool, ServerName: "localhost"})
	if _, err := io.WriteString(conn, get); err != nil {
		t.Fatal(err)
	}
	expect(t, "status over TLS", status(newPeer(t, conn).head()), "200")
	if n := r.Stats().NoHeader; n != 1 {
		t.Errorf("%d connections counted without a header, want 1", n)
	}
}

// TestConnectionsBeyondTheLimitWait until others end.
func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	go o.serve("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	addr := r.listen(Listener{MaxConnections: 2})
	first, second := dial(t, addr), dial(t, addr)
	for _, c := range []*peer{first, second} {
		c.send(get)
		expect(t, "status", status(c.head()), "200")
	}
	third := dial(t, addr)
	third.send(get)
	eventually(t, func() bool { return r.Stats().Crowded > 0 })
	if n := r.Stats().Connections; n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	first.Close()
	expect(t, "status after the wait", status(third.head()), "200")
}
