package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"roster/store"
	"roster/store/storetest"
)

// shell runs command lines on an etcd of its own.
type shell struct {
	t    *testing.T
	etcd *storetest.Member
	dir  string
}

func newShell(t *testing.T, tune ...func(*embed.Config)) *shell {
	return &shell{t, storetest.Etcd(t, tune...), t.TempDir()}
}

// file writes a file and returns its name.
func (s *shell) file(text string) string {
	s.t.Helper()
	name := filepath.Join(s.dir, "f.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return name
}

func (s *shell) run(args ...string) result {
	s.t.Helper()
	return try(s.t, map[string]string{"ROSTER_ETCD": s.etcd.Endpoint()}, "", args...)
}

// want runs a command line that is to end with a code, and to say some things.
func (s *shell) want(code int, line string, says ...string) result {
	s.t.Helper()
	got := s.run(strings.Fields(line)...)
	if got.code != code {
		s.t.Fatalf("roster %s: %+v, want code %d", line, got, code)
	}
	for _, text := range says {
		if !strings.Contains(got.out+got.errors, text) {
			s.t.Fatalf("roster %s\ngot  %+v\nwant %q", line, got, text)
		}
	}
	return got
}

func TestPruneDeletesWhatTheOwnerHasAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend other host=h")
	both := s.file("backends:\n  a: {host: a}\n  b: {host: b}\n  c: {host: c}\n")
	s.want(2, "apply --prune -f "+both, "name the owner with --owner")
	s.want(0, "apply --owner web --prune -f "+both, "3 created, 0 changed, 0 unchanged")
	s.want(0, "delete backend c")
	s.want(0, "put backend c host=c") // made anew by somebody else
	one := s.file("backends:\n  a: {host: a, port: 81}\n")
	s.want(0, "apply --owner web --prune --dry-run -f "+one, "would change backends/a: + port: 81", "would delete backends/b", "0 to create, 1 to change, 1 to delete, 0 unchanged; nothing was written", "1 removed", "c is not web's any more")
	s.want(1, "diff --owner web --prune -f "+one, "--- etcd backends/b, revision 3\n+++ /dev/null", "-    host: b")
	s.want(0, "apply --owner web -f "+one, "0 created, 1 changed, 0 unchanged") // b stays, and web's
	s.want(0, "apply --owner web --prune -f "+one, "deleted backends/b", "1 deleted, 1 unchanged")
	s.want(0, "get backends", "other", "\nc ", "\na ")
	s.want(4, "apply --owner shop -f "+one, "backends/a is owned by web; --force takes it over")
	s.want(0, "apply --owner shop --force -f "+one, "1 unchanged")
	s.want(0, "apply --owner web --prune -f "+s.file("backends:\n  x: {host: x}\n"), "1 created")
	s.want(1, "apply --owner web --prune -f "+s.file("backends:\n"), "would delete all 1 definitions of the owner web", "--force")
	s.want(0, "apply --owner web --prune --force -f "+s.file("backends:\n"), "deleted backends/x")
	s.want(0, "get backend a")
	s.want(2, "apply --owner 1 -f "+both, "--owner: ")
}

func TestDryRunSaysWhatANodeWouldDo(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "apply -f "+s.file("probes: {default: {url: /up}}\nbackends:\n  a: {host: a, labels: {app: web}}\n  b: {host: b}\ndirectors:\n  www: {type: random, select: {app: web}}\n"))
	f := s.file("backends:\n  a: {host: a, labels: {app: web}, comment: new}\n  b: {host: b, port: 81, labels: {app: web}}\nroutes:\n  r: {backend: nobody}\n")
	s.want(0, "apply --dry-run -f "+f,
		"would change backends/a: + comment: new", "a node would:", "backends: 0 added, 2 changed, 0 removed",
		"pools of connections: 1 kept, 1 new, 1 closed", "probers: 1 kept with their history, 1 new, 1 ended",
		"director www: members, gains b", "dangling: routes/r names nobody, which is not there")
	var report dryRunReport
	if err := json.Unmarshal([]byte(s.want(0, "apply --dry-run -o json -f "+f).out), &report); err != nil || len(report.Steps) != 3 || report.Effect.Pools.New != 1 {
		t.Errorf("%v, %+v", err, report)
	}
	s.want(0, "get routes", "NAME") // nothing was written
	if got := s.run("get", "routes"); strings.Contains(got.out, "nobody") {
		t.Error("a dry run wrote")
	}
}

