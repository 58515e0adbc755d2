package store_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	multierror "github.com/hashicorp/go-multierror"

	"roster/store"
)

// FuzzDecode: any value of any kind is either a definition that reads back as
// itself, or has errors that can be shown.
func FuzzDecode(f *testing.F) {
	foo := fooPair()
	for kind, values := range map[int][]string{
		0: {
			`{"host": "10.0.0.7", "port": 8080, "probe": "light"}`,
			`{"host":"[::1]:8080","via":"gate","authority":"","tls":{"server_name":"a","alpn":["h2"],"insecure_skip_verify":true},"protocol":"h2","labels":{"a":"b"}}`,
			`{"path":"/run/x","preamble":"AAEC","probe":{"url":"/","window":5},"connect_timeout":"1.5s","reuse":false}`,
			`{"none":true}`, `{"host":"\ud83d\ude00"}`,
		},
		1: {`{"request":["GET / HTTP/1.1","Connection: close"],"threshold":8,"initial":64}`, `{"type":"grpc","service":"x"}`},
		2: {`{"type":"round_robin","backends":["web-1",{"name":"web-2","weight":2}],"select":{"app":"web"}}`,
			`{"type":"shard","by":"header:x","rampup":"1m","backends":[{"name":"a","rampup":"0s"}],"cookie":{},"outlier":{"ejection":"1s"}}`},
		3: {`{"match":{"host":"*.foo.com","path":"/java/*","header":{"a":"*"},"client":["10.0.0.0/8"],"path_regex":"a+"},"when":"true","backend":"java"}`,
			`{"respond":{"status":404,"headers":{"a":["b","c"]}},"response_headers":{"set":{"x":"y"},"remove":["z"]},"priority":7}`},
		4: {object("cert", foo.cert, "key", foo.key), object("cert", foo.key, "hosts", []string{"*.a"})},
		5: {`sick`, ` Drain `, `{"state":"auto","reason":"x","by":"y"}`},
	} {
		for _, value := range values {
			f.Add(byte(kind), []byte(value), kind%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, value []byte, warn bool) {
		key := store.Key{Kind: store.Kinds()[int(kind)%len(store.Kinds())], Name: "x"}
		mode := store.Reject
		if warn {
			mode = store.Warn
		}
		before := string(value)
		def, warnings, err := store.Decode(key, value, mode)
		if string(value) != before {
			t.Error("Decode changed the value")
		}
		for _, w := range warnings {
			if !utf8.ValidString(w) || !warn {
				t.Errorf("warning %q", w)
			}
		}
		if shown := store.RedactValue(key, value); key.Kind == store.Certificates && !json.Valid(shown) {
			t.Errorf("RedactValue is not JSON: %s", shown)
		}
		if err == nil {
			if key.Kind != store.HealthKind && !json.Valid(value) {
				t.Error("what is not JSON was accepted")
			}
			if err := checkRoundTrip(key, def); err != nil {
				t.Error(err)
			}
			return
		}
		var all *multierror.Error
		if def != nil || !errors.As(err, &all) || len(all.Errors) == 0 {
			t.Fatalf("definition %v, error %T", def, err)
		}
		for _, err := range all.Errors {
			var fault *store.FieldError
			if !errors.As(err, &fault) || fault.Msg == "" || !utf8.ValidString(err.Error()) {
				t.Errorf("error %q of type %T", err, err)
			}
			if fault != nil && strings.HasPrefix(fault.Msg, "not JSON") && json.Valid(value) &&
				!strings.Contains(fault.Msg, "nested deeper") {
				t.Errorf("%s, but it is", fault)
			}
		}
	})
}

// FuzzName: a good name can be part of a key, a path and a reference.
func FuzzName(f *testing.F) {
	for _, name := range []string{"", "a", "web-1", "team-a/web-1", "none", "a//b", "1a", "a/../b", "ü"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := store.ValidateName(name); err != nil {
			if !utf8.ValidString(err.Error()) {
				t.Errorf("error %q", err)
			}
			return
		}
		key := store.Key{Kind: store.Backends, Name: name}
		if got, ok := store.ParseKey(key.String()); !ok || got != key {
			t.Errorf("ParseKey(%q) = %v, %v", key, got, ok)
		}
		if len(name) > store.MaxName || strings.ContainsAny(name, " \"\\%?#\x00") || strings.Contains("/"+name+"/", "/../") {
			t.Errorf("name %q is good", name)
		}
		_, _, err := store.Decode(key, []byte(`{"host":"a","via":"`+name+`","probe":"`+name+`"}`), store.Reject)
		if err != nil {
			t.Errorf("references to %q: %v", name, err)
		}
	})
}

// FuzzDuration: what is parsed is formatted so that it is parsed again, and
// means what it means to Go where Go takes it.
func FuzzDuration(f *testing.F) {
	for _, s := range []string{"0", "1.4s", "500ms", "1m30s", "1d", "2w", "1y", "-1s", "1e3s", ".5h", "9223372036854775807ns", "0.1ns", "1µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := store.ParseDuration(s)
		if err != nil {
			if !utf8.ValidString(err.Error()) {
				t.Errorf("error %q", err)
			}
			return
		}
		if d < 0 {
			t.Fatalf("ParseDuration(%q) = %d", s, d)
		}
		if again, err := store.ParseDuration(store.FormatDuration(d)); err != nil || again != d {
			t.Errorf("ParseDuration(%q) = %d; formatted %q is %d, %v", s, d, store.FormatDuration(d), again, err)
		}
		// Go computes fractions in floating point, so it may be off by one.
		if std, err := time.ParseDuration(s); err == nil && (std-d).Abs() > time.Duration(1+strings.Count(s, ".")) {
			t.Errorf("ParseDuration(%q) = %d, and %d by package time", s, d, std)
		}
	})
}
