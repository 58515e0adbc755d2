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
	// What most requests read comes first: 64 bytes.
	Name     string
	Def      *store.Route
	Target   uint32 // whatever the caller knows the backend by
	bare     bool   // nothing is asked for but host and path
	priority int

	CreateRevision, ModRevision int64

	regexps         []*regexp.Regexp
	headers, params []pair
}

// pair is a name with the values wanted of it.
type pair struct {
	name string
	want []string // any of; "*" is any
}

// New makes a route of a definition that store has decoded. target is kept for
// the caller.
func New(name string, def *store.Route, create, mod int64, target uint32) *Route {
	r := &Route{Name: name, Def: def, Target: target, priority: def.Priority, CreateRevision: create, ModRevision: mod}
	m := &def.Match
	for _, p := range m.PathRegex {
		r.regexps = append(r.regexps, regexp.MustCompile(p)) // store has compiled it once
	}
	r.headers, r.params = pairs(m.Header), pairs(m.Query)
	r.bare = def.When == "" && len(r.regexps)+len(m.Method)+len(m.Client)+len(r.headers)+len(r.params) == 0
	return r
}

func pairs(all map[string][]string) []pair {
	var list []pair
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, pair{name, all[name]})
	}
	return list
}

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

// aspect is what a route asks for besides host and path.
type aspect uint8

const (
	nothing aspect = iota
	method
	client
	header // the n-th
	param  // the n-th
	pathRegex
	when
)

// refuses returns the first aspect of a request that is not what the route asks
// for, cheap ones first; nothing where all are. The error is when's.
func (r *Route) refuses(q *Query) (what aspect, n int, err error) {
	if r.bare {
		return nothing, 0, nil
	}
	m := &r.Def.Match
	if len(m.Method) > 0 && !slices.ContainsFunc(m.Method, func(s string) bool { return s == string(q.in.Request.Method) }) {
		return method, 0, nil
	}
	if len(m.Client) > 0 && !slices.ContainsFunc(m.Client, func(p netip.Prefix) bool { return p.Contains(q.in.Client) }) {
		return client, 0, nil
	}
	for i := range r.headers {
		if !q.header(&r.headers[i]) {
			return header, i, nil
		}
	}
	for i := range r.params {
		if !q.param(&r.params[i]) {
			return param, i, nil
		}
	}
	if len(r.regexps) > 0 && !slices.ContainsFunc(r.regexps, func(x *regexp.Regexp) bool { return x.Match(q.in.Path) }) {
		return pathRegex, 0, nil
	}
	if r.Def.When == "" {
		return nothing, 0, nil
	}
	holds, err := r.Def.Condition.Eval(&q.in)
	if err != nil || !holds {
		return when, 0, err
	}
	return nothing, 0, nil
}

func (q *Query) header(p *pair) bool {
	fields := q.in.Request.Fields
	for i := range fields {
		if f := &fields[i]; len(f.Name) == len(p.name) && equalFold(f.Name, p.name) && among(p.want, f.Value, false) {
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
		if unescapes(name, p.name) && among(p.want, value, true) {
			return true
		}
	}
	return false
}

// among says whether a value is one of those wanted.
func among(want []string, value []byte, escaped bool) bool {
	for _, w := range want {
		if w == "*" || !escaped && w == string(value) || escaped && unescapes(value, w) {
			return true
		}
	}
	return false
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