// With etcd's own limit a large set is refused, and written in parts only if that is said.
func TestLargeSetsAreSplitOnlyIfThatIsSaid(t *testing.T) {
	t.Parallel()
	s := newShell(t, func(c *embed.Config) { storetest.Fast(c); c.MaxTxnOps = 128 })
	var b strings.Builder
	b.WriteString("directors:\n  all: {type: random, backends: [b0, b299]}\nbackends:\n")
	for i := range 300 {
		fmt.Fprintf(&b, "  b%d: {host: h, port: %d}\n", i, i+1)
	}
	f := s.file(b.String())
	s.want(1, "apply --owner web -f "+f, "302 keys are too many for one transaction of this etcd, which takes 128", "--max-txn-ops", "--non-atomic")
	s.want(0, "get backends", "NAME")
	s.want(0, "apply --owner web --non-atomic -f "+f, "301 created")
	// The director comes after all backends.
	entries, _, err := s.etcd.Store().List(t.Context(), "", "", 0)
	if err != nil || len(entries) != 301 {
		t.Fatal(len(entries), err)
	}
	var director, newest int64
	for _, e := range entries {
		if e.Key.Kind == store.Directors {
			director = e.ModRevision
		} else {
			newest = max(newest, e.ModRevision)
		}
	}
	if director < newest {
		t.Errorf("the director is of revision %d, a backend of %d", director, newest)
	}
	s.want(0, "apply --owner web --prune --non-atomic -f "+s.file("backends:\n  b0: {host: h, port: 1}\n"), "300 deleted, 1 unchanged")
	s.want(0, "diff --owner web --prune -f "+filepath.Join(s.dir, "f.yaml"))
}

func TestDiffHasDiffsExitCodes(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend a host=h comment=old")
	same := s.file("backends: {a: {comment: old, host: h, port: 80}}\n")
	s.want(5, "diff --etcd 127.0.0.1:1 -f "+same, "etcd does not answer")
	if got := s.want(0, "diff -f "+same); got.out != "" {
		t.Errorf("equal: %q", got.out)
	}
	f := s.file("backends:\n  a: {host: h, comment: new}\n  b: {host: i}\n")
	got := s.want(1, "diff -f "+f)
	want := "--- etcd backends/a, revision 2\n+++ " + f + ":2 backends/a\n@@ -1,4 +1,4 @@\n backends:\n   a:\n     host: h\n-    comment: old\n+    comment: new\n" +
		"--- /dev/null\n+++ " + f + ":3 backends/b\n@@ -0,0 +1,3 @@\n+backends:\n+  b:\n+    host: i\n"
	if got.out != want || got.errors != "" {
		t.Errorf("got\n%s%s\nwant\n%s", got.out, got.errors, want)
	}
	s.want(1, "diff -o json -f "+f, `"comment: old -> new"`)
	s.want(2, "diff -f none.yaml", "none.yaml")
	s.want(3, "diff -f "+s.file("backends: {a: {hst: h}}"), "hst")
}

