package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"roster/e2e/harness"
)

// soakTime is how long TestSoak goes on. A sixth of it is to warm up.
func soakTime() time.Duration {
	switch {
	case harness.Long():
		return 20 * time.Minute
	case harness.RequireAll():
		return 3 * time.Minute
	}
	return 30 * time.Second
}

// soak is a lab under churn, faults and traffic that a balancer spreads over the nodes
// that are ready.
type soak struct {
	*lab
	churn  *churn
	random *rand.Rand // of the faults
	stop   chan struct{}
	wg     sync.WaitGroup
	made   map[string]int // faults

	mu    sync.Mutex
	ready []bool
	life  []int // by node: goes up whenever it is not ready any more
	kills []outageOf
	downs []outageOf // of origins
}

// An outageOf is when a node or an origin was away.
type outageOf struct {
	name       string
	begun, end time.Time // end is zero while it goes on; of a node it is when the balancer knows
}

func (o outageOf) overlaps(from, to time.Time, after time.Duration) bool {
	return !o.begun.After(to) && (o.end.IsZero() || !from.After(o.end.Add(after)))
}

// TestSoak changes definitions at random, breaks what can break at random, and sends
// requests whose every byte is verified. A request may fail only for a fault that was
// made, at that time, of the node or the origin that it was sent to; faults of etcd are
// no cause at all. At the end all nodes serve the same, as does one that starts then, and
// have taken no more memory, goroutines or descriptors. ROSTER_E2E_SEED repeats what was
// chosen at random.
func TestSoak(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ROSTER_E2E_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ROSTER_E2E_SEED=%d", seed)
	dir := t.TempDir()
	accessLog := func(i int) string { return filepath.Join(dir, fmt.Sprintf("access-%d.log", i)) }

	s := &soak{lab: newLab(t, 48<<20, 6), random: rand.New(rand.NewPCG(seed, 0)), stop: make(chan struct{}), made: map[string]int{}}
	s.churn = &churn{lab: s.lab, count: s.writer}
	s.etcd.Txn(s.churn.base()...)
	s.startNodes(func(i int) harness.NodeConfig {
		return harness.NodeConfig{
			Plain: i == 0, // memory is measured of it
			Args: []string{"--revision-header", "--drain-delay", "3s", "--drain-timeout", "10s",
				"--metrics-backends", "all", "--access-log", "json", "--access-log-file", accessLog(i)},
		}
	})
	s.balance()

	var loads []*load
	period := func(d time.Duration) {
		s.churn = startChurn(s.lab, seed+uint64(len(loads)))
		l := s.traffic(seed + uint64(len(loads)))
		loads = append(loads, l)
		s.breakAll(t, d)
		s.churn.end()
		l.end()
	}
	begun := time.Now()
	period(soakTime() / 6)
	s.churn.rest(t)
	before := s.measure(t)
	period(soakTime() * 5 / 6)
	s.churn.valid(t)
	s.same(t)
	s.churn.rest(t)
	after := s.measure(t)
	t.Logf("%v: %d changes taken, %d refused; faults: %v", time.Since(begun).Round(time.Second), s.writer.taken.Load(), s.writer.refused.Load(), s.made)
	t.Logf("at rest after the warm-up: %+v", before)
	t.Logf("at rest at the end:        %+v", after)
	if wrong := before.grew(after); wrong != "" {
		t.Errorf("node-0 grew: %s", wrong)
	}
	var failed []failure
	requests := int64(0)
	for _, l := range loads {
		requests += l.requests.Load()
		failed = append(failed, l.failures(0)...)
	}
	s.judge(t, requests, failed, accessLog)
}

// traffic starts clients that follow readiness.
func (s *soak) traffic(seed uint64) *load {
	l := &load{
		t: s.t, pause: 40 * time.Millisecond, seed: seed, verify: whole,
		pick: func(r *rand.Rand) (target, bool) { return s.pick(r), r.IntN(4) == 0 },
		next: func(r *rand.Rand) harness.Check {
			host := fmt.Sprintf("host-%d.test", r.IntN(hosts+4)) // some have no route ever
			if r.IntN(6) == 0 {
				host = "pair.test"
			}
			return someCheck(r, host, fmt.Sprint("/", r.IntN(100)))
		},
	}
	l.run(8)
	return l
}

// balance asks every node's readiness all the time.
func (s *soak) balance() {
	s.ready, s.life = make([]bool, len(s.nodes)), make([]int, len(s.nodes))
	for i, n := range s.nodes {
		s.wg.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				s.is(i, n.Ready())
				select {
				case <-s.stop:
					return
				case <-tick.C:
				}
			}
		})
	}
	s.t.Cleanup(func() {
		close(s.stop)
		s.wg.Wait()
	})
}

