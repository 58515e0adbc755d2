package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/store/storetest"
)

// A meter is an origin that counts probes, and looks at the time between them.
type meter struct {
	*harness.Socket
	name string

	mu       sync.Mutex
	probes   int
	answered time.Time       // just before the newest probe's answer
	gaps     []time.Duration // from answered to the next probe's connection, but for the first
}

func startMeter(t *testing.T, name string) *meter {
	t.Helper()
	m := &meter{Socket: harness.Listen(t), name: name}
	m.Each(func(w *harness.Wire) {
		if _, err := w.ReadRequest(); err != nil {
			return
		}
		m.mu.Lock()
		m.probes++
		if m.probes > 2 { // the second one comes within an interval
			m.gaps = append(m.gaps, time.Since(m.answered))
		}
		m.answered = time.Now()
		m.mu.Unlock()
		io.WriteString(w, closed)
	})
	return m
}

func (m *meter) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probes
}

// reset begins to count anew: what comes next is a new prober's first probe.
func (m *meter) reset() (gaps []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gaps = m.gaps
	m.probes, m.gaps = 0, nil
	return gaps
}

// probers is how many checks the node makes.
func (p *plane) probers() int {
	p.t.Helper()
	n, after := 0, ""
	for {
		var list struct {
			Items []json.RawMessage
			Next  string
		}
		if err := json.Unmarshal([]byte(p.AdminGet("/v1/probes?after="+after).Body), &list); err != nil {
			p.t.Fatal(err)
		}
		n += len(list.Items)
		if after = list.Next; after == "" {
			return n
		}
	}
}

// TestBackendsWithOneCheckAreProbedOnce has 1,000 backends at 10 addresses with one
// probe, and counts at the origins. A probe too many would be seen as a gap between two
// that is shorter than an interval.
func TestBackendsWithOneCheckAreProbedOnce(t *testing.T) {
	t.Parallel()
	const (
		backends, addresses = 1000, 10
		interval            = 200 * time.Millisecond
		least               = interval * 98 / 100
	)
	p := newProbePlane(t)
	var meters []*meter
	for i := range addresses {
		meters = append(meters, startMeter(t, fmt.Sprint("m", i)))
	}
	// A prober beside them, whose probes are the clock.
	clock := startProbed(t, "clock")
	p.put("backends/clock", clock.definition(1, 1, 1, interval.String()))

	// puts are all backends, each with a further field.
	puts := func(field func(i int) string) {
		t.Helper()
		var ops []clientv3.Op
		for i := range backends {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/roster/backends/b%d", i), at(meters[i%addresses].Socket, `"probe":"p"`, field(i))))
		}
		r, err := p.etcd.Txn(t.Context()).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		p.WaitRevision(r.Header.Revision)
	}
	// each waits until n more probes have come to each address.
	each := func(n int) {
		t.Helper()
		var before [addresses]int
		for i, m := range meters {
			before[i] = m.count()
		}
		for i, m := range meters {
			harness.Until(t, "more probes of "+m.name, func() (bool, any) {
				now := m.count()
				return now >= before[i]+n, now - before[i]
			})
		}
	}
	gaps := func(what string) {
		t.Helper()
		for _, m := range meters {
			for _, gap := range m.reset() {
				if gap < least {
					t.Errorf("%s: two probes of %s are %v apart, want an interval of %v", what, m.name, gap, interval)
				}
			}
		}
	}
	comment := func(round string) func(int) string {
		return func(i int) string { return fmt.Sprintf(`"comment":"%s %d"`, round, i) }
	}

	p.put("probes/p", fmt.Sprintf(`{"interval":%q}`, interval))
	puts(comment("first"))
	each(4)
	if n := p.probers(); n != addresses+1 {
		t.Errorf("%d checks, want %d", n, addresses+1)
	}
	h := p.waitNamed("b7", "healthy")

	for range 3 { // all of these leave the checks as they are
		puts(comment("first")) // identical
		puts(comment("second"))
		puts(func(i int) string { return fmt.Sprintf(`"max_connections":%d,"labels":{"n":"%d"}`, i+1, i) })
		p.put("probes/p", fmt.Sprintf(`{"interval":%q,"window":9}`, interval))
		p.put("probes/p", fmt.Sprintf(`{"interval":%q}`, interval))
		each(1)
	}
	if now := p.namedHealth("b7"); now.State != "healthy" || !now.Since.Equal(h.Since) || now.Probe.Probes < h.Probe.Probes+3 {
		t.Errorf("the history is another: %+v, before %+v", now, h)
	}
	gaps("put again")

	// All but the last reference go, and it is probed on.
	var ops []clientv3.Op
	for i := addresses; i < backends; i++ {
		ops = append(ops, clientv3.OpDelete(fmt.Sprintf("/roster/backends/b%d", i)))
	}
	p.txn(ops...)
	each(3)
	if n := p.probers(); n != addresses+1 {
		t.Errorf("%d checks with the last references, want %d", n, addresses+1)
	}
	// The last goes, and no probe comes any more.
	ops = nil
	for i := range addresses {
		ops = append(ops, clientv3.OpDelete(fmt.Sprintf("/roster/backends/b%d", i)))
	}
	p.txn(ops...)
	if n := p.probers(); n != 1 {
		t.Errorf("%d checks without references, want 1", n)
	}
	clock.more(t, 1) // what was on its way has come
	gaps("the last reference")
	clock.more(t, 4)
	for _, m := range meters {
		if n := m.count(); n > 0 {
			t.Errorf("%d probes of %s without a reference", n, m.name)
		}
	}
	// The first reference back is probed at once: its interval is too long to wait for.
	p.put("probes/p", `{"interval":"1h","window":1,"threshold":1}`, "backends/b3", at(meters[3].Socket, `"probe":"p"`))
	p.waitNamed("b3", "healthy")
	if n := meters[3].count(); n != 1 {
		t.Errorf("%d probes, want 1", n)
	}
}

