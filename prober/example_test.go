package prober_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"roster/pool"
	"roster/prober"
	"roster/store"
)

// Two backends at one address that differ only in how they judge share a prober.
func Example() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer origin.Close()
	decode := func(kind store.Kind, value string) store.Definition {
		def, _, err := store.Decode(store.Key{Kind: kind, Name: "it"}, []byte(value), store.Reject)
		if err != nil {
			panic(err)
		}
		return def
	}
	backend := decode(store.Backends, fmt.Sprintf(`{"host": %q}`, strings.TrimPrefix(origin.URL, "http://"))).(*store.Backend)
	quick := decode(store.Probes, `{"url": "/health"}`).(*store.Probe)
	careful := decode(store.Probes, `{"url": "/health", "initial": 0}`).(*store.Probe)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := prober.New(prober.Config{Pools: pool.New(pool.Config{}), Node: "node-1"})
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()

	told := make(chan prober.Transition, 1)
	a, err := m.Acquire(prober.CheckOf(backend, quick, pool.Deps{}), prober.Use{
		Name: "web-1", Judge: prober.JudgeOf(quick), Notify: func(t prober.Transition) { told <- t },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := m.Acquire(prober.CheckOf(backend, careful, pool.Deps{}), prober.Use{Judge: prober.JudgeOf(careful)})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Answered(ctx); err != nil {
		fmt.Println(err)
		return
	}
	t := <-told
	fmt.Println("probers:", m.Stats().Probers)
	fmt.Printf("%s: healthy %v, %d of %d good, need %d: %s\n", t.Name, t.Healthy, t.Good, t.Judge.Window, t.Judge.Threshold, t.Text)
	fmt.Println("with initial 0:", b.Healthy())

	// web-1 moves to another check, and is healthy until that has an answer.
	other := decode(store.Probes, `{"url": "/nothing"}`).(*store.Probe)
	moved, err := m.Acquire(prober.CheckOf(backend, other, pool.Deps{}), prober.Use{
		Name: "web-1", Judge: prober.JudgeOf(other), Carry: prober.VerdictOf(a.Healthy()), Notify: func(t prober.Transition) { told <- t },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	a.Release()
	t = <-told
	fmt.Printf("%s: healthy %v: %s: %s\n", t.Name, t.Healthy, t.Stage, t.Text)

	moved.Release()
	b.Release()
	cancel()
	fmt.Println(<-ended, m.Stats().Probers)
	// Output:
	// probers: 1
	// web-1: healthy true, 3 of 8 good, need 3: HTTP/1.1 200 OK
	// with initial 0: false
	// web-1: healthy false: status: HTTP/1.1 404 Not Found, want 200
	// <nil> 0
}
