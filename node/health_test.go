package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/node/admin"
	"roster/prober"
	"roster/store/storetest"
)

// checked is an origin with a health check at /up and whatever else begins so.
type checked struct {
	*httptest.Server
	status   atomic.Int64  // of the answer to a probe
	probes   atomic.Int64  // that came
	requests atomic.Int64  // that came besides
	hold     chan struct{} // probes of /up/slow and requests of /slow wait for its end
	arrived  chan struct{} // has a value for each that waits
}

func newChecked(t testing.TB, status int) *checked {
	c := &checked{hold: make(chan struct{}), arrived: make(chan struct{}, 100)}
	c.status.Store(int64(status))
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			c.arrived <- struct{}{}
			select {
			case <-c.hold:
			case <-r.Context().Done():
			}
		}
		if strings.HasPrefix(r.URL.Path, "/up") {
			c.probes.Add(1)
			w.WriteHeader(int(c.status.Load()))
			return
		}
		c.requests.Add(1)
		io.WriteString(w, "ok")
	}))
	t.Cleanup(c.Close)
	return c
}

// definition is a backend of the origin, with further fields.
func (c *checked) definition(fields ...string) string {
	return strings.Replace(definitionOf(c.Server), "}", strings.Join(append([]string{""}, fields...), ",")+"}", 1)
}

// fast is a probe that says at once what the origin is like.
const fast = `"probe":{"url":"/up","interval":"5ms","timeout":"20s","window":1,"threshold":1}`

// once is a probe that is made once in a test, unless there is a reason.
const once = `"probe":{"url":"/up","interval":"1h","timeout":"20s","window":1,"threshold":1}`

// writer puts keys and waits for them to be applied; an empty value deletes.
type writer struct {
	t      testing.TB
	client *clientv3.Client
	nodes  []*running
}

func (w writer) put(pairs ...string) int64 {
	w.t.Helper()
	var ops []clientv3.Op
	for i := 0; i < len(pairs); i += 2 {
		if key := "/roster/" + pairs[i]; pairs[i+1] == "" {
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, pairs[i+1]))
		}
	}
	resp, err := w.client.Txn(w.t.Context()).Then(ops...).Commit()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range w.nodes {
		n.wait(resp.Header.Revision)
	}
	return resp.Header.Revision
}

