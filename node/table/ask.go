package table

import (
	"net/netip"
	"strings"
	"time"

	"roster/balancer"
	"roster/message"
	"roster/node/route"
	"roster/store"
)

// Outcome is what became of a request at the backend that was picked for it.
type Outcome uint8

const (
	// Unknown: nothing can be said of the backend. The client went away, say, or the
	// node itself was short of something.
	Unknown Outcome = iota
	// Good: the backend answered.
	Good
	// Bad: it failed, or answered 5xx; 501 and 505 are about the request, and good.
	Bad
)

// Ask is one request on its way to a backend: what routes and directors look at, what
// was tried, and what has to be told afterwards. The zero value is ready for Begin. It
// belongs to one request at a time, is meant to be used again for the next, and is not
// for concurrent use.
type Ask struct {
	request *message.Request
	client  netip.Addr
	now     time.Duration
	query   route.Query
	health  health
	retries bool // the route may try again
	picks   int  // that returned a backend

	// Of the last pick, until Done.
	picked  bool
	backend *Backend
	views   *views
	steps   [maxDepth]step
	depth   int // of steps

	// Of the first.
	budget *balancer.Budget
	share  float64

	lost   bool          // the request's session: it is counted once
	cookie *store.Cookie // to be set
	tag    tag           // its value
	text   [tagText]byte // as it is sent

	walk  walk
	how   balancer.Query
	tried []Ref
	room  [48]byte // for an address
}

// step is a choice that a director made.
type step struct {
	d        *Director
	at       int32
	byCookie bool
	counted  *directorRun // the member's, if it counts the request as active
}

func (s *step) member() Ref { return s.d.Members[s.at].Ref }

// Begin prepares for a request. r must stay as it is until the last Pick. client is who
// it is from, after --trusted-proxies. now is the time since Applier.Start.
func (a *Ask) Begin(r *message.Request, client netip.Addr, now time.Duration) {
	a.End()
	a.request, a.client, a.now = r, client, now
	a.query.Begin(r, client, &a.health)
}

// End forgets the request. A pick without Done ends as Unknown.
func (a *Ask) End() {
	a.Done(Unknown, 0, a.now)
	tried := a.tried
	clear(a.steps[:a.depth])
	a.request, a.client, a.retries, a.lost, a.picks = nil, netip.Addr{}, false, false, 0
	a.query.End()
	a.health = health{}
	a.backend, a.views, a.depth, a.budget, a.cookie = nil, nil, 0, nil, nil
	a.walk.t, a.walk.d, a.walk.tried = nil, nil, nil
	a.tried = tried[:0]
}

// Match finds the route a request takes and the name it leads to, 0 where the route
// answers by itself. Without a matching route it is nil and the default rule's name: the
// one called default, else the oldest backend, else 0. The error is route.ErrPath or,
// with its route, a *route.ConditionError.
func (t *Table) Match(a *Ask) (*route.Route, Ref, error) {
	a.health.t = t
	r, err := t.routes.Match(&a.query)
	switch {
	case err != nil:
		return r, 0, err
	case r == nil:
		return nil, t.fallback, nil
	}
	if def := r.Effect(); def != nil {
		a.retries = def.Retries > 0
	}
	return r, r.Target, nil
}

// Path is the request's path as routes see it; nil where it is not valid. It is good until
// the next Begin or End.
func (a *Ask) Path() []byte { return a.query.Path() }

// Skipped is how many conditions could not be computed that the last Match passed over,
// as their routes say on_error skip.
func (a *Ask) Skipped() int { return a.query.Skipped }

// ExplainMatch says which routes the request's would be and why others are not, at most
// most of them; see route.Index.Explain.
func (t *Table) ExplainMatch(a *Ask, most int) []route.Verdict {
	a.health.t = t
	return t.routes.Explain(&a.query, most)
}

// health is what conditions ask about backends and directors.
type health struct{ t *Table }

func (h *health) Healthy(name string) bool { return h.t != nil && h.t.Available(name) }

