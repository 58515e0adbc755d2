package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// Where no backend may point is not dialled, however it is written, and is 502 for
// destination_ip_prohibited.
func TestProhibitedDestinations(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	inside, outside := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	for _, d := range []string{inside, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, to string) string {
		if err := os.Symlink(to, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(inside, name)
	}
	var origins []*harness.Socket
	origin := func(network, address string) *harness.Socket {
		s := echoes(harness.ListenAt(t, network, address), "here")
		origins = append(origins, s)
		return s
	}

	port := harness.FreePort(t)
	denied := origin("tcp", fmt.Sprintf("127.66.0.1:%d", port))
	allowed := origin("tcp", fmt.Sprintf("127.66.1.1:%d", port))
	deniedAgain := origin("tcp", fmt.Sprintf("127.66.1.128:%d", port))
	within := origin("unix", filepath.Join(inside, "s"))
	without := origin("unix", filepath.Join(outside, "s"))
	abstract := origin("unix", fmt.Sprintf("@roster-e2e-rules-%d", os.Getpid()))
	leadsOut, leadsIn := link("out", without.Address()), link("in", within.Address())

	node := harness.StartNode(t, harness.NodeConfig{Args: []string{
		"--backend-deny", "127.66.0.0/16,127.66.1.128/25", "--backend-allow", "127.66.1.0/24",
		"--backend-path-allow", inside,
	}})
	adminHost, adminPort, _ := net.SplitHostPort(node.AdminAddress())
	etcdHost, etcdPort, _ := net.SplitHostPort(node.Endpoints())

	tests := map[string]int{ // definitions, and the status of the answer
		`"host":"169.254.169.254"`:                                            502,
		`"host":"169.254.0.1","port":9`:                                       502,
		`"host":"::ffff:169.254.169.254"`:                                     502,
		`"host":"64:ff9b::a9fe:a9fe"`:                                         502, // by way of NAT64
		`"host":"fe80::1"`:                                                    502,
		fmt.Sprintf(`"host":%q,"port":%s`, adminHost, adminPort):              502,
		fmt.Sprintf(`"host":%q,"port":%s`, etcdHost, etcdPort):                502,
		fmt.Sprintf(`"host":"localhost","port":%s`, adminPort):                502,
		fmt.Sprintf(`"host":"::ffff:127.0.0.1","port":%s`, etcdPort):          502,
		fmt.Sprintf(`"host":"0.0.0.0","port":%s`, adminPort):                  502,
		fmt.Sprintf(`"host":"::","port":%s`, adminPort):                       502,
		`"host":"192.0.2.1","via":"admin"`:                                    502,
		fmt.Sprintf(`"host":%q,"port":%s,"via":"gate"`, adminHost, adminPort): 502, // nor may a via be told
		fmt.Sprintf(`"host":%q`, denied.Address()):                            502,
		fmt.Sprintf(`"host":%q`, deniedAgain.Address()):                       502, // the longer prefix decides
		fmt.Sprintf(`"host":%q`, allowed.Address()):                           200,
		fmt.Sprintf(`"path":%q`, within.Address()):                            200,
		fmt.Sprintf(`"path":%q`, leadsIn):                                     200,
		fmt.Sprintf(`"path":%q`, without.Address()):                           502,
		fmt.Sprintf(`"path":%q`, leadsOut):                                    502,
		fmt.Sprintf(`"path":%q`, abstract.Address()):                          502,
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{node.Endpoints()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ops := []clientv3.Op{
		clientv3.OpPut("/roster/backends/admin", fmt.Sprintf(`{"host":%q,"port":%s}`, adminHost, adminPort)),
		clientv3.OpPut("/roster/backends/gate", fmt.Sprintf(`{"host":%q}`, allowed.Address())),
	}
	names := map[string]string{}
	for def := range tests {
		name := fmt.Sprintf("b%d", len(names))
		names[name] = def
		ops = append(ops, clientv3.OpPut("/roster/backends/"+name, "{"+def+"}"),
			clientv3.OpPut("/roster/routes/"+name, fmt.Sprintf(`{"match":{"path":"/%s"},"backend":%q}`, name, name)))
	}
	put, err := client.Txn(t.Context()).Then(ops...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if s := node.WaitRevision(put.Header.Revision); len(s.Rejected) > 0 {
		t.Fatalf("rejected: %+v", s.Rejected)
	}
	for name, def := range names {
		status := tests[def]
		before := 0
		for _, o := range origins {
			before += o.Opened()
		}
		c := harness.Dial(t, "tcp", node.Address())
		c.Send(get("/"+name, ""))
		m := c.Response()
		if m.Status() != status || status == 502 && m.Get("proxy-status") != "roster; error=destination_ip_prohibited" {
			t.Errorf("%s: %v, want %d", def, m, status)
		}
		after := 0
		for _, o := range origins {
			after += o.Opened()
		}
		if status == 502 && after != before {
			t.Errorf("%s was dialled", def)
		}
		if strings.Contains(m.Body, inside) || strings.Contains(m.Body, adminPort) {
			t.Errorf("%s: the client is told %q", def, m.Body)
		}
	}
}
