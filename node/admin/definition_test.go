package admin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"roster/store"
)

func TestDefinitionsOfEveryKindAreListedAndShown(t *testing.T) {
	t.Parallel()
	n := full(t)
	h := serve(n)
	for path, names := range map[string]string{
		"/v1/backends": "name none plain", "/v1/directors": "d x", "/v1/routes": "name", "/v1/certificates": "name", "/v1/health": "name nobody",
		"/v1/probes?named": "name", "/v1/probes?named&under=x": "", "/v1/health?under=no": "nobody", "/v1/directors?after=d": "x", "/v1/directors?limit=1": "d",
	} {
		w := ask(h, "GET", path)
		var list List[Definition]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || list.Revision != 7 || list.Items == nil {
			t.Fatalf("%s: %v: %s", path, err, w.Body)
		}
		var got []string
		for _, d := range list.Items {
			got = append(got, d.Name)
			if d.Revision != 7 || len(d.Definition) == 0 {
				t.Errorf("%s: %+v", path, d)
			}
		}
		if strings.Join(got, " ") != names {
			t.Errorf("%s: %s, want %s", path, got, names)
		}
		if next := map[bool]string{true: "d"}[strings.HasSuffix(path, "limit=1")]; list.Next != next {
			t.Errorf("%s: next is %q, want %q", path, list.Next, next)
		}
	}
	for _, kind := range store.Kinds() {
		path := "/v1/" + string(kind) + "/name"
		if kind == store.Directors {
			path = "/v1/directors/d"
		}
		w := ask(h, "GET", path)
		if w.Code != 200 || w.Header().Get("ETag") != `"7"` || w.Header().Get("X-Roster-Revision") != "7" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		if w := ask(h, "GET", path+"/below"); w.Code != 404 {
			t.Errorf("%s/below: %d, want 404", path, w.Code)
		}
	}
}

func TestADirectorIsShownWithItsMembers(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a": `{"host":"127.0.0.1"}`, "backends/b": `{"host":"127.0.0.2","probe":{}}`,
		"directors/d":     `{"type":"round_robin","backends":["a",{"name":"b","weight":2},"missing","inner","a"]}`,
		"directors/inner": `{"type":"round_robin","backends":["b"]}`,
		"directors/told":  `{"type":"round_robin","backends":["a"]}`, "health/told": `{"state":"sick","reason":"gone home"}`,
	})
	of := func(name string) (d Director) {
		w := ask(serve(n), "GET", "/v1/directors/"+name)
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
		return d
	}
	d := of("d")
	if got, want := fmt.Sprint(d.Members), "[{a backends 1 healthy} {b backends 2 sick} {missing  1 sick} {inner directors 1 sick} {a backends 1 healthy}]"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	if d.Health != (DirectorHealth{store.Healthy, store.Auto, ""}) {
		t.Errorf("health %+v", d.Health)
	}
	if d := of("inner"); d.Health.State != store.Sick {
		t.Errorf("of sick members only: %+v", d.Health)
	}
	if d := of("told"); d.Health != (DirectorHealth{store.Sick, store.Sick, "gone home"}) {
		t.Errorf("with an operator's word: %+v", d.Health)
	}
}

func TestACertificateIsShownWithoutItsKey(t *testing.T) {
	t.Parallel()
	n := full(t)
	for _, path := range []string{"/v1/certificates/name", "/v1/certificates"} {
		w := ask(serve(n), "GET", path)
		if strings.Contains(w.Body.String(), "PRIVATE") || !strings.Contains(w.Body.String(), `"key": "(redacted)"`) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	var c Certificate
	if err := json.Unmarshal(ask(serve(n), "GET", "/v1/certificates/name").Body.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(c.Hosts) != "[www.test]" || c.Subject != "CN=test" || c.Issuer == "" || !c.NotBefore.Before(c.NotAfter) {
		t.Errorf("%+v", c)
	}
}

// A key that got into a field where none belongs is not shown either.
func TestAKeyInAnotherFieldIsNotShown(t *testing.T) {
	t.Parallel()
	const pem = `-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n`
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a": `{"host":"127.0.0.1","comment":"` + pem + `"}`, "backends/b": `{"host":"` + pem + `"}`, "backends/c": `{"host":"127.0.0.1","` + pem + `":1}`,
		"routes/r": `{"respond":{"body":"` + pem + `"}}`, "health/a": `{"state":"sick","reason":"` + pem + `","by":"` + pem + `"}`,
		"directors/d": `{"type":"round_robin","backends":["a"]}`, "health/d": `{"state":"sick","reason":"` + pem + `"}`,
	})
	for _, path := range []string{"/v1/backends/a", "/v1/backends", "/v1/routes/r", "/v1/health/a", "/v1/health", "/v1/directors/d", "/v1/status"} {
		if w := ask(serve(n), "GET", path); w.Code != 200 || strings.Contains(w.Body.String(), "MIGHAgEA") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