// Done tells what became of the request at the backend that Pick returned, once for
// each Pick that returned one. latency is the time from the request's sending to the
// answer's head, 0 where it is not known; it is asked for where Timed says so. now is
// the time since Applier.Start. Without a pick Done does nothing.
func (a *Ask) Done(o Outcome, latency time.Duration, now time.Duration) {
	if !a.picked {
		return
	}
	a.picked = false
	a.now = max(a.now, now)
	for i := range a.steps[:a.depth] {
		s := &a.steps[i]
		if s.counted != nil {
			s.counted.active.Add(-1)
			s.counted = nil
		}
		if o == Unknown {
			continue
		}
		if s.d.Def.Type == store.P2C && latency > 0 {
			l := &a.backend.Runtime.latency
			if i+1 < a.depth {
				l = &a.steps[i+1].d.run.latency
			}
			// To fail is no way to be fast.
			if o == Good || latency > l.Value(a.now) {
				l.Observe(latency, a.now)
			}
		}
		m := &s.d.Members[s.at]
		if s.d.Def.Outlier != nil && s.d.run.state.Report(s.d.Def, len(s.d.Members), m.Seat, o == Good, a.now) {
			a.views.ejected(s.d.run)
		}
	}
}

// Timed says whether Done wants the latency: a director that goes by it chose.
func (a *Ask) Timed() bool {
	for i := range a.steps[:a.depth] {
		if a.steps[i].d.Def.Type == store.P2C {
			return true
		}
	}
	return false
}

// backendRetries is the share of requests to a backend that may be retries where routes
// name it directly, which is a director's default.
const backendRetries = 0.2

// Take says whether the request may be tried again, as far as the budget of retries
// goes: that of the first director asked, else the backend's own. It takes one from it.
// now is the time since Applier.Start: a try may have lasted for long. Before a Pick it
// is false.
func (a *Ask) Take(now time.Duration) bool {
	a.now = max(a.now, now)
	return a.budget != nil && a.budget.Take(a.share, a.now)
}

// Cookie returns the cookie that the answer has to set, so that the client comes back
// to the same member: that of the first director asked which has one, unless the
// request brought the right value. value is valid until the
// next Pick.
func (a *Ask) Cookie() (c *store.Cookie, value []byte, ok bool) {
	if a.cookie == nil {
		return nil, nil, false
	}
	return a.cookie, tagForm.AppendEncode(a.text[:0], a.tag[:]), true
}

// Pick chooses the backend that a request to ref goes to. Its error is
// balancer.ErrNoBackend, or the Fault of a backend that ref names. Each pick that
// returns a backend has to be followed by a.Done; one more pick after it avoids the
// backends that were picked before, as long as there are others.
//
// A director gives the request to one of its members; one that leads back to a director
// already being asked, or nests deeper than eight, is skipped.
func (t *Table) Pick(ref Ref, a *Ask) (*Backend, error) {
	a.Done(Unknown, 0, a.now)
	clear(a.steps[:a.depth])
	a.depth, a.cookie, a.backend = 0, nil, nil
	s := t.slots.at(ref)
	switch {
	case s == nil:
		return nil, balancer.ErrNoBackend
	case s.Backend != nil && s.Backend.Fault != nil:
		return nil, s.Backend.Fault
	case s.Backend != nil && !s.Available():
		return nil, balancer.ErrNoBackend
	case s.Backend != nil:
		a.take(t, s.Backend)
		return s.Backend, nil
	case s.Director == nil || !t.find(ref, s, a):
		return nil, balancer.ErrNoBackend
	}
	a.tried = append(a.tried, a.steps[a.depth-1].member())
	a.take(t, a.backend)
	return a.backend, nil
}

// find goes down from a director to a backend, which is in a then, with the steps. It
// looks by views first, and once more without where they may be out of date; at what
// was tried already only when there is nothing else, and then at who is ejected.
func (t *Table) find(ref Ref, s *Slot, a *Ask) bool {
	w := &a.walk
	w.t, w.now, w.tried = t, a.now, a.tried
	w.pardon, w.out = false, false
	for {
		w.exact, w.stale = w.pardon, false
		has := t.tryFind(ref, s, a)
		if a.depth > 0 {
			return true
		}
		if !w.exact && (has || w.stale) {
			w.exact = true
			if t.tryFind(ref, s, a); a.depth > 0 {
				return true
			}
		}
		switch {
		case len(w.tried) > 0:
			w.tried = nil
		case w.out && !w.pardon:
			w.pardon, w.tried = true, a.tried
		default:
			return false
		}
	}
}

// tryFind is find by what the walk says now. It answers whether there should be somebody;
// a has steps if there is.
func (t *Table) tryFind(ref Ref, s *Slot, a *Ask) (has bool) {
	w := &a.walk
	w.depth = 0
	w.begin()
	has = w.available(ref, s)
	if !t.descend(ref, a, has) {
		clear(a.steps[:a.depth])
		a.depth = 0
	}
	return has
}

