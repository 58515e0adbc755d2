package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"roster/store"
	"roster/store/storetest"
)

func TestThePasswordFileIsReadAgainForEachLogIn(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t, func(ec *embed.Config) { ec.BcryptCost = 4 })
	enableAuth(t, m.Client())
	root := storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, User: "root", Password: "secret"})
	own := store.Key{Kind: store.Backends, Name: "team-a/web-1"}
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong\n")
	a := storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, User: "team-a", PasswordFile: file})
	denied := func(want string) {
		t.Helper()
		_, err := a.Put(t.Context(), own, []byte("x"), store.AnyRevision)
		if !errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrDenied: %s", err, want)
		}
	}
	denied("authentication failed")
	write("a's secret\n")
	put(t, a, own, "1")

	if _, err := root.Client().UserChangePassword(t.Context(), "team-a", "another"); err != nil {
		t.Fatal(err)
	}
	m.Restart() // no token is known any more
	denied("authentication failed")
	write("another")
	put(t, a, own, "2")

	m.Restart()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	denied("no such file")
	write("")
	denied("is empty")
	write("another")
	put(t, a, own, "3")
}

// A write that was refused for want of a token, and whose log-in then got no
// answer, was not made.
func TestALogInWithoutAnswerIsNoWriteOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t, func(ec *embed.Config) { ec.BcryptCost = 11 }) // a log-in takes a tenth of a second
	enableAuth(t, m.Client())
	a := storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, User: "team-a", Password: "a's secret", RequestTimeout: 50 * time.Millisecond})
	_, err := a.Put(t.Context(), web1, []byte("x"), store.AnyRevision)
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) {
		t.Errorf("%v, want ErrUnavailable and nothing unknown", err)
	}
}
