package watcher

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"roster/store"
)

// digest stands for a value: 128 bits of its SHA-256, so that 100,000 keys cost
// 16 bytes each instead of their values, and no writer can make two values look
// alike to a list's comparison.
type digest [16]byte

func digestOf(value []byte) digest {
	sum := sha256.Sum256(value)
	return digest(sum[:16])
}

// entry is one version of a key, or with gone set its deletion, as etcd tells it.
// The key is relative to the prefix.
type entry struct {
	key         string
	create, mod int64
	value       []byte
	leased      bool // its lease is kept alive by somebody, as by roster register
	gone        bool
}

// version is a valid value of a key.
type version struct {
	create, mod int64
	digest      digest
	value       string // only if state.values
	definition  store.Definition
	warnings    []string
}

// record is what is kept for each definition key; the version in effect, and in
// rare what few keys have. It and its key take 104 bytes in the map, plus the name,
// which is shared with the items, and the value if it is kept.
type record struct {
	create, mod int64  // of the version in effect; create is the key's even without one
	digest      digest // of the version in effect
	value       string // its bytes, only if state.values
	definition  store.Definition
	rare        *rare
}

type rare struct {
	warnings  []string
	rejection *Rejection
	newest    digest // of the rejected value
}

func (r record) rejection() *Rejection {
	if r.rare == nil {
		return nil
	}
	return r.rare.rejection
}

// newest is the mod revision and digest of the key's newest value, valid or not.
func (r record) newest() (int64, digest) {
	if rejection := r.rejection(); rejection != nil {
		return rejection.Revision, r.rare.newest
	}
	return r.mod, r.digest
}

func (r record) version() (version, bool) {
	v := version{create: r.create, mod: r.mod, digest: r.digest, value: r.value, definition: r.definition}
	if r.rare != nil {
		v.warnings = r.rare.warnings
	}
	return v, r.definition != nil
}

func (r record) item(key store.Key) Item {
	item := Item{Key: key, ModRevision: r.mod, Value: r.value, Definition: r.definition, Rejected: r.rejection()}
	if r.definition != nil {
		item.CreateRevision = r.create
	}
	if r.rare != nil {
		item.Warnings = r.rare.warnings
	}
	return item
}

// accepted is the record of a key whose newest value is valid.
func accepted(v version) record {
	r := record{create: v.create, mod: v.mod, digest: v.digest, value: v.value, definition: v.definition}
	if len(v.warnings) > 0 {
		r.rare = &rare{warnings: v.warnings}
	}
	return r
}

// refused is the record of a key whose newest value, e, is invalid while v, which
// may be the zero version, is in effect.
func (s *state) refused(e entry, err error, v version) record {
	return record{
		create: e.create, mod: v.mod, digest: v.digest, value: v.value, definition: v.definition,
		rare: &rare{warnings: v.warnings, newest: digestOf(e.value),
			rejection: &Rejection{Revision: e.mod, Err: err, CreateRevision: e.create, Value: s.keep(e.value)}},
	}
}

// ackKey holds a revision: what happened up to it is acknowledged.
const ackKey = "ack"

// state is the pure core: the keys under the prefix as of a revision, computed
// from events or from lists. It does no I/O and has no time. One goroutine owns it.
type state struct {
	unknown store.UnknownFields
	values  bool // the bytes of values are kept

	keys     map[store.Key]record
	others   map[string]struct{} // keys that are no definitions
	marks    marks
	rejected int   // records with a rejection
	ack      int64 // value of ackKey
	badAck   error // why that is not one

	cluster uint64 // of the last list taken over
	touched int64  // see Change
	at      int64  // everything up to this revision is in, from a list or as events
}

func newState(unknown store.UnknownFields, values bool) *state {
	return &state{unknown: unknown, values: values, keys: map[store.Key]record{}, others: map[string]struct{}{}}
}

// size is how many keys etcd should count under the prefix.
func (s *state) size() int { return len(s.keys) + len(s.others) }

// definitions is how many keys there are that count, see listing.empty; besides backends: how
// many of them are none.
func (s *state) definitions() (all, besides int) {
	for key := range s.keys {
		if counts(key) {
			all++
			if key.Kind != store.Backends {
				besides++
			}
		}
	}
	return all, besides
}

// counts says whether a key is a definition without which etcd is empty. The fleet's secret is
// none: a node makes it by itself; nor is an override of health, which only says something of
// one.
func counts(key store.Key) bool { return key != store.SecretKey && key.Kind != store.HealthKind }

