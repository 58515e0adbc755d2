package watcher

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"roster/store"
)

// model is a scripted etcd for what needs its timing or a thousand histories: a log
// of events, with compaction, outages, restores and streams that cut their
// responses at random. That etcd behaves like it is shown by the tests in
// etcd_test.go, on a real one.
type model struct {
	mu        sync.Mutex
	history   history
	down      bool
	deaf      bool // streams bring nothing and reads time out, but nothing breaks
	noAnswers bool // progress requests are not answered, as by etcd's grpc-proxy
	streams   map[*modelStream]bool
	rand      *rand.Rand
	lists     int // reads of a first page
	reads     int
	asks      int // progress requests
}

// history is what a snapshot of etcd keeps.
type history struct {
	cluster   uint64
	term      uint64
	revision  int64
	compacted int64
	log       []entry
}

func (h history) clone() history {
	h.log = slices.Clone(h.log)
	return h
}

func newModel(seed uint64) *model {
	return &model{
		history: history{cluster: 0xc1, term: 2, revision: 1},
		streams: map[*modelStream]bool{}, rand: rand.New(rand.NewPCG(seed, 7)),
	}
}

// at returns the keys at a revision, by key.
func (h history) at(revision int64) []entry {
	newest := map[string]entry{}
	for _, e := range h.log {
		if e.mod <= revision {
			newest[e.key] = e
		}
	}
	var keys []entry
	for _, e := range newest {
		if !e.gone {
			keys = append(keys, e)
		}
	}
	slices.SortFunc(keys, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return keys
}

func (h history) get(key string, revision int64) *entry {
	for _, e := range h.at(revision) {
		if e.key == key {
			return &e
		}
	}
	return nil
}

// write is one transaction: key and value, nil deletes. It does nothing if all it
// does is deleting what is not there.
func (m *model) write(values map[string]*string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.history
	var events []entry
	for key, value := range values {
		old := h.get(key, h.revision)
		e := entry{key: key, mod: h.revision + 1, create: h.revision + 1}
		switch {
		case value == nil && old == nil:
			continue
		case value == nil:
			e.gone, e.create = true, 0
		case old != nil:
			e.create = old.create
		}
		if value != nil {
			e.value = []byte(*value)
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		h.revision++
		h.log = append(h.log, events...)
		m.wakeLocked()
	}
	return h.revision
}

// register puts a key that belongs to a lease.
func (m *model) register(key, value string) {
	m.put(key, value)
	m.change(func() { m.history.log[len(m.history.log)-1].leased = true })
}

func (m *model) put(key, value string) int64 { return m.write(map[string]*string{key: &value}) }
func (m *model) del(key string) int64        { return m.write(map[string]*string{key: nil}) }

// elsewhere writes outside the prefix.
func (m *model) elsewhere(n int64) {
	m.change(func() { m.history.revision += n })
}

func (m *model) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	m.wakeLocked()
}

func (m *model) wakeLocked() {
	for s := range m.streams {
		signal(s.wake)
	}
}

// cut breaks all streams, and lets nothing in while down.
func (m *model) cut(down bool) {
	m.change(func() {
		m.down = down
		m.breakLocked()
	})
}

func (m *model) breakLocked() {
	for s := range m.streams {
		s.broken = true
	}
}

// restart runs etcd again with other data.
func (m *model) restart(h history) {
	m.change(func() {
		m.breakLocked()
		m.history = h.clone()
	})
}

func (m *model) snapshot() history {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history.clone()
}

func (m *model) compact(revision int64) {
	m.change(func() { m.history.compacted = max(m.history.compacted, min(revision, m.history.revision)) })
}

var errDown = errors.New("connection refused")

// reach waits as a call over a dead connection would.
func (m *model) reach(ctx context.Context) error {
	m.mu.Lock()
	down, deaf := m.down, m.deaf
	m.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if down {
		return errDown
	}
	return ctx.Err()
}

func (h history) header() header { return header{h.cluster, h.revision, h.term} }

func (h history) checked(revision int64) (int64, error) {
	switch {
	case revision == 0:
		return h.revision, nil
	case revision < h.compacted:
		return 0, rpctypes.ErrCompacted
	case revision > h.revision:
		return 0, rpctypes.ErrFutureRev
	}
	return revision, nil
}

func (m *model) page(ctx context.Context, from string, limit int, revision int64) (page, error) {
	if err := m.reach(ctx); err != nil {
		return page{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if from == "" {
		m.lists++
	}
	at, err := m.history.checked(revision)
	if err != nil {
		return page{}, err
	}
	p := page{header: m.history.header()}
	for _, e := range m.history.at(at) {
		if e.key < from {
			continue
		}
		if len(p.entries) == limit {
			p.next = p.entries[limit-1].key + "\x00"
			break
		}
		p.entries = append(p.entries, e)
	}
	return p, nil
}

func (m *model) read(ctx context.Context, keys []string, revision int64) ([]*entry, header, error) {
	if err := m.reach(ctx); err != nil {
		return nil, header{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	at, err := m.history.checked(revision)
	if err != nil {
		return nil, header{}, err
	}
	entries := make([]*entry, len(keys))
	for i, key := range keys {
		entries[i] = m.history.get(key, at)
	}
	return entries, m.history.header(), nil
}

func (m *model) count(ctx context.Context, revision int64) (int, error) {
	if err := m.reach(ctx); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, err := m.history.checked(revision)
	if err != nil {
		return 0, err
	}
	return len(m.history.at(at)), nil
}

func (m *model) unreachable(ctx context.Context) error { return never(ctx) }

// never is unreachable of an etcd that is there.
func never(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (m *model) survey(ctx context.Context, since int64) (int, bool, header, error) {
	if err := m.reach(ctx); err != nil {
		return 0, false, header{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	touched := false
	keys := m.history.at(m.history.revision)
	for _, e := range keys {
		touched = touched || e.mod > since
	}
	return len(keys), touched, m.history.header(), nil
}

func (m *model) watch(ctx context.Context, revision int64) (stream, error) {
	if err := m.reach(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &modelStream{model: m, ctx: ctx, start: revision, next: revision, wake: make(chan struct{}, 1)}
	m.streams[s] = true
	return s, nil
}

type modelStream struct {
	model   *model
	ctx     context.Context
	wake    chan struct{}
	start   int64
	next    int64
	offset  int // events of revision next sent in fragments
	created bool
	broken  bool
	ended   bool // by compaction
	asked   int
}

func (s *modelStream) endpoint() string { return "192.0.2.1:2379" }

func (s *modelStream) askProgress() error {
	s.model.change(func() { s.asked++; s.model.asks++ })
	return nil
}

func (s *modelStream) recv() (message, error) {
	for {
		if m, ok, err := s.poll(); ok || err != nil {
			return m, err
		}
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			s.model.change(func() { delete(s.model.streams, s) })
			return message{}, s.ctx.Err()
		}
	}
}

func (s *modelStream) poll() (message, bool, error) {
	m := s.model
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.history
	switch {
	case s.ctx.Err() != nil || s.ended:
		return message{}, false, nil
	case m.deaf:
		return message{}, false, nil
	case s.broken:
		delete(m.streams, s)
		return message{}, false, errDown
	case !s.created:
		s.created = true
		return message{header: h.header(), created: true}, true, nil
	case s.next < h.compacted:
		s.ended = true
		return message{header: h.header(), compacted: h.compacted, canceled: rpctypes.ErrCompacted}, true, nil
	case s.next <= h.revision:
		if got := s.events(); len(got.events) > 0 {
			return got, true, nil
		}
	}
	if s.asked > 0 && !m.noAnswers && h.revision >= s.start {
		s.asked--
		return message{header: h.header()}, true, nil
	}
	return message{}, false, nil
}

// events sends a fragment of a revision, or one or several revisions.
func (s *modelStream) events() message {
	h := s.model.history
	m := message{header: h.header()}
	for s.next <= h.revision {
		var events []entry
		for _, e := range h.log {
			if e.mod == s.next {
				events = append(events, e)
			}
		}
		events = events[min(s.offset, len(events)):]
		if n := len(events); n > 1 && s.model.rand.IntN(3) == 0 {
			n = 1 + s.model.rand.IntN(n-1)
			m.events, m.fragment = append(m.events, events[:n]...), true
			s.offset += n
			return m
		}
		m.events = append(m.events, events...)
		s.next, s.offset = s.next+1, 0
		if len(m.events) > 0 && s.model.rand.IntN(2) == 0 {
			break
		}
	}
	return m
}

// sum adds changes up, as an applier does.
type sum map[store.Key]Item

func (s sum) add(c Change) {
	for _, item := range c.Puts {
		s[item.Key] = item
	}
	for _, key := range c.Deletes {
		delete(s, key)
	}
}

// Values for tests.
const (
	good     = `{"host":"10.0.0.1","port":8080}`
	better   = `{"host":"10.0.0.2","port":8080}`
	best     = `{"host":"10.0.0.3","port":8080}`
	bad      = `{"host":"10.0.0.1","prot":8080}`
	worse    = `{"host":`
	backendA = "backends/a"
	backendB = "backends/b"
)

func pairs(kv ...string) map[string]*string {
	values := map[string]*string{}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			values[kv[i]] = nil
		} else {
			values[kv[i]] = &kv[i+1]
		}
	}
	return values
}
