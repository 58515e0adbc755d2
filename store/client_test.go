package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"roster/store"
	"roster/store/storetest"
)

var web1 = store.Key{Kind: store.Backends, Name: "web-1"}

func backend(name string) store.Key { return store.Key{Kind: store.Backends, Name: name} }

// put writes without a condition and returns the revision.
func put(t *testing.T, s *store.Store, key store.Key, value string) int64 {
	t.Helper()
	rev, err := s.Put(t.Context(), key, []byte(value), store.AnyRevision)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestOpenDoesNotWaitForEtcd(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, cfg := range []store.Config{
		{Endpoints: []string{"127.0.0.1:1"}},
		{Endpoints: []string{"127.0.0.1:1"}, User: "a", Password: "b"},
		{Endpoints: []string{"https://127.0.0.1:1"}},
	} {
		start := time.Now()
		s, err := store.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 2*time.Second { // of 3 a dial may take
			t.Errorf("Open took %v", took)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	at := []string{"etcd.example"}
	for _, test := range []struct {
		name string
		cfg  store.Config
		want string
	}{
		{"no endpoint", store.Config{}, "no etcd endpoint given"},
		{"scheme", store.Config{Endpoints: []string{"ftp://x"}}, `endpoint "ftp://x": scheme is "ftp", want http or https`},
		{"path", store.Config{Endpoints: []string{"http://x/y"}}, `endpoint "http://x/y": more than an address, want HOST:PORT or a URL`},
		{"empty", store.Config{Endpoints: []string{""}}, `endpoint "": no host in it, want HOST:PORT or a URL`},
		{"port", store.Config{Endpoints: []string{"x:y"}}, `endpoint "x:y": not an address, want HOST:PORT or a URL`},
		{"port 0", store.Config{Endpoints: []string{"x:0"}}, `endpoint "x:0": port is 0, want 1 to 65535`},
		{"port above all", store.Config{Endpoints: []string{"x:65536"}}, `endpoint "x:65536": port is 65536, want 1 to 65535`},
		{"IPv6 without brackets", store.Config{Endpoints: []string{"::1"}}, `endpoint "::1": not an address, want HOST:PORT or a URL`},
		{"double slash", store.Config{Endpoints: at, Prefix: "/roster//"}, `prefix is "/roster//", want single "/" in it`},
		{"negative request time-out", store.Config{Endpoints: at, RequestTimeout: -1}, "request time-out is -1ns, want 0 or more"},
		{"negative dial time-out", store.Config{Endpoints: at, DialTimeout: -1}, "dial time-out is -1ns, want 0 or more"},
		{"negative page", store.Config{Endpoints: at, PageSize: -1}, "page size is -1, want 0 or more"},
		{"mixed", store.Config{Endpoints: []string{"https://x", "http://y"}}, "some endpoints are https and some are not, want all or none"},
		{"http with a CA", store.Config{Endpoints: []string{"http://x"}, CA: "ca"}, `endpoint "http://x": it is not https, but files for TLS are given`},
		{"relative prefix", store.Config{Endpoints: at, Prefix: "roster/"}, `prefix is "roster/", want it to begin with "/"`},
		{"bare prefix", store.Config{Endpoints: at, Prefix: "/"}, `prefix is "/", want a name in it, as in "/roster/"`},
		{"user alone", store.Config{Endpoints: at, User: "a"}, "etcd user a without a password"},
		{"password alone", store.Config{Endpoints: at, Password: "s"}, "an etcd password without a user"},
		{"two passwords", store.Config{Endpoints: at, User: "a", Password: "s", PasswordFile: "f"}, "an etcd password and a file with one, want either"},
		{"empty password file", store.Config{Endpoints: at, User: "a", PasswordFile: file("empty", "\n")}, "is empty"},
		{"no password file", store.Config{Endpoints: at, User: "a", PasswordFile: filepath.Join(dir, "none")}, "no such file"},
		{"no CA file", store.Config{Endpoints: at, CA: filepath.Join(dir, "none")}, "etcd CA: open"},
		{"bad CA file", store.Config{Endpoints: at, CA: file("ca", "?")}, "etcd CA: no certificate in"},
		{"cert alone", store.Config{Endpoints: at, Cert: "c"}, "a client certificate for etcd without its key"},
		{"key alone", store.Config{Endpoints: at, KeyFile: "k"}, "the key of a client certificate for etcd without the certificate"},
	} {
		s, err := store.Open(test.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error, want %q", test.name, test.want)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		} else if v := test.cfg.Validate(); v == nil || v.Error() != err.Error() {
			t.Errorf("%s: Validate says %v, Open %v", test.name, v, err)
		}
	}
}

func TestOpenReportsAllThatIsWrongAtOnce(t *testing.T) {
	t.Parallel()
	_, err := store.Open(store.Config{
		Endpoints: []string{"ftp://x", "etcd:0", "etcd"}, Prefix: "roster", User: "a", CA: "none.pem", PageSize: -1,
	})
	var all *multierror.Error
	if !errors.As(err, &all) || len(all.Errors) != 6 {
		t.Errorf("got %v, want 6 errors", err)
	}
}

func TestOpenFillsIn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		endpoint, prefix         string
		wantEndpoint, wantPrefix string
	}{
		{"etcd-1", "", "http://etcd-1:2379", "/roster/"},
		{" etcd-1:4001 ", "/a", "http://etcd-1:4001", "/a/"},
		{"https://etcd-1/", "/a/b/", "https://etcd-1:2379", "/a/b/"},
		{"[::1]", "", "http://[::1]:2379", "/roster/"},
		{"[::1]:1", "", "http://[::1]:1", "/roster/"},
	} {
		s := storetest.Open(t, store.Config{Endpoints: []string{test.endpoint}, Prefix: test.prefix})
		if got := s.Client().Endpoints()[0]; got != test.wantEndpoint || s.Prefix() != test.wantPrefix {
			t.Errorf("%q, prefix %q: got %s, %s, want %s, %s", test.endpoint, test.prefix, got, s.Prefix(), test.wantEndpoint, test.wantPrefix)
		}
	}
}

func TestPutWritesOnlyAtTheRevisionAskedFor(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	var conflict *store.ConflictError
	check := func(err error, want store.ConflictError) {
		t.Helper()
		if !errors.Is(err, store.ErrConflict) || !errors.As(err, &conflict) || *conflict != want {
			t.Errorf("got %v, want %v", err, &want)
		} else if strings.Count(err.Error(), want.Key.String()) != 1 {
			t.Errorf("got %v, which does not name the key once", err)
		}
	}
	_, err := s.Put(t.Context(), web1, []byte("0"), 7)
	check(err, store.ConflictError{Key: web1, Want: 7, Found: 0})
	first, err := s.Put(t.Context(), web1, []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Put(t.Context(), web1, []byte("2"), 0)
	check(err, store.ConflictError{Key: web1, Want: 0, Found: first})
	second, err := s.Put(t.Context(), web1, []byte("3"), first)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Put(t.Context(), web1, []byte("4"), first)
	check(err, store.ConflictError{Key: web1, Want: first, Found: second})
	_, _, err = s.Delete(t.Context(), web1, first)
	check(err, store.ConflictError{Key: web1, Want: first, Found: second})
	if e, _, err := s.Get(t.Context(), web1, 0); err != nil || string(e.Value) != "3" || e.ModRevision != second || e.CreateRevision != first || e.Version != 2 {
		t.Errorf("at the end %+v, %v", e, err)
	}
	third := put(t, s, web1, "5") // any
	if _, existed, err := s.Delete(t.Context(), web1, third); err != nil || !existed {
		t.Errorf("delete at %d: existed %v, %v", third, existed, err)
	}
	if _, existed, err := s.Delete(t.Context(), web1, store.AnyRevision); err != nil || existed {
		t.Errorf("delete of nothing: existed %v, %v", existed, err)
	}
	_, _, err = s.Delete(t.Context(), web1, third)
	check(err, store.ConflictError{Key: web1, Want: third, Found: 0})
}

func TestConcurrentChangesAreNeverLost(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	put(t, s, web1, "0")
	const writers, each = 8, 10
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for done := 0; done < each; {
				e, _, err := s.Get(t.Context(), web1, 0)
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(e.Value))
				_, err = s.Put(t.Context(), web1, []byte(strconv.Itoa(n+1)), e.ModRevision)
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if e, _, err := s.Get(t.Context(), web1, 0); err != nil || string(e.Value) != strconv.Itoa(writers*each) {
		t.Errorf("after %d increments %s, %v", writers*each, e.Value, err)
	}
}

func TestApplyIsOneRevision(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	s := m.Store()
	old := put(t, s, backend("old"), "x")
	lease, err := m.Client().Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := s.Apply(t.Context(), []store.Op{
		{Key: backend("old"), IfRevision: old},
		{Key: backend("new"), Value: []byte("y"), Lease: int64(lease.ID)},
		{Key: backend("empty"), Value: []byte{}, IfRevision: store.AnyRevision},
		{Key: backend("absent"), IfRevision: store.AnyRevision},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, at, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Entry{
		{Key: backend("empty"), CreateRevision: rev, ModRevision: rev, Version: 1},
		{Key: backend("new"), CreateRevision: rev, ModRevision: rev, Version: 1, Lease: int64(lease.ID), Value: []byte("y")},
	}
	if diff := cmp.Diff(want, got); diff != "" || at != rev {
		t.Errorf("at %d, want %d; -want +got\n%s", at, rev, diff)
	}
	if same, err := s.Apply(t.Context(), nil); err != nil || same != rev {
		t.Errorf("nothing applied: revision %d, %v, want %d", same, err, rev)
	}
}

func TestApplyDoesNothingIfAnyConditionFails(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	a := put(t, s, backend("a"), "1")
	b := put(t, s, backend("b"), "1")
	_, err := s.Apply(t.Context(), []store.Op{
		{Key: backend("free"), Value: []byte("2"), IfRevision: store.AnyRevision},
		{Key: backend("a"), Value: []byte("2"), IfRevision: a},
		{Key: backend("b"), Value: []byte("2"), IfRevision: 0},
		{Key: backend("c"), IfRevision: 5},
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	for _, want := range []string{fmt.Sprintf("backends/b exists already, at revision %d", b), "backends/c does not exist, want it at revision 5"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "backends/a") {
		t.Errorf("%v names a key that was as asked for", err)
	}
	if _, rev, err := s.List(t.Context(), "", "", 0); err != nil || rev != b {
		t.Errorf("etcd is at revision %d, %v, want %d: nothing written", rev, err, b)
	}
}

func TestApplyRefusesAKeyThatIsInItTwice(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, store.Config{Endpoints: []string{"127.0.0.1:1"}})
	_, err := s.Apply(t.Context(), []store.Op{{Key: web1}, {Key: web1, Value: []byte("x")}})
	if err == nil || !strings.Contains(err.Error(), "backends/web-1 is in it twice") {
		t.Errorf("got %v", err)
	}
}

func TestASetTooLargeIsRefusedWithTheLimitNamed(t *testing.T) {
	t.Parallel()
	// With the race detector on a busy machine etcd takes seconds for so many keys.
	ours := storetest.Open(t, store.Config{Endpoints: []string{storetest.Etcd(t).Endpoint()}, RequestTimeout: time.Minute})
	small := storetest.Etcd(t, func(ec *embed.Config) { ec.MaxTxnOps, ec.MaxRequestBytes = 128, 100_000 }).Store()
	set := func(n, bytes int) (ops []store.Op) {
		for i := range n {
			ops = append(ops, store.Op{Key: backend(fmt.Sprintf("b%d", i)), Value: make([]byte, bytes), IfRevision: 0})
		}
		return ops
	}
	for _, test := range []struct {
		name  string
		store *store.Store
		ops   []store.Op
		want  string
	}{
		{"4096 keys", ours, set(4096, 100), ""},
		{"4097 keys", ours, set(4097, 100), "4097 keys are too many for one transaction, which takes 4096: split the set"},
		{"1.6 MB", ours, set(16, 100_000), "1600930 bytes and some around them are too many for one transaction, which takes 1572864: split the set"},
		{"a little over, by etcd's own account", ours, set(1, 1_572_800), "1572857 bytes and some around them are too many for one transaction of this etcd, which takes 1572864 unless it was started with --max-request-bytes"},
		{"129 keys, etcd's default", small, set(129, 1), "129 keys are too many for one transaction of this etcd, which takes 128 unless it was started with --max-txn-ops"},
		{"too many bytes for etcd", small, set(1, 200_000), "200057 bytes and some around them are too many"},
		{"too many bytes for its gRPC", small, set(1, 1_000_000), "1000057 bytes and some around them are too many"},
	} {
		_, err := test.store.Apply(t.Context(), test.ops)
		var large *store.TooLargeError
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (!errors.As(err, &large) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestGetReadsAtAnyRevisionEtcdHas(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	s := m.Store()
	if _, _, err := s.Get(t.Context(), web1, 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such key: %v", err)
	}
	one := put(t, s, web1, "1")
	two := put(t, s, web1, "2")
	for rev, want := range map[int64]string{0: "2", one: "1", two: "2"} {
		if e, now, err := s.Get(t.Context(), web1, rev); err != nil || string(e.Value) != want || now != two {
			t.Errorf("at %d: %s, now %d, %v, want %s, %d", rev, e.Value, now, err, want, two)
		}
	}
	if _, _, err := s.Get(t.Context(), web1, one-1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before it was: %v", err)
	}
	if _, _, err := s.Get(t.Context(), web1, two+1); !errors.Is(err, store.ErrFuture) {
		t.Errorf("in the future: %v", err)
	}
	m.Compact(two)
	if _, _, err := s.Get(t.Context(), web1, one); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
}

func TestListIsOfOneRevisionAcrossPagesAndCompaction(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	s := storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, PageSize: 7})
	const keys, rounds = 60, 40
	write := func(round int) (int64, error) {
		var ops []store.Op
		for i := range keys {
			ops = append(ops, store.Op{Key: backend(fmt.Sprintf("b%02d", i)), Value: []byte(strconv.Itoa(round)), IfRevision: store.AnyRevision})
		}
		return s.Apply(t.Context(), ops)
	}
	if _, err := write(0); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		defer stop()
		for round := range rounds {
			rev, err := write(round)
			if err == nil && round%10 == 9 { // now and then under a list
				_, err = s.Client().Compact(t.Context(), rev)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for lists := 0; ctx.Err() == nil || lists == 0; lists++ {
		entries, rev, err := s.List(t.Context(), store.Backends, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != keys {
			t.Fatalf("%d keys, want %d", len(entries), keys)
		}
		for _, e := range entries {
			if string(e.Value) != string(entries[0].Value) || e.ModRevision > rev {
				t.Fatalf("list of revision %d has %s and %s of revision %d", rev, entries[0].Value, e.Value, e.ModRevision)
			}
		}
	}
	writer.Wait()
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	s := m.Store()
	for _, key := range []string{
		"/roster/ack", "/roster/secret", "/roster/things/x", "/roster-nodes/n/i", "/rostes/backends/x", // none of them definitions
		"/roster/backends/a/1", "/roster/backends/a/2", "/roster/backends/b", "/roster/directors/a/x", "/roster/health/b", "/roster/backends/!",
	} {
		if _, err := m.Client().Put(t.Context(), key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		kind  store.Kind
		under string
		want  []string
	}{
		{"", "", []string{"backends/!", "backends/a/1", "backends/a/2", "backends/b", "directors/a/x", "health/b"}},
		{store.Backends, "", []string{"backends/!", "backends/a/1", "backends/a/2", "backends/b"}},
		{store.Backends, "a/", []string{"backends/a/1", "backends/a/2"}},
		{"", "a/", []string{"backends/a/1", "backends/a/2", "directors/a/x"}},
		{store.Routes, "", nil},
	} {
		for _, page := range []int{0, 1} {
			s := s
			if page > 0 {
				s = storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, PageSize: page})
			}
			entries, _, err := s.List(t.Context(), test.kind, test.under, 0)
			var got []string
			for _, e := range entries {
				got = append(got, e.Key.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("list %q under %q, pages of %d: %v, -want +got\n%s", test.kind, test.under, page, err, diff)
			}
		}
	}
}

func TestHistoryGoesBackToTheLastCreation(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	s := m.Store()
	values := func(entries []store.Entry) (v string) {
		for _, e := range entries {
			v += string(e.Value)
		}
		return v
	}
	if _, err := s.History(t.Context(), web1, 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such key: %v", err)
	}
	put(t, s, web1, "0")
	if _, _, err := s.Delete(t.Context(), web1, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	var revisions []int64
	for _, v := range []string{"1", "2", "3", "4"} {
		revisions = append(revisions, put(t, s, web1, v))
		put(t, s, backend("other"), v)
	}
	if got, err := s.History(t.Context(), web1, 0); err != nil || values(got) != "4321" {
		t.Errorf("all: %s, %v, want 4321", values(got), err)
	}
	if got, err := s.History(t.Context(), web1, 2); err != nil || values(got) != "43" {
		t.Errorf("two: %s, %v, want 43", values(got), err)
	}
	m.Compact(revisions[2])
	got, err := s.History(t.Context(), web1, 0)
	if values(got) != "43" || !errors.Is(err, store.ErrCompacted) || !strings.Contains(err.Error(), "the first 2 versions are compacted away") {
		t.Errorf("compacted: %s, %v, want 43 and an error that says so", values(got), err)
	}
}

func TestAReasonIsGivenForEtcdThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, m.Address())
	s := storetest.Open(t, store.Config{Endpoints: []string{proxy.Address()}, RequestTimeout: 500 * time.Millisecond})
	put(t, s, web1, "1")
	expect := func(what string, err error, unknown bool, want string) {
		t.Helper()
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) != unknown || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, unknown outcome %v, want %q, %v", what, err, errors.Is(err, store.ErrOutcomeUnknown), want, unknown)
		}
	}
	list := func() error { _, _, err := s.List(t.Context(), "", "", 0); return err }
	get := func() error { _, _, err := s.Get(t.Context(), web1, 0); return err }
	write := func() error { _, err := s.Put(t.Context(), web1, []byte("2"), store.AnyRevision); return err }

	proxy.Blackhole()
	expect("get, blackhole", get(), false, "etcd does not answer: no answer in 500ms")
	expect("list, blackhole", list(), false, "store: list all definitions: etcd does not answer: no answer in 500ms")
	expect("put, blackhole", write(), true, "it is not known whether the change was made: no answer in 500ms")
	proxy.Cut()
	expect("get, cut", get(), false, "etcd does not answer: ")
	expect("put, cut", write(), false, "etcd does not answer: ")

	nobody := storetest.Open(t, store.Config{Endpoints: []string{"127.0.0.1:1"}, RequestTimeout: 500 * time.Millisecond})
	_, _, err := nobody.Get(t.Context(), web1, 0)
	expect("nobody there", err, false, "etcd does not answer: dial tcp 127.0.0.1:1: connect: connection refused")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := nobody.Get(ctx, web1, 0); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("cancelled: %v, want just that", err)
	}

	// The connection comes back by itself.
	proxy.Heal()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := get(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after the proxy healed: %v", err)
		}
	}
}

// The one answer that a blind retry would get wrong.
func TestAPutWhoseAnswerWasLostIsNotReportedAsNotDone(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, m.Address())
	s := storetest.Open(t, store.Config{Endpoints: []string{proxy.Address()}, RequestTimeout: 300 * time.Millisecond})
	put(t, s, backend("warm"), "x")
	proxy.Mute()
	_, err := s.Put(t.Context(), web1, []byte("done"), 0)
	if !errors.Is(err, store.ErrOutcomeUnknown) || !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("got %v, want ErrOutcomeUnknown", err)
	}
	if e, _, err := m.Store().Get(t.Context(), web1, 0); err != nil || string(e.Value) != "done" {
		t.Errorf("what etcd has: %+v, %v, want the put", e, err)
	}
}

func TestARequestSurvivesTheLossOfAMember(t *testing.T) {
	t.Parallel()
	members := storetest.Cluster(t, 3)
	s := storetest.Open(t, store.Config{Endpoints: storetest.Endpoints(members)})
	put(t, s, web1, "1")
	members[1].Stop()
	for range 10 {
		if _, _, err := s.Get(t.Context(), web1, 0); err != nil {
			t.Fatal(err)
		}
	}
	members[2].Stop()
	_, err := s.Put(t.Context(), web1, []byte("2"), store.AnyRevision)
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without a quorum: %v, want ErrUnavailable", err)
	}
	t.Log(err)
}

// Why there is no etcd is known at once, while requests wait for it.
func TestUnreachableSaysWhyWithoutWaiting(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]string{"no user": "", "a user": "ann"} {
		cfg := store.Config{Endpoints: []string{"127.0.0.1:1"}, User: user}
		if user != "" {
			cfg.Password = "secret"
		}
		s, err := store.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Unreachable(t.Context()); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
	there := storetest.Etcd(t).Store()
	if _, _, err := there.Members(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := there.Unreachable(ended); err != nil {
		t.Errorf("etcd is there, and %v", err)
	}
}
