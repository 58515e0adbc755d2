package admin

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"roster/node/table"
	"roster/prober"
	"roster/store"
	"roster/watcher"
)

// Events are sent to whoever asks for /v1/events, as server-sent events (WHATWG HTML
// 9.2). The zero value is ready. All methods may be called from any goroutine.
//
//	event: health     a probe's verdict on a backend changed: HealthEvent
//	event: override   an operator's word on a backend or a director: OverrideEvent
//	event: applied    a change of definitions is in effect: AppliedEvent
//	event: lost       the client missed so many events: LostEvent
//
// The newest are kept. A client that comes back and says in Last-Event-ID which one it
// had last is sent those after it; what is not kept any more, or was of another process,
// is lost, and it asks for the state. So does a client that is too slow. Comments come
// while all is quiet.
type Events struct {
	mu    sync.Mutex
	run   string  // of this process, in ids; made when first needed
	ring  []event // the newest, in order of their numbers: number n is at n % kept
	count uint64  // of all events; numbers begin with 1
	subs  map[*subscriber]struct{}
}

// event is one event.
type event struct {
	kind string
	data any
	text []byte // as it is sent; made when it is sent first
}

// HealthEvent is data of the event health.
type HealthEvent struct {
	Backend   string            `json:"backend"`
	State     store.HealthState `json:"state"` // healthy or sick, whatever an operator says
	Stage     prober.Stage      `json:"stage,omitempty"`
	Text      string            `json:"text"`
	Good      int               `json:"good"`
	Window    int               `json:"window"`
	Threshold int               `json:"threshold"`
	At        time.Time         `json:"at"`
}

// OverrideEvent is data of the event override.
type OverrideEvent struct {
	Name   string            `json:"name"`
	State  store.HealthState `json:"state"` // auto when the word is taken back, or its lease ended
	Reason string            `json:"reason,omitempty"`
	By     string            `json:"by,omitempty"`
	At     time.Time         `json:"at"`
}

// AppliedEvent is data of the event applied.
type AppliedEvent struct {
	Revision int64     `json:"revision"`
	Puts     int       `json:"puts"`
	Deletes  int       `json:"deletes"`
	Digest   string    `json:"digest"`
	At       time.Time `json:"at"`
}

// LostEvent is data of the event lost.
type LostEvent struct {
	Count uint64 `json:"count,omitempty"` // 0: of a process before this one, and nobody knows
}

// Health tells of a verdict that changed. It does not block.
func (e *Events) Health(t prober.Transition) {
	e.publish("health", HealthEvent{Backend: t.Name, State: stateOf(t.Healthy), Stage: t.Stage, Text: t.Text,
		Good: t.Good, Window: int(t.Judge.Window), Threshold: int(t.Judge.Threshold), At: t.At})
}

// Override tells of an operator's word; nil is none any more. It does not block.
func (e *Events) Override(name string, def *store.Health) {
	event := OverrideEvent{Name: name, State: store.Auto, At: time.Now()}
	if def != nil {
		event.State, event.Reason, event.By = def.State, brief(secretless(def.Reason)), brief(secretless(def.By))
	}
	e.publish("override", event)
}

