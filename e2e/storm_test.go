package e2e_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// What clients see, and what reaches backends, when one of four backends in turn fails:
// with and without what directors and routes have against that.

// stormClients is how many requests there are at a time.
const stormClients = 8

// A remedy is what a director and its route have against failures.
type remedy struct{ name, director, route string }

// The outlier's ejection outlasts every test.
const (
	outlier = `,"outlier":{"consecutive":5,"ejection":"10m","max_ejection":"10m","max_share":0.25}`
	retry   = `,"retries":1`
)

var remedies = []remedy{
	{"nothing", "", ""},
	{"retries", "", retry},
	{"outlier", outlier, ""},
	{"both", outlier, retry},
}

// ailments are how a backend fails: what its origin does with a request that is the n-th.
// No answer is sent: the connection is closed.
var ailments = []string{"half", "all", "refused"}

// storm is a node with its etcd, and what its backends got.
type storm struct {
	t         testing.TB
	etcd      *harness.Etcd
	node      *harness.Node
	good, bad atomic.Int64 // requests that reached a backend, by how they were answered
	directors int
}

func startStorm(t testing.TB, c harness.NodeConfig) *storm {
	t.Helper()
	s := &storm{t: t, etcd: harness.StartEtcd(t)}
	c.Etcd = s.etcd.Endpoints()
	s.node = harness.StartNode(t, c)
	var ops []clientv3.Op
	put := func(name, def string) { ops = append(ops, clientv3.OpPut("/roster/backends/"+name, def)) }
	for _, name := range []string{"good-1", "good-2", "good-3"} {
		put(name, at(s.origin(func() bool { return false })))
	}
	// Without reuse, each try is one: no connection was ever good and closed then.
	var mu sync.Mutex
	coin := rand.New(rand.NewPCG(1, 2))
	put("half", at(s.origin(func() bool {
		mu.Lock()
		defer mu.Unlock()
		return coin.Uint64()&1 == 0
	}), `"reuse":false`))
	put("all", at(s.origin(func() bool { return true }), `"reuse":false`))
	put("all-2", at(s.origin(func() bool { return true }), `"reuse":false`))
	put("all-3", at(s.origin(func() bool { return true }), `"reuse":false`))
	put("all-4", at(s.origin(func() bool { return true }), `"reuse":false`))
	put("refused", fmt.Sprintf(`{"host":%q}`, harness.FreeAddress(t)))
	s.node.WaitRevision(s.etcd.Txn(ops...))
	return s
}

