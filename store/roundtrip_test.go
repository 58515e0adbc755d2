package store_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"roster/store"
)

// samples are good values of every field; $name stands for an object of another
// table.
var samples = map[string]map[string][]string{
	"backends": {
		"host": {`"a.example"`, `"10.0.0.7"`, `"[::1]:8080"`, `"::1"`, `"A.example:https"`, `"a_b"`, `"fe80::1%eth0"`},
		"path": {`"/run/x"`, `"@x"`}, "none": {`true`, `false`}, "port": {`80`, `443`, `8080`, `"https"`},
		"host_header": {`"a.example"`, `"A.example:8080"`, `"[::1]"`, `"10.0.0.7:8080"`}, "override_host": {`true`, `false`},
		"connect_timeout": {`"3.5s"`, `"0s"`, `0`, `"1ns"`}, "first_byte_timeout": {`"60s"`, `"1m1s"`}, "between_bytes_timeout": {`"1.0001s"`},
		"tunnel_timeout": {`"1h"`, `"1d"`}, "idle_timeout": {`"90s"`, `"1w"`}, "max_connections": {`0`, `1`, `1000000000`}, "wait_limit": {`7`},
		"wait_timeout": {`"0"`, `"2s"`}, "proxy_header": {`1`, `2`}, "preamble": {`""`, `"AAEC"`}, "via": {`"gate"`, `"a/b"`},
		"authority": {`""`, `"a.example"`, `"b.example:1"`, `"10.0.0.1"`, `"localhost"`}, "pool": {`""`, `"p\u0000\"\\"`}, "reuse": {`true`, `false`},
		"tls": {`$tls`}, "protocol": {`"http/1.1"`, `"h2"`, `"h2c"`}, "probe": {`"none"`, `"light"`, `$probes`},
		"labels": {`{}`, `{"b":"","a":"1"}`, `{"x.y/z":"\u2028ü😀"}`}, "comment": {`""`, `"free <text> & \n\t\u0001\u007f"`},
	},
	"tls": {
		"server_name": {`"a.example"`, `"b"`, `"10.0.0.7"`, `"::1"`}, "certificate": {`"c"`}, "insecure_skip_verify": {`true`, `false`},
		"alpn": {`["h2"]`, `["http/1.1"]`, `["h2","x"]`}, "ca": {`$ca`},
	},
	"probes": {
		"type": {`"http"`, `"grpc"`, `"tcp"`}, "port": {`1`, `"http"`}, "url": {`"/"`, `"/x?y=%20"`}, "request": {`["GET / HTTP/1.1"]`, `["A","","b"]`},
		"expected_response": {`200`, `999`}, "expect_close": {`true`, `false`}, "timeout": {`"2s"`, `"1ns"`}, "interval": {`"5s"`, `"1d"`},
		"window": {`8`, `64`, `1`, `3`}, "threshold": {`1`, `3`, `8`}, "initial": {`0`, `2`, `64`}, "service": {`""`, `"x.Y"`},
	},
	"directors": {
		"type":     {`"round_robin"`, `"fallback"`, `"random"`, `"hash"`, `"shard"`, `"shard"`, `"shard"`, `"least_connections"`, `"p2c"`},
		"backends": {`[]`, `["a","a","b/c"]`, `["a",$members]`, `[$members,$members]`}, "select": {`{"app":"web"}`, `{"b":"1","a":""}`},
		"sticky": {`true`, `false`}, "by": {`"url"`, `"header:X-A"`, `"cookie:A"`, `"client.ip"`}, "replicas": {`67`, `1`}, "warmup": {`0`, `-0`, `0.1`, `1e-3`, `1`},
		"rampup": {`"0s"`, `"1m"`}, "healthy": {`"chosen"`, `"ignore"`, `"all"`}, "slow_start": {`"0s"`, `"5s"`}, "cookie": {`{}`, `$cookie`}, "outlier": {`{}`, `$outlier`},
		"panic": {`0`, `0.5`}, "retry_budget": {`0.2`, `0`, `0.30000000000000004`},
	},
	"members": {"name": {`"a"`, `"b"`}, "weight": {`1`, `2`, `1.5`, `1000000`}, "rampup": {`"0s"`, `"1m"`}},
	"cookie":  {"name": {`"roster"`, `"x"`}, "ttl": {`"0s"`, `"1d"`}, "path": {`"/"`, `"/x"`}},
	"outlier": {"consecutive": {`5`, `1`}, "ejection": {`"30s"`, `"1s"`}, "max_ejection": {`"5m"`, `"1d"`}, "max_share": {`0.1`, `1`}},
	"routes": {
		"match": {`{}`, `$match`}, "when": {`"true"`, `"req.path ==\n'/'"`}, "on_error": {`"fail"`, `"skip"`}, "priority": {`0`, `-1`, `5`}, "backend": {`"a"`, `"b/c"`},
		"respond": {`{}`, `$respond`}, "request_headers": {`{}`, `$edits`}, "response_headers": {`$edits`}, "strip_prefix": {`"/"`, `"/a"`}, "rewrite_host": {`"b"`, `"b:1"`},
		"retries": {`0`, `3`}, "timeout": {`"0s"`, `"1m"`}, "connect_timeout": {`"0s"`, `"1s"`}, "first_byte_timeout": {`0`}, "between_bytes_timeout": {`"1ms"`},
	},
	"match": {
		"host": {`"A.b."`, `["*.a","b:1"]`, `"::1"`, `"[::0001]:80"`}, "path": {`"/"`, `["/*","/a/*","/%C3%BC"]`}, "path_regex": {`"^/(a|b)+"`, `["x","x"]`}, "method": {`"GET"`, `["A","B"]`},
		"header": {`{}`, `{"A":"1","b":["*","2"]}`}, "query": {`{"":"x","ü&":["a"]}`}, "client": {`"10.0.0.1"`, `["::/0","10.0.0.0/8","::ffff:1.2.3.4"]`},
	},
	"respond": {"status": {`200`, `404`}, "headers": {`{}`, `{"b":"1","A":["2","3"]}`}, "body": {`""`, `"x"`}},
	"edits":   {"set": {`{"X":"1"}`, `{}`}, "add": {`{"b":["1","2"],"A":""}`}, "remove": {`["x","Y"]`}},
	"health":  {"state": {`"sick"`, `" HEALTHY "`}, "reason": {`""`, `"x"`}, "by": {`"eva"`}},
}

