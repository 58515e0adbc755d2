package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"roster/prober"
	"roster/store"
	"roster/watcher"
)

func TestHealthHasTheProbeAndItsHistory(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/plain":  `{"host":"127.0.0.1"}`,
		"backends/probed": `{"host":"127.0.0.1","probe":{"url":"/up","window":4,"threshold":2}}`,
		"backends/twin":   `{"host":"127.0.0.1","probe":{"url":"/up"},"comment":"the same check"}`,
		"backends/told":   `{"host":"127.0.0.2","probe":{"initial":3}}`,
		"health/told":     `{"state":"drain","reason":"new disk"}`,
	})
	of := func(name string) (b Backend) {
		w := ask(serve(n), "GET", "/v1/backends/"+name)
		if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
		return b
	}
	if h := of("plain").Health; h.State != "healthy" || h.Admin != "auto" || h.Probe != nil || h.Since.IsZero() {
		t.Errorf("without a probe: %+v", h)
	}
	h := of("probed").Health
	if h.State != "sick" || h.Probe.State != "sick" || h.Probe.Good != 1 || h.Probe.Window != 4 || h.Probe.Threshold != 2 ||
		h.Probe.Users != 2 || h.Probe.Check != "GET /up at 127.0.0.1:80" || h.Probe.Probes != 0 || h.Probe.At != nil {
		t.Errorf("with a probe: %+v %+v", h, h.Probe)
	}
	if rows := h.Probe.Rows; len(rows) != 8 || rows[7].Name != "H" || rows[7].Bits != "0000000000000001" || !strings.HasSuffix(rows[7].Row, "--H") {
		t.Errorf("rows: %+v", rows)
	}
	if h := of("told").Health; h.State != "sick" || h.Admin != "drain" || h.Reason != "new disk" || h.Probe.State != "healthy" {
		t.Errorf("with an operator's word: %+v %+v", h, h.Probe)
	}
	if of("probed").Health.Probe.ID != of("twin").Health.Probe.ID {
		t.Error("backends with one check have two ids of it")
	}
	for query, want := range map[string]int{"": 0, "?verbose": 8, "?verbose=true": 8, "?verbose=false": 0} {
		var list List[Backend]
		w := ask(serve(n), "GET", "/v1/backends"+query)
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Items) != 4 {
			t.Fatalf("%v: %s", err, w.Body)
		}
		if got := len(list.Items[1].Health.Probe.Rows); got != want {
			t.Errorf("%q: %d rows, want %d", query, got, want)
		}
	}
	if w := ask(serve(n), "GET", "/v1/backends?verbose=loud"); w.Code != 400 {
		t.Errorf("verbose=loud: %d, want 400", w.Code)
	}
	if c := n.Status().Counts; c.Sick != 3 {
		t.Errorf("%d backends count as sick, want 3", c.Sick)
	}
}

func TestProbesComeInPages(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a": `{"host":"127.0.0.1"}`, "backends/b": `{"host":"127.0.0.1"}`, "backends/c": `{"host":"127.0.0.2"}`,
		"backends/d": `{"path":"@d"}`, "probes/default": `{"interval":"7s"}`,
	})
	addresses := map[string]int{}
	after := ""
	for {
		w := ask(serve(n), "GET", "/v1/probes?limit=2&after="+after)
		var list List[Probe]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Items) > 2 || list.Revision != 7 {
			t.Fatalf("%v: %s", err, w.Body)
		}
		for _, p := range list.Items {
			addresses[p.Address] += p.Users
			if len(p.Rows) != 8 || p.IntervalSeconds != 7 || p.TimeoutSeconds != 2 {
				t.Errorf("%+v", p)
			}
		}
		if after = list.Next; after == "" {
			break
		}
	}
	if len(addresses) != 3 || addresses["127.0.0.1:80"] != 2 {
		t.Errorf("users by address: %v", addresses)
	}
}

// stream reads server-sent events.
type stream struct {
	t    *testing.T
	body *bufio.Scanner
}

func (s stream) next() (kind, data string) {
	s.t.Helper()
	for s.body.Scan() {
		line := s.body.Text()
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			kind = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			return kind, v
		}
	}
	return "", ""
}

func TestEventsAreSentAndEndWithTheServer(t *testing.T) {
	t.Parallel()
	n := newNode()
	server := newServer(n)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, ln) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/event-stream" {
		t.Fatalf("%d %s", resp.StatusCode, got)
	}
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	server.Events.Health(prober.Transition{Name: "a", Stage: prober.Status, Text: "HTTP/1.1 500 No\nway", Good: 2, Judge: prober.Judge{Window: 8, Threshold: 3}, At: at})
	apply(t, n, map[string]string{"backends/a": `{"host":"127.0.0.1"}`})
	server.Events.Applied(watcher.Change{Puts: make([]watcher.Item, 1)}, n.Table())
	s := stream{t, bufio.NewScanner(resp.Body)}
	if kind, data := s.next(); kind != "health" ||
		data != `{"backend":"a","state":"sick","stage":"status","text":"HTTP/1.1 500 No\nway","good":2,"window":8,"threshold":3,"at":"2026-11-21T09:00:00Z"}` {
		t.Errorf("%s %s", kind, data)
	}
	kind, data := s.next()
	var applied AppliedEvent
	if err := json.Unmarshal([]byte(data), &applied); err != nil || kind != "applied" || applied.Revision != 7 || applied.Puts != 1 || applied.Digest != n.Table().Digest().String() {
		t.Errorf("%v: %s %s", err, kind, data)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if kind, _ := s.next(); kind != "" {
		t.Errorf("after the end: %s", kind)
	}
}

