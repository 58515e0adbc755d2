package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"roster/e2e/harness"
	"roster/store/storetest"
)

// Of three members of a healthy cluster a node, and a command, can reach one, in any place
// of the list; the others refuse, or say nothing at all. The long form has every place with
// both.
func TestOneEndpointOfThreeIsEnough(t *testing.T) {
	t.Parallel()
	etcd, port := harness.StartEtcdCluster(t, 3), echo(t)
	revision := etcd.Put(backendsPrefix+"web", echoBackend(port, "web"))
	for alive := range 3 {
		for i, how := range []string{"refuse", "say nothing"} {
			if !harness.Long() && alive != 2-i {
				continue
			}
			t.Run(fmt.Sprintf("%d, others %s", alive+1, how), func(t *testing.T) {
				t.Parallel()
				var endpoints []string
				var proxies []*storetest.Proxy
				for i := range 3 {
					p := storetest.NewProxy(t, etcd.Address(i))
					proxies = append(proxies, p)
					switch {
					case i == alive:
						endpoints = append(endpoints, p.Address())
					case how == "refuse":
						endpoints = append(endpoints, harness.FreeAddress(t)) // where nobody listens
					default:
						p.Blackhole()
						endpoints = append(endpoints, p.Address())
					}
				}
				list := strings.Join(endpoints, ",")
				if r := harness.CLI(t, "--etcd", list, "get", "backends", "-o", "json"); r.Code != 0 || !strings.Contains(r.Stdout, `"web"`) {
					t.Errorf("get: %v", r)
				}
				name := fmt.Sprintf("extra-%d-%t", alive, how == "refuse")
				if r := harness.CLI(t, "--etcd", list, "put", "backend", name, echoBackend(port, name)); r.Code != 0 {
					t.Errorf("put: %v", r)
				}
				node := harness.StartNode(t, harness.NodeConfig{Etcd: list, ID: name})
				node.WaitRevision(revision)
				if a := node.Get("/"); a.Status != 200 {
					t.Errorf("answer %v", a)
				}
				if how == "refuse" {
					return
				}
				// That one goes, and another comes: the node goes over to it.
				proxies[alive].Cut()
				node.WaitStatus("the loss", func(st harness.Status) bool { return !st.Etcd.Connected })
				proxies[(alive+1)%3].Heal()
				node.WaitRevision(etcd.Put(backendsPrefix+name, echoBackend(port, name+"-2")))
			})
		}
	}
}
