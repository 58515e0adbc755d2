package prober

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"roster/pool"
	"roster/store"
)

// golden compares got with a file in testdata, or writes that with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// A backend's probe as it is shown, through all that may happen to it.
func TestRender(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80")
		r := m.mustAcquire(t, check(t, "10.0.0.7", `{"timeout": "1s"}`), Use{Judge: Judge{8, 3, 2}})
		socket := n.at("/run/app").does(silence)
		other := m.mustAcquire(t, CheckOf(decode[*store.Backend](t, store.Backends, `{"path": "/run/app"}`), probeOf(t, `{}`), pool.Deps{}),
			Use{Judge: Judge{64, 64, 64}})
		defer r.Release()
		defer other.Release()
		var b strings.Builder
		show := func(title string, r *Ref) {
			s := r.Snapshot()
			fmt.Fprintf(&b, "%s\n%s", title, s.Render())
		}
		show("new", r)
		until := func(n uint64) {
			for r.Snapshot().Probes < n {
				time.Sleep(time.Second)
			}
			synctest.Wait()
		}
		until(1)
		show("refused", r)
		p.does(func(c net.Conn) { request(c); time.Sleep(10 * time.Millisecond); io.WriteString(c, okay) })
		until(5)
		show("then four good ones", r)
		p.does(silence)
		until(8)
		show("then three without an answer", r)
		p.does(bad)
		until(70)
		show("then a wrong status, long", r)
		socket.does(good)
		for other.Snapshot().Probes < 80 {
			time.Sleep(time.Second)
		}
		show("over a socket, silent for a time", other)
		golden(t, "render", b.String())
	})
}

// A run of a check as it is shown: what was sent, what came, when, and the verdict.
func TestRenderReport(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, row := range []struct {
		title, backend, probe string
		serve                 func(net.Conn)
	}{
		{"good", `{"host": "10.0.0.7"}`, `{}`, func(c net.Conn) { request(c); time.Sleep(1234567); io.WriteString(c, okay) }},
		{"wrong, behind a PROXY header", `{"host": "10.0.0.7", "proxy_header": 1}`, `{"expect_close": false}`, bad},
		{"garbage", `{"host": "10.0.0.7"}`, `{"request": ["GET / HTTP/1.0"]}`, says("\x00\xff\r\n\t<b>\r\n" + strings.Repeat("long ", 40_000))},
		{"nothing comes", `{"host": "10.0.0.7"}`, `{}`, silence},
		{"nobody there", `{"host": "10.0.0.7"}`, `{}`, nil},
		{"connects", `{"host": "10.0.0.7"}`, `{"type": "tcp"}`, silence},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.at("10.0.0.7:80").does(row.serve)
			c := CheckOf(decode[*store.Backend](t, store.Backends, row.backend), probeOf(t, row.probe), pool.Deps{})
			r, err := Once(t.Context(), n.pools(), c)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "== %s\n%s", row.title, r.Render())
		})
	}
	golden(t, "report", b.String())
}

// List has each prober once, in the order of their making, and says how it is.
func TestList(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.1:80").does(good)
		n.at("10.0.0.2:80").does(silence)
		var refs []*Ref
		for _, host := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"} {
			refs = append(refs, m.mustAcquire(t, check(t, host, `{}`), Use{Judge: judge}))
		}
		synctest.Wait()
		var got []string
		for _, s := range m.List() {
			got = append(got, fmt.Sprintf("%v users=%d active=%v probes=%d good=%d stage=%q due=%v",
				s.Check, s.Users, s.Active, s.History.Probes, s.History.GoodProbes, s.History.Stage, s.Due > 0))
		}
		want := []string{
			`GET / at 10.0.0.1:80 users=2 active=false probes=1 good=1 stage="" due=true`,
			`GET / at 10.0.0.2:80 users=1 active=true probes=0 good=0 stage="" due=false`,
			`GET / at 10.0.0.3:80 users=1 active=false probes=1 good=0 stage="connect" due=true`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("List differs (-want +got):\n%s", diff)
		}
		for _, r := range refs {
			r.Release()
		}
		if got := m.List(); len(got) != 0 {
			t.Errorf("after the last release: %v", got)
		}
	})
}

func TestLatenessQuantile(t *testing.T) {
	t.Parallel()
	var l Lateness
	if got := l.Quantile(0.99); got != 0 {
		t.Errorf("of nothing: %v, want 0", got)
	}
	for i := range 100 {
		l.add(time.Duration(i) * time.Millisecond)
	}
	l.add(time.Minute)
	for q, want := range map[float64]time.Duration{0.01: time.Millisecond, 0.5: 64 * time.Millisecond, 0.99: 128 * time.Millisecond, 1: time.Minute} {
		if got := l.Quantile(q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
}
