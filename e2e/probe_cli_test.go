package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// The commands that show health, against a node and its etcd.
func TestCommandsShowHealth(t *testing.T) {
	t.Parallel()
	p := newProbePlane(t)
	well, ill := startProbed(t, "well"), startProbed(t, "ill")
	ill.ill.Store(true)
	p.put("backends/team-a/well", well.definition(8, 3, 2, "20ms"), "backends/ill", ill.definition(8, 3, 2, "20ms"),
		"backends/off", at(well.Socket, `"probe":"none"`), "health/off", `{"state":"drain","reason":"new disks"}`)
	harness.Until(t, "eight good probes", func() (bool, any) {
		h := p.namedHealth("team-a/well")
		return h.Probe.Good == 8, h
	})
	p.waitNamed("ill", "sick")
	ill.more(t, 8)

	roster := func(code int, args ...string) (out string) {
		t.Helper()
		env := []string{"ROSTER_ETCD=" + p.Endpoints(), "ROSTER_ADMIN=" + p.AdminAddress()}
		r := harness.Run(t, "", env, harness.Roster(t), args...)
		if r.Code != code {
			t.Errorf("roster %s: %v\nwant code %d", strings.Join(args, " "), r, code)
		}
		return r.Stdout + r.Stderr
	}
	has := func(out string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%q is not in\n%s", part, out)
			}
		}
	}
	rows := strings.Repeat("R", 8) + " Good Recv"
	list := roster(0, "get", "backends", "-v")
	has(list, "Backend name  Admin    Probe  Health   Last change\n", "team-a/well   probe    8/8    healthy  ", "ill           probe    0/8    sick     ",
		"off           drain    0/0    sick     ", " Current states  good:  8 threshold:  3 window:  8\n", rows, "HHHHHHHH Happy\n",
		"  Last probe failed: status: HTTP/1.1 500 Sick, want 200\n")
	if got := roster(0, "get", "backend", "team-a/well", "-v"); strings.Contains(got, "ill ") || !strings.Contains(got, rows) {
		t.Errorf("one backend:\n%s", got)
	}
	if got := roster(0, "get", "backends", "team-a/", "-v"); strings.Contains(got, "off ") || !strings.Contains(got, rows) {
		t.Errorf("those of a team:\n%s", got)
	}
	has(roster(1, "get", "backend", "web-9", "-v"), "has no backend web-9")
	has(roster(1, "get", "backends", "-v", "--admin", harness.FreeAddress(t)), "does not answer")
	var items struct {
		Items []struct {
			Name   string
			Health struct {
				State, Admin string
				Probe        *struct {
					Good int
					Rows []struct{ Name, Label, Bits, Row string }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(roster(0, "get", "backends", "-v", "-o", "json")), &items); err != nil {
		t.Fatal(err)
	}
	if len(items.Items) != 3 || items.Items[2].Health.Probe == nil || len(items.Items[2].Health.Probe.Rows) != 8 || items.Items[1].Health.Probe != nil {
		t.Errorf("JSON: %+v", items)
	}

	has(roster(0, "status"), "healthy: 1 backends, sick: 2\n", "sick on n1: ill since ", ": status: HTTP/1.1 500 Sick, want 200\n",
		"sick on n1: off since ", ": the operator says drain: new disks\n")
	has(roster(0, "status", "-v"), "\nnode n1\nBackend name ", rows)
	has(roster(0, "status", "-v", "-o", "json"), `"good": 8,`, `"label": "Good Recv"`)

	has(roster(0, "probe", "team-a/well"), "\n> GET / HTTP/1.1\n", "\n< HTTP/1.1 200 OK\n", "\ngood after ")
	has(roster(1, "probe", "--backend", "ill"), "\n< HTTP/1.1 500 Sick\n", "\nbad after ", "roster: the check of ill was bad: status: HTTP/1.1 500 Sick, want 200\n")
	has(roster(1, "probe", "off"), "it is not probed, and counts as healthy")
	has(roster(5, "probe", "ill", "--etcd", harness.FreeAddress(t), "--timeout", "1s"), "etcd does not answer")
	p.etcd.Put(t.Context(), "/roster/backends/wrong", `{"hst":"x"}`)
	has(roster(3, "probe", "wrong"), "hst: is not a field of a backend")
}

// roster probe goes the ways that a node's probes go.
func TestProbeCommandGoesEveryWay(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	ca := newIssuer(t)
	secure := startH2Origin(t, ca)
	gate, unix := harness.Listen(t), harness.ListenUnix(t)
	put := func(name, def string) { etcd.Put("/roster/backends/"+name, def) }
	probe := func(code int, name string) string {
		t.Helper()
		r := harness.CLI(t, "probe", name, "--etcd", etcd.Endpoints())
		if r.Code != code {
			t.Errorf("%s: %v, want code %d", name, r, code)
		}
		return r.Stdout
	}
	put("h2", secure.definition(fmt.Sprintf(`"protocol":"h2","tls":{%s},"probe":{}`, ca.trust())))
	if out := probe(0, "h2"); !strings.Contains(out, "over h2") || !strings.Contains(out, "HTTP/2 200") {
		t.Errorf("%s", out)
	}
	put("untrusted", secure.definition(`"protocol":"h2","tls":{},"probe":{}`))
	if out := probe(1, "untrusted"); !strings.Contains(out, "handshake: ") {
		t.Errorf("%s", out)
	}
	gate.Each(func(w *harness.Wire) {
		if _, err := w.ReadLine(); err == nil {
			fmt.Fprint(w, closed)
		}
	})
	unix.Each(func(w *harness.Wire) {
		w.ReadRequest()
		fmt.Fprint(w, closed)
	})
	put("gate", at(gate, `"probe":"none"`))
	put("far", `{"host":"192.0.2.1","via":"gate","probe":{"expect_close":false}}`)
	if out := probe(0, "far"); !strings.Contains(out, ", via gate, ") || !strings.Contains(out, `> QUIT`) {
		t.Errorf("%s", out)
	}
	put("unix", at(unix, `"probe":{}`))
	if out := probe(0, "unix"); !strings.Contains(out, "> Host: localhost\n") {
		t.Errorf("%s", out)
	}
	put("named", fmt.Sprintf(`{"host":"localhost","port":%s,"probe":{"type":"tcp"}}`, gate.Port()))
	if out := probe(0, "named"); !strings.Contains(out, "connect to localhost:") {
		t.Errorf("%s", out)
	}
	put("lost", `{"host":"no.such.host.invalid","probe":{}}`)
	if out := probe(1, "lost"); !strings.Contains(out, "resolve: ") {
		t.Errorf("%s", out)
	}
}
