package harness

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"
)

// An Answer is what a client got.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Origin string // the name of the Origin that answered, if one did
}

func (a Answer) String() string { return fmt.Sprintf("%d %s %q", a.Status, a.Origin, a.Body) }

func fetch(c *http.Client, url string) (Answer, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return Answer{}, err
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (Answer, error) {
	resp, err := c.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("body of %s: %w", req.URL, err)
	}
	return Answer{resp.StatusCode, resp.Header, string(body), resp.Header.Get("X-Origin")}, nil
}

// A Loop is a set of clients, each on a connection of its own, that send one request
// after the other until Stop.
type Loop struct {
	t      testing.TB
	url    string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	counts Counts
	newest map[string]time.Time // by origin: when the newest request that it answered was begun
}

// Counts is what a Loop has seen. An error is a request without a whole answer.
type Counts struct {
	Requests int64
	Errors   int64
	Statuses map[int]int64
	Origins  map[string]int64
	Samples  []string // the first ten failures: errors, and answers that are not 200
}

// Failed is how many requests had no answer, or one that is not 200.
func (c Counts) Failed() int64 { return c.Requests - c.Statuses[http.StatusOK] }

// StartLoop starts n clients that GET url. They are stopped with the test.
func StartLoop(t testing.TB, url string, n int) *Loop {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &Loop{
		t: t, url: url, cancel: cancel, newest: map[string]time.Time{},
		counts: Counts{Statuses: map[int]int64{}, Origins: map[string]int64{}},
	}
	for range n {
		l.wg.Add(1)
		go l.run(ctx)
	}
	t.Cleanup(func() { l.Stop() })
	return l
}

func (l *Loop) run(ctx context.Context) {
	defer l.wg.Done()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: WaitLimit}
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
		if err != nil {
			panic(err)
		}
		begun := time.Now()
		a, err := do(c, req)
		if ctx.Err() != nil {
			return // the last request was cut by Stop, which is no failure
		}
		l.record(begun, a, err)
	}
}

func (l *Loop) record(begun time.Time, a Answer, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Requests++
	switch {
	case err != nil:
		l.counts.Errors++
		l.sampleLocked(err.Error())
	default:
		l.counts.Statuses[a.Status]++
		if a.Status != http.StatusOK {
			l.sampleLocked(a.String())
		}
	}
	if a.Origin != "" {
		l.counts.Origins[a.Origin]++
		if begun.After(l.newest[a.Origin]) {
			l.newest[a.Origin] = begun
		}
	}
}

func (l *Loop) sampleLocked(s string) {
	if len(l.counts.Samples) < 10 {
		l.counts.Samples = append(l.counts.Samples, s)
	}
}

// WaitOrigin waits until a request that was begun after this call is answered by the
// origin of that name.
func (l *Loop) WaitOrigin(name string) {
	l.t.Helper()
	since := time.Now()
	Until(l.t, "an answer of "+name, func() (bool, any) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.newest[name].After(since), fmt.Sprint(l.counts.Origins, l.counts.Samples)
	})
}

// WaitStatus waits until n more answers had that status.
func (l *Loop) WaitStatus(status int, n int64) {
	l.t.Helper()
	before := l.Counts().Statuses[status]
	Until(l.t, fmt.Sprintf("%d answers with %d", n, status), func() (bool, any) {
		c := l.Counts()
		return c.Statuses[status]-before >= n, c
	})
}

// WaitRequests waits until n more requests have ended, however they ended.
func (l *Loop) WaitRequests(n int64) {
	l.t.Helper()
	before := l.Counts().Requests
	Until(l.t, fmt.Sprintf("%d more requests", n), func() (bool, any) {
		now := l.Counts().Requests
		return now-before >= n, now - before
	})
}

// Counts is a copy of what the loop has seen so far.
func (l *Loop) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Statuses = maps.Clone(c.Statuses)
	c.Origins = maps.Clone(c.Origins)
	c.Samples = append([]string(nil), c.Samples...)
	return c
}

// Stop ends the clients and returns what they have seen. Twice is no harm.
func (l *Loop) Stop() Counts {
	l.cancel()
	l.wg.Wait()
	return l.Counts()
}
