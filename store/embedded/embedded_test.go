package embedded_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"roster/store"
	"roster/store/embedded"
	"roster/store/storetest"
)

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "data")
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Tune == nil {
		cfg.Tune = storetest.Fast
	}
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func open(t *testing.T, s *embedded.Server) *store.Store {
	return storetest.Open(t, store.Config{Endpoints: []string{s.Endpoint()}})
}

var web1 = store.Key{Kind: store.Backends, Name: "web-1"}

func TestDataOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "data")
	first := start(t, embedded.Config{Dir: dir})
	rev, err := open(t, first).Put(t.Context(), web1, []byte("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v, want drwx------", info.Mode(), err)
	}
	first.Close()
	first.Close() // again is fine

	// Another client address, and with it another peer port.
	second := start(t, embedded.Config{Dir: dir})
	if e, _, err := open(t, second).Get(t.Context(), web1, 0); err != nil || e.ModRevision != rev {
		t.Errorf("after a restart: %+v, %v", e, err)
	}
}

func TestEachNewDirectoryIsAnotherCluster(t *testing.T) {
	t.Parallel()
	seen := map[uint64]bool{}
	for range 2 {
		r, err := open(t, start(t, embedded.Config{})).Client().Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		seen[r.Header.ClusterId] = true
	}
	if len(seen) != 2 {
		t.Error("two new members have one cluster id: an emptied directory would look like a cleared keyspace")
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	running := start(t, embedded.Config{Dir: dir})
	address := strings.TrimPrefix(running.Endpoint(), "http://")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		cfg  embedded.Config
		want string
	}{
		{"no directory", embedded.Config{}, "no data directory given"},
		{"directory in use", embedded.Config{Dir: dir, Listen: "127.0.0.1:0"}, "data directory " + dir + " is in use by another process"},
		{"not a directory", embedded.Config{Dir: file}, "not a directory"},
		{"address in use", embedded.Config{Dir: t.TempDir(), Listen: address}, address + " is in use, perhaps by another etcd"},
		{"no port", embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1"}, "missing port in address"},
		{"named port", embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:http"}, `port is "http", want a number from 0 to 65535`},
		{"name", embedded.Config{Dir: t.TempDir(), Listen: "etcd.example:2379"}, `host is "etcd.example", want an IP address or localhost`},
		{"all addresses", embedded.Config{Dir: t.TempDir(), Listen: ":2379"}, "listening on :2379, which is not loopback, needs TLS with client certificates: anybody who reaches it could write"},
		{"another address", embedded.Config{Dir: t.TempDir(), Listen: "192.0.2.1:2379"}, "listening on 192.0.2.1:2379, which is not loopback, needs TLS with client certificates"},
		{"TLS without client certificates", embedded.Config{Dir: t.TempDir(), Listen: ":2379", CertFile: "c", KeyFile: "k"}, "all three or none"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s, err := embedded.Start(ctx, test.cfg)
		cancel()
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), "embedded etcd: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestValidateNeedsNoMachine(t *testing.T) {
	t.Parallel()
	taken := strings.TrimPrefix(start(t, embedded.Config{}).Endpoint(), "http://")
	dir := filepath.Join(t.TempDir(), "data")
	for _, listen := range []string{"", taken, "localhost:0", "[::1]:00"} {
		if err := (embedded.Config{Dir: dir, Listen: listen}).Validate(); err != nil {
			t.Errorf("%q: %v", listen, err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data directory: %v", err)
	}
	err := embedded.Config{Listen: "0.0.0.0:2379"}.Validate()
	var all *multierror.Error
	if !errors.As(err, &all) || len(all.Errors) != 2 || !strings.HasPrefix(all.Errors[1].Error(), "embedded etcd: listening on 0.0.0.0:2379, which is not loopback") {
		t.Errorf("two faults: %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: "127.0.0.1:0", Tune: func(ec *embed.Config) {
		storetest.Fast(ec)
		ec.ElectionMs = 50_000 // it would take that long
		cancel()
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	// It lets go of the directory in its own time.
	for deadline := time.Now().Add(20 * time.Second); ; {
		s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0", Tune: storetest.Fast})
		if err == nil {
			s.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestTheGatewayWorks(t *testing.T) {
	t.Parallel()
	s := start(t, embedded.Config{})
	// As curl sends it, with "-d": not as JSON.
	post := func(path, body string) (string, int) {
		t.Helper()
		r, err := http.Post(s.Endpoint()+path, "application/x-www-form-urlencoded", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		answer, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer), r.StatusCode
	}
	if answer, status := post("/v3/kv/put", `{"key": "L3g=", "value": "MQ=="}`); status != 200 || !strings.Contains(answer, `"revision":"2"`) {
		t.Errorf("put: %d %s", status, answer)
	}
	answer, status := post("/v3/kv/range", `{"key": "L3g="}`)
	var r struct {
		Kvs []struct {
			Value       []byte
			ModRevision string `json:"mod_revision"`
		}
	}
	if err := json.Unmarshal([]byte(answer), &r); err != nil || status != 200 || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "1" || r.Kvs[0].ModRevision != "2" {
		t.Errorf("range: %d %s, %v", status, answer, err)
	}
	if answer, status := post("/v3/kv/range", `{"key": "L3g=", "revision": "99"}`); status != 400 || !strings.Contains(answer, "future revision") {
		t.Errorf("an error: %d %s", status, answer)
	}

	// A stream: the watch of what is there already.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", s.Endpoint()+"/v3/watch", strings.NewReader(`{"create_request": {"key": "L3g=", "start_revision": "1"}}`))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var line struct {
		Result struct{ Events []any }
	}
	for lines := json.NewDecoder(resp.Body); len(line.Result.Events) == 0; {
		if err := lines.Decode(&line); err != nil {
			t.Fatalf("watch: %v", err)
		}
	}
}

// A page in a browser on the same machine can send whatever a browser lets it.
func TestAPageOfAnotherOriginCannotReachIt(t *testing.T) {
	t.Parallel()
	s := start(t, embedded.Config{})
	own := s.Endpoint()
	ownHost := strings.TrimPrefix(own, "http://")
	_, port, _ := net.SplitHostPort(ownHost)
	const put = `{"key": "L3g=", "value": "MQ=="}`
	type header = map[string]string
	for _, test := range []struct {
		name, method, path, host string
		header                   header
		want                     int
	}{
		{"a page that rebound its name", "POST", "/v3/kv/put", "evil.example:" + port, nil, 421},
		{"the same, with its own origin", "POST", "/v3/kv/put", "evil.example:" + port, header{"Origin": "http://evil.example:" + port, "Sec-Fetch-Site": "same-origin"}, 421},
		{"a name that begins well", "POST", "/v3/kv/put", "127.0.0.1.evil.example", nil, 421},
		{"a rebound name reads", "GET", "/version", "evil.example", nil, 421},
		{"a plain POST", "POST", "/v3/kv/put", ownHost, header{"Origin": "http://evil.example", "Content-Type": "text/plain"}, 403},
		{"a form", "POST", "/v3/kv/put", ownHost, header{"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"}, 403},
		{"a sandboxed frame", "POST", "/v3/kv/put", ownHost, header{"Origin": "null", "Content-Type": "text/plain"}, 403},
		{"no origin, but a browser's word", "POST", "/v3/kv/put", ownHost, header{"Sec-Fetch-Site": "cross-site"}, 403},
		{"another port of this machine", "POST", "/v3/kv/put", ownHost, header{"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-site"}, 403},
		{"another name of this machine", "POST", "/v3/kv/put", ownHost, header{"Origin": "http://localhost:" + port}, 403},
		{"the old path", "POST", "/v3beta/kv/put", ownHost, header{"Origin": "http://evil.example"}, 403},
		{"a WebSocket", "GET", "/v3/kv/put", ownHost, header{"Origin": "http://evil.example", "Connection": "Upgrade", "Upgrade": "websocket",
			"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 501},
		{"a method in a header", "POST", "/v3/kv/put", ownHost, header{"Origin": "http://evil.example", "X-HTTP-Method-Override": "GET"}, 403},
		{"a preflight", "OPTIONS", "/v3/kv/put", ownHost, header{"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}, 200},
		{"a preflight from this machine", "OPTIONS", "/v3/kv/put", ownHost, header{"Origin": own, "Access-Control-Request-Method": "POST"}, 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, own+test.path, strings.NewReader(put))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = test.host
		for k, v := range test.header {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s: %d %s, want %d", test.name, resp.StatusCode, body, test.want)
		}
		for k := range resp.Header {
			if strings.HasPrefix(k, "Access-Control-") {
				t.Errorf("%s: answered with %s: %s", test.name, k, resp.Header.Get(k))
			}
		}
	}
	if r, err := open(t, s).Client().Get(t.Context(), "", clientv3.WithPrefix()); err != nil || r.Header.Revision != 1 {
		t.Errorf("etcd is at revision %d, %v: something was written", r.Header.Revision, err)
	}

	for _, host := range []string{"localhost:" + port, "127.0.0.1", "[::1]:" + port, "[::1]", "::1"} {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", own+"/v3/kv/put", strings.NewReader(put))
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("as %s: %d, want 200", host, resp.StatusCode)
		}
	}
}

// buffer is a log for many goroutines.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestQuietUnlessSomethingIsWrong(t *testing.T) {
	t.Parallel()
	var info, debug buffer
	start(t, embedded.Config{Logger: slog.New(slog.NewTextHandler(&info, nil)), Tune: func(*embed.Config) {}}).Close()
	start(t, embedded.Config{Logger: slog.New(slog.NewTextHandler(&debug, &slog.HandlerOptions{Level: slog.LevelDebug}))}).Close()
	if info.String() != "" {
		t.Errorf("a start and an end are logged:\n%s", &info)
	}
	if !strings.Contains(debug.String(), "level=DEBUG msg=\"starting an etcd server\" etcd-version=3.") {
		t.Errorf("at debug there is no start:\n%.2000s", &debug)
	}
}

func TestAFatalErrorIsReportedAndTheProcessLives(t *testing.T) {
	t.Parallel()
	var ec *embed.Config
	s := start(t, embedded.Config{Tune: func(c *embed.Config) { storetest.Fast(c); ec = c }})
	if err := ec.ZapLoggerBuilder(ec); err != nil {
		t.Fatal(err)
	}
	go ec.GetLogger().Fatal("failed to save Raft hard state", zap.Error(errors.New("no space left on device")))
	if err := <-s.Err(); err == nil || err.Error() != "failed to save Raft hard state: no space left on device" {
		t.Errorf("got %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Tune: storetest.Fast})
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(store.Config{Endpoints: []string{s.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	watch := st.Client().Watch(t.Context(), "/", clientv3.WithPrefix()) // an open stream must not hold it up
	if _, err := st.Put(t.Context(), web1, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	<-watch
	begun := time.Now()
	s.Close()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(s.Endpoint(), "http://")); err == nil {
		c.Close()
		t.Error("the address still answers")
	}
	st.Close()
	http.DefaultClient.CloseIdleConnections()
}

func Example() {
	dir, err := os.MkdirTemp("", "roster")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	etcd, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer etcd.Close()
	s, err := store.Open(store.Config{Endpoints: []string{etcd.Endpoint()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	rev, err := s.Put(context.Background(), store.Key{Kind: store.Backends, Name: "web-1"}, []byte(`{"host": "10.0.0.7"}`), store.AnyRevision)
	fmt.Println("revision", rev, err)
	// Output: revision 2 <nil>
}
