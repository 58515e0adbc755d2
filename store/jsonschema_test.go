package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"roster/store"
)

// schemas are those of all kinds, and of a file of definitions as "".
var schemas = sync.OnceValue(func() map[store.Kind]*jsonschema.Schema {
	all := make(map[store.Kind]*jsonschema.Schema)
	for _, kind := range append(store.Kinds(), "") {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(store.JSONSchema(kind)))
		if err != nil {
			panic(err)
		}
		c := jsonschema.NewCompiler()
		c.DefaultDraft(jsonschema.Draft4) // not ours: the schema has to say so itself
		if err := c.AddResource("schema.json", doc); err != nil {
			panic(err)
		}
		all[kind] = c.MustCompile("schema.json")
	}
	return all
})

// fits says what the schema of a kind has against a value.
func fits(kind store.Kind, value string) error {
	if kind == store.HealthKind && !strings.HasPrefix(strings.TrimSpace(value), "{") {
		quoted, err := json.Marshal(value)
		if err != nil {
			return err
		}
		value = string(quoted)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(value))
	if err != nil {
		return err
	}
	if err := schemas()[kind].Validate(doc); err != nil {
		return fmt.Errorf("the schema of %q refuses %s: %w", kind, value, err)
	}
	return nil
}

// What an editor underlines. That the schema takes whatever Decode does is shown where
// Decode is tested.
func TestJSONSchemaRefusesTypicalMistakes(t *testing.T) {
	t.Parallel()
	for kind, values := range map[store.Kind][]string{
		store.Backends: {
			`[]`, `"a"`, `{}`, `{"none":false}`, `{"host":""}`, `{"host":"a","hots":"b"}`, `{"host":1}`, `{"host":"a","path":"/b"}`,
			`{"path":"/b","port":80}`, `{"path":"b"}`, `{"path":"/b","via":"a"}`, `{"host":"a","port":0}`, `{"host":"a","port":65536}`, `{"host":"a","port":1.5}`,
			`{"host":"a","port":"8080"}`, `{"host":"a","port":"smtp"}`, `{"host":"a","connect_timeout":"3 seconds"}`, `{"host":"a","connect_timeout":3}`,
			`{"host":"a","connect_timeout":"-1s"}`, `{"host":"a","connect_timeout":null}`, `{"host":"a","max_connections":-1}`, `{"host":"a","max_connections":"9"}`,
			`{"host":"a","proxy_header":3}`, `{"host":"a","via":"1"}`, `{"host":"a","via":"a//b"}`, `{"host":"a","reuse":"no"}`, `{"host":"a","tls":true}`,
			`{"host":"a","tls":{"alpn":"h2"}}`, `{"host":"a","tls":{"sni":"b"}}`, `{"host":"a","protocol":"http/2"}`, `{"host":"a","probe":{"window":65}}`, `{"host":"a","probe":7}`,
			`{"host":"a","probe":{"url":"x"}}`, `{"host":"a","labels":{"a":1}}`, `{"host":"a","labels":{"":"b"}}`, `{"host":"a","labels":["a"]}`,
		},
		store.Probes: {
			`{"type":"https"}`, `{"url":"/","request":["GET / HTTP/1.1"]}`, `{"request":[]}`, `{"request":"GET /"}`, `{"timeout":0}`, `{"timeout":"0s"}`,
			`{"interval":"0.0s"}`, `{"expected_response":99}`, `{"window":0}`, `{"threshold":65}`, `{"initial":-1}`, `{"intervall":"1s"}`,
		},
		store.Directors: {
			`{}`, `{"type":"roundrobin"}`, `{"type":"random","backends":"a"}`, `{"type":"random","backends":[{"weight":1}]}`, `{"type":"random","backends":[{"name":"a","weight":-1}]}`,
			`{"type":"random","select":{}}`, `{"type":"hash","by":"ip"}`, `{"type":"shard","replicas":0}`, `{"type":"shard","healthy":"CHOSEN"}`, `{"type":"shard","warmup":1.1}`,
			`{"type":"p2c","cookie":{"ttl":5}}`, `{"type":"p2c","outlier":{"consecutive":0}}`, `{"type":"p2c","outlier":{"ejection":"0s"}}`,
		},
		store.Routes: {
			`{}`, `{"backend":"a","respond":{}}`, `{"backend":"a","match":{"hots":"b"}}`, `{"backend":"a","match":{"path":[]}}`, `{"backend":"a","match":{"header":{"a":1}}}`,
			`{"backend":"a","when":""}`, `{"backend":"a","on_error":"ignore"}`, `{"respond":{"status":100}}`, `{"backend":"a","strip_prefix":"x"}`, `{"backend":"a","retries":101}`,
			`{"backend":"a","request_headers":{"append":{}}}`, `{"respond":{},"retries":1}`, `{"respond":{},"between_bytes_timeout":"1s"}`,
		},
		store.Certificates: {`{}`, `{"cert":"x"}`, `{"key":"x"}`, `{"cert":"x","key":"y","hosts":"a"}`, `{"cert":"x","key":"y","host":["a"]}`},
		store.HealthKind:   {`up`, `{}`, `{"state":"down"}`, `{"state":"sick","why":"x"}`},
		"": {
			`[]`, `{"backend":{}}`, `{"backends":{"1":{"host":"a"}}}`, `{"backends":{"a":{"hots":"a"}}}`, `{"backends":[{"host":"a"}]}`, `{"probes":{"p":{"window":99}}}`, `{"health":{"a":"up"}}`,
		},
	} {
		for _, value := range values {
			if fits(kind, value) == nil {
				t.Errorf("the schema of %q takes %s", kind, value)
			}
			if kind == "" {
				continue
			}
			if _, _, err := decode(kind, value); err == nil { // the list above is of what is wrong
				t.Errorf("Decode of %s takes %s", kind, value)
			}
		}
	}
}

