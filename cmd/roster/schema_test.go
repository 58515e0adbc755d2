package main

import (
	"encoding/json"
	"strings"
	"testing"

	"roster/store"
)

func TestSchemaIsThatOfTheStore(t *testing.T) {
	t.Parallel()
	for word, kind := range map[string]store.Kind{"": "", "backend": store.Backends, "backends": store.Backends, "health": store.HealthKind, "certificate": store.Certificates} {
		got := try(t, nil, "", strings.Fields("schema "+word)...)
		if got.code != exitDone || got.out != string(store.JSONSchema(kind)) || got.errors != "" {
			t.Errorf("schema %s: %d %s", word, got.code, got.errors)
		}
		if !json.Valid([]byte(got.out)) {
			t.Errorf("schema %s is not JSON", word)
		}
	}
	if got := try(t, nil, "", "schema", "bakend"); got.code != exitUsage || !strings.Contains(got.errors, "did you mean backend?") {
		t.Errorf("a misspelt kind: %+v", got)
	}
}
