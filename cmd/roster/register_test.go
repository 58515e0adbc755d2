package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/storetest"
)

// registrar is roster register, running.
type registrar struct {
	t    *testing.T
	said *bufio.Reader // its standard error
	end  context.CancelFunc
	code chan int
}

func register(t *testing.T, etcd string, args ...string) *registrar {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	g := &registrar{t, bufio.NewReader(r), cancel, make(chan int, 1)}
	go func() {
		args := append([]string{"register", "--etcd", etcd}, args...)
		g.code <- run(ctx, args, streams{strings.NewReader(""), io.Discard, w}, os.LookupEnv)
		w.Close()
	}()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		go io.Copy(io.Discard, r)
		for range g.code {
			break
		}
	}))
	return g
}

// says waits for a line that begins so.
func (g *registrar) says(want string) {
	g.t.Helper()
	for {
		line, err := g.said.ReadString('\n')
		if strings.HasPrefix(line, want) {
			return
		}
		if err != nil {
			g.t.Fatalf("it ended without %q", want)
		}
	}
}

// ends waits for the exit code.
func (g *registrar) ends(want int) {
	g.t.Helper()
	go io.Copy(io.Discard, g.said)
	if got := <-g.code; got != want {
		g.t.Errorf("exit code %d, want %d", got, want)
	}
	close(g.code)
}