// brief is text that may be as long as a value in etcd, cut to what an event has room for:
// so many are kept.
func brief(s string) string {
	const most = 1000
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Applied tells of a change that t is the table of. It does not block.
func (e *Events) Applied(c watcher.Change, t *table.Table) {
	e.publish("applied", AppliedEvent{Revision: t.Revision(), Puts: len(c.Puts), Deletes: len(c.Deletes), Digest: t.Digest().String(), At: time.Now()})
}

// Bounds of what those who listen cost.
const (
	maxSubscribers = 64
	kept           = 1024             // events, for those who come back or are slow
	heartbeat      = 15 * time.Second // from one comment to the next
	writeTimeout   = 10 * time.Second // for a subscriber to take what is written
	comeBack       = time.Second      // after which a client that lost its connection does
)

// A subscriber is one client. All of it but wake belongs to the Events' mu.
type subscriber struct {
	wake chan struct{}
	next uint64 // number of the event that it is sent next
	lost bool   // what it had last was of another process
}

func (e *Events) publish(kind string, data any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count++
	if e.ring == nil {
		e.ring = make([]event, kept)
	}
	e.ring[e.count%kept] = event{kind: kind, data: data}
	for s := range e.subs {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// subscribe is nil where there are too many already. last is the id of the event that the
// client had last; empty for a new one, which is sent only what is to come.
func (e *Events) subscribe(last string) *subscriber {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.subs) == maxSubscribers {
		return nil
	}
	if e.subs == nil {
		e.subs = make(map[*subscriber]struct{})
	}
	s := &subscriber{wake: make(chan struct{}, 1), next: e.count + 1}
	if last != "" {
		run, number, _ := strings.Cut(last, ".")
		n, err := strconv.ParseUint(number, 10, 64)
		if s.lost = err != nil || run != e.runLocked() || n > e.count; !s.lost {
			s.next = n + 1
		}
	}
	s.wake <- struct{}{} // there may be something already
	e.subs[s] = struct{}{}
	return s
}

func (e *Events) unsubscribe(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.subs, s)
}

// take gives what is next for a subscriber: the events since the last time, and where it
// is now, from which it may go on in another connection.
func (e *Events) take(s *subscriber) (out [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch behind := e.count + 1 - s.next; {
	case s.lost:
		out = append(out, e.textLocked(e.count, "lost", LostEvent{}))
	case behind > kept:
		s.next += behind - kept
		out = append(out, e.textLocked(s.next-1, "lost", LostEvent{behind - kept}))
	}
	s.lost = false
	for ; s.next <= e.count; s.next++ {
		one := &e.ring[s.next%kept]
		if one.text == nil {
			one.text = e.textLocked(s.next, one.kind, one.data)
		}
		out = append(out, one.text)
	}
	return out
}

// textLocked is an event as it is sent.
func (e *Events) textLocked(number uint64, kind string, data any) []byte {
	b, err := json.Marshal(data)
	if err != nil {
		panic("admin: " + err.Error()) // plain structs
	}
	return fmt.Appendf(nil, "id: %s.%d\nevent: %s\ndata: %s\n\n", e.runLocked(), number, kind, b)
}

// runLocked tells this process from others.
func (e *Events) runLocked() string {
	if e.run == "" {
		e.run = rand.Text()[:8]
	}
	return e.run
}

// position is what a client that has had nothing yet may come back with.
func (e *Events) position(s *subscriber) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Appendf(nil, "retry: %d\nid: %s.%d\n\n", comeBack.Milliseconds(), e.runLocked(), s.next-1)
}

func (e *Events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.serve(w, r, func() bool { return true })
}

// serve is ServeHTTP for as long as the client may have events, which it looks at with each
// heartbeat.
func (e *Events) serve(w http.ResponseWriter, r *http.Request, may func() bool) {
	if !known(w, r) {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	s := e.subscribe(r.Header.Get("Last-Event-ID"))
	if s == nil {
		fail(w, http.StatusServiceUnavailable, "%d clients have events sent already", maxSubscribers)
		return
	}
	defer e.unsubscribe(s)
	control := http.NewResponseController(w)
	send := func(parts ...[]byte) error {
		control.SetWriteDeadline(time.Now().Add(writeTimeout)) // an error: it has none in tests
		for _, b := range parts {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return control.Flush()
	}
	if send(e.position(s)) != nil {
		return
	}
	quiet := time.NewTicker(heartbeat)
	defer quiet.Stop()
	for {
		var err error
		select {
		case <-r.Context().Done():
			return
		case <-s.wake:
			err = send(e.take(s)...)
		case <-quiet.C:
			if !may() {
				return
			}
			err = send([]byte(": quiet\n\n"))
		}
		if err != nil {
			return
		}
	}
}
