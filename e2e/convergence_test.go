package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"roster/e2e/harness"
)

// asked is how a node answered a request that waited for a revision.
type asked struct {
	node     string
	revision int64 // that routed it
	origin   string
}

// await sends each node a request that waits for a revision, and returns how to get their
// answers.
func await(t *testing.T, c *http.Client, nodes []*harness.Node, revision int64) func() []asked {
	t.Helper()
	answers := make([]asked, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			req, err := http.NewRequest(http.MethodGet, n.URL(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("X-Min-Revision", strconv.FormatInt(revision, 10))
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body)
			by, err := strconv.ParseInt(resp.Header.Get("X-Roster-Revision"), 10, 64)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s answers %s, %v", n.Address(), resp.Status, resp.Header)
			}
			answers[i] = asked{n.Address(), by, resp.Header.Get("X-Origin")}
		})
	}
	return func() []asked {
		all.Wait()
		return answers
	}
}

// converges puts a backend again and again, and asks all nodes: before the put, for what comes
// next, and after it, for its revision. What an answer shows is what was put at the revision
// that it names, at each node.
func converges(t *testing.T, etcd *harness.Etcd, nodes []*harness.Node, puts int) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{}, Timeout: 2 * harness.WaitLimit}
	t.Cleanup(c.CloseIdleConnections)
	origins := []*harness.Origin{harness.StartOrigin(t, "a"), harness.StartOrigin(t, "b")}
	put := func(i int) int64 { return etcd.Put("/roster/backends/web", origins[i%2].Definition()) }
	last := put(0)
	await(t, c, nodes, last)()
	for i := 1; i <= puts && !t.Failed(); i++ {
		early := await(t, c, nodes, etcd.Revision()+1)
		revision := put(i)
		for _, a := range await(t, c, nodes, revision)() {
			if a.revision != revision || a.origin != origins[i%2].Name {
				t.Errorf("put %d, %s: revision %d and origin %s, want %d and %s", i, a.node, a.revision, a.origin, revision, origins[i%2].Name)
			}
		}
		for _, a := range early() { // one may have learned of a newer presence first
			if at := origins[i%2].Name; a.revision != revision && a.revision != last || (a.origin == at) != (a.revision == revision) {
				t.Errorf("put %d, %s: revision %d (before %d, after %d) and origin %s, of %s", i, a.node, a.revision, last, revision, a.origin, at)
			}
		}
		last = revision
	}
}

// With ROSTER_E2E_LONG it is 50 nodes.
func TestAPutIsServedByEveryNodeThatIsAskedForItsRevision(t *testing.T) {
	t.Parallel()
	count, puts := 3, 20
	if harness.Long() {
		count, puts = 50, 100
	}
	f := newFleet(t)
	var nodes []*harness.Node
	for i := range count {
		nodes = append(nodes, harness.StartNode(t, harness.NodeConfig{Etcd: f.etcd.Endpoints(), ID: fmt.Sprint("n", i),
			Args: []string{"--min-revision-wait", "30s", "--revision-header"}}))
	}
	converges(t, f.etcd, nodes, puts)
}