func registered(t *testing.T, s *store.Store, name string) (lease int64) {
	t.Helper()
	e, _, err := s.Get(t.Context(), store.Key{Kind: store.Backends, Name: name}, 0)
	if errors.Is(err, store.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return e.Lease
}

func TestRegisterKeepsABackendUntilItIsEnded(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	g := register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9", "--ttl", "2s")
	g.says("registered backends/web-9 at revision 2")
	lease := registered(t, s, "web-9")
	if lease == 0 {
		t.Fatal("it is under no lease")
	}
	if granted, _, err := s.LeaseTTL(t.Context(), lease); granted != 2*time.Second || err != nil {
		t.Errorf("granted %v, %v", granted, err)
	}
	// Lost: it is made again.
	if _, err := etcd.Client().Revoke(t.Context(), clientv3.LeaseID(lease)); err != nil {
		t.Fatal(err)
	}
	g.says("roster: the lease of backends/web-9 has ended")
	g.says("roster: registered backends/web-9 again, at revision 4")
	if again := registered(t, s, "web-9"); again == 0 || again == lease {
		t.Errorf("it is under lease %x, was under %x", again, lease)
	}
	g.end()
	g.ends(exitDone)
	if registered(t, s, "web-9") != 0 {
		t.Error("it is still there after the end")
	}
}

func TestRegisterDoesNotOverwriteWhatOthersWrote(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	k := store.Key{Kind: store.Backends, Name: "web-9"}
	if _, err := s.Put(t.Context(), k, []byte(`{"host":"h"}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	g := register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9", "--", "true")
	g.says("roster: backends/web-9 is there already, at revision 2, and under no lease")
	g.ends(exitConflict)

	g = register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9", "--force", "--ttl", "2s")
	g.says("registered")
	other := register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9")
	other.says("roster: backends/web-9 is registered already: waiting for at most 2s")
	other.says("roster: backends/web-9 is registered already, and its lease is kept alive")
	other.ends(exitConflict)

	// It takes the place of one that has ended.
	next := register(t, etcd.Endpoint(), "web-9", "host=10.0.0.10", "--ttl", "2s")
	next.says("roster: backends/web-9 is registered already: waiting for at most 2s")
	g.end()
	g.ends(exitDone)
	next.says("registered backends/web-9")

	// A director has the name.
	if _, err := s.Put(t.Context(), store.Key{Kind: store.Directors, Name: "d"}, []byte(`{"type":"random","backends":["a"]}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	register(t, etcd.Endpoint(), "d", "host=10.0.0.9").ends(exitConflict)
}

func TestRegisterEndsAsItsCommandDoes(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -KILL $$": 128 + int(syscall.SIGKILL)} {
		register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9", "--", "sh", "-c", script).ends(want)
		if registered(t, s, "web-9") != 0 {
			t.Errorf("%s: the backend is still there", script)
		}
	}
	g := register(t, etcd.Endpoint(), "web-9", "host=10.0.0.9", "--", "/nowhere/at/all")
	g.says("roster: cannot run /nowhere/at/all: ")
	g.ends(exitFailed)
	for args, want := range map[string]string{
		"-- true":                    "roster: roster register takes a name before --",
		"web-9 host=h --":            "roster: there is no command after --",
		"web-9 host=h --ttl 10ms":    "roster: --ttl is 10ms, want 1s or more",
		"web-9":                      "roster: backends/web-9 has no definition",
		"web-9 -f x host=h -- sleep": "roster: the definition is given twice",
	} {
		got := try(t, nil, "", append([]string{"register"}, strings.Fields(args)...)...)
		if got.code != exitUsage || !strings.HasPrefix(got.errors, want) {
			t.Errorf("roster register %s: %+v, want %s", args, got, want)
		}
	}
}

// A lease that seems to have ended, because etcd did not answer for as long, may be there yet:
// a new leader gives leases their whole time. The backend is then there all along.
func TestRegisteringAgainDoesNotTakeTheBackendAway(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	k := store.Key{Kind: store.Backends, Name: "web-9"}
	r := &registration{st: s, key: k, value: []byte(`{"host":"h"}`), ttl: time.Minute, log: io.Discard}
	if err := r.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := r.lease
	for range 2 {
		r.release()
		if err := r.again(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if lease := registered(t, s, "web-9"); lease != r.lease || lease == first {
		t.Errorf("it is under lease %x, want %x", lease, r.lease)
	}
	if all, err := s.History(t.Context(), k, 0); err != nil || len(all) != 3 {
		t.Errorf("%d versions since it was created, %v, want 3: it was taken away", len(all), err)
	}
	leases, err := etcd.Client().Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("leases: %v, %v, want one", leases.Leases, err)
	}

	// What somebody else has written meanwhile stays.
	if _, err := s.Put(t.Context(), k, []byte(`{"host":"other"}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	r.release()
	if err := r.again(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("over another's: %v", err)
	}
	if e, _, err := s.Get(t.Context(), k, 0); err != nil || string(e.Value) != `{"host":"other"}` {
		t.Errorf("another's is %s now, %v", e.Value, err)
	}
	r.end(t.Context(), time.Second)
}

func TestRegisterSaysInJSONWhatItWrote(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"register", "--etcd", etcd.Endpoint(), "web-9", "host=10.0.0.9", "-o", "json"}, streams{strings.NewReader(""), w, io.Discard}, os.LookupEnv)
		w.Close()
	}()
	var said struct {
		Key, Lease string
		Revision   int64
	}
	if err := json.NewDecoder(r).Decode(&said); err != nil || said.Key != "backends/web-9" || said.Revision < 2 || said.Lease == "" {
		t.Errorf("%+v, %v", said, err)
	}
	go io.Copy(io.Discard, r)
	cancel()
	if got := <-code; got != exitDone {
		t.Errorf("exit code %d", got)
	}
	if got := try(t, nil, "", "register", "web-9", "host=10.0.0.9", "-o", "json", "--", "true"); got.code != exitUsage || !strings.Contains(got.errors, "--output is json, and there is a command") {
		t.Errorf("with a command: %+v", got)
	}
}

// ending is etcd just when an earlier process's lease ends: its key is gone when that is
// asked for, or the lease is, before the key. Whoever asks is interrupted then.
type ending struct {
	clientv3.Lease
	clientv3.KV
	interrupt context.CancelFunc
	keyGone   bool
	grants    int
}

func (e *ending) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	e.grants++
	return e.Lease.Grant(ctx, ttl)
}

func (e *ending) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r, err := e.KV.Get(ctx, key, opts...)
	if err == nil && e.keyGone {
		e.interrupt()
		r.Kvs = nil
	}
	return r, err
}

func (e *ending) TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	e.interrupt()
	return &clientv3.LeaseTimeToLiveResponse{TTL: -1}, nil
}

// Where thousands of leases end at once, etcd takes its time: register is not to ask all
// the while.
func TestRegisterPausesWhileAnEarlierLeaseEnds(t *testing.T) {
	t.Parallel()
	for name, keyGone := range map[string]bool{"key": true, "lease": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := storetest.Etcd(t)
			k := store.Key{Kind: store.Backends, Name: "web-9"}
			lease, err := etcd.Store().Grant(t.Context(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := etcd.Store().Apply(t.Context(), []store.Op{{Key: k, Value: []byte(`{"host":"h"}`), Lease: lease}}); err != nil {
				t.Fatal(err)
			}
			st := storetest.Open(t, store.Config{Endpoints: []string{etcd.Endpoint()}})
			ctx, cancel := context.WithCancel(t.Context())
			e := &ending{st.Client().Lease, st.Client().KV, cancel, keyGone, 0}
			st.Client().Lease, st.Client().KV = e, e
			r := &registration{st: st, key: k, value: []byte(`{"host":"h"}`), ttl: 2 * time.Second, log: io.Discard}
			if err := r.begin(ctx); !errors.Is(err, context.Canceled) || e.grants != 1 {
				t.Errorf("begin: %v, after %d attempts, want one, and the interruption in the pause", err, e.grants)
			}
		})
	}
}