// get sends a request and returns the status.
func (r *running) get(path string) int {
	resp, err := http.Get(r.url + path)
	if err != nil {
		r.t.Errorf("GET %s: %v", path, err)
		return 0
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

func (r *running) healthy(name string) bool {
	s := r.Table().Lookup(name)
	return s != nil && s.Available()
}

func (r *running) untilHealth(name string, want bool) {
	r.t.Helper()
	until(r.t, fmt.Sprintf("%s to be healthy: %v", name, want), func() bool { return r.healthy(name) == want })
}

func withReadyTimeout(d time.Duration) func(*Config) { return func(c *Config) { c.ReadyTimeout = d } }

// A node is ready when the probes of its first table have answered, and then its
// clients, who have waited, are answered as well.
func TestReadyWhenTheFirstProbesHaveAnswered(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	fine, slow := newChecked(t, 200), newChecked(t, 200)
	writer{t: t, client: etcd.Client()}.put(
		"backends/fine", fine.definition(once),
		"backends/slow", slow.definition(strings.Replace(once, "/up", "/up/slow", 1)))
	proxy := storetest.NewProxy(t, etcd.Address())
	n := run(t, etcd, withReadyTimeout(patience), func(c *Config) { c.Store.Endpoints = []string{proxy.Endpoint()} })
	<-slow.arrived
	n.untilHealth("fine", true)
	if s := n.Status(); n.Ready() || s.Ready || !strings.Contains(s.Waiting, "probes") {
		t.Errorf("before all have answered: ready %v, waiting for %q", n.Ready(), s.Waiting)
	}
	close(slow.hold)
	until(t, "the node to be ready", n.Ready)
	if !n.healthy("slow") {
		t.Error("the node is ready before the answer counts")
	}
	proxy.Cut()
	writer{t, etcd.Client(), nil}.put("backends/more", fine.definition(once))
	until(t, "the node to know that etcd is lost", func() bool { return !n.Status().Etcd.Connected })
	if !n.Ready() {
		t.Error("not ready any more without etcd")
	}
}

func TestReadyTimeoutBoundsTheWaitForProbes(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	slow := newChecked(t, 200)
	defer close(slow.hold)
	writer{t: t, client: etcd.Client()}.put("backends/slow", slow.definition(strings.Replace(once, "/up", "/up/slow", 1)))
	for _, timeout := range []time.Duration{0, time.Millisecond} {
		n := run(t, etcd, withReadyTimeout(timeout))
		until(t, "the node to be ready", n.Ready)
		if n.healthy("slow") {
			t.Error("a backend that has not answered is healthy")
		}
		if got := n.get("/"); got != 503 {
			t.Errorf("its only backend has not answered, and a request got %d, want 503", got)
		}
	}
}

// Clients of a node that starts do not wait for all probes for ever: those that have
// answered count.
func TestClientsOfANodeThatStartsAreAnsweredInTheEnd(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	slow, fine := newChecked(t, 200), newChecked(t, 200)
	defer close(slow.hold)
	writer{t: t, client: etcd.Client()}.put(
		"backends/slow", slow.definition(strings.Replace(once, "/up", "/up/slow", 1)), "routes/slow", `{"match":{"path":"/slow"},"backend":"slow"}`,
		"backends/default", fine.definition(once))
	n := run(t, etcd, withReadyTimeout(patience), func(c *Config) { c.firstAnswers = time.Nanosecond })
	if got := n.get("/slow"); got != 503 {
		t.Errorf("a backend that has not answered: %d, want 503", got)
	}
	n.untilHealth("default", true)
	if got := n.get("/"); got != 200 || n.Ready() {
		t.Errorf("a backend that has answered: %d, want 200; ready %v", got, n.Ready())
	}
}

// The operator's word is above the verdict while it is there, and the probe goes on
// below it.
func TestOverrideIsAboveTheVerdict(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	up, down := newChecked(t, 200), newChecked(t, 500)
	w.put("backends/default", up.definition(fast), "backends/down", down.definition(fast), "routes/down", `{"match":{"path":"/down"},"backend":"down"}`)
	n.untilHealth("default", true)
	if got := n.get("/down"); got != 503 {
		t.Errorf("the verdict is sick: %d, want 503", got)
	}
	for _, word := range []string{"sick", "drain"} {
		w.put("health/default", word)
		if got := n.get("/"); got != 503 {
			t.Errorf("the verdict is healthy and the word %s: %d, want 503", word, got)
		}
		w.put("health/default", "")
		if got := n.get("/"); got != 200 {
			t.Errorf("without the word: %d, want 200", got)
		}
	}
	w.put("health/down", `{"state":"healthy","reason":"I know better"}`)
	if got := n.get("/down"); got != 200 {
		t.Errorf("the verdict is sick and the word healthy: %d, want 200", got)
	}
	before := down.probes.Load()
	until(t, "probes to go on", func() bool { return down.probes.Load() > before+2 })
	w.put("health/down", "auto")
	if got := n.get("/down"); got != 503 {
		t.Errorf("the verdict is sick and the word auto: %d, want 503", got)
	}

	lease, err := w.client.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.client.Put(t.Context(), "/roster/health/default", "sick", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatal(err)
	}
	n.wait(resp.Header.Revision)
	if got := n.get("/"); got != 503 {
		t.Errorf("overridden under a lease: %d, want 503", got)
	}
	n.untilHealth("default", true) // the lease expires
	if got := n.get("/"); got != 200 {
		t.Errorf("after the lease: %d, want 200", got)
	}
}

// Who waits for a backend that goes sick is answered at once; who is served already
// is not disturbed.
func TestQueueOfABackendThatGoesSickFailsAtOnce(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	origin := newChecked(t, 200)
	w.put("backends/a", origin.definition(fast, `"max_connections":1,"wait_limit":5,"wait_timeout":"1h"`))
	n.untilHealth("a", true)
	first, second := make(chan int, 1), make(chan int, 1)
	go func() { first <- n.get("/slow") }()
	<-origin.arrived
	go func() { second <- n.get("/") }()
	until(t, "a request to wait", func() bool { return n.Table().Lookup("a").Backend.Runtime.Queued() == 1 })
	origin.status.Store(500)
	if got := <-second; got != 503 {
		t.Errorf("who waited got %d, want 503", got)
	}
	origin.status.Store(200)
	n.untilHealth("a", true)
	go func() { second <- n.get("/") }()
	until(t, "the queue to be open again", func() bool { return n.Table().Lookup("a").Backend.Runtime.Queued() == 1 })
	close(origin.hold)
	if one, two := <-first, <-second; one != 200 || two != 200 {
		t.Errorf("the request under way got %d, and who waited for it %d, want 200", one, two)
	}
}

// A named probe that is changed in place is followed by all who name it, the one named
// default by those who name none, and by nobody else.
func TestNamedProbesAreFollowedInPlace(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	paths := func(name string) string { return n.Table().Lookup(name).Backend.Probe.Snapshot().Check.String() }
	probe := func(path string) string {
		return `{"url":"` + path + `","interval":"1h","window":1,"threshold":1}`
	}
	o := newChecked(t, 200)
	w.put("probes/p", probe("/up/p"), "probes/default", probe("/up/d"),
		"backends/p1", o.definition(`"probe":"p"`), "backends/p2", o.definition(`"probe":"p"`, `"comment":"another"`),
		"backends/d", o.definition(), "backends/none", o.definition(`"probe":"none"`), "backends/own", o.definition(once))
	for _, name := range []string{"p1", "p2", "d", "none", "own"} {
		n.untilHealth(name, true)
	}
	if got := o.probes.Load(); got != 3 {
		t.Errorf("%d probes for three checks", got)
	}
	o.status.Store(404)
	w.put("probes/p", probe("/up/other"))
	n.untilHealth("p1", false)
	n.untilHealth("p2", false)
	for name, want := range map[string]string{"p1": "/up/other", "p2": "/up/other", "d": "/up/d", "own": "/up"} {
		if got := paths(name); !strings.HasPrefix(got, "GET "+want+" at") {
			t.Errorf("%s is probed by %q, want %s", name, got, want)
		}
	}
	if !n.healthy("d") || !n.healthy("none") || !n.healthy("own") {
		t.Error("a backend that does not name the probe went sick with it")
	}
	w.put("probes/default", probe("/up/e"))
	n.untilHealth("d", false)
	if !n.healthy("none") || !n.healthy("own") || o.probes.Load() != 5 {
		t.Errorf("after a change of the default probe: none healthy %v, own %v, %d probes, want 5", n.healthy("none"), n.healthy("own"), o.probes.Load())
	}
	w.put("probes/p", "")
	if !n.healthy("p1") || n.Status().Counts.Dangling != 2 {
		t.Errorf("its probe deleted: healthy %v, %d dangling references, want 2", n.healthy("p1"), n.Status().Counts.Dangling)
	}
}

// What a put leaves as it was is not probed again, and its history goes on; a check
// that nobody refers to is not made, and one that somebody refers to again begins anew.
func TestProbesAreMadeForNewChecksOnly(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	o := newChecked(t, 200)
	w.put("backends/a", o.definition(once))
	n.untilHealth("a", true)
	started := n.probers.Stats().Started
	w.put("backends/a", o.definition(once))
	w.put("backends/a", o.definition(once, `"max_connections":9,"first_byte_timeout":"9s","labels":{"x":"y"}`))
	w.put("backends/b", o.definition(once, `"comment":"the same check"`))
	w.put("probes/unrelated", `{"url":"/"}`, "health/a", "drain", "backends/c", `{"none":true}`)
	if !n.healthy("b") {
		t.Error("a backend that joins a check with an answer is not judged by it")
	}
	w.put("backends/a", "")
	if s := n.probers.Stats(); s.Started != started || s.Probers != 1 || o.probes.Load() != 1 {
		t.Errorf("%d probes started of one check, %d came, %d probers", s.Started, o.probes.Load(), s.Probers)
	}
	if s := n.Table().Lookup("b").Backend.Probe.Snapshot(); s.Probes != 1 || s.GoodProbes != 1 {
		t.Errorf("the history has %d probes, want 1", s.Probes)
	}
	w.put("backends/b", "")
	until(t, "the check to be given up", func() bool { return n.probers.Stats().Probers == 0 })
	w.put("backends/b", o.definition(once))
	n.untilHealth("b", true)
	if got := o.probes.Load(); got != 2 {
		t.Errorf("%d probes came, want one more for the check that is back", got)
	}
}

// A live backend whose check changes is what it was until the new one has an answer.
func TestVerdictIsCarriedOverToAChangedCheck(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	o := newChecked(t, 200)
	w.put("backends/a", o.definition(once))
	n.untilHealth("a", true)
	o.status.Store(500)
	w.put("backends/a", o.definition(strings.Replace(once, "/up", "/up/slow", 1)))
	<-o.arrived
	if got := n.get("/"); got != 200 {
		t.Errorf("before the new check has an answer a request got %d, want 200", got)
	}
	if s := n.Table().Lookup("a").Backend.Probe.Snapshot(); !s.Carried {
		t.Error("the verdict is not said to be carried over")
	}
	close(o.hold)
	n.untilHealth("a", false)
	if got := n.get("/"); got != 503 {
		t.Errorf("after its answer a request got %d, want 503", got)
	}
}

// traffic sends requests until stop is called, which returns how many there were. None
// may fail.
func (r *running) traffic() (stop func() int64) {
	ctx, cancel := context.WithCancel(context.Background())
	var count atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				if got := r.get("/"); got != 200 {
					r.t.Errorf("a request got %d", got)
					return
				}
				count.Add(1)
			}
		})
	}
	return sync.OnceValue(func() int64 {
		cancel()
		all.Wait()
		return count.Load()
	})
}