// required are fields without which most values are wrong.
var required = map[string][]string{"backends": {"host"}, "directors": {"type"}, "routes": {"backend"}, "members": {"name"}, "health": {"state"}}

var table = regexp.MustCompile(`\$[a-z]+`)

// compose writes an object of a table; n chooses a number below its argument.
func compose(name string, n func(int) int) string {
	names := slices.Sorted(maps.Keys(samples[name]))
	var fields []string
	put := func(field string) {
		values := samples[name][field]
		value := table.ReplaceAllStringFunc(values[n(len(values))], func(inner string) string {
			if inner == "$ca" {
				ca, _ := json.Marshal(fooPair().cert)
				return string(ca)
			}
			return compose(inner[1:], n)
		})
		fields = append(fields, `"`+field+`":`+value)
	}
	for _, field := range required[name] {
		if n(8) > 0 {
			put(field)
		}
	}
	for range n(6) {
		put(names[n(len(names))]) // perhaps twice: an error
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// checkRoundTrip says what is wrong with how a definition is written.
func checkRoundTrip(key store.Key, def store.Definition) error {
	written := store.Encode(def)
	again, warnings, err := store.Decode(key, written, store.Reject)
	if err != nil || warnings != nil {
		return fmt.Errorf("Decode of %s: warnings %q, error %w", written, warnings, err)
	}
	if !reflect.DeepEqual(again, def) {
		return fmt.Errorf("Decode of %s\n got %#v\nwant %#v", written, again, def)
	}
	if twice := store.Encode(again); string(twice) != string(written) {
		return fmt.Errorf("Encode wrote\n     %s\nthen %s", written, twice)
	}
	if !json.Valid(written) {
		return fmt.Errorf("Encode wrote what is not JSON: %s", written)
	}
	return fits(key.Kind, string(written))
}

// Decode(Encode(x)) is x, and Encode leaves out what Decode fills in.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, kind := range []store.Kind{store.Backends, store.Probes, store.Directors, store.Routes, store.HealthKind} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			key := store.Key{Kind: kind, Name: "x"}
			var good, all int
			rapid.Check(t, func(t *rapid.T) {
				value := compose(string(kind), func(below int) int { return rapid.IntRange(0, below-1).Draw(t, "n") })
				def, _, err := store.Decode(key, []byte(value), store.Reject)
				if all++; err != nil {
					return
				}
				good++
				if err := checkRoundTrip(key, def); err != nil {
					t.Fatalf("%s\n%v", value, err)
				}
				if err := fits(kind, value); err != nil {
					t.Fatal(err)
				}
			})
			t.Logf("%d of %d values are good", good, all)
			if good*5 < all {
				t.Errorf("only %d of %d values are good: this tests little", good, all)
			}
		})
	}
	foo := fooPair()
	for _, value := range []string{
		object("cert", foo.cert, "key", foo.key), object("cert", foo.cert, "key", foo.key, "hosts", []string{}),
		object("key", foo.key, "hosts", []string{"A"}, "cert", foo.cert),
	} {
		if err := checkRoundTrip(store.Key{Kind: store.Certificates, Name: "x"}, mustDecode(t, store.Certificates, value)); err != nil {
			t.Error(err)
		}
	}
}
