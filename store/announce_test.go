package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/storetest"
)

// late is an etcd whose member carries out a transaction long after it was asked for.
type late struct {
	clientv3.KV
	next bool                 // the next one is
	do   func() (bool, error) // does it, and says whether its conditions held
}

type lateTxn struct {
	l    *late
	real clientv3.Txn
}

func (l *late) Txn(ctx context.Context) clientv3.Txn {
	return &lateTxn{l, l.KV.Txn(context.WithoutCancel(ctx))}
}

func (t *lateTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.real = t.real.If(cs...); return t }
func (t *lateTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.real = t.real.Then(ops...); return t }
func (t *lateTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.real = t.real.Else(ops...); return t }

func (t *lateTxn) Commit() (*clientv3.TxnResponse, error) {
	if !t.l.next {
		return t.real.Commit()
	}
	t.l.next = false
	t.l.do = func() (bool, error) {
		r, err := t.real.Commit()
		return err == nil && r.Succeeded, err
	}
	return nil, context.DeadlineExceeded
}

// TestPresenceDoesNotGoBack: a write that had no answer, and that etcd carries out when a newer
// one is done, changes nothing; one that was carried out meanwhile does not hinder the newer.
func TestPresenceDoesNotGoBack(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprint("done before the newer: ", first), func(t *testing.T) {
			t.Parallel()
			s := storetest.Etcd(t).Store()
			ctx := t.Context()
			lease, err := s.Grant(ctx, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			m := store.Instance{Node: "n", ID: "i"}
			rev, err := s.Announce(ctx, m, store.Presence{ID: "n", Version: "1"}, lease, 0)
			if err != nil {
				t.Fatal(err)
			}
			l := &late{KV: s.Client().KV, next: true}
			s.Client().KV = l
			if _, err := s.Announce(ctx, m, store.Presence{ID: "n", Version: "2"}, lease, rev); err == nil {
				t.Fatal("no error of a write without an answer")
			}
			if first {
				if ok, err := l.do(); !ok || err != nil {
					t.Fatalf("the write: %v, %v", ok, err)
				}
			}
			if _, err := s.Announce(ctx, m, store.Presence{ID: "n", Version: "3"}, lease, rev); err != nil {
				t.Fatal(err)
			}
			if !first {
				if ok, err := l.do(); ok || err != nil {
					t.Errorf("the older write: %v, %v, want that it does nothing", ok, err)
				}
			}
			events, _, err := s.Members(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Live && e.Presence.Version != "3" {
					t.Errorf("%+v, want version 3", *e.Presence)
				}
			}
		})
	}
}