// txn writes in one transaction and waits until it is in effect.
func (p *plane) txn(ops ...clientv3.Op) {
	p.t.Helper()
	r, err := p.etcd.Txn(p.t.Context()).Then(ops...).Commit()
	if err != nil {
		p.t.Fatal(err)
	}
	p.WaitRevision(r.Header.Revision)
}

// The probe named default is every backend's that has none, from when it is put until it
// is deleted.
func TestProbeNamedDefault(t *testing.T) {
	t.Parallel()
	p := newProbePlane(t)
	ill, own := startProbed(t, "ill"), startProbed(t, "own")
	ill.ill.Store(true)
	p.prefix = "x"
	p.backend("a", at(ill.Socket))
	p.backend("none", at(ill.Socket, `"probe":"none"`))
	p.backend("own", own.definition(1, 1, 0, "20ms"))
	for _, name := range []string{"a", "none"} {
		if h := p.health(name); h.State != "healthy" {
			t.Errorf("%s without a probe: %+v", name, h)
		}
	}
	p.put("probes/default", fmt.Sprintf(`{"port":%s,"window":1,"threshold":1,"interval":"20ms"}`, ill.probes.Port()))
	p.waitHealth("a", "sick")
	p.backend("later", at(ill.Socket))
	p.waitHealth("later", "sick")
	p.waitHealth("own", "healthy")
	if h := p.health("none"); h.State != "healthy" {
		t.Errorf("none: %+v", h)
	}
	ill.ill.Store(false)
	p.waitHealth("a", "healthy")
	p.waitHealth("later", "healthy")
	ill.ill.Store(true)
	p.waitHealth("a", "sick")
	p.put("probes/default", "")
	for _, name := range []string{"a", "later", "none"} {
		if h := p.health(name); h.State != "healthy" {
			t.Errorf("%s after the probe is gone: %+v", name, h)
		}
	}
	if n := p.probers(); n != 1 {
		t.Errorf("%d checks, want that of own", n)
	}
}

// A node is ready when each check of its first table has an answer, which may be that
// there is none in time, and at most --ready-timeout later.
func TestReadinessWaitsForTheFirstAnswers(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	probes, deaf := harness.Listen(t), harness.Listen(t)
	etcd.Put("/roster/backends/a", at(probes, inline(1, 1, 0, "1h", `"timeout":"1h"`)))
	etcd.Put("/roster/backends/b", at(deaf, inline(1, 1, 0, "1h", `"timeout":"200ms"`)))
	node := harness.NewNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--ready-timeout", "1h"}})
	node.Start()
	w := probes.Accept()
	w.Request()
	deaf.Accept().End() // that one has run into its time-out
	if s := node.Status(); s.Ready {
		t.Error("ready before the first answer")
	}
	if a := node.AdminGet("/readyz"); a.Status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %v", a)
	}
	answerProbe(w, false) // a bad one is one, too
	node.WaitReady()

	other := harness.NewNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--ready-timeout", "300ms"}})
	other.Start()
	w = probes.Accept()
	w.Request()
	other.WaitReady() // with no answer
	answerProbe(w, true)
	other.Terminate()
}