// A client that does not take what it is sent costs nothing, and is told how many events
// it missed.
func TestSlowListenerIsToldHowManyEventsItLost(t *testing.T) {
	t.Parallel()
	var e Events
	s := e.subscribe("")
	for range kept + 5 {
		e.Health(prober.Transition{})
	}
	got := e.take(s)
	if len(got) != kept+1 || !strings.HasSuffix(string(got[0]), ".5\nevent: lost\ndata: {\"count\":5}\n\n") {
		t.Errorf("%d events, the first %q", len(got), got[0])
	}
	e.Health(prober.Transition{})
	if got := e.take(s); len(got) != 1 || !strings.Contains(string(got[0]), "\nevent: health\n") {
		t.Errorf("after that: %q", got)
	}
	for range maxSubscribers - 1 {
		e.subscribe("")
	}
	w := httptest.NewRecorder()
	if e.ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil)); w.Code != 503 {
		t.Errorf("one listener too many: %d, want 503", w.Code)
	}
	e.unsubscribe(s)
	if s := e.subscribe(""); s == nil {
		t.Error("after one has left there is no place")
	}
}

// A client that comes back with the id of what it had last misses nothing that is kept,
// gets nothing twice, and is told what is lost.
func TestEventsResumeWhereAClientLeft(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var e Events
		name := func(n uint64) string { return fmt.Sprint("b", n) }
		publish := func(n int) {
			for range n {
				e.Health(prober.Transition{Name: name(e.count + 1)})
			}
		}
		publish(rapid.IntRange(0, 5).Draw(t, "before"))
		s := e.subscribe("")
		last, had := idOf(e.position(s)), e.count
		for range rapid.IntRange(1, 5).Draw(t, "connections") {
			publish(rapid.SampledFrom([]int{0, 1, 3, kept - 1, kept, kept + 1, 3 * kept}).Draw(t, "away"))
			s := e.subscribe(last)
			for _, b := range e.take(s) {
				if data, lost := bytes.CutPrefix(b[bytes.IndexByte(b, '\n')+1:], []byte("event: lost\ndata: ")); lost {
					var l LostEvent
					if err := json.Unmarshal(data, &l); err != nil || l.Count == 0 {
						t.Fatalf("%v: %s", err, b)
					}
					had += l.Count
				} else if had++; !bytes.Contains(b, []byte(`"backend":"`+name(had)+`"`)) {
					t.Fatalf("event %d is %s", had, b)
				}
				last = idOf(b)
			}
			if had != e.count {
				t.Fatalf("%d events of %d", had, e.count)
			}
			e.unsubscribe(s)
		}
	})
}

// idOf is the id of an event as it is sent.
func idOf(b []byte) string {
	_, id, _ := strings.Cut(string(b), "id: ")
	id, _, _ = strings.Cut(id, "\n")
	return id
}

// An id of the node before it was started again, or of none, is not taken for one of now.
func TestEventsOfAnotherProcessAreLost(t *testing.T) {
	t.Parallel()
	var e, before Events
	for range 3 {
		e.Health(prober.Transition{})
		before.Health(prober.Transition{})
	}
	s := before.subscribe("")
	for _, id := range []string{idOf(before.position(s)), "3", "x.3", ".", "nonsense"} {
		got := e.take(e.subscribe(id))
		if len(got) != 1 || !strings.HasSuffix(string(got[0]), "\nevent: lost\ndata: {}\n\n") {
			t.Errorf("%q: %q, want that events are lost", id, got)
			continue
		}
		e.Health(prober.Transition{})
		if got := e.take(e.subscribe(idOf(got[0]))); len(got) != 1 || !strings.Contains(string(got[0]), "event: health") {
			t.Errorf("%q, and on from there: %q", id, got)
		}
	}
}

// A reason may be as long as a value in etcd, and events are kept.
func TestEventsAreBoundedInSize(t *testing.T) {
	t.Parallel()
	var e Events
	s := e.subscribe("")
	e.Override("web-1", &store.Health{State: store.Sick, Reason: strings.Repeat("ä", 1<<19), By: strings.Repeat("b", 1<<20)})
	e.Override("web-1", &store.Health{State: store.Sick, Reason: "disk is full"})
	got := e.take(s)
	if len(got) != 2 || len(got[0]) > 4096 || !utf8.Valid(got[0]) || !strings.Contains(string(got[0]), "ää…\"") || !strings.Contains(string(got[1]), `"disk is full"`) {
		t.Errorf("%d events, the first of %d bytes, the second %.200s", len(got), len(got[0]), got[1])
	}
}

// While nothing happens comments show that the connection lives.
func TestEventsHaveHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e Events
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := httptest.NewRecorder()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			e.ServeHTTP(w, httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx))
		}()
		time.Sleep(3*heartbeat + time.Second)
		cancel()
		<-ended
		if got := strings.Count(w.Body.String(), ": quiet\n\n"); got != 3 {
			t.Errorf("%d heartbeats in %q, want 3", got, w.Body)
		}
	})
}

func TestEventsAreNotForPagesOfOtherSites(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	if w := ask(h, "GET", "/v1/events", "Sec-Fetch-Site", "cross-site"); w.Code != 403 {
		t.Errorf("cross-site: %d, want 403", w.Code)
	}
	if w := ask(h, "GET", "/v1/events", "Host", "evil.test"); w.Code != 421 {
		t.Errorf("foreign Host: %d, want 421", w.Code)
	}
}
