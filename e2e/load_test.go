package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/e2e/harness"
)

// A load is clients that send a checked request each, then pause, and so on, and keeps
// what failed.
type load struct {
	t        testing.TB
	pause    time.Duration
	seed     uint64
	pick     func(r *rand.Rand) (to target, fresh bool) // whom to ask next; fresh: on a connection of its own
	next     func(r *rand.Rand) harness.Check
	verify   func(harness.Check, harness.Checked) (wrong string) // what a Checker cannot know; nil: nothing
	requests atomic.Int64
	stop     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu     sync.Mutex
	failed []failure
}

// A target is a node as it is until it ends: a connection is used for no later one. A
// nil node is nobody.
type target struct {
	*harness.Node
	life int
}

// A failure is a request without its answer.
type failure struct {
	node  *harness.Node
	check harness.Check
	harness.Checked
}

func (f failure) String() string {
	return fmt.Sprintf("%s %s for %s of %s: %v", f.check.Method, f.check.Path, f.check.Host, f.node.Address(), f.Checked)
}

// run starts that many clients. They end with the test.
func (l *load) run(clients int) {
	l.stop = make(chan struct{})
	for i := range clients {
		l.wg.Go(func() { l.client(rand.New(rand.NewPCG(l.seed, uint64(i)))) })
	}
	l.t.Cleanup(l.end)
}

func (l *load) client(r *rand.Rand) {
	var c harness.Checker
	defer c.Close()
	lives := map[*harness.Node]int{}
	tick := time.NewTicker(l.pause)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
		check := l.next(r)
		to, fresh := l.pick(r)
		if to.Node == nil {
			continue
		}
		if lives[to.Node] != to.life {
			c.Forget(to.Node)
			lives[to.Node] = to.life
		}
		check.Fresh = fresh
		result := c.Do(to.Node, check)
		l.requests.Add(1)
		if l.verify != nil && !result.Failed() {
			result.Wrong = l.verify(check, result)
		}
		if !result.Failed() {
			continue
		}
		l.mu.Lock()
		l.failed = append(l.failed, failure{to.Node, check, result})
		l.mu.Unlock()
	}
}

// failures are those since the first n.
func (l *load) failures(n int) []failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed[n:len(l.failed):len(l.failed)]
}

// end stops the clients, once.
func (l *load) end() {
	l.once.Do(func() {
		close(l.stop)
		l.wg.Wait()
	})
}

// sizes of most bodies are small, and some are larger than any buffer.
func someSize(r *rand.Rand) int {
	switch r.IntN(20) {
	case 0:
		return 0
	case 1:
		return 64<<10 + r.IntN(256<<10)
	}
	return 1 + r.IntN(8<<10)
}

// someCheck is a GET, or a POST with a body.
func someCheck(r *rand.Rand, host, path string) harness.Check {
	c := harness.Check{Method: "GET", Host: host, Path: path, Answer: someSize(r)}
	if r.IntN(3) == 0 {
		c.Method, c.Upload = "POST", someSize(r)
	}
	return c
}

// firstOf lists the first few of many.
func firstOf(all []failure) string {
	var b strings.Builder
	for _, f := range all[:min(5, len(all))] {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}