// ignored is how many of them are of no known kind.
func (s *state) ignored() int { return ignored(s.others) }

func ignored(others map[string]struct{}) int {
	n := len(others)
	if _, ok := others[ackKey]; ok {
		n--
	}
	return n
}

// decode returns the valid version that e is, or why it is none.
func (s *state) decode(key store.Key, e entry) (version, error) {
	definition, warnings, err := store.Decode(key, e.value, s.unknown)
	if err != nil {
		return version{}, err
	}
	return version{e.create, e.mod, digestOf(e.value), s.keep(e.value), definition, warnings}, nil
}

// keep is what is kept of a value besides its digest.
func (s *state) keep(value []byte) string {
	if !s.values {
		return ""
	}
	return string(value)
}

// apply takes in all events of one revision, the next that touched the prefix,
// and returns what it did to the definitions. False: nothing, nor has it acknowledged
// anything.
func (s *state) apply(revision int64, events []entry) (Change, bool) {
	acknowledged := s.ack
	touched := make(map[store.Key]bool, len(events)) // to whether it is there afterwards
	for _, e := range events {
		s.marks.add(e)
		key, ok := store.ParseKey(e.key)
		if !ok {
			s.applyOther(e)
			continue
		}
		old, had := s.keys[key]
		if old.rejection() != nil {
			s.rejected--
		}
		if e.gone {
			delete(s.keys, key)
			if had {
				touched[key] = false
			}
			continue
		}
		v, err := s.decode(key, e)
		if err == nil {
			s.keys[key] = accepted(v)
		} else {
			kept, ok := old.version()
			if !ok || old.create != e.create {
				kept = version{}
			}
			s.keys[key] = s.refused(e, err, kept)
			s.rejected++
		}
		touched[key] = true
	}
	s.at, s.touched = revision, revision
	change := Change{Revision: revision, Touched: revision, Ack: s.ack, Cluster: s.cluster}
	for key, present := range touched {
		if present {
			change.Puts = append(change.Puts, s.keys[key].item(key))
		} else {
			change.Deletes = append(change.Deletes, key)
		}
	}
	change.sort()
	return change, len(touched) > 0 || s.ack > acknowledged
}

func (s *state) applyOther(e entry) {
	if e.gone {
		delete(s.others, e.key)
	} else {
		s.others[e.key] = struct{}{}
	}
	if e.key == ackKey {
		s.ack, s.badAck = parseAck(e)
	}
}

// parseAck is the revision that the key acknowledges. It is not above the one that wrote
// the key: a slip would let all removals to come pass.
func parseAck(e entry) (int64, error) {
	if e.gone {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(e.value)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("revision %d of the key is %.40q, want a revision of etcd, a number", e.mod, e.value)
	}
	return min(n, e.mod), nil
}

