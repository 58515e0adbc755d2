package node

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/storetest"
)

// presences are those that etcd has, by the id of their node.
func presences(t testing.TB, etcd *storetest.Member) map[string]*store.Presence {
	t.Helper()
	events, _, err := etcd.Store().Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*store.Presence{}
	for _, e := range events {
		if e.Live {
			all[e.Member.Node] = e.Presence
		}
	}
	return all
}

func named(id string) func(*Config) { return func(c *Config) { c.ID = id } }

// A node that lists after a deletion has a lower revision than its peers, and is not
// behind them; one that has not read at all is.
func TestPresenceSaysUpToWhereANodeHasAppliedAll(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	client := etcd.Client()
	a := run(t, etcd, named("a"))
	put, err := client.Put(t.Context(), "/roster/backends/web-1", `{"host":"10.0.0.1"}`)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := client.Put(t.Context(), "/roster/backends/bad", `{"hst":1}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/roster/backends/web-2", `{"host":"10.0.0.2"}`); err != nil {
		t.Fatal(err)
	}
	gone, err := client.Delete(t.Context(), "/roster/backends/web-2")
	if err != nil {
		t.Fatal(err)
	}
	run(t, etcd, named("b"))
	var pa, pb *store.Presence
	until(t, "both to have the deletion", func() bool {
		all := presences(t, etcd)
		pa, pb = all["a"], all["b"]
		return pa != nil && pb != nil && pa.Applied(gone.Header.Revision) && pb.Applied(gone.Header.Revision) && pa.Ready && pb.Ready
	})
	if pa.Revision != gone.Header.Revision || pb.Revision != bad.Header.Revision || pb.Listed < gone.Header.Revision || pa.Listed >= put.Header.Revision {
		t.Errorf("a is at revision %d, listed %d; b at %d, listed %d; the deletion is %d", pa.Revision, pa.Listed, pb.Revision, pb.Listed, gone.Header.Revision)
	}
	if pa.Digest != pb.Digest || pa.Digest == "" {
		t.Errorf("digests are %q and %q", pa.Digest, pb.Digest)
	}
	if len(pa.Rejected) != 1 || pa.Rejected[0] != "backends/bad" || pa.MoreRejected != 0 {
		t.Errorf("rejected: %v and %d more", pa.Rejected, pa.MoreRejected)
	}
	if len(pa.Listen) != 1 || "http://"+pa.Listen[0] != a.url || pa.Admin == "" || pa.Level != store.Level || pa.Draining || pa.Started.IsZero() {
		t.Errorf("a says of itself: %+v", pa)
	}
	if s := a.Status().Presence; !s.Present || s.Instance == "" {
		t.Errorf("status: %+v", s)
	}
	a.stop()
	if all := presences(t, etcd); all["a"] != nil || all["b"] == nil {
		t.Errorf("after the end of a: %v", all)
	}
}

func TestPresenceSaysWhatIsLeftOfADrainedAndOfADeletedBackend(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%v", deleted), func(t *testing.T) {
			t.Parallel()
			etcd := storetest.Etcd(t)
			client := etcd.Client()
			asked, released := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(released) })
			origin := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				close(asked)
				<-released
			}))
			t.Cleanup(origin.Close)
			t.Cleanup(release)
			n := run(t, etcd, named("n"))
			r, err := client.Put(t.Context(), "/roster/backends/web-1", definitionOf(origin))
			if err != nil {
				t.Fatal(err)
			}
			n.wait(r.Header.Revision)
			answered := make(chan error, 1)
			go func() {
				resp, err := http.Get(n.url)
				if err == nil {
					resp.Body.Close()
				}
				answered <- err
			}()
			<-asked
			if deleted {
				_, err = client.Delete(t.Context(), "/roster/backends/web-1")
			} else {
				_, err = client.Put(t.Context(), "/roster/health/web-1", "drain")
			}
			if err != nil {
				t.Fatal(err)
			}
			busy := store.Leaving{Name: "web-1", Active: 1, Connections: 1, Settled: true}
			until(t, "the request in its presence", func() bool {
				p := presences(t, etcd)["n"]
				return p != nil && len(p.Leaving) == 1 && p.Leaving[0] == busy
			})
			release()
			if err := <-answered; err != nil {
				t.Error(err)
			}
			until(t, "the end of the request in its presence", func() bool {
				p := presences(t, etcd)["n"]
				if deleted {
					return p != nil && len(p.Leaving) == 0
				}
				return p != nil && len(p.Leaving) == 1 && p.Leaving[0].Quiet()
			})
			if deleted {
				return
			}
			if _, err := client.Put(t.Context(), "/roster/health/web-1", "auto"); err != nil {
				t.Fatal(err)
			}
			until(t, "the end of the drain in its presence", func() bool { return len(presences(t, etcd)["n"].Leaving) == 0 })
		})
	}
}

func TestPresenceIsBounded(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	for i := range store.MaxLeaving + 5 {
		if _, err := etcd.Client().Put(t.Context(), fmt.Sprintf("/roster/health/w%03d", i), "drain"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxRejected + 5 {
		if _, err := etcd.Client().Put(t.Context(), fmt.Sprintf("/roster/backends/b%03d", i), "bad"); err != nil {
			t.Fatal(err)
		}
	}
	run(t, etcd, named("n"))
	until(t, "its presence", func() bool {
		p := presences(t, etcd)["n"]
		return p != nil && len(p.Leaving) == store.MaxLeaving && p.MoreLeaving == 5 && len(p.Rejected) == maxRejected && p.MoreRejected == 5
	})
	// What is drained last is told first, though its name comes last: old overrides of
	// backends that are gone do not hide it.
	for _, name := range []string{"z", "w000"} { // the second once more
		if _, err := etcd.Client().Put(t.Context(), "/roster/health/"+name, "drain"); err != nil {
			t.Fatal(err)
		}
		until(t, name+" in its presence", func() bool {
			p := presences(t, etcd)["n"]
			return len(p.Leaving) == store.MaxLeaving && p.Leaving[0].Name == name
		})
	}
}

// What a request goes by is the table of when it came. A try that fails long after may not
// lead it to a backend that the fleet was told is quiet.
func TestARetryDoesNotReachABackendThatIsQuiet(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%v", deleted), func(t *testing.T) {
			t.Parallel()
			etcd := storetest.Etcd(t)
			asked, released := make(chan struct{}), make(chan struct{})
			once, release := new(sync.Once), sync.OnceFunc(func() { close(released) })
			slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				once.Do(func() { close(asked) }) // it may be tried again: the answer is lost, not the connection refused
				<-released
				panic(http.ErrAbortHandler)
			}))
			t.Cleanup(slow.Close)
			t.Cleanup(release)
			var reached atomic.Int64
			quiet := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
			t.Cleanup(quiet.Close)
			if _, err := etcd.Store().Apply(t.Context(), []store.Op{
				{Key: store.Key{Kind: store.Backends, Name: "a"}, Value: []byte(definitionOf(slow))},
				{Key: store.Key{Kind: store.Backends, Name: "b"}, Value: []byte(definitionOf(quiet))},
				{Key: store.Key{Kind: store.Directors, Name: "www"}, Value: []byte(`{"type":"fallback","backends":["a","b"]}`)},
				{Key: store.Key{Kind: store.Routes, Name: "all"}, Value: []byte(`{"backend":"www","retries":2}`)},
			}); err != nil {
				t.Fatal(err)
			}
			n := run(t, etcd, named("n"))
			answered := make(chan int, 1)
			go func() {
				resp, err := http.Get(n.url)
				if err != nil {
					t.Error(err)
					answered <- 0
					return
				}
				resp.Body.Close()
				answered <- resp.StatusCode
			}()
			<-asked
			op := clientv3.OpPut("/roster/health/b", "drain")
			if deleted {
				op = clientv3.OpDelete("/roster/backends/b")
			}
			done, err := etcd.Client().Txn(t.Context()).Then(op).Commit()
			if err != nil {
				t.Fatal(err)
			}
			until(t, "b to be quiet", func() bool {
				p := presences(t, etcd)["n"]
				if p == nil || !p.Applied(done.Header.Revision) {
					return false
				}
				if deleted {
					return len(p.Leaving) == 0
				}
				return len(p.Leaving) == 1 && p.Leaving[0].Quiet()
			})
			release()
			if status := <-answered; status < 500 || reached.Load() != 0 {
				t.Errorf("answered %d, and the backend that is quiet got %d requests", status, reached.Load())
			}
		})
	}
}
