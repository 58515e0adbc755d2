package route

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"

	"roster/store"
)

// Route is one route, ready to be matched. It never changes.
type Route struct {
	// What requests read of routes that they do not take comes first: 64 bytes.
	Name     string
	Def      *store.Route
	Target   uint32 // whatever the caller knows the backend by
	asks     aspects
	plain    bool // see Effect
	priority int
	headers  []pair

	params  []pair
	regexps []*regexp.Regexp

	CreateRevision, ModRevision int64
}

// pair is a name with the values wanted of it: any of them, "*" for any at all.
type pair struct {
	name, first string
	more        []string
}

// New makes a route of a definition that store has decoded. target is kept for
// the caller.
func New(name string, def *store.Route, create, mod int64, target uint32) *Route {
	r := &Route{Name: name, Def: def, Target: target, plain: def.Plain(), priority: def.Priority, CreateRevision: create, ModRevision: mod}
	m := &def.Match
	for _, p := range m.PathRegex {
		r.regexps = append(r.regexps, regexp.MustCompile(p)) // store has compiled it once
	}
	r.headers, r.params = pairs(m.Header), pairs(m.Query)
	r.ask(method, len(m.Method))
	r.ask(client, len(m.Client))
	r.ask(header, len(r.headers))
	r.ask(param, len(r.params))
	r.ask(pathRegex, len(r.regexps))
	r.ask(when, len(def.When))
	return r
}

// Effect returns the definition if it says more than which requests go to which backend,
// else nil. Most say no more, and need not be read for each request then: of many routes
// the definition is in no cache.
func (r *Route) Effect() *store.Route {
	if r.plain {
		return nil
	}
	return r.Def
}

func (r *Route) ask(what aspect, n int) {
	if n > 0 {
		r.asks |= 1 << what
	}
}

// pairs puts what is compared next to each other in memory: with 10,000 routes
// that no index tells apart, each pointer that is followed is a wait.
func pairs(all map[string][]string) []pair {
	var list []pair
	for _, name := range slices.Sorted(maps.Keys(all)) {
		joined := name + all[name][0]
		list = append(list, pair{joined[:len(name)], joined[len(name):], all[name][1:]})
	}
	return list
}

func (p *pair) want() []string { return append([]string{p.first}, p.more...) }

// ConditionError says that the condition of a route could not be computed. The
// answer is 500: to go on as if the route had none would widen it.
type ConditionError struct {
	Route *Route
	Err   error
}

func (e *ConditionError) Error() string {
	return fmt.Sprintf("the condition of route %s cannot be computed: %v", e.Route.Name, e.Err)
}

func (e *ConditionError) Unwrap() error { return e.Err }

// aspect is what a route asks for besides host and path; aspects are a set of
// them.
type (
	aspect  uint8
	aspects uint8
)

const (
	nothing aspect = iota
	method
	client
	header // the n-th
	param  // the n-th
	pathRegex
	when
)

func (a aspects) has(what aspect) bool { return a&(1<<what) != 0 }

// refuses returns the first aspect of a request that is not what the route asks
// for, cheap ones first; nothing where all are. The error is when's.
func (r *Route) refuses(q *Query) (what aspect, n int, err error) {
	if r.asks == 0 {
		return nothing, 0, nil
	}
	if r.asks.has(method) && !slices.ContainsFunc(r.Def.Match.Method, func(s string) bool { return s == string(q.in.Request.Method) }) {
		return method, 0, nil
	}
	if r.asks.has(client) && !slices.ContainsFunc(r.Def.Match.Client, func(p netip.Prefix) bool { return p.Contains(q.in.Client) }) {
		return client, 0, nil
	}
	for i := range r.headers {
		if !q.header(&r.headers[i]) {
			return header, i, nil
		}
	}
	if r.asks.has(param) {
		for i := range r.params {
			if !q.param(&r.params[i]) {
				return param, i, nil
			}
		}
	}
	if r.asks.has(pathRegex) && !slices.ContainsFunc(r.regexps, func(x *regexp.Regexp) bool { return x.Match(q.in.Path) }) {
		return pathRegex, 0, nil
	}
	if !r.asks.has(when) {
		return nothing, 0, nil
	}
	holds, err := r.Def.Condition.Eval(&q.in)
	if err != nil || !holds {
		return when, 0, err
	}
	return nothing, 0, nil
}

func (q *Query) header(p *pair) bool {
	if host := q.in.Request.Authority; len(host) > 0 && p.name == "host" {
		return p.wants(host, false) // as conditions have it
	}
	fields := q.in.Request.Fields
	for i := range fields {
		if f := &fields[i]; len(f.Name) == len(p.name) && equalFold(f.Name, p.name) && p.wants(f.Value, false) {
			return true
		}
	}
	return false
}

func (q *Query) param(p *pair) bool {
	for rest := q.in.Query; len(rest) > 0; {
		var one []byte
		one, rest, _ = bytes.Cut(rest, []byte{'&'})
		name, value, _ := bytes.Cut(one, []byte{'='})
		if unescapes(name, p.name) && p.wants(value, true) {
			return true
		}
	}
	return false
}

// wants says whether a value is one of those wanted.
func (p *pair) wants(value []byte, escaped bool) bool {
	if is(p.first, value, escaped) {
		return true
	}
	for _, w := range p.more {
		if is(w, value, escaped) {
			return true
		}
	}
	return false
}

func is(want string, value []byte, escaped bool) bool {
	return want == "*" || !escaped && want == string(value) || escaped && unescapes(value, want)
}

// equalFold compares a field's name with one in lower case, as long.
func equalFold(name []byte, lower string) bool {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// unescapes says whether a part of a query means s: "+" is a space, and what is
// no valid encoding stands for itself.
func unescapes(b []byte, s string) bool {
	n := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '+' {
			c = ' '
		} else if c == '%' && i+2 < len(b) && digit(b[i+1]) >= 0 && digit(b[i+2]) >= 0 {
			c = byte(digit(b[i+1])<<4 | digit(b[i+2]))
			i += 2
		}
		if n == len(s) || s[n] != c {
			return false
		}
		n++
	}
	return n == len(s)
}