// origin answers, or closes the connection where fails says so.
func (s *storm) origin(fails func() bool) *harness.Socket {
	o := harness.Listen(s.t)
	o.Each(func(w *harness.Wire) {
		for {
			if _, err := w.ReadRequest(); err != nil {
				return
			}
			if fails() {
				s.bad.Add(1)
				return
			}
			s.good.Add(1)
			w.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	return o
}

// toll is what came of some requests.
type toll struct {
	requests, failed int64 // of clients: sent, and not answered with 200
	sent, bad        int64 // requests at the backends, and those not answered there
	director         string
	took             time.Duration
}

// most is the most that may be sent: a fifth of the requests of ten seconds more, and ten.
func (c toll) most() int64 {
	windows := 2 + int64(c.took/(10*time.Second))
	return c.requests + c.requests/5 + 10*windows
}

// run sends n requests to a new director of these backends.
func (s *storm) run(n int, r remedy, backends ...string) toll {
	s.t.Helper()
	s.directors++
	name := fmt.Sprint("d", s.directors)
	rev := s.etcd.Txn(
		clientv3.OpPut("/roster/directors/"+name, fmt.Sprintf(`{"type":"round_robin","backends":["%s"]%s}`, strings.Join(backends, `","`), r.director)),
		clientv3.OpPut("/roster/routes/"+name, fmt.Sprintf(`{"match":{"path":"/%s"},"backend":%q%s}`, name, name, r.route)))
	if st := s.node.WaitRevision(rev); len(st.Rejected) > 0 {
		s.t.Fatalf("rejected: %+v", st.Rejected)
	}
	c := toll{requests: int64(n), director: name, sent: s.good.Load() + s.bad.Load(), bad: s.bad.Load()}
	var failed, left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	began := time.Now()
	for range stormClients {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: harness.WaitLimit}
			defer client.CloseIdleConnections()
			for left.Add(-1) >= 0 {
				resp, err := client.Get(s.node.URL() + "/" + name)
				if err != nil {
					s.t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				switch resp.StatusCode {
				case http.StatusOK:
				case http.StatusBadGateway:
					failed.Add(1)
				default:
					s.t.Errorf("answer %s, want 200 or 502", resp.Status)
				}
			}
		})
	}
	wg.Wait()
	c.failed, c.sent, c.bad, c.took = failed.Load(), s.good.Load()+s.bad.Load()-c.sent, s.bad.Load()-c.bad, time.Since(began)
	return c
}

// With retries, what fails is tried elsewhere within the budget; with an outlier, who fails
// five times in a row is not asked again. What is asserted holds by design, however slow the
// machine is.
func TestStormOfFailures(t *testing.T) {
	t.Parallel()
	s := startStorm(t, harness.NodeConfig{})
	const n = 400
	for _, ailment := range ailments {
		for _, r := range remedies {
			what := ailment + ", " + r.name
			c := s.run(n, r, "good-1", "good-2", "good-3", ailment)
			t.Logf("%s: %d of %d requests failed; %d reached a backend, %d of them in vain", what, c.failed, n, c.sent, c.bad)
			if c.sent > c.most() {
				t.Errorf("%s: %d requests were %d at the backends, want at most %d", what, n, c.sent, c.most())
			}
			// A failed try is a client's failure or one retry more at the backends.
			if ailment != "refused" && c.failed+c.sent-n != c.bad {
				t.Errorf("%s: %d tries failed, and clients saw %d failures and %d requests were tried again", what, c.bad, c.failed, c.sent-n)
			}
			if r.route == "" && ailment != "refused" && c.sent != n {
				t.Errorf("%s: %d requests were %d at the backends without retries", what, n, c.sent)
			}
			// The fifth failure in a row ejects; those that are on their way then come, too.
			if r.director != "" && ailment != "half" {
				if most := int64(5 + stormClients - 1); c.bad > most || c.failed > most {
					t.Errorf("%s: %d tries and %d requests failed, want at most %d", what, c.bad, c.failed, most)
				}
				e := explain(t, s.node, "http://x.example/"+c.director)
				if got := e.state(c.director, ailment); got != "ejected" {
					t.Errorf("%s: it is %q, want it ejected", what, got)
				}
			}
			if r.director == "" && r.route == "" && ailment == "all" && c.failed != n/4 {
				t.Errorf("%s: %d of %d requests failed, want a quarter", what, c.failed, n)
			}
		}
	}

	// A budget of nothing is no retry at all.
	c := s.run(n, remedy{"no budget", `,"retry_budget":0`, retry}, "good-1", "good-2", "good-3", "all")
	if c.sent != n || c.failed != n/4 {
		t.Errorf("without a budget: %d of %d requests failed, %d at the backends, want a quarter and no more than there are", c.failed, n, c.sent)
	}

	// All of them fail: no more than max_share is ejected, the rest goes on being asked.
	c = s.run(n, remedies[3], "all", "all-2", "all-3", "all-4")
	if c.failed != n || c.sent > c.most() || c.sent < n {
		t.Errorf("all fail: %d of %d failed, with %d at the backends, want all and at most %d", c.failed, n, c.sent, c.most())
	}
	states := map[string]int{}
	e := explain(t, s.node, "http://x.example/"+c.director)
	for _, m := range e.Directors[0].Members {
		states[m.State]++
	}
	if states["ejected"] != 1 || states["available"] != 3 {
		t.Errorf("all fail: members are %v, want one of the four ejected", states)
	}
}

// BenchmarkFailingBackend counts what clients see and what reaches backends when one of four
// fails; see docs/PERFORMANCE.md. An operation is a request.
func BenchmarkFailingBackend(b *testing.B) {
	s := startStorm(b, harness.NodeConfig{Plain: true})
	for _, ailment := range ailments {
		for _, r := range remedies {
			b.Run("fails="+ailment+"/with="+r.name, func(b *testing.B) {
				c := s.run(b.N, r, "good-1", "good-2", "good-3", ailment)
				b.ReportMetric(100*float64(c.failed)/float64(b.N), "%failed")
				b.ReportMetric(100*float64(c.sent-c.requests)/float64(b.N), "%extra")
				b.ReportMetric(100*float64(c.bad)/float64(b.N), "%in-vain")
			})
		}
	}
}
