package node

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/embedded"
	"roster/store/storetest"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 30 * time.Second

// running is a node in this process.
type running struct {
	*Node
	t    testing.TB
	url  string
	stop func() // ends it in good order and waits
}

func run(t testing.TB, etcd *storetest.Member, change ...func(*Config)) *running {
	t.Helper()
	c := Config{
		Listen:       []string{"127.0.0.1:0"},
		Admin:        "127.0.0.1:0",
		Store:        store.Config{Endpoints: []string{etcd.Endpoint()}},
		DrainTimeout: patience,
		firstAnswers: patience,
	}
	for _, f := range change {
		f(&c)
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the node ended: %v", err)
			}
		case <-time.After(patience):
			t.Error("the node does not end")
		}
	})
	t.Cleanup(stop)
	select {
	case <-n.applied:
	case err := <-ended:
		t.Fatalf("the node ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the node does not become ready")
	}
	return &running{Node: n, t: t, url: "http://" + n.serving[0].String(), stop: stop}
}

// wait returns once the node has applied a revision.
func (r *running) wait(revision int64) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.await(ctx, revision); err != nil {
		r.t.Fatalf("revision %d is not applied: %+v", revision, r.Status())
	}
}

// until waits for what no event tells.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		runtime.Gosched()
	}
}

// origin is a backend that names itself.
func origin(t testing.TB, name string) (definition string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return definitionOf(s)
}

func definitionOf(s *httptest.Server) string {
	host, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	return fmt.Sprintf(`{"host":%q,"port":%s}`, host, port)
}

func descriptors(t testing.TB) int {
	list, err := os.ReadDir("/proc/self/fd")
	switch {
	case err != nil && os.Getenv("ROSTER_REQUIRE_ALL") == "1":
		t.Fatal("no /proc/self/fd here, and ROSTER_REQUIRE_ALL is 1")
	case err != nil:
		t.Skip("no /proc/self/fd here")
	}
	return len(list)
}

// A thousand transactions of backends that come, change and go, with their
// director, under traffic: no request fails, and what was made for them is gone
// when they are. Not parallel, because it counts what the process has open.
func TestChurnUnderTrafficLosesAndLeaksNothing(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	client := etcd.Client()
	var definitions []string
	for i := range 6 {
		definitions = append(definitions, origin(t, fmt.Sprint("origin-", i)))
	}
	put := func(ops ...clientv3.Op) int64 {
		t.Helper()
		resp, err := client.Txn(t.Context()).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	rng := rand.New(rand.NewPCG(1, 2))
	live := map[string]bool{}
	round := func() int64 {
		var ops []clientv3.Op
		for i := range 12 {
			name := fmt.Sprint("b", i)
			key := "/roster/backends/" + name
			switch rng.IntN(4) {
			case 0:
				if live[name] && len(live) > 1 {
					delete(live, name)
					ops = append(ops, clientv3.OpDelete(key))
				}
			case 1:
				live[name] = true
				value := definitions[rng.IntN(len(definitions))]
				if rng.IntN(2) == 0 {
					value = strings.Replace(value, "}", fmt.Sprintf(`,"max_connections":%d}`, 1000+rng.IntN(100)), 1)
				}
				ops = append(ops, clientv3.OpPut(key, value))
			}
		}
		if len(live) == 0 {
			live["b0"] = true
			ops = append(ops, clientv3.OpPut("/roster/backends/b0", definitions[0]))
		}
		var members []string
		for name := range live {
			members = append(members, fmt.Sprintf("%q", name))
		}
		ops = append(ops, clientv3.OpPut("/roster/directors/default", `{"type":"round_robin","backends":[`+strings.Join(members, ",")+`]}`))
		return put(ops...)
	}
	n.wait(round())
	baseGoroutines, baseFiles := runtime.NumGoroutine(), descriptors(t) // etcd's client is connected by now

	ctx, cancel := context.WithCancel(t.Context())
	var requests, failures atomic.Int64
	var traffic sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	for range 8 {
		traffic.Go(func() {
			c := &http.Client{Transport: transport}
			for ctx.Err() == nil {
				resp, err := c.Get(n.url)
				requests.Add(1)
				if err != nil {
					failures.Add(1)
					t.Errorf("a request failed: %v", err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(string(body), "origin-") {
					failures.Add(1)
					t.Errorf("a request got %d %q, %v, Proxy-Status %s", resp.StatusCode, body, err, resp.Header.Get("Proxy-Status"))
					return
				}
			}
		})
	}
	var last int64
	for range rounds {
		last = round()
	}
	n.wait(last)
	cancel()
	traffic.Wait()
	t.Logf("%d requests, %d failures, in %d rounds", requests.Load(), failures.Load(), rounds)

	transport.CloseIdleConnections()
	n.wait(put(clientv3.OpDelete("/roster/", clientv3.WithPrefix())))
	if c := n.Table().Counts(); c.Backends+c.Directors != 0 || n.applier.Leaving() != 0 {
		t.Errorf("after all is deleted: %+v, %d leaving", c, n.applier.Leaving())
	}
	until(t, "pools to be released", func() bool { return n.pools.Pools() == 0 }) // just after the table is out
	until(t, "connections to end", func() bool { return n.proxy.Stats().Connections == 0 })
	until(t, "descriptors to be closed", func() bool { return descriptors(t) <= baseFiles })
	until(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= baseGoroutines })
}

// Deleting a backend stops its selection with the next table, lets its request
// in flight finish, and closes its pooled connections.
func TestDeletedBackendFinishesItsRequestAndThenOwnsNothing(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	client := etcd.Client()

	arrived, release := make(chan struct{}), make(chan struct{})
	var open atomic.Int64
	slow := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			io.WriteString(w, "first half, ")
			w.(http.Flusher).Flush()
			close(arrived)
			<-release
		}
		io.WriteString(w, "done")
	}))
	slow.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	slow.Start()
	t.Cleanup(slow.Close)
	put := func(key, value string) {
		t.Helper()
		resp, err := client.Put(t.Context(), key, value)
		if err != nil {
			t.Fatal(err)
		}
		n.wait(resp.Header.Revision)
	}
	get := func(path string) (int, string) {
		resp, err := http.Get(n.url + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(body)
	}
	put("/roster/backends/a", definitionOf(slow))
	got := make(chan string)
	go func() {
		status, body := get("/slow")
		got <- fmt.Sprint(status, " ", body)
	}()
	<-arrived
	if status, body := get("/"); status != 200 { // leaves an idle connection beside the busy one
		t.Fatalf("%d %s", status, body)
	}
	put("/roster/backends/b", origin(t, "b"))
	resp, err := client.Delete(t.Context(), "/roster/backends/a")
	if err != nil {
		t.Fatal(err)
	}
	n.wait(resp.Header.Revision)
	for range 10 {
		if status, body := get("/"); status != 200 || body != "b" {
			t.Errorf("after the delete a request got %d %q, want b", status, body)
		}
	}
	until(t, "the idle connection to close", func() bool { return open.Load() == 1 })
	if n.applier.Leaving() != 1 {
		t.Errorf("%d backends are leaving, want the one with a request", n.applier.Leaving())
	}
	close(release)
	if answer := <-got; answer != "200 first half, done" {
		t.Errorf("the request in flight got %q", answer)
	}
	until(t, "the last connection to close", func() bool { return open.Load() == 0 })
	until(t, "the backend to be gone", func() bool { return n.applier.Leaving() == 0 })
}

