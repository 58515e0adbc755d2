package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/storetest"
)

// racing writes the key "ack" between the look at it and the write.
type racing struct {
	clientv3.KV
	path string
}

func (r racing) Txn(ctx context.Context) clientv3.Txn {
	if _, err := r.KV.Put(ctx, r.path, "1"); err != nil {
		panic(err)
	}
	return r.KV.Txn(ctx)
}

func TestAcknowledgeTellsOfAnotherWriter(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	rev, err := s.Put(t.Context(), store.Key{Kind: store.Backends, Name: "web-1"}, []byte("{}"), store.AnyRevision)
	if err != nil {
		t.Fatal(err)
	}
	s.Client().KV = racing{s.Client().KV, s.Prefix() + "ack"}
	if _, err := s.Acknowledge(t.Context(), rev); !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "the key ack was written meanwhile") {
		t.Errorf("error = %v, want a conflict", err)
	}
}

func TestAcknowledge(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	key := store.Key{Kind: store.Backends, Name: "web-1"}
	var revision int64
	for range 3 {
		var err error
		if revision, err = s.Put(t.Context(), key, []byte("{}"), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	ack := func() string {
		r, err := s.Client().Get(t.Context(), s.Prefix()+"ack")
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Kvs) == 0 {
			return ""
		}
		return string(r.Kvs[0].Value)
	}
	var future *store.FutureError
	if _, err := s.Acknowledge(t.Context(), revision+1); !errors.As(err, &future) || future.Now != revision || ack() != "" {
		t.Errorf("acknowledging the future: %v, with the key %q, want a FutureError and none", err, ack())
	}
	for _, tt := range []struct {
		revision, want int64
		key            string
	}{
		{2, 2, "2"},
		{3, 3, "3"},
		{3, 3, "3"},
		{2, 3, "3"}, // it never goes back
	} {
		if got, err := s.Acknowledge(t.Context(), tt.revision); err != nil || got != tt.want || ack() != tt.key {
			t.Errorf("acknowledging %d: %d (%v), with the key %q, want %d and %q", tt.revision, got, err, ack(), tt.want, tt.key)
		}
	}
	// What cannot be, of another history or by a slip, is put right.
	for _, wrong := range []string{"1000000", "soon"} {
		if _, err := s.Client().Put(t.Context(), s.Prefix()+"ack", wrong); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Acknowledge(t.Context(), 4); err != nil || got != 4 || ack() != "4" {
			t.Errorf("after %q: %d (%v), with the key %q, want 4", wrong, got, err, ack())
		}
	}
}