// A node that starts and one that lists all keys anew, because etcd has compacted what
// it missed, send nothing to a backend that is sick, and lose no request for want of
// one that is healthy.
func TestStartAndRelistSendNothingToTheSick(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	healthy, sick := newChecked(t, 200), newChecked(t, 500)
	definitions := []string{
		"probes/default", `{"url":"/up","interval":"5ms","timeout":"20s","window":4,"threshold":2}`,
		"directors/default", `{"type":"round_robin","backends":["healthy","sick"]}`,
		"backends/healthy", healthy.definition(), "backends/sick", sick.definition(),
	}
	w := writer{t: t, client: etcd.Client()}
	w.put(definitions...)
	for range 3 { // a node that is started again and again
		n := run(t, etcd, withReadyTimeout(patience))
		stop := n.traffic() // from before it listens to its clients
		until(t, "the node to be ready", n.Ready)
		stop()
		n.stop()
	}
	proxy := storetest.NewProxy(t, etcd.Address())
	n := run(t, etcd, withReadyTimeout(patience), func(c *Config) { c.Store.Endpoints = []string{proxy.Endpoint()} })
	w.nodes = []*running{n}
	until(t, "the node to be ready", n.Ready)
	probesBefore := n.Table().Lookup("sick").Backend.Probe.Snapshot().Probes
	stop := n.traffic()
	for round := range int64(2) {
		proxy.Cut()
		until(t, "the node to know that etcd is lost", func() bool { return !n.Status().Etcd.Connected })
		for range 5 {
			writer{t: t, client: w.client}.put("backends/sick", sick.definition(fmt.Sprintf(`"comment":"%d"`, round)))
		}
		etcd.Compact(writer{t: t, client: w.client}.put("probes/other", fmt.Sprintf(`{"url":"/%d"}`, round)))
		proxy.Heal()
		w.put(definitions...)
	}
	count := stop()
	if got := n.Status().Etcd.Relists; got != 2 {
		t.Errorf("%d relists, want 2", got)
	}
	if got := n.Table().Lookup("sick").Backend.Probe.Snapshot().Probes; got <= probesBefore {
		t.Errorf("the history went from %d probes to %d", probesBefore, got)
	}
	if got := sick.requests.Load(); got != 0 {
		t.Errorf("%d requests went to the sick backend", got)
	}
	t.Logf("%d requests in two relists", count)
}

