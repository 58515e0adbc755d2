package route

import (
	"bytes"
	"iter"
	"net/netip"
	"slices"

	"roster/condition"
	"roster/message"
	"roster/store"
)

// Query is a request as routes see it. It may be used for one request after
// the other, and keeps a little memory for that. The zero Query is ready.
type Query struct {
	// Skipped is how many routes Match passed over because their conditions could not be
	// computed, as they say on_error skip.
	Skipped int

	skipped []*Route // those that may be looked at again, by another of their hosts and paths
	in      condition.Input
	err     error // of the path
	scratch []byte
}

// Begin makes the query about a request, which has to stay as it is until the
// next Begin or End. client is who it is from, after --trusted-proxies; health
// answers for backend.healthy in conditions, and may be nil: then nothing is.
func (q *Query) Begin(r *message.Request, client netip.Addr, health condition.Health) {
	q.forget()
	path, query, _ := bytes.Cut(r.Target, []byte{'?'})
	if !normal(path) {
		if path, q.err = normalize(q.scratch, path); q.err == nil {
			q.scratch = path
		}
	}
	host, folded := hostname(q.scratch, r.Authority)
	if folded != nil {
		q.scratch = folded
	}
	q.in = condition.Input{Request: r, Host: host, Path: path, Query: query, Client: client.Unmap(), Health: health}
}

// End forgets the request.
func (q *Query) End() {
	q.in = condition.Input{}
	q.forget()
	if cap(q.scratch) > maxScratch {
		q.scratch = nil
	}
}

func (q *Query) forget() {
	clear(q.skipped)
	q.Skipped, q.skipped, q.err, q.scratch = 0, q.skipped[:0], nil, q.scratch[:0]
}

// maxScratch is how much memory a Query keeps between requests.
const maxScratch = 512

// Path is the request's path, normalised; nil where it is not valid. It is good
// until the next Begin or End.
func (q *Query) Path() []byte { return q.in.Path }

// Host is the request's host as routes see it: in lower case, without port. It is good
// until the next Begin or End.
func (q *Query) Host() []byte { return q.in.Host }

// hostname returns the host of an authority as routes have it: in lower case,
// without port and without the root's dot, an IPv6 address in its shortest form.
// Where that is not how it is written, it is appended to scratch, which then is
// not nil.
func hostname(scratch, authority []byte) (host, grown []byte) {
	host = authority
	if n := bytes.LastIndexByte(host, ':'); n >= 0 && host[len(host)-1] != ']' {
		host = host[:n]
	}
	host = bytes.TrimSuffix(host, []byte{'.'})
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		if a, err := netip.ParseAddr(string(host[1 : len(host)-1])); err == nil {
			start := len(scratch)
			scratch = append(scratch, '[')
			scratch = a.WithZone("").AppendTo(scratch)
			scratch = append(scratch, ']')
			return scratch[start:], scratch
		}
	}
	for i, c := range host {
		if 'A' <= c && c <= 'Z' {
			start := len(scratch)
			scratch = append(scratch, host...)
			message.Lower(scratch[start+i:])
			return scratch[start:], scratch
		}
	}
	return host, nil
}

// longestHost is the longest name that a definition may have.
const longestHost = 253

// walk yields the hosts of an index that a request's host is, the most specific
// first.
type walk struct {
	ix   *Index
	host []byte
	step uint8 // 0 exact, 1 wildcards, 2 any, 3 the end
	at   int   // the next dot may be here
}

func (w *walk) next() *host {
	if w.step == 0 {
		w.step, w.at = 1, 1
		if skip := len(w.host) - longestHost - 1; skip > w.at { // and no request makes us hash 16,000 suffixes
			w.at = skip
		}
		if len(w.host) <= longestHost {
			if h := w.ix.exact.get(w.host); h != nil {
				return h
			}
		}
	}
	if w.step == 1 && w.ix.wild != nil {
		for w.at < len(w.host) {
			i := w.at
			w.at++
			if w.host[i] == '.' {
				if h := w.ix.wild.get(w.host[i:]); h != nil {
					return h
				}
			}
		}
	}
	if w.step < 2 {
		w.step = 2
		return w.ix.any
	}
	return nil
}

// Match finds the route that the request takes; nil if there is none. The error
// is ErrPath, or a *ConditionError, which comes with its route.
//
// It does not allocate, but for conditions and for more than 24 prefixes of one
// path.
func (ix *Index) Match(q *Query) (*Route, error) {
	if q.err != nil || ix.names.root == nil {
		return nil, q.err
	}
	var room [24]bucket
	found := room[:0]
	mixed := ix.levels.len() > 1
	w := walk{ix: ix, host: q.in.Host}
	for h := w.next(); h != nil; h = w.next() {
		start := len(found)
		found = h.match(q.in.Path, found)
		slices.Reverse(found[start:])
		if mixed {
			continue // a later host may have a higher priority
		}
		for _, b := range found {
			c := cursor{bucket: b}
			for r := c.head(); r != nil; r = c.head() {
				if takes, err := q.takes(r); takes {
					return r, err
				}
				c.skip()
			}
		}
		found = found[:0]
	}
	if len(found) == 0 {
		return nil, nil
	}
	var merging [24]cursor
	m := merge(found, merging[:0])
	for r := m.next(); r != nil; r = m.next() {
		if takes, err := q.takes(r); takes {
			return r, err
		}
	}
	return nil, nil
}

// considered yields the routes whose host and path are the request's, in the
// order of the contract. A route comes once for each of its hosts and paths.
func (ix *Index) considered(q *Query) iter.Seq[*Route] {
	return func(yield func(*Route) bool) {
		var found []bucket
		w := walk{ix: ix, host: q.in.Host}
		for h := w.next(); h != nil; h = w.next() {
			start := len(found)
			found = h.match(q.in.Path, found)
			slices.Reverse(found[start:])
		}
		m := merge(found, nil)
		for r := m.next(); r != nil && yield(r); r = m.next() {
		}
	}
}

// merged goes through several buckets, which are in order, the most specific
// first: through the routes of the highest priority in each, then through those of
// the next.
type merged struct {
	cursors []cursor
	at      int // the cursor at hand
	top     int // the priority at hand
}

func merge(found []bucket, cursors []cursor) merged {
	for _, b := range found {
		cursors = append(cursors, cursor{bucket: b})
	}
	return merged{cursors: cursors, at: len(cursors), top: lowest}
}

func (m *merged) next() *Route {
	for {
		for ; m.at < len(m.cursors); m.at++ {
			c := &m.cursors[m.at]
			if r := c.head(); r != nil && r.priority == m.top {
				c.skip()
				return r
			}
		}
		m.at, m.top = 0, lowest
		for i := range m.cursors {
			if r := m.cursors[i].head(); r != nil {
				m.top = max(m.top, r.priority)
			}
		}
		if m.top == lowest {
			return nil
		}
	}
}

// lowest is below every priority.
const lowest = -1 << 62

// takes says whether the request goes by r, whose host and path are right.
func (q *Query) takes(r *Route) (bool, error) {
	what, _, err := r.refuses(q)
	switch {
	case err == nil:
		return what == nothing, nil
	case r.Def.OnError == store.SkipRoute:
		if m := &r.Def.Match; len(m.Host) > 1 || len(m.Path) > 1 {
			if slices.Contains(q.skipped, r) {
				return false, nil
			}
			q.skipped = append(q.skipped, r)
		}
		q.Skipped++
		return false, nil
	}
	return true, &ConditionError{r, err}
}