func (c *Change) sort() {
	slices.SortFunc(c.Puts, func(a, b Item) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(c.Deletes, compareKeys)
}

func compareKeys(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// listing is a list of the prefix being taken in, beside the state it may replace.
type listing struct {
	state    *state
	revision int64
	cluster  uint64

	keys    map[store.Key]record
	others  map[string]struct{}
	marks   marks
	ack     int64
	badAck  error
	invalid []invalid // awaiting resolve, not in keys yet

	found, leased int // keys that count, and those of them that are backends with a lease
}

// invalid is a listed key whose newest value is invalid.
type invalid struct {
	key   store.Key
	entry entry
	err   error
}

func (s *state) list(cluster uint64, revision int64) *listing {
	return &listing{state: s, revision: revision, cluster: cluster,
		keys: make(map[store.Key]record, len(s.keys)), others: map[string]struct{}{}}
}

// add takes in one listed key. A value that is known is not decoded again.
func (l *listing) add(e entry) {
	l.marks.add(e)
	key, ok := store.ParseKey(e.key)
	if !ok {
		l.others[e.key] = struct{}{}
		if e.key == ackKey {
			l.ack, l.badAck = parseAck(e)
		}
		return
	}
	if counts(key) {
		l.found++
		if e.leased && key.Kind == store.Backends {
			l.leased++
		}
	}
	if v, ok := l.known(key, e); ok {
		l.keys[key] = accepted(v)
		return
	}
	v, err := l.state.decode(key, e)
	if err != nil {
		l.invalid = append(l.invalid, invalid{key, e, err})
		return
	}
	l.keys[key] = accepted(v)
}

// known returns the version in effect if it is e: byte for byte, whatever the
// revisions say, so that what refers to the definition need not be rebuilt.
func (l *listing) known(key store.Key, e entry) (version, bool) {
	v, ok := l.state.keys[key].version()
	if !ok || v.digest != digestOf(e.value) {
		return version{}, false
	}
	v.create, v.mod = e.create, e.mod
	return v, true
}

// older judges one older version of an invalid key, of the same life of it. It
// returns the version to use if it is valid, and done if no older one may be used.
func (l *listing) older(bad invalid, e entry) (v version, done bool) {
	if v, ok := l.known(bad.key, e); ok {
		return v, true
	}
	if v, err := l.state.decode(bad.key, e); err == nil {
		return v, true
	}
	return version{}, e.create == e.mod
}

// remembered is the version to use of an invalid key where compaction has taken
// the older ones from etcd: the one in effect, if it is of the same life of the key.
func (l *listing) remembered(bad invalid) version {
	v, ok := l.state.keys[bad.key].version()
	if !ok || l.cluster != l.state.cluster || v.create != bad.entry.create || v.mod >= bad.entry.mod {
		return version{}
	}
	return v
}

// resolve settles an invalid key on the version found for it, zero for none.
func (l *listing) resolve(bad invalid, v version) {
	l.keys[bad.key] = l.state.refused(bad.entry, bad.err, v)
}

// empty says whether the list has no definition that counts, valid or not. Backends that are
// put by who keeps a lease come back within seconds, alone: they do not make up for directors
// and routes that were there.
func (l *listing) empty() bool {
	if l.found == l.leased && l.found > 0 {
		_, besides := l.state.definitions()
		return besides > 0
	}
	return l.found == 0
}

// replace makes the listed keys the state and returns the difference to what it
// was, leaving out what is the same in create revision, mod revision and value.
func (s *state) replace(l *listing) Change {
	change := Change{Revision: l.revision, Listed: true, Ack: l.ack, Cluster: l.cluster}
	if l.cluster == s.cluster && l.revision >= s.at {
		change.Touched = s.touched
	}
	rejected := 0
	for key, r := range l.keys {
		mod, _ := r.newest()
		change.Touched = max(change.Touched, mod)
		if r.rejection() != nil {
			rejected++
		}
		if old, ok := s.keys[key]; ok && same(old, r) {
			l.keys[key] = old
			continue
		}
		change.Puts = append(change.Puts, r.item(key))
	}
	for key := range s.keys {
		if _, ok := l.keys[key]; !ok {
			change.Deletes = append(change.Deletes, key)
		}
	}
	change.sort()
	s.keys, s.others, s.marks, s.rejected = l.keys, l.others, l.marks, rejected
	s.ack, s.badAck = l.ack, l.badAck
	s.cluster, s.at, s.touched = l.cluster, l.revision, change.Touched
	return change
}

func same(a, b record) bool {
	aMod, aNewest := a.newest()
	bMod, bNewest := b.newest()
	return a.create == b.create && a.mod == b.mod && a.digest == b.digest &&
		(a.rejection() == nil) == (b.rejection() == nil) && aMod == bMod && aNewest == bNewest
}

// anchor is the newest of the keys present, from all of them. False: there is none.
func (s *state) anchor() (mark, bool) {
	var newest mark
	for key, r := range s.keys {
		if mod, digest := r.newest(); mod > newest.mod {
			newest = mark{key: key.String(), mod: mod, digest: digest}
		}
	}
	return newest, newest.mod > 0
}

// grouper collects the events of a stream by revision.
type grouper struct {
	revision int64
	events   []entry
	received time.Time
}

// add takes in one response's events and hands each revision that is complete to
// emit, in order. A revision is complete when a later one begins or when a
// response ends that is not a fragment: etcd never spreads one over two of those.
func (g *grouper) add(events []entry, fragment bool, received time.Time, emit func(revision int64, events []entry, received time.Time)) {
	for _, e := range events {
		if e.mod != g.revision {
			g.flush(emit)
			g.revision, g.received = e.mod, received
		}
		g.events = append(g.events, e)
	}
	if !fragment {
		g.flush(emit)
	}
}

func (g *grouper) flush(emit func(int64, []entry, time.Time)) {
	if len(g.events) > 0 {
		emit(g.revision, g.events, g.received)
	}
	*g = grouper{}
}
