package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// A private key that is put as a certificate, right or wrong, or got into any other
// field, is in no answer, log, export, event or page of metrics.
func TestNoAnswerShowsAPrivateKey(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--log-level", "debug", "--listen", "tls://" + harness.FreeAddress(t), "--access-log", "json"}})
	pair, other := certstest.NewCA(t).Issue(t, "www.test"), certstest.NewCA(t).Issue(t, "other.test")
	secrets := map[string]string{"the key": middle(pair.Key), "the other key": middle(other.Key)}
	quoted := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cert, key, key2 := quoted(pair.Cert), quoted(pair.Key), quoted(other.Key)

	seen := map[string]string{} // all that was answered, by what was asked
	events := make(chan string)
	ready := make(chan struct{})
	go listenAll(node.AdminURL()+"/v1/events", ready, events)
	<-ready

	values := map[string]string{
		"certificates/good":            `{"cert": ` + cert + `, "key": ` + key + `}`,
		"certificates/mixed-up":        `{"cert": ` + key + `, "key": ` + cert + `}`,
		"certificates/of-another":      `{"cert": ` + cert + `, "key": ` + key2 + `}`,
		"certificates/both-in-cert":    `{"cert": ` + quoted(pair.Cert+pair.Key) + `, "key": ` + key + `}`,
		"certificates/unknown-field":   `{"cert": ` + cert + `, "kay": ` + key + `}`,
		"certificates/name-of-a-field": `{"cert": ` + cert + `, ` + key + `: 1}`,
		"certificates/host":            `{"cert": ` + cert + `, "key": ` + key + `, "hosts": [` + key + `]}`,
		"certificates/cut-off":         `{"cert": ` + cert + `, "key": ` + key[:len(key)-9],
		"certificates/a-list":          `[` + key + `]`,
		"certificates/a-string":        key,
		"certificates/pem":             pair.Key,
		"backends/comment":             `{"host": "127.0.0.1", "comment": ` + key + `}`,
		"backends/label":               `{"host": "127.0.0.1", "labels": {"a": ` + key + `}}`,
		"backends/label-name":          `{"host": "127.0.0.1", "labels": {` + key + `: "a"}}`,
		"backends/host":                `{"host": ` + key + `}`,
		"backends/ca":                  `{"host": "127.0.0.1", "tls": {"ca": ` + key + `}}`,
		"backends/certificate":         `{"host": "127.0.0.1", "tls": {"certificate": ` + key + `}}`,
		"backends/header":              `{"host": "127.0.0.1", "host_header": ` + key + `, "pool": ` + key + `, "via": ` + key + `, "authority": ` + key + `}`,
		"backends/name-of-a-field":     `{"host": "127.0.0.1", ` + key + `: 1}`,
		"backends/pem":                 pair.Key,
		"probes/request":               `{"request": ["GET / HTTP/1.1", ` + key + `]}`,
		"probes/url":                   `{"url": ` + key + `, "timeout": ` + key + `, "window": ` + key + `}`,
		"directors/d":                  `{"type": "random", "backends": [` + key + `], "by": ` + key + `}`,
		"routes/body":                  `{"respond": {"body": ` + key + `}}`,
		"routes/when":                  `{"backend": "comment", "when": ` + key + `}`,
		"routes/regex":                 `{"backend": "comment", "match": {"path_regex": ` + key + `, "host": ` + key + `, "path": ` + key + `}}`,
		"health/comment":               `{"state": "sick", "reason": ` + key + `, "by": ` + key + `}`,
		"health/state":                 `{"state": ` + key + `}`,
		"health/pem":                   pair.Key,
	}
	var rev int64
	for name, value := range values {
		kind, of, _ := strings.Cut(name, "/")
		header := []string(nil)
		if strings.HasPrefix(value, "-") && kind == "health" {
			header = []string{"Content-Type", "text/plain"}
		}
		for what, path := range map[string]string{"PUT ": "/by-api-" + of, "dry run of ": "/by-api-" + of + "?dry_run"} {
			seen[what+name] = adminDo(t, adminClient, "PUT", node.AdminURL()+"/v1/"+kind+path, value, header...).String()
		}
		r := harness.Run(t, "", nil, harness.Roster(t), "put", "--etcd", node.Endpoints(), strings.TrimSuffix(kind, "s"), "by-cli-"+of, value)
		seen["roster put "+name] = r.String()
		rev = node.Put("/roster/"+name, value)
	}
	node.WaitRevision(rev)
	if s := node.Status(); s.Counts["certificates"] < 2 || len(s.Rejected) < 15 {
		t.Errorf("%d certificates and %d rejected values: this tests little", s.Counts["certificates"], len(s.Rejected))
	}

	var description struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(node.AdminGet("/openapi.json").Body), &description); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for path, methods := range description.Paths {
		if methods["get"] == nil || path == "/v1/events" || path == "/debug/pprof/profile" || path == "/debug/pprof/trace" {
			continue
		}
		var targets []string
		if kind, _, one := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/{name}"); one {
			for name := range values {
				if of, found := strings.CutPrefix(name, kind+"/"); found {
					targets = append(targets, "/v1/"+name, "/v1/"+kind+"/by-api-"+of, "/v1/"+kind+"/by-cli-"+of)
				}
			}
		} else {
			targets = []string{strings.Replace(path, "{profile}", "goroutine?debug=2", 1)}
		}
		if path == "/v1/backends" || path == "/v1/probes" {
			targets = append(targets, path+"?verbose", path+"?named")
		}
		for _, target := range targets {
			asked++
			seen["GET "+target] = node.AdminGet(target).String()
		}
	}
	if asked < 50 {
		t.Errorf("%d things were asked for: this tests little", asked)
	}
	for _, kind := range []string{"backends", "probes", "directors", "routes", "certificates", "health"} {
		for _, format := range []string{"table", "json", "yaml"} {
			seen["roster get "+kind+" as "+format] = harness.CLI(t, "get", "--etcd", node.Endpoints(), kind, "-o", format).String()
		}
	}
	for _, command := range []string{"status --admin " + node.AdminAddress(), "status -o json --admin " + node.AdminAddress(), "get backends -v --admin " + node.AdminAddress(), "export", "probe comment"} {
		name, _, _ := strings.Cut(command, " ")
		if r := harness.CLI(t, append(strings.Fields(command), "--etcd", node.Endpoints())...); r.Code == 2 && name != "export" {
			t.Errorf("roster %s: %v", command, r)
		} else {
			seen["roster "+command] = r.String()
		}
	}
	node.Get("/")
	node.Terminate()
	seen["the events"] = <-events
	seen["the log"] = node.Log()
	if !strings.Contains(seen["the events"], "event: override") || !strings.Contains(seen["the log"], "definition rejected") {
		t.Errorf("the events and the log do not tell of the values:\n%s\n%s", seen["the events"], seen["the log"])
	}
	for what, text := range seen {
		for of, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows %s:\n%.2000s", what, of, text)
			}
		}
	}
}

// middle is a part of a key in PEM that is nowhere else.
func middle(key string) string {
	line := strings.Split(key, "\n")[1]
	return line[len(line)-20:]
}

// listenAll reads events until their end.
func listenAll(url string, ready chan<- struct{}, all chan<- string) {
	resp, err := http.Get(url)
	close(ready)
	if err != nil {
		all <- err.Error()
		return
	}
	defer resp.Body.Close()
	var text strings.Builder
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		fmt.Fprintln(&text, lines.Text())
	}
	all <- text.String()
}