// descend has each director on the way choose. It may come to nothing, where a view is
// out of date. has says whether the first one has somebody to choose: else only a cookie
// leads on, to who drains.
func (t *Table) descend(ref Ref, a *Ask, has bool) bool {
	w := &a.walk
	w.depth, a.depth = 0, 0
	byCookie := false
	for {
		s := t.slots.at(ref)
		switch {
		case s == nil:
			return false
		case s.Backend != nil:
			a.backend = s.Backend
			return s.Backend.Pool != nil && s.Backend.Fault == nil
		case s.Director == nil || !w.push(ref):
			return false
		}
		d := s.Director
		v := d.view.Load()
		w.d = d
		at := a.returning(v)
		back := at >= 0
		if s.refused() && !(s.draining() && (back || byCookie)) {
			return false
		}
		if byCookie = back; !back && has {
			a.how.Key, a.how.Retry, a.how.Now = a.key(d.Def), a.picks, a.now
			at = v.Pick(&a.how, w)
		}
		if at < 0 {
			return false
		}
		has = true
		a.steps[a.depth] = step{d: d, at: int32(at), byCookie: byCookie}
		a.depth++
		ref = a.steps[a.depth-1].member()
	}
}

// take notes a choice that is made.
func (a *Ask) take(t *Table, b *Backend) {
	a.backend, a.views, a.picked = b, t.views, true
	session := false
	for i := range a.steps[:a.depth] {
		s := &a.steps[i]
		if i+1 < a.depth && byLoad(s.d.Def.Type) {
			s.counted = a.steps[i+1].d.run
			s.counted.active.Add(1)
		}
		v := s.d.view.Load()
		if v.Panic() {
			t.views.panics.Add(1)
		}
		if v.sessions != nil && !session {
			session = true
			if !s.byCookie {
				a.cookie, a.tag = s.d.Def.Cookie, v.sessions.tags[s.at]
				cookies(a.request, a.cookie.Name, func([]byte) bool {
					if !a.lost {
						a.lost = true
						t.views.lost.Add(1)
					}
					return false
				})
			}
		}
	}
	if a.picks++; a.picks > 1 {
		return
	}
	if a.depth > 0 {
		d := a.steps[0].d
		a.budget, a.share = d.run.state.Budget(), d.Def.RetryBudget
	} else if a.retries {
		a.budget, a.share = b.Runtime.budget(), backendRetries
	}
	if a.retries {
		a.budget.Request(a.now)
	}
}

// returning is the position of the member that a cookie of the request means, if it may
// be chosen by it: one that is draining may. -1: none.
func (a *Ask) returning(v *view) int {
	if v.sessions == nil {
		return -1
	}
	w := &a.walk
	at := -1
	cookies(a.request, w.d.Def.Cookie.Name, func(value []byte) bool {
		if i := v.sessions.find(value); i >= 0 && !w.ejected(&w.d.Members[i]) && (w.member(w.d, i, (*Slot).reachable) || w.drained(i)) {
			at = i
		}
		return at < 0
	})
	return at
}

// key is what hash and shard choose by.
func (a *Ask) key(def *store.Director) uint32 {
	var value []byte
	switch by := def.By; by {
	case "":
		return 0
	case "url":
		value = a.request.Target
	case "path":
		value = a.query.Path()
	case "host":
		value = a.query.Host()
	default:
		if name, ok := strings.CutPrefix(by, "header:"); ok {
			value = a.header(name)
		} else if name, ok := strings.CutPrefix(by, "cookie:"); ok {
			cookies(a.request, name, func(v []byte) bool {
				if value = v; value == nil {
					value = []byte{} // an empty one is one
				}
				return false
			})
		}
		if value == nil { // or it is by client.ip
			value = a.room[:0]
			if a.client.IsValid() {
				value = a.client.Unmap().AppendTo(value)
			}
		}
	}
	return balancer.Hash(value)
}

// header is the value of the first field of a name; nil if there is none.
func (a *Ask) header(name string) []byte {
	for i := range a.request.Fields {
		f := &a.request.Fields[i]
		if len(f.Name) == len(name) && strings.EqualFold(string(f.Name), name) {
			if f.Value == nil {
				return []byte{}
			}
			return f.Value
		}
	}
	return nil
}
