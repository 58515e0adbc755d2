package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"roster/e2e/harness"
)

// TestVarnishGuide builds up a site as Varnish's users' guide does: one backend, another for
// /java/, virtual hosts, mobile devices, and directors with probes. Each step is made as a
// user would: with etcdctl, or with a file for roster apply.
func TestVarnishGuide(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	origins := map[string]*harness.Origin{}
	origin := func(name string) (port string) {
		origins[name] = harness.StartOrigin(t, name)
		_, port, _ = net.SplitHostPort(origins[name].Address())
		return port
	}
	// get asks for a path of a host, and says who answered or which status it was.
	get := func(host, path string, fields ...string) string {
		t.Helper()
		w := harness.Dial(t, "tcp", node.Address())
		w.Send("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n")
		for _, f := range fields {
			w.Send(f + "\r\n")
		}
		w.Send("\r\n")
		m := w.Response()
		if name := m.Get("X-Origin"); name != "" && m.Status() == http.StatusOK {
			return name
		}
		return fmt.Sprint(m.Status())
	}
	etcdctl := func(key, value string) {
		t.Helper()
		node.WaitRevision(node.Put(key, value))
	}
	apply := func(yaml string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "site.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
			t.Fatal(err)
		}
		r := harness.Run(t, "", []string{"ROSTER_ETCD=" + node.Endpoints(), "ROSTER_ADMIN=" + node.AdminAddress()},
			harness.Roster(t), "apply", "-f", file, "--wait")
		if r.Code != 0 {
			t.Fatalf("roster apply: %v", r)
		}
	}
	type request struct{ host, path, field, want string }
	check := func(step string, requests ...request) {
		t.Helper()
		for _, r := range requests {
			var fields []string
			if r.field != "" {
				fields = append(fields, r.field)
			}
			if got := get(r.host, r.path, fields...); got != r.want {
				t.Errorf("%s: http://%s%s %s is answered by %s, want %s", step, r.host, r.path, r.field, got, r.want)
			}
		}
	}

	// A backend, and another one for a part of the paths.
	etcdctl("/roster/backends/default", `{"host": "127.0.0.1", "port": `+origin("default")+`}`)
	etcdctl("/roster/backends/java", `{"host": "127.0.0.1", "port": `+origin("java")+`}`)
	etcdctl("/roster/routes/java", `{"match": {"path": "/java/*"}, "backend": "java"}`)
	check("paths",
		request{"any.example", "/", "", "default"},
		request{"any.example", "/java/", "", "java"},
		request{"any.example", "/java/app?x=1", "", "java"},
		request{"any.example", "/java", "", "default"},
		request{"any.example", "/javascript/x", "", "default"},
		// No other spelling slips past the rule.
		request{"any.example", "/%6Aava/app", "", "java"},
		request{"any.example", "/x/../java/app", "", "java"},
		request{"any.example", "//java//app", "", "java"},
		request{"any.example", "/java/../x", "", "default"},
		request{"any.example", "/../x", "", "400"},
	)

	// Virtual hosts.
	apply(`
backends:
  foo: {host: 127.0.0.1, port: ` + origin("foo") + `}
  bar: {host: 127.0.0.1, port: ` + origin("bar") + `}
routes:
  foo: {match: {host: [foo.com, "*.foo.com"]}, backend: foo}
  bar: {match: {host: [bar.com, www.bar.com]}, backend: bar}
`)
	check("virtual hosts",
		request{"foo.com", "/", "", "foo"},
		request{"www.foo.com", "/x", "", "foo"},
		request{"WWW.Foo.Com:8080", "/x", "", "foo"},
		request{"a.b.foo.com", "/", "", "foo"},
		request{"bar.com", "/", "", "bar"},
		request{"www.bar.com", "/", "", "bar"},
		request{"img.bar.com", "/", "", "default"},
		request{"notfoo.com", "/", "", "default"},
		request{"other.example", "/java/x", "", "java"},
		request{"foo.com", "/java/x", "", "foo"}, // the host is more specific than the path
	)

	// Mobile devices, by what the client says it is.
	etcdctl("/roster/backends/mobile", `{"host": "127.0.0.1", "port": `+origin("mobile")+`}`)
	etcdctl("/roster/routes/mobile", `{"when": "req.header['user-agent'].matches('(?i)mobile|iphone')", "priority": 1, "backend": "mobile"}`)
	const phone, desktop = "User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)"
	check("mobile",
		request{"any.example", "/", phone, "mobile"},
		request{"foo.com", "/", phone, "mobile"},
		request{"any.example", "/java/x", phone, "mobile"},
		request{"any.example", "/", desktop, "default"},
		request{"foo.com", "/", desktop, "foo"},
		request{"any.example", "/", "", "default"},
	)

	// Two servers with a probe, in a director.
	apply(`
probes:
  healthcheck: {url: /, interval: 50ms, timeout: 10s, window: 3, threshold: 2}
backends:
  server1: {host: 127.0.0.1, port: ` + origin("server1") + `, probe: healthcheck}
  server2: {host: 127.0.0.1, port: ` + origin("server2") + `, probe: healthcheck}
directors:
  servers: {type: round_robin, backends: [server1, server2]}
routes:
  servers: {match: {host: servers.example}, backend: servers, retries: 1}
`)
	until := func(what string, n int, enough func(answers map[string]int) bool) {
		t.Helper()
		harness.Until(t, what, func() (bool, any) {
			got := map[string]int{}
			for range n {
				got[get("servers.example", "/")]++
			}
			return enough(got), got
		})
	}
	until("both servers", 4, func(got map[string]int) bool { return got["server1"] == 2 && got["server2"] == 2 })

	// One goes down. What is sent to it before the probes find that out goes to the other.
	origins["server1"].Stop()
	for range 20 {
		check("one server down", request{"servers.example", "/", "", "server2"})
	}
	harness.Until(t, "server1 to be sick", func() (bool, any) {
		e := explain(t, node, "http://servers.example/")
		return e.state("servers", "server1") == "sick", e
	})
	// Now without any retry.
	etcdctl("/roster/routes/servers", `{"match": {"host": "servers.example"}, "backend": "servers"}`)
	for range 20 {
		check("one server sick", request{"servers.example", "/", "", "server2"})
	}
	// The other, too; then both come back.
	origins["server2"].Stop()
	until("503", 4, func(got map[string]int) bool { return got["503"] == 4 })
	origins["server1"].Start()
	origins["server2"].Start()
	until("both servers again", 4, func(got map[string]int) bool { return got["server1"] == 2 && got["server2"] == 2 })
	check("the others meanwhile", request{"any.example", "/", "", "default"}, request{"foo.com", "/", "", "foo"})
}
