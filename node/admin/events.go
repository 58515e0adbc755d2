package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
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
//	event: lost       the client was too slow for so many events: LostEvent
//
// Nothing is repeated: a client that connects, connects again or has lost some asks
// for the state after it has the answer's head. Comments come while all is quiet.
type Events struct {
	mu   sync.Mutex
	subs map[*subscriber]struct{}
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
	Count int `json:"count"`
}

// Health tells of a verdict that changed. It does not block.
func (e *Events) Health(t prober.Transition) {
	e.publish("health", func() any {
		return HealthEvent{Backend: t.Name, State: stateOf(t.Healthy), Stage: t.Stage, Text: t.Text,
			Good: t.Good, Window: int(t.Judge.Window), Threshold: int(t.Judge.Threshold), At: t.At}
	})
}

// Override tells of an operator's word; nil is none any more. It does not block.
func (e *Events) Override(name string, def *store.Health) {
	e.publish("override", func() any {
		event := OverrideEvent{Name: name, State: store.Auto, At: time.Now()}
		if def != nil {
			event.State, event.Reason, event.By = def.State, def.Reason, def.By
		}
		return event
	})
}

// Applied tells of a change that t is the table of. It does not block.
func (e *Events) Applied(c watcher.Change, t *table.Table) {
	e.publish("applied", func() any {
		return AppliedEvent{Revision: t.Revision(), Puts: len(c.Puts), Deletes: len(c.Deletes), Digest: t.Digest().String(), At: time.Now()}
	})
}

// Bounds of what those who listen cost.
const (
	maxSubscribers = 64
	maxPending     = 1024             // events that a subscriber has not taken
	heartbeat      = 15 * time.Second // from one comment to the next
	writeTimeout   = 10 * time.Second // for a subscriber to take what is written
)

// A subscriber is one client. All of it but wake belongs to the Events' mu.
type subscriber struct {
	wake    chan struct{}
	pending [][]byte
	lost    int
}

func (e *Events) publish(kind string, data func() any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.subs) == 0 {
		return
	}
	b := event(kind, data())
	for s := range e.subs {
		if len(s.pending) < maxPending {
			s.pending = append(s.pending, b)
		} else {
			s.lost++
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func event(kind string, data any) []byte {
	b, err := json.Marshal(data)
	if err != nil {
		panic("admin: " + err.Error()) // plain structs
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", kind, b)
}

// subscribe is nil where there are too many already.
func (e *Events) subscribe() *subscriber {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.subs) == maxSubscribers {
		return nil
	}
	if e.subs == nil {
		e.subs = make(map[*subscriber]struct{})
	}
	s := &subscriber{wake: make(chan struct{}, 1)}
	e.subs[s] = struct{}{}
	return s
}

func (e *Events) unsubscribe(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.subs, s)
}

func (e *Events) take(s *subscriber) (events [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	events = s.pending
	if s.lost > 0 {
		events = append(events, event("lost", LostEvent{s.lost}))
	}
	s.pending, s.lost = nil, 0
	return events
}

func (e *Events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	s := e.subscribe()
	if s == nil {
		fail(w, http.StatusServiceUnavailable, "%d clients have events sent already", maxSubscribers)
		return
	}
	defer e.unsubscribe(s)
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(writeTimeout)) // an error: it has none in tests
	if control.Flush() != nil {
		return
	}
	quiet := time.NewTicker(heartbeat)
	defer quiet.Stop()
	for {
		var out [][]byte
		select {
		case <-r.Context().Done():
			return
		case <-s.wake:
			out = e.take(s)
		case <-quiet.C:
			out = [][]byte{[]byte(": quiet\n\n")}
		}
		control.SetWriteDeadline(time.Now().Add(writeTimeout))
		for _, b := range out {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
		if control.Flush() != nil {
			return
		}
	}
}