func TestHistoryAndRollback(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend a host=h")         // 2
	s.want(0, "put backend a host=h port=81") // 3
	s.want(0, "put backend b host=b")         // 4
	s.want(0, "delete backend a")             // 5
	s.want(0, "put health b drain")           // 6
	got := s.want(0, "history backend a")
	want := "REVISION  ACTION  LEASE  WHAT\n5         delete  -      \n3         change  -      + port: 81\n2         create  -      {\"host\":\"h\"}\n"
	if got.out != want {
		t.Errorf("got\n%s\nwant\n%s", got.out, want)
	}
	s.want(0, "history --limit 1", "6         health/b  create  -      drain\nand 4 older ones")
	s.want(0, "history -o json --since 5", `"action": "delete"`)
	s.want(1, "history backend none", "there is no backend none, and there was none")
	s.want(2, "rollback", "--revision N says what to go back to")
	s.want(1, "rollback --revision 99", "etcd is at revision 6, and has no revision 99 yet")
	s.want(1, "rollback --revision 3 backend none", "neither now nor at revision 3")
	s.want(0, "rollback --revision 3 --dry-run", "would create backends/a", "would delete backends/b", "nothing was written", "note: 1 overrides of health stay")
	s.want(0, "rollback --revision 2 backend a", "created backends/a", "1 created, 0 changed, 0 unchanged, at revision 7")
	s.want(0, "get backend a -o yaml", "host: h\n")
	s.want(0, "rollback --revision 3", "changed backends/a", "deleted backends/b", "0 created, 1 changed, 1 deleted")
	s.want(0, "rollback --revision 3 --revision 3", "0 created, 0 changed, 1 unchanged")
	s.want(0, "rollback --revision 2 health", "deleted health/b")

	s.etcd.Compact(4)
	s.want(0, "history backend a", "is ", "what was before revision 4 is compacted away")
	s.want(1, "rollback --revision 3", "etcd does not have revision 3 any more")
	s.want(1, "history --since 3", "compacted")
}

// What is as it was needs no revision that no member will ever come to.
func TestRollbackOfNothingIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend a host=h") // 2
	if _, err := s.etcd.Client().Put(t.Context(), "/elsewhere", ""); err != nil {
		t.Fatal(err)
	}
	member(t, s.etcd.Store(), "n", store.Presence{Revision: 2}, time.Hour)
	s.want(0, "rollback --revision 2 --wait --wait-timeout 1s", "1 unchanged", "n: done after", "applied by all members, 1,")
	s.want(0, "rollback --revision 2 routes --wait --wait-timeout 1s", "0 unchanged", "n: done after")
}

func TestRollbackLeavesWhatIsUnderALease(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	st := s.etcd.Store()
	lease, err := st.Grant(t.Context(), 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, lease int64) {
		if _, err := st.Apply(t.Context(), []store.Op{{Key: store.Key{Kind: store.Backends, Name: name}, Value: []byte(`{"host":"h"}`), IfRevision: store.AnyRevision, Lease: lease}}); err != nil {
			t.Fatal(err)
		}
	}
	put("gone", lease) // 2
	s.want(0, "delete backend gone")
	put("late", lease) // 4
	put("mine", 0)
	s.want(0, "rollback --revision 2", "backends/gone stays as it is: it was under a lease, which has ended",
		"backends/late stays as it is: it is under a lease now", "deleted backends/mine")
	s.want(0, "get backend late")
}

// A put takes a definition off its lease, and says so; an override is put over others all
// the time.
func TestPutOverALeaseSaysSo(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	st := s.etcd.Store()
	lease, err := st.Grant(t.Context(), 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Kind: store.Backends, Name: "web"}
	if _, err := st.Apply(t.Context(), []store.Op{{Key: key, Value: []byte(`{"host":"h"}`), IfRevision: store.AnyRevision, Lease: lease}}); err != nil {
		t.Fatal(err)
	}
	const note = "roster: note: backends/web was under a lease"
	if got := s.want(0, "put backend web host=h", "put backends/web at revision 3"); !strings.Contains(got.errors, note) {
		t.Errorf("%+v, want %q on stderr", got, note)
	}
	for _, line := range []string{"put backend web host=i", "health web sick --for 1h", "put health web drain"} {
		if got := s.want(0, line); strings.Contains(got.errors, "under a lease") {
			t.Errorf("%s: %+v, want nothing of a lease", line, got)
		}
	}
}

// lines is a writer that tells when a line came.
type lines struct {
	mu  sync.Mutex
	all string
	ch  chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all += string(b)
	select {
	case l.ch <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *lines) until(t *testing.T, text string) {
	t.Helper()
	for {
		l.mu.Lock()
		all := l.all
		l.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-l.ch:
		case <-t.Context().Done():
			t.Fatalf("the test ends without %q in %q", text, all)
		}
	}
}