// Transitions are counted, logged, and sent on the event stream, each once.
func TestTransitionsAreTold(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	var log lines
	n := run(t, etcd, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	w := writer{t, etcd.Client(), []*running{n}}
	resp, err := http.Get("http://" + n.admin.String() + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewScanner(resp.Body)
	next := func(kind string, v any) {
		t.Helper()
		for events.Scan() && events.Text() != "event: "+kind {
		}
		events.Scan()
		data, _ := strings.CutPrefix(events.Text(), "data: ")
		if err := json.Unmarshal([]byte(data), v); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
	}
	o := newChecked(t, 200)
	revision := w.put("backends/a", o.definition(fast))
	var applied admin.AppliedEvent
	if next("applied", &applied); applied.Revision != revision || applied.Puts != 1 {
		t.Errorf("%+v, want revision %d", applied, revision)
	}
	var health admin.HealthEvent
	if next("health", &health); health.Backend != "a" || health.State != "healthy" || health.Good != 1 || health.Window != 1 {
		t.Errorf("%+v", health)
	}
	o.status.Store(503)
	if next("health", &health); health.State != "sick" || health.Stage != prober.Status || !strings.Contains(health.Text, "503") {
		t.Errorf("%+v", health)
	}
	until(t, "two lines", func() bool { return strings.Count(log.String(), "backend=a ") == 2 })
	if s := log.String(); strings.Count(s, "went healthy") != 1 || strings.Count(s, "went sick") != 1 || !strings.Contains(s, "stage=status") {
		t.Errorf("the log:\n%s", s)
	}
	w.put("health/a", `{"state":"drain","reason":"new disks","by":"ann"}`)
	var override admin.OverrideEvent
	if next("override", &override); override.Name != "a" || override.State != "drain" || override.Reason != "new disks" || override.By != "ann" {
		t.Errorf("%+v", override)
	}
	until(t, "the override's line", func() bool {
		return strings.Contains(log.String(), `msg=override name=a state=drain reason="new disks" by=ann`)
	})
	metrics, err := http.Get("http://" + n.admin.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer metrics.Body.Close()
	b, _ := io.ReadAll(metrics.Body)
	for _, want := range []string{
		"roster_probers 1", "roster_backends_sick 1", "roster_overrides 1", `roster_health_transitions_total{to="sick"} 1`, `roster_backend_available{backend="a"} 0`,
		`roster_backend_probe_good{backend="a"} 0`, `roster_probes_total{result="bad"}`, `roster_probe_lateness_seconds_count`,
		`roster_backend_probe_last_run_age_seconds{backend="a"} `, `roster_backend_probe_response_seconds{backend="a"} `,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// lines is a log in memory.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Thousands of backends that go sick together are a bounded number of lines, and a
// count.
func TestManyTransitionsAreFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lines
		l := newHealthLog(slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go l.run(ctx)
		for i := range 5000 {
			l.note(prober.Transition{Name: fmt.Sprint("b", i), Healthy: i%5 == 0})
		}
		synctest.Wait()
		if s := log.String(); strings.Count(s, "backend=") > 2*healthLines {
			t.Errorf("%d lines at once", strings.Count(s, "\n"))
		}
		l.note(prober.Transition{Name: "last"})
		time.Sleep(2 * healthPause)
		s := log.String()
		if got := strings.Count(s, "\n"); got > 2*healthLines+2 {
			t.Errorf("%d lines for 5001 transitions", got)
		}
		sum := strings.Count(s, "backend=")
		for line := range strings.Lines(s) {
			var sick, healthy int
			if _, rest, ok := strings.Cut(line, "went_sick="); ok {
				fmt.Sscanf(rest, "%d went_healthy=%d", &sick, &healthy)
			}
			sum += sick + healthy
		}
		if sum != 5001 {
			t.Errorf("lines and counts are of %d transitions, want 5001:\n%s", sum, s)
		}
	})
}
