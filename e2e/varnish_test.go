package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// A varnishd beside roster, as an oracle. Debian 12 has 7.1.1.

// varnish is a varnishd with a VCL, in a folder of the test.
type varnish struct {
	t       *testing.T
	dir     string
	address string
}

func startVarnish(t *testing.T, vcl string) *varnish {
	t.Helper()
	harness.Require(t, "varnishd", "varnishadm")
	v := &varnish{t: t, dir: filepath.Join(t.TempDir(), "varnish"), address: harness.FreeAddress(t)}
	file := filepath.Join(t.TempDir(), "default.vcl")
	if err := os.WriteFile(file, []byte(vcl), 0o644); err != nil {
		t.Fatal(err)
	}
	p := harness.StartProcess(t, "varnishd", "varnishd", []string{
		"-F", "-j", "none", "-n", v.dir, "-a", v.address, "-T", harness.FreeAddress(t), "-f", file, "-s", "malloc,8m",
	}, nil)
	// Killed, it would leave its child behind.
	t.Cleanup(func() {
		if p.Running() {
			p.Terminate()
		}
	})
	harness.Until(t, "varnishd", func() (bool, any) {
		if !p.Running() {
			t.Fatalf("varnishd ended: %s", p.Log())
		}
		c, err := net.Dial("tcp", v.address)
		if err != nil {
			return false, err
		}
		c.Close()
		return true, nil
	})
	return v
}

// health sets the operator's word on a backend.
func (v *varnish) health(backend, state string) {
	v.t.Helper()
	if r := harness.Run(v.t, "", nil, "varnishadm", "-n", v.dir, "backend.set_health", "boot."+backend, state); r.Code != 0 {
		v.t.Fatalf("backend.set_health %s %s: %v", backend, state, r)
	}
}

// A shard director and a hash director send 1,000 URLs to the backends that a real Varnish
// with the same backends and weights sends them to: all healthy, and with one sick.
func TestDirectorsChooseAsVarnish(t *testing.T) {
	t.Parallel()
	harness.Require(t, "varnishd", "varnishadm") // before anything is started
	names, weights := []string{"alpha", "beta", "gamma", "delta"}, []int{1, 2, 1, 3}
	etcd := harness.StartEtcd(t)
	var vcl, shard, hash strings.Builder
	vcl.WriteString("vcl 4.1;\nimport directors;\n")
	var list []string
	for i, name := range names {
		o := harness.StartOrigin(t, name)
		host, port, _ := net.SplitHostPort(o.Address())
		fmt.Fprintf(&vcl, "backend %s { .host = %q; .port = %q; }\n", name, host, port)
		fmt.Fprintf(&shard, "\ts.add_backend(%s, weight=%d);\n", name, weights[i])
		fmt.Fprintf(&hash, "\th.add_backend(%s, %d);\n", name, weights[i])
		list = append(list, fmt.Sprintf(`{"name":%q,"weight":%d}`, name, weights[i]))
		etcd.Put("/roster/backends/"+name, o.Definition())
	}
	fmt.Fprintf(&vcl, `
sub vcl_init {
	new s = directors.shard();
%s	s.reconfigure();
	new h = directors.hash();
%s}
sub vcl_recv {
	if (req.http.host == "shard.example") {
		set req.backend_hint = s.backend(by=URL);
	} else {
		set req.backend_hint = h.backend(req.url);
	}
	return (pass);
}
`, shard.String(), hash.String())
	for _, kind := range []string{"shard", "hash"} {
		etcd.Put("/roster/directors/"+kind, fmt.Sprintf(`{"type":%q,"backends":[%s]}`, kind, strings.Join(list, ",")))
		etcd.Put("/roster/routes/"+kind, fmt.Sprintf(`{"match":{"host":"%s.example"},"backend":%q}`, kind, kind))
	}
	v := startVarnish(t, vcl.String())
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints()})

	urls := make([]string, 1000)
	for i := range urls {
		urls[i] = fmt.Sprintf("/shop/%d/item.html?id=%d&lang=en", i%37, i)
	}
	compare := func(what string) {
		t.Helper()
		for _, kind := range []string{"shard", "hash"} {
			ours, theirs := members(t, node.Address(), kind+".example", urls), members(t, v.address, kind+".example", urls)
			if t.Failed() {
				t.FailNow()
			}
			used, differ := map[string]int{}, 0
			for i := range urls {
				used[theirs[i]]++
				if ours[i] != theirs[i] {
					if differ++; differ <= 5 {
						t.Errorf("%s, %s: %s goes to %s, from varnishd to %s", kind, what, urls[i], ours[i], theirs[i])
					}
				}
			}
			if differ > 0 || len(used) < 3 {
				t.Errorf("%s, %s: %d of %d URLs go elsewhere; varnishd's go to %v", kind, what, differ, len(urls), used)
			}
		}
	}
	compare("all healthy")
	v.health("beta", "sick")
	node.WaitRevision(etcd.Put("/roster/health/beta", "sick"))
	compare("beta sick")
	v.health("beta", "healthy")
	v.health("delta", "sick")
	etcd.Delete("/roster/health/beta")
	node.WaitRevision(etcd.Put("/roster/health/delta", "sick"))
	harness.Until(t, "beta to be used again", func() (bool, any) {
		got := members(t, node.Address(), "shard.example", urls[:100])
		return strings.Contains(strings.Join(got, " "), "beta") || t.Failed(), got
	})
	compare("delta sick")
}
