package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// A watched is an origin that counts what is not a probe.
type watched struct {
	address  string
	requests atomic.Int64
	hangs    atomic.Bool // probes get no answer
	status   int         // of a probe
}

func startWatched(t *testing.T, status int) *watched {
	w := &watched{status: status}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/up":
			w.requests.Add(1)
		case w.hangs.Load():
			<-r.Context().Done()
		default:
			rw.WriteHeader(w.status)
		}
	}))
	t.Cleanup(s.Close)
	w.address = s.Listener.Addr().String()
	return w
}

// peerArgs are the arguments of a node that speaks with others, with a certificate of a CA,
// and trusts some.
func peerArgs(t *testing.T, of *certstest.CA, trusted string) []string {
	t.Helper()
	dir := t.TempDir()
	cert, key := of.Issue(t).Write(t, dir, "peer")
	ca := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, ca, trusted)
	return []string{"--peer-listen", harness.FreeAddress(t), "--peer-tls-cert", cert, "--peer-tls-key", key, "--peer-tls-ca", ca, "--ready-timeout", "1h"}
}

// A third node joins two, of which one has just been killed, while two backends answer no
// probe: one that was sick, and would count as healthy to a node that knows nothing, and one
// that was well, and would count as sick. The node is ready without their answers and sends
// no request to the sick one.
func TestScaleOutStartsWarm(t *testing.T) {
	t.Parallel()
	etcd, ca, other := harness.StartEtcd(t), certstest.NewCA(t), certstest.NewCA(t)
	sick, well := startWatched(t, 500), startWatched(t, 200)
	probe := func(initial string) string {
		return `,"probe":{"url":"/up","interval":"100ms","timeout":"1m","initial":` + initial + `}}`
	}
	backend := func(w *watched) string { return `{"host":"` + w.address + `"` }
	if _, err := etcd.Client().Txn(t.Context()).Then(
		clientv3.OpPut("/roster/backends/sick", backend(sick)+probe("3")),
		clientv3.OpPut("/roster/backends/well", backend(well)+probe("0")),
		clientv3.OpPut("/roster/directors/default", `{"type":"round_robin","backends":["sick","well"]}`),
	).Commit(); err != nil {
		t.Fatal(err)
	}
	node := func(id string, args []string) *plane {
		return &plane{t: t, etcd: etcd.Client(), Node: harness.NewNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: id, Args: args})}
	}
	a, b := node("a", peerArgs(t, ca, ca.PEM)), node("b", peerArgs(t, ca, ca.PEM))
	for _, p := range []*plane{a, b} {
		p.Start()
		p.WaitReady()
		for name, good := range map[string]int{"sick": 0, "well": 8} {
			harness.Until(t, "the window to be full", func() (bool, any) {
				h := p.namedHealth(name)
				return h.Probe.Good == good && h.Probe.Probes >= 8, h
			})
		}
	}
	sick.hangs.Store(true)
	well.hangs.Store(true)
	b.Kill() // and its presence stays for a while

	c := node("c", peerArgs(t, ca, ca.PEM))
	c.Start()
	loop := harness.StartLoop(t, c.URL(), 2) // from before it listens
	c.WaitReady()
	loop.WaitStatus(200, 100)
	loop.Stop()
	if got := sick.requests.Load(); got != 0 {
		t.Errorf("%d requests went to the sick backend", got)
	}
	for name, good := range map[string]int{"sick": 0, "well": 8} {
		var is struct {
			Health struct {
				Probe struct {
					Good, Window   int
					Probes, Seeded int
					From           string `json:"seeded_from"`
				}
			}
		}
		if err := json.Unmarshal([]byte(c.AdminGet("/v1/backends/"+name).Body), &is); err != nil {
			t.Fatal(err)
		}
		if p := is.Health.Probe; p.Good != good || p.Window != 8 || p.From != "a" || p.Seeded < 8 || p.Probes != p.Seeded {
			t.Errorf("%s: %+v, want %d good of 8, all of a's", name, p, good)
		}
	}
	if n := c.Metric("roster_probers_seeded"); n != 2 {
		t.Errorf("%v checks were seeded, want 2", n)
	}

	// One with a certificate of another CA, and one that does not trust the others, say what is
	// wrong, and start without them.
	for want, trusted := range map[string]string{
		"it refuses the certificate of --peer-tls-cert": other.PEM + ca.PEM,
		"is not of --peer-tls-ca":                       other.PEM,
	} {
		p := node("stranger", append(peerArgs(t, other, trusted), "--ready-timeout", "1ms"))
		p.Start()
		p.WaitReady()
		if log := p.Log(); !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
		p.Kill()
	}
}