// site is a director of two backends, one of which is sick by its probes.
type site struct {
	well, sick *probed
}

func startSite(t *testing.T, put func(key, value string)) site {
	t.Helper()
	s := site{well: &probed{}, sick: &probed{}}
	for name, o := range map[string]**probed{"well": &s.well, "sick": &s.sick} {
		*o = startProbed(t, name)
		(*o).ill.Store(name == "sick")
		put("/roster/backends/"+name, (*o).definition(8, 3, 2, "50ms"))
	}
	put("/roster/directors/default", `{"type":"round_robin","backends":["well","sick"]}`)
	return s
}

// callers are clients that ask again and again, each time on a new connection, until
// the end. What they cannot connect to, or what is reset before an answer, they ask again.
type callers struct {
	cancel chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex
	got    map[string]int // bodies of 200, else statuses
}

func startCallers(t *testing.T, n int, address string) *callers {
	t.Helper()
	c := &callers{cancel: make(chan struct{}), got: map[string]int{}}
	for range n {
		c.wg.Go(func() {
			for {
				select {
				case <-c.cancel:
					return
				default:
				}
				conn, err := dial(address)
				if err != nil {
					continue
				}
				status, body, err := conn.get()
				conn.conn.Close()
				if err != nil {
					continue // the node was killed
				}
				if status != http.StatusOK {
					body = fmt.Sprint(status)
				}
				c.mu.Lock()
				c.got[body]++
				c.mu.Unlock()
			}
		})
	}
	t.Cleanup(c.stop)
	return c
}

func (c *callers) stop() {
	select {
	case <-c.cancel:
	default:
		close(c.cancel)
	}
	c.wg.Wait()
}

func (c *callers) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := map[string]int{}
	for k, n := range c.got {
		counts[k] = n
	}
	return counts
}

// more waits until n more answers of well have come.
func (c *callers) more(t *testing.T, n int) {
	t.Helper()
	before := c.counts()["well"]
	harness.Until(t, fmt.Sprintf("%d more answers", n), func() (bool, any) {
		got := c.counts()
		return got["well"] >= before+n, got
	})
}

// onlyWell checks that no request went to the sick backend, and that all were answered.
func (c *callers) onlyWell(t *testing.T, what string) {
	t.Helper()
	if got := c.counts(); len(got) != 1 || got["well"] == 0 {
		t.Errorf("%s: answers %v, want those of well only", what, got)
	}
}

// TestRestartSendsNothingToTheSickAndLosesNothingToTheHealthy restarts a node under
// traffic: in order and by a kill.
func TestRestartSendsNothingToTheSickAndLosesNothingToTheHealthy(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	s := startSite(t, func(key, value string) { etcd.Put(key, value) })
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints()})
	clients := startCallers(t, 4, node.Address())
	clients.more(t, 50)
	node.Terminate()
	node.Restart()
	clients.more(t, 50)
	clients.onlyWell(t, "restarted in order")
	node.Kill()
	node.Restart()
	clients.more(t, 50)
	clients.onlyWell(t, "killed")

	// Who comes while the first answers are not there yet waits for them.
	node.Kill()
	rev := etcd.Revision()
	s.well.hold.Lock()
	node.Start()
	harness.Until(t, "the definitions to be applied", func() (bool, any) {
		a, err := http.Get(node.AdminURL() + "/v1/status")
		if err != nil {
			return false, err
		}
		defer a.Body.Close()
		var status harness.Status
		err = json.NewDecoder(a.Body).Decode(&status)
		return err == nil && status.Seen >= rev, status
	})
	if node.Status().Ready {
		t.Error("ready without an answer to a probe")
	}
	c := harness.Dial(t, "tcp", node.Address())
	c.Send(get("/", ""))
	s.well.hold.Unlock()
	want(t, c.Response(), "well")
	clients.more(t, 50)
	clients.onlyWell(t, "started with slow probes")
	if n := s.sick.Opened(); n != 0 {
		t.Errorf("%d connections for requests to the sick backend, want none", n)
	}
}

