package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"roster/store"
	"roster/store/embedded"
)

// Nobody's change is lost: what was read is written back only if it is still
// there.
func ExampleStore() {
	dir, err := os.MkdirTemp("", "roster")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	etcd, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	defer etcd.Close()
	s, err := store.Open(store.Config{Endpoints: []string{etcd.Endpoint()}})
	if err != nil {
		panic(err)
	}
	defer s.Close()

	key := store.Key{Kind: store.Backends, Name: "web-1"}
	rev, err := s.Put(ctx, key, []byte(`{"host": "10.0.0.7"}`), 0)
	fmt.Println("created at", rev, err)
	entry, _, err := s.Get(ctx, key, 0)
	fmt.Println("read at", entry.ModRevision, err)
	rev, err = s.Put(ctx, key, []byte(`{"host": "10.0.0.8"}`), entry.ModRevision)
	fmt.Println("changed at", rev, err)
	_, err = s.Put(ctx, key, []byte(`{"host": "10.0.0.9"}`), entry.ModRevision)
	fmt.Println(err, errors.Is(err, store.ErrConflict))

	// Output:
	// created at 2 <nil>
	// read at 2 <nil>
	// changed at 3 <nil>
	// store: put: backends/web-1 is at revision 3, want 2 true
}
