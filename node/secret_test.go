package node

import (
	"context"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"roster/store"
	"roster/store/storetest"
)

const sticky = `{"type":"random","backends":["a"],"cookie":{}}`

// The first director with a cookie has the fleet make its secret, once.
func TestTheFleetMakesItsSecretWhenACookieNeedsIt(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	first, second := run(t, etcd), run(t, etcd)
	ctx := context.Background()
	if _, _, err := s.Get(ctx, store.SecretKey, 0); err == nil {
		t.Error("there is a secret that nobody needs")
	}
	if _, err := s.Put(ctx, store.Key{Kind: store.Directors, Name: "d"}, []byte(sticky), 0); err != nil {
		t.Fatal(err)
	}
	until(t, "both have the secret", func() bool {
		digest := first.Status().Digest
		return !first.Table().NeedsSecret() && !second.Table().NeedsSecret() && first.Table().Revision() > 2 && digest == second.Status().Digest
	})
	if e, _, err := s.Get(ctx, store.SecretKey, 0); err != nil || e.Version != 1 {
		t.Errorf("the secret: version %d, %v, want it made once", e.Version, err)
	}
	if w := first.Status().Warnings; len(w) != 0 {
		t.Errorf("warnings: %+v", w)
	}
}

// A node that may not write says that there are no cookies.
func TestANodeThatMayNotMakeTheSecretSaysSo(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t, func(ec *embed.Config) { ec.BcryptCost = 4 })
	ctx := context.Background()
	c := etcd.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Put(ctx, "/roster/directors/d", sticky))
	must(c.UserAdd(ctx, "root", "root"))
	must(c.UserGrantRole(ctx, "root", "root"))
	must(c.RoleAdd(ctx, "reader"))
	must(c.RoleGrantPermission(ctx, "reader", "/roster", "/rostes", clientv3.PermissionType(clientv3.PermRead)))
	must(c.UserAdd(ctx, "reader", "reader"))
	must(c.UserGrantRole(ctx, "reader", "reader"))
	must(c.AuthEnable(ctx))
	n := run(t, etcd, func(c *Config) { c.Store.User, c.Store.Password = "reader", "reader" })
	until(t, "a warning", func() bool {
		w := n.Status().Warnings
		return len(w) == 1 && w[0].Key == "secret" && strings.Contains(w[0].Warnings[0], "etcd denies it")
	})
}