// TestListAfterCompactionKeepsVerdicts cuts a node off etcd until what it missed is
// compacted away, so that it has to list everything again.
func TestListAfterCompactionKeepsVerdicts(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	s := startSite(t, func(key, value string) { etcd.Put(key, value) })
	network := storetest.NewProxy(t, etcd.Address(0))
	p := &plane{t: t, Node: harness.StartNode(t, harness.NodeConfig{Etcd: network.Address()})}
	p.waitNamed("well", "healthy")
	p.waitNamed("sick", "sick")
	clients := startCallers(t, 4, p.Address())
	clients.more(t, 50)
	before := p.namedHealth("well")

	network.Cut()
	p.WaitStatus("no etcd", func(s harness.Status) bool { return !s.Etcd.Connected })
	relists := p.Status().Etcd.Relists
	etcd.Put("/roster/backends/well", strings.Replace(s.well.definition(8, 3, 2, "50ms"), "{", `{"comment":"new",`, 1))
	etcd.Put("/roster/backends/gone", `{"none":true}`)
	etcd.Delete("/roster/backends/gone")
	rev := etcd.Put("/elsewhere", "x")
	etcd.Ctl("compaction", fmt.Sprint(rev), "--physical")
	s.well.more(t, 3) // probes and requests go on without etcd
	clients.more(t, 50)
	network.Heal()
	p.WaitStatus("a list", func(s harness.Status) bool { return s.Etcd.Connected && s.Etcd.Relists > relists && s.Seen >= rev })
	s.well.more(t, 3)
	clients.more(t, 50)
	clients.onlyWell(t, "listed again")
	if n := s.sick.Opened(); n != 0 {
		t.Errorf("%d connections for requests to the sick backend, want none", n)
	}
	now := p.namedHealth("well")
	if !now.Since.Equal(before.Since) || now.Probe.Probes <= before.Probe.Probes+3 {
		t.Errorf("the history is another: %+v, before %+v", now, before)
	}
}

// Each transition is one event, one line of the log, and counted.
func TestTransitionsAreEventsAndCountedAndLogged(t *testing.T) {
	t.Parallel()
	p := newProbePlane(t)
	p.prefix = "x"
	o := startProbed(t, "b")
	resp, err := http.Get(p.AdminURL() + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("Content-Type %q", got)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			lines <- in.Text()
		}
	}()
	next := func(state string) string {
		t.Helper()
		limit := time.After(harness.WaitLimit)
		var seen []string
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("the stream ended after %q", seen)
				}
				seen = append(seen, line)
				if strings.HasPrefix(line, "data:") && strings.Contains(line, `"x/b"`) && strings.Contains(line, fmt.Sprintf("%q", state)) {
					return line
				}
			case <-limit:
				t.Fatalf("no event of %s in %q", state, seen)
			}
		}
	}
	p.backend("b", o.definition(1, 1, 0, "20ms"))
	next("healthy")
	o.ill.Store(true)
	if e := next("sick"); !strings.Contains(e, `"status"`) || !strings.Contains(e, "500") {
		t.Errorf("event %s, want the stage and why", e)
	}
	o.ill.Store(false)
	next("healthy")
	for _, name := range []string{"roster_probes_total", "roster_probers"} {
		if p.Metric(name) == 0 {
			t.Errorf("metric %s is 0 or missing:\n%s", name, probeMetrics(p))
		}
	}
	if n := p.Metric("roster_health_transitions_total"); n != 3 {
		t.Errorf("%v transitions, want 3:\n%s", n, probeMetrics(p))
	}
	for _, gauge := range []string{"roster_backend_probe_good", "roster_backend_probe_last_run_age_seconds"} {
		if !strings.Contains(p.AdminGet("/metrics").Body, gauge+`{backend="x/b"} `) {
			t.Errorf("no %s:\n%s", gauge, probeMetrics(p))
		}
	}
	page, err := os.ReadFile(filepath.Join(harness.Root(t), "docs", "PROBES.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := p.AdminGet("/metrics").Body
	for _, name := range regexp.MustCompile("`(roster_[a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(all, "# HELP "+name[1]+" ") {
			t.Errorf("docs/PROBES.md names %s, which there is not", name[1])
		}
	}
	for text, times := range map[string]int{`msg="went healthy" backend=x/b`: 2, `msg="went sick" backend=x/b stage=status text="HTTP/1.1 500 Sick, want 200"`: 1} {
		harness.Until(t, text, func() (bool, any) {
			n := strings.Count(p.Log(), text)
			return n == times, n
		})
	}
}

// probeMetrics are the lines of /metrics about probes.
func probeMetrics(p *plane) string {
	all := strings.Split(p.AdminGet("/metrics").Body, "\n")
	return strings.Join(slices.DeleteFunc(all, func(line string) bool { return !strings.Contains(line, "probe") }), "\n")
}
