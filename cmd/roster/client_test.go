package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"roster/store"
	"roster/store/storetest"
)

// A write that may have been done is not one that failed: the way out is to look.
func TestUnknownOutcomeSaysToReadTheKey(t *testing.T) {
	t.Parallel()
	proxy := storetest.NewProxy(t, storetest.Etcd(t).Address())
	c := client{etcdFlags: etcdFlags{endpoints: []string{proxy.Address()}, prefix: "/roster/"}, timeout: 500 * time.Millisecond}
	key := store.Key{Kind: store.Backends, Name: "web-1"}
	err := c.do(t.Context(), func(ctx context.Context, s *store.Store) error {
		if _, _, err := s.List(ctx, "", "", 0); err != nil {
			t.Fatal(err)
		}
		proxy.Mute()
		defer proxy.Heal()
		_, err := s.Put(ctx, key, []byte(`{"host":"h"}`), store.AnyRevision)
		return err
	})
	var out strings.Builder
	if code := report(&out, err); code != exitUnavailable {
		t.Errorf("code %d: %v", code, err)
	}
	for text, want := range map[string]bool{
		"it is not known whether the change was made: no answer in 500ms": true,
		"; read the key again before you repeat the command":              true,
		"is etcd running": false,
	} {
		if strings.Contains(out.String(), text) != want {
			t.Errorf("%q in it: want %v: %s", text, want, out.String())
		}
	}
}

func TestTimeoutZeroIsNoLimit(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, m.Address())
	c := client{etcdFlags: etcdFlags{endpoints: []string{proxy.Address()}, prefix: "/roster/"}, timeout: 0}
	proxy.Blackhole()
	// Longer than the store's own default.
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	err := c.do(ctx, func(ctx context.Context, s *store.Store) error {
		_, _, err := s.List(ctx, "", "", 0)
		if ctx.Err() == nil {
			t.Errorf("it gave up by itself: %v", err)
		}
		return err
	})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	proxy.Heal()
	if err := c.do(t.Context(), func(ctx context.Context, s *store.Store) error {
		_, _, err := s.List(ctx, "", "", 0)
		return err
	}); err != nil {
		t.Error(err)
	}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"ready":true}`) }))
	defer admin.Close()
	got := try(t, nil, "", "status", "--timeout", "0s", "--etcd", m.Endpoint(), "--admin", admin.Listener.Addr().String())
	if got.code != exitDone || got.errors != "" {
		t.Errorf("status: %+v", got)
	}
}