func TestWatchShowsChangesAndWhatItMissed(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend a host=h")
	s.want(0, "put backend a host=h port=81")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &lines{ch: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"watch", "--since", "3", "--etcd", s.etcd.Endpoint()}, streams{nil, out, out}, func(string) (string, bool) { return "", false })
	}()
	out.until(t, "3 change backends/a: + port: 81\n")
	s.want(0, "delete backend a")
	out.until(t, "4 delete backends/a\n")
	s.etcd.Restart()
	s.want(0, "put route r backend=a --timeout 10s")
	out.until(t, "5 create routes/r: {\"backend\":\"a\"}\n")
	cancel()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d", code)
	}
	s.want(1, "watch --since 99", "etcd has not reached revision 99 yet")

	// What lies behind a compaction is told as a difference.
	w := &following{st: s.etcd.Store(), out: out, err: out}
	if err := w.begin(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	s.want(0, "put backend b host=b")
	s.etcd.Compact(6)
	if err := w.catchUp(t.Context(), store.ErrCompacted); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"compacted revisions that were not seen, 3 to 6 at most", "6 delete backends/a\n", "6 create backends/b: {\"host\":\"b\"}\n", "5 create routes/r"} {
		out.until(t, text)
	}
	s.want(1, "watch --since 3", "etcd does not have revision 2 any more")
}

// "roster watch | head -1" ends with head, although nothing is written after that line.
func TestWatchEndsWhenNobodyReadsAnyMore(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend a host=h")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended := make(chan int, 1)
	go func() {
		ended <- run(t.Context(), []string{"watch", "--since", "2", "--etcd", s.etcd.Endpoint()}, streams{nil, w, os.Stderr}, func(string) (string, bool) { return "", false })
	}()
	line := make([]byte, 100)
	if n, err := r.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "2 create backends/a") {
		t.Fatalf("%q, %v", line[:n], err)
	}
	r.Close()
	select {
	case code := <-ended:
		if code != exitDone {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("it watches on for nobody")
	}
}

func TestErrorsAreJSONWhereTheOutputIs(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	var f failure
	got := s.want(3, "put backend a hst=h port=0 -o json")
	if err := json.Unmarshal([]byte(got.errors), &f); err != nil || f.Code != 3 || len(f.Errors) != 3 {
		t.Errorf("%v: %s", err, got.errors)
	}
	got = s.want(1, "get backend none -o json")
	if err := json.Unmarshal([]byte(got.errors), &f); err != nil || f.Code != 1 || len(f.Errors) != 1 {
		t.Errorf("%v: %s", err, got.errors)
	}
}

func TestAllFlagsThatDoNotParseAreReported(t *testing.T) {
	t.Parallel()
	got := try(t, nil, "", "apply", "--timeout", "5", "-f", "x", "--wiat", "--wait-timeout=1", "-o")
	want := []string{`invalid argument "5" for "--timeout" flag`, "unknown flag: --wiat, did you mean --wait?", `invalid argument "1" for "--wait-timeout" flag`, "flag needs an argument: -o"}
	if got.code != exitUsage || strings.Count(got.errors, "\n") != len(want) {
		t.Errorf("%+v", got)
	}
	for _, text := range want {
		if !strings.Contains(got.errors, text) {
			t.Errorf("%s\nwant %s", got.errors, text)
		}
	}
}

func TestNamesOfAKindAreCompletedFromEtcd(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend web-1 host=h")
	s.want(0, "put backend web-2 host=h")
	s.want(0, "put director www type=random backends=web-1")
	for line, want := range map[string]string{
		"get backend ":              "web-1\nweb-2\n:4\n",
		"get backend web-2":         "web-2\n:4\n",
		"delete backend web-1 web-": "web-2\n:4\n",
		"history director ":         "www\n:4\n",
		"rollback ba":               "backends\n",
		"watch probes ":             ":4\n",
		"probe ":                    "web-1\nweb-2\n:4\n",
		"probe web-1 ":              ":4\n",
		"probe --backend web-":      "web-1\nweb-2\n:4\n",
		"get backends -o ":          "table\njson\nyaml\nwide\n:4\n",
	} {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		if got := s.run(args...); got.code != 0 || !strings.HasPrefix(got.out, want) {
			t.Errorf("%q: %+v, want %q", line, got, want)
		}
	}
	if got := try(t, map[string]string{"ROSTER_ETCD": "127.0.0.1:1"}, "", "__complete", "get", "backend", ""); got.code != 0 || got.out != ":4\n" {
		t.Errorf("etcd away: %+v", got)
	}
}
