package vcl_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/store"
	"roster/vcl"
)

// Any backend and probe that VCL can express is written as VCL that is read as it was.
func TestExpressibleDefinitionsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[A-Za-z][A-Za-z0-9_-]{0,9}`).Filter(func(s string) bool {
		return !strings.HasPrefix(s, "vcl_") && s != "none"
	})
	host := rapid.SampledFrom([]string{"10.0.0.1", "WWW.example", "::1", "2001:db8::1", "a", "fe80::1"})
	header := rapid.SampledFrom([]string{"www.example", "www.example:81", "[::1]:8080", "10.0.0.1", "0.0.0.0", "localhost"})
	duration := rapid.Custom(func(t *rapid.T) string {
		unit := rapid.SampledFrom([]string{"us", "ms", "s", "m", "d"}).Draw(t, "unit")
		return fmt.Sprint(rapid.IntRange(1, 100_000).Draw(t, "n")) + unit
	})
	line := rapid.StringMatching(`[ -~äß	]{0,20}`).Filter(func(s string) bool {
		return !(strings.Contains(s, `"}`) && (strings.Contains(s, `"""`) || strings.HasSuffix(s, `"`)))
	})
	maybe := func(t *rapid.T, fields map[string]any, name string, value func() any) {
		if rapid.Bool().Draw(t, name+"?") {
			fields[name] = value()
		}
	}
	probe := func(t *rapid.T) map[string]any {
		p := map[string]any{}
		if rapid.Bool().Draw(t, "request?") {
			p["request"] = append([]string{"GET / HTTP/1.1"}, rapid.SliceOfN(line, 0, 4).Draw(t, "request")...)
		} else {
			maybe(t, p, "url", func() any {
				return rapid.StringMatching(`/[!"$-~]{0,10}`).Filter(func(s string) bool { return !strings.Contains(s, `"}`) }).Draw(t, "url")
			})
		}
		maybe(t, p, "expected_response", func() any { return rapid.IntRange(100, 999).Draw(t, "status") })
		maybe(t, p, "expect_close", func() any { return rapid.Bool().Draw(t, "close") })
		maybe(t, p, "timeout", func() any { return duration.Draw(t, "timeout") })
		maybe(t, p, "interval", func() any { return duration.Draw(t, "interval") })
		p["window"] = rapid.IntRange(1, 64).Draw(t, "window")
		p["threshold"] = rapid.IntRange(1, p["window"].(int)).Draw(t, "threshold")
		maybe(t, p, "initial", func() any { return rapid.IntRange(0, 64).Draw(t, "initial") })
		return p
	}
	rapid.Check(t, func(t *rapid.T) {
		var all []vcl.Definition
		define := func(kind store.Kind, name string, fields map[string]any) {
			value, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			k := store.Key{Kind: kind, Name: name}
			def, _, err := store.Decode(k, value, store.Reject)
			if err != nil {
				t.Fatalf("%s %s: %v", k, value, err)
			}
			all = append(all, vcl.Definition{Key: k, Definition: def})
		}
		names := rapid.SliceOfNDistinct(name, 4, 8, rapid.ID[string]).Draw(t, "names")
		var probes, vias []string
		for i, name := range names {
			if i < 2 {
				define(store.Probes, name, probe(t))
				probes = append(probes, name)
				continue
			}
			if rapid.IntRange(0, 9).Draw(t, "none") == 0 {
				define(store.Backends, name, map[string]any{"none": true})
				continue
			}
			b := map[string]any{}
			if rapid.IntRange(0, 3).Draw(t, "path") == 0 {
				b["path"] = rapid.SampledFrom([]string{"/run/a.sock", "@a", `/run/"a"`, "/run/\na"}).Draw(t, "path")
			} else {
				b["host"] = host.Draw(t, "host")
				maybe(t, b, "port", func() any { return rapid.IntRange(1, 65535).Draw(t, "port") })
				if len(vias) > 0 {
					maybe(t, b, "via", func() any { return rapid.SampledFrom(vias).Draw(t, "via") })
				}
			}
			maybe(t, b, "host_header", func() any { return header.Draw(t, "host_header") })
			if b["via"] != nil {
				maybe(t, b, "authority", func() any { return rapid.SampledFrom([]string{"", "sni.example", "10.0.0.1"}).Draw(t, "authority") })
			} else {
				vias = append(vias, name)
			}
			for _, field := range []string{"connect_timeout", "first_byte_timeout", "between_bytes_timeout", "wait_timeout"} {
				maybe(t, b, field, func() any { return rapid.OneOf(duration, rapid.Just("0s")).Draw(t, field) })
			}
			maybe(t, b, "max_connections", func() any { return rapid.IntRange(0, 1e6).Draw(t, "max") })
			maybe(t, b, "wait_limit", func() any { return rapid.IntRange(0, 1e6).Draw(t, "limit") })
			maybe(t, b, "proxy_header", func() any { return rapid.IntRange(1, 2).Draw(t, "proxy") })
			maybe(t, b, "preamble", func() any {
				return base64.StdEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "preamble"))
			})
			switch rapid.IntRange(0, 2).Draw(t, "probe") {
			case 0:
				b["probe"] = rapid.SampledFrom(probes).Draw(t, "probe")
			case 1:
				b["probe"] = probe(t)
			}
			define(store.Backends, name, b)
		}
		var b bytes.Buffer
		left, err := vcl.Write(&b, all)
		if err != nil || left > 0 || strings.Contains(b.String(), "\n    # ") {
			t.Fatalf("%d are left out, %v\n%s", left, err, &b)
		}
		result, err := vcl.Parse("w.vcl", b.String(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, &b)
		}
		got := definitions(result)
		for _, d := range all {
			if diff := cmp.Diff(d.Definition, got[d.Key]); diff != "" {
				t.Fatalf("%s, -was +is:\n%s\n%s", d.Key, diff, &b)
			}
		}
	})
}