func TestJSONSchemaOfAFileOfDefinitions(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		`{}`, `{"backends":null}`,
		`{"backends":{"team-a/web-1":{"host":"a","probe":"none"}},"probes":{"default":{}},"directors":{"d":{"type":"random","backends":["team-a/web-1"]}},
			"routes":{"r":{"backend":"d"}},"health":{"d":"Drain","e":{"state":"sick"}}}`,
	} {
		if err := fits("", value); err != nil {
			t.Error(err)
		}
	}
}

// Each field of each object says what it is for.
func TestJSONSchemaDescribesEveryField(t *testing.T) {
	t.Parallel()
	fields := 0
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", at, i), v[i])
			}
		case map[string]any:
			if v["type"] == "object" && v["properties"] != nil {
				for name, is := range v["properties"].(map[string]any) {
					fields++
					if about, _ := is.(map[string]any)["description"].(string); !strings.HasSuffix(about, ".") {
						t.Errorf("%s.%s: described as %q, want a sentence", at, name, about)
					}
				}
			}
			for name, is := range v {
				walk(at+"."+name, is)
			}
		}
	}
	var doc any
	if err := json.Unmarshal(store.JSONSchema(""), &doc); err != nil {
		t.Fatal(err)
	}
	walk("", doc)
	if fields < 100 {
		t.Errorf("%d fields were looked at: this tests little", fields)
	}
}

// What editors show as the default is what Decode fills in.
func TestJSONSchemaHasTheDefaults(t *testing.T) {
	t.Parallel()
	required := map[store.Kind]string{
		store.Backends: `"host":"a"`, store.Probes: ``, store.Directors: `"type":"shard"`, store.Routes: `"backend":"b"`,
	}
	for kind, fields := range required {
		var doc struct {
			Properties map[string]struct {
				Default json.RawMessage `json:"default"`
			} `json:"properties"`
		}
		if err := json.Unmarshal(store.JSONSchema(kind), &doc); err != nil {
			t.Fatal(err)
		}
		want := store.Encode(mustDecode(t, kind, "{"+fields+"}"))
		for name, is := range doc.Properties {
			if is.Default == nil || kind == store.Directors && (name == "sticky" || name == "slow_start") || name == "on_error" {
				continue // does not go with a shard, or without when
			}
			value := fmt.Sprintf("{%s,%q:%s}", fields, name, is.Default)
			if fields == "" {
				value = fmt.Sprintf("{%q:%s}", name, is.Default)
			}
			if got := store.Encode(mustDecode(t, kind, value)); !bytes.Equal(got, want) {
				t.Errorf("%s %s says %s, want what it is without: %s", kind, value, got, want)
			}
		}
	}
}