// is takes down that a node is ready or not.
func (s *soak) is(i int, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready[i] && !ready {
		s.life[i]++
	}
	s.ready[i] = ready
	for k := range s.kills {
		if kill := &s.kills[k]; kill.name == s.nodes[i].Address() && kill.end.IsZero() && !ready {
			kill.end = time.Now()
		}
	}
}

func (s *soak) pick(r *rand.Rand) target {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range r.Perm(len(s.nodes)) {
		if s.ready[i] {
			return target{s.nodes[i], s.life[i]}
		}
	}
	return target{}
}

// breakAll makes faults for a time, each kind as often as any other, give or take one.
// After each a put reaches all nodes.
func (s *soak) breakAll(t *testing.T, d time.Duration) {
	t.Helper()
	begun := time.Now()
	done := make(chan struct{})
	var flapping sync.WaitGroup
	flaps := rand.New(rand.NewPCG(s.random.Uint64(), 0))
	flapping.Go(func() { s.flap(flaps, done) })
	defer flapping.Wait()
	defer close(done)
	faults := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"leader killed", s.killLeader},
		{"no quorum", s.loseQuorum},
		{"leader frozen", s.freezeLeader},
		{"node cut off", func(t *testing.T) { s.cutOff(t, s.random.IntN(len(s.nodes))) }},
		{"members restarted", s.restartMembers},
		{"compaction", s.compact},
		{"slow leader", s.slowLeader},
		{"no space", s.fill},
		{"node terminated", func(t *testing.T) { s.terminate(t, 1+s.random.IntN(len(s.nodes)-1)) }},
		{"node killed", func(t *testing.T) { s.kill(t, 1+s.random.IntN(len(s.nodes)-1)) }},
	}
	for {
		for _, i := range s.random.Perm(len(faults)) {
			lasts(t, time.Duration(1000+s.random.IntN(4000))*time.Millisecond)
			if time.Since(begun) >= d {
				return
			}
			from := time.Now()
			faults[i].run(t)
			ended := time.Now()
			taken, served := s.reaches(t, ended)
			s.made[faults[i].name]++
			t.Logf("%s for %v: a put is taken %v after, and served by all %v after", faults[i].name, ended.Sub(from).Round(time.Millisecond),
				taken.Round(time.Millisecond), served.Round(time.Millisecond))
		}
	}
}

// terminate ends a node in an orderly way, and starts it again.
func (s *soak) terminate(t *testing.T, i int) {
	n := s.nodes[i]
	if code := n.For(t).Terminate(); code != 0 {
		t.Errorf("%s ended with %d after SIGTERM", n.Address(), code)
	}
	n.Restart()
}

// kill ends a node with SIGKILL, and starts it again once the balancer knows.
func (s *soak) kill(t *testing.T, i int) {
	n := s.nodes[i]
	s.mu.Lock()
	s.kills = append(s.kills, outageOf{name: n.Address(), begun: time.Now()})
	s.mu.Unlock()
	n.Kill()
	harness.Until(t, "the balancer to know", func() (bool, any) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.ready[i], nil
	})
	n.Restart()
}

// flap takes one origin down for a moment, now and then, until done.
func (s *soak) flap(r *rand.Rand, done chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := func(ms int) bool {
		timer.Reset(time.Duration(ms) * time.Millisecond)
		select {
		case <-done:
			return false
		case <-timer.C:
			return true
		}
	}
	for goOn := true; goOn; {
		if !wait(2000 + r.IntN(8000)) {
			return
		}
		o := s.origins[2+r.IntN(len(s.origins)-2)]
		s.mu.Lock()
		s.downs = append(s.downs, outageOf{name: o.Name, begun: time.Now()})
		down := len(s.downs) - 1
		s.mu.Unlock()
		o.Stop()
		goOn = wait(100 + r.IntN(3000))
		o.Start()
		s.mu.Lock()
		s.downs[down].end = time.Now()
		s.mu.Unlock()
	}
}

// same compares all nodes with one that starts now.
func (s *soak) same(t *testing.T) {
	t.Helper()
	fresh := harness.StartNode(t, harness.NodeConfig{Etcd: s.etcd.EndpointsAtHost(), ID: "fresh", Island: s.islands[0]})
	harness.Until(t, "all nodes to be as one that starts", func() (bool, any) {
		want := servedBy(t, fresh)
		for _, n := range s.nodes {
			if diff := cmp.Diff(want, servedBy(t, n)); diff != "" {
				return false, fmt.Sprintf("%s (-fresh +it):\n%s", n.Address(), diff)
			}
		}
		return true, nil
	})
	fresh.Kill()
}