// What a node made of a history step by step, through an unsteady connection, is
// what a node that starts now makes of the keyspace.
func TestTableEqualsThatOfAFreshNode(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, etcd.Address())
	followed := run(t, etcd, func(c *Config) { c.Store.Endpoints = []string{proxy.Endpoint()} })
	client := etcd.Client()
	rng := rand.New(rand.NewPCG(3, 4))
	values := map[string][]string{
		"backends":  {`{"host":"127.0.0.1"}`, `{"host":"127.0.0.2","via":"b0"}`, `{"none":true}`, `{"host":`, `{"hots":"x"}`},
		"directors": {`{"type":"round_robin","backends":["b0","b1"]}`, `{"type":"fallback","backends":["b1"]}`, `{"type":"?"}`},
		"routes":    {`{"match":{"host":"x.test"},"backend":"b1"}`, `{"backend":"b2","priority":1}`, `{"match":{"path":"x"}}`},
		"health":    {"sick", "drain", "SICK ", "ill"},
		"unknown":   {"x"},
	}
	var revision int64
	for range 40 {
		switch rng.IntN(8) {
		case 0:
			proxy.Cut()
		case 1:
			proxy.Heal()
		}
		for range 10 {
			var ops []clientv3.Op
			touched := map[string]bool{}
			for kind, list := range values {
				key := fmt.Sprintf("/roster/%s/b%d", kind, rng.IntN(3))
				if rng.IntN(2) == 0 || touched[key] {
					continue
				}
				touched[key] = true
				if rng.IntN(4) == 0 {
					ops = append(ops, clientv3.OpDelete(key))
				} else {
					ops = append(ops, clientv3.OpPut(key, list[rng.IntN(len(list))]))
				}
			}
			resp, err := client.Txn(t.Context()).Then(ops...).Commit()
			if err != nil {
				t.Fatal(err)
			}
			revision = resp.Header.Revision
		}
		if rng.IntN(4) > 0 {
			continue
		}
		proxy.Heal()
		followed.wait(revision)
		fresh := run(t, etcd)
		a, b := followed.Status(), fresh.Status()
		if a.Digest != b.Digest || a.Counts != b.Counts || fmt.Sprint(a.Rejected, a.Dangling) != fmt.Sprint(b.Rejected, b.Dangling) {
			t.Fatalf("at revision %d the node that followed has\n%+v\nand a fresh one\n%+v", revision, a, b)
		}
		fresh.stop()
	}
}

// Whoever may write keys must not reach what only the node may reach.
func TestBackendsMayNotPointAtTheNodeItself(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	n := run(t, storetest.Etcd(t), func(c *Config) {
		c.Embedded = &embedded.Config{Dir: data, Listen: "127.0.0.1:0", Tune: storetest.Fast}
	})
	own := n.config.Store.Endpoints[0]
	s := storetest.Open(t, store.Config{Endpoints: []string{own}})
	_, etcdPort, _ := strings.Cut(strings.TrimPrefix(own, "http://"), ":")
	for name, definition := range map[string]string{
		"admin":         fmt.Sprintf(`{"host":"127.0.0.1","port":%d}`, n.admin.(*net.TCPAddr).Port),
		"etcd":          fmt.Sprintf(`{"host":"127.0.0.1","port":%s}`, etcdPort),
		"etcd, by name": fmt.Sprintf(`{"host":"localhost","port":%s}`, etcdPort),
		"metadata":      `{"host":"169.254.169.254"}`,
	} {
		revision, err := s.Put(t.Context(), store.Key{Kind: store.Backends, Name: "default"}, []byte(definition), store.AnyRevision)
		if err != nil {
			t.Fatal(err)
		}
		n.wait(revision)
		resp, err := http.Get(n.url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Proxy-Status"); resp.StatusCode != 502 || !strings.Contains(got, "destination_ip_prohibited") {
			t.Errorf("%s: %d, Proxy-Status %s, want 502 and destination_ip_prohibited", name, resp.StatusCode, got)
		}
	}
}
