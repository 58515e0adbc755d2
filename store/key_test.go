package store_test

import (
	"strings"
	"testing"

	"roster/store"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]store.Key{
		"backends/web-1":        {Kind: store.Backends, Name: "web-1"},
		"backends/team-a/web-1": {Kind: store.Backends, Name: "team-a/web-1"},
		"probes/default":        {Kind: store.Probes, Name: "default"},
		"directors/www":         {Kind: store.Directors, Name: "www"},
		"routes/a.b_c":          {Kind: store.Routes, Name: "a.b_c"},
		"certificates/x":        {Kind: store.Certificates, Name: "x"},
		"health/web-1":          {Kind: store.HealthKind, Name: "web-1"},
		"backends/":             {Kind: store.Backends, Name: ""}, // Decode refuses the name
		"secret":                store.SecretKey,
		"backends/ /":           {Kind: store.Backends, Name: " /"},
	} {
		got, ok := store.ParseKey(in)
		if !ok || got != want || got.String() != in {
			t.Errorf("ParseKey(%q) = %v, %v, want %v", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "/", "ack", "secret/", "secret/x", "backends", "backend/x", "Backends/x", "/backends/x", "nodes/x"} {
		if got, ok := store.ParseKey(in); ok {
			t.Errorf("ParseKey(%q) = %v, want no key", in, got)
		}
	}
}

func TestParseKind(t *testing.T) {
	t.Parallel()
	for _, kind := range store.Kinds() {
		for _, s := range []string{string(kind), kind.Singular()} {
			if got, ok := store.ParseKind(s); !ok || got != kind {
				t.Errorf("ParseKind(%q) = %q, %v", s, got, ok)
			}
		}
	}
	if got, ok := store.ParseKind("backendss"); ok {
		t.Errorf("ParseKind(backendss) = %q", got)
	}
}

func TestValidateName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "Z", "web-1", "team-a/web-1", "a/b/c", "a_b.c-d", "none", strings.Repeat("x", 255)} {
		if err := store.ValidateName(name); err != nil {
			t.Errorf("ValidateName(%q): %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                       "is empty",
		"1a":                     "does not begin with a letter",
		"a/1":                    "does not begin with a letter",
		"-a":                     "does not begin with a letter",
		".a":                     "does not begin with a letter",
		"/a":                     "empty segment",
		"a//b":                   "empty segment",
		"a/":                     `ends with "/"`,
		"a b":                    "has ' ' in it",
		"a\x00":                  `has '\x00' in it`,
		"a\xff":                  "has byte 0xff in it",
		"aü":                     "has 'ü' in it",
		"a:b":                    "has ':' in it",
		"a/..":                   "does not begin with a letter",
		strings.Repeat("x", 256): "is 256 bytes long",
	} {
		if err := store.ValidateName(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ValidateName(%q) = %v, want an error with %q", name, err, want)
		}
	}
}