// servedBy is all that a node says of what it serves, without what it observes.
func servedBy(t *testing.T, n *harness.Node) map[string]string {
	t.Helper()
	st := n.For(t).Status()
	all := map[string]string{"status": fmt.Sprint(st.Digest, st.Counts, st.Rejected, st.Dangling)}
	for _, kind := range []string{"backends", "directors", "routes"} {
		var list struct {
			Items []struct {
				Name       string
				Revision   int64
				Definition json.RawMessage
				Health     struct{ Admin string }
			}
		}
		a := n.For(t).AdminGet("/v1/" + kind + "?limit=1000")
		if err := json.Unmarshal([]byte(a.Body), &list); err != nil || len(list.Items) == 0 {
			t.Fatalf("%v: %v", a, err)
		}
		for _, i := range list.Items {
			all[kind+" "+i.Name] = fmt.Sprintf("%d %s %s", i.Revision, i.Definition, i.Health.Admin)
		}
	}
	return all
}

// A footprint is what a node has taken of its machine.
type footprint struct {
	Goroutines, Descriptors int
	Heap, Resident          int64 // bytes
}

// measure takes the least of some looks at the first node, which has nothing to do: what
// is done at its end is not held.
func (s *soak) measure(t *testing.T) (least footprint) {
	t.Helper()
	n := s.nodes[0].For(t)
	for i := range 20 {
		lasts(t, 250*time.Millisecond)
		n.Collect()
		resident, _ := n.Memory()
		f := footprint{int(n.Metric("go_goroutines")), n.Descriptors(), int64(n.Metric("go_memstats_heap_alloc_bytes")), resident}
		if i == 0 {
			least = f
		}
		least = footprint{min(least.Goroutines, f.Goroutines), min(least.Descriptors, f.Descriptors), min(least.Heap, f.Heap), min(least.Resident, f.Resident)}
	}
	return least
}

// grew says what of a footprint has become larger by more than chance.
func (f footprint) grew(now footprint) string {
	var wrong []string
	check := func(what string, before, after, allowed int64) {
		if after > before+allowed {
			wrong = append(wrong, fmt.Sprintf("%s from %d to %d, at most %d more are chance", what, before, after, allowed))
		}
	}
	check("goroutines", int64(f.Goroutines), int64(now.Goroutines), 8)
	check("descriptors", int64(f.Descriptors), int64(now.Descriptors), 8)
	check("bytes of the heap", f.Heap, now.Heap, 2<<20)
	check("bytes resident", f.Resident, now.Resident, f.Resident/2)
	return strings.Join(wrong, "; ")
}

// judge fails the test for each request that failed without a cause.
func (s *soak) judge(t *testing.T, requests int64, failed []failure, accessLog func(i int) string) {
	t.Helper()
	want := map[string]bool{} // ids of requests
	for _, f := range failed {
		if id := f.Header.Get("X-Request-Id"); id != "" {
			want[id] = true
		}
	}
	backends := map[string]string{} // by id
	for i := range s.nodes {
		logged(t, accessLog(i), func(l accessLine) {
			if want[l.RequestID] {
				backends[l.RequestID] = l.Backend
			}
		})
	}
	causes := map[string]int{}
	var uncaused []failure
	for _, f := range failed {
		if cause := s.cause(f, backends[f.Header.Get("X-Request-Id")]); cause != "" {
			causes[cause]++
		} else {
			uncaused = append(uncaused, f)
		}
	}
	t.Logf("%d requests, %d failed: %v", requests, len(failed), causes)
	if requests == 0 || len(uncaused) > 0 {
		t.Errorf("%d of %d requests failed without a cause, the first:\n%s", len(uncaused), requests, firstOf(uncaused))
	}
	if t.Failed() {
		t.Logf("kills of nodes: %+v\norigins down: %+v", s.kills, s.downs)
	}
}

// logged reads the lines of an access log.
func logged(t *testing.T, path string, line func(accessLine)) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var l accessLine
		if json.Unmarshal(lines.Bytes(), &l) == nil { // a node that is killed leaves half a line
			line(l)
		}
	}
}

// cause is why a request may have failed, "" if there is no reason that it should have.
func (s *soak) cause(f failure, backend string) string {
	if f.Wrong != "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kill := range s.kills {
		// Connections end with the process, and new ones are refused until the balancer knows.
		if f.Err != nil && kill.name == f.node.Address() && kill.overlaps(f.Begun, f.Ended, 0) {
			return "node killed"
		}
	}
	origin := f.Header.Get("X-Origin") // of an answer that was cut
	var member int
	if _, err := fmt.Sscanf(backend, "member-%d", &member); err == nil && origin == "" {
		origin = s.churn.origin(member).Name
	}
	// Who is killed has not written the lines of its last moment.
	unknown := backend == "" && origin == "" && slices.ContainsFunc(s.kills, func(kill outageOf) bool {
		return kill.name == f.node.Address() && kill.overlaps(f.Begun, f.Ended.Add(2*time.Second), 0)
	})
	for _, down := range s.downs {
		// An address that refused is not dialled for 250 ms.
		if (down.name == origin || unknown) && down.overlaps(f.Begun, f.Ended, 300*time.Millisecond) &&
			(f.Err != nil || f.Status == http.StatusBadGateway) {
			return "origin down"
		}
	}
	return ""
}
