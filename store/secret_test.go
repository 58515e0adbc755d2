package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"roster/store"
	"roster/store/storetest"
)

func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	raw := []byte("0123456789abcdef0123456789abcdef")
	def, _, err := store.Decode(store.SecretKey, raw, store.Reject)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", def)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", def)
	asJSON, err := json.Marshal(map[string]any{"secret": def})
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %x %d %v", def, def, def, def, def, def, *def.(*store.Secret)) + log.String() + string(asJSON) +
		string(store.RedactValue(store.SecretKey, raw))
	for _, is := range []string{"0123", "30313233", "48 49", "0x30"} {
		if strings.Contains(shown, is) {
			t.Errorf("the secret is in %s", shown)
		}
	}
	_, _, err = store.Decode(store.SecretKey, raw[:31], store.Reject)
	if err == nil || strings.Contains(err.Error(), "0123") || !strings.Contains(err.Error(), "31 bytes, want 32") {
		t.Errorf("a short secret gave %v", err)
	}
}

// Whoever makes it, and however often: there is one.
func TestTheSecretIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	ctx := context.Background()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.CreateSecret(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	e, _, err := s.Get(ctx, store.SecretKey, 0)
	if err != nil || e.Version != 1 || len(e.Value) != 32 {
		t.Fatalf("version %d of %d bytes, %v, want one of 32", e.Version, len(e.Value), err)
	}
	all, _, err := s.List(ctx, "", "", 0)
	if err != nil || len(all) != 0 {
		t.Errorf("a list of all definitions has %d, %v, want none", len(all), err)
	}
}
