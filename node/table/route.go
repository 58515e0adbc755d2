package table

import (
	"bytes"
	"cmp"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"roster/message"
	"roster/store"
)

// ErrCondition says that the route's condition could not be computed. The
// answer is 500: to go on as if the route had none would widen it. This
// version computes no conditions, so it is what a route with one answers.
var ErrCondition = errors.New("the route's condition cannot be computed")

// Route is one route as one table sees it. It never changes.
type Route struct {
	Name                        string
	Def                         *store.Route
	CreateRevision, ModRevision int64
	Target                      Ref // 0 where the route answers by itself
	regexps                     []*regexp.Regexp
}

func newRoute(name string, c *claim) *Route {
	r := &Route{Name: name, Def: c.def.(*store.Route), CreateRevision: c.create, ModRevision: c.mod}
	for _, p := range r.Def.Match.PathRegex {
		r.regexps = append(r.regexps, regexp.MustCompile(p)) // store has compiled it once
	}
	return r
}

// entry is one way to reach a route: one of its hosts with one of its paths.
// It holds what most requests need to know, for at 10,000 routes each pointer
// that is followed is a wait for memory.
type entry struct {
	route    *Route
	path     string // "" = any; else exact, or what comes before the * of a prefix
	priority int
	prefix   bool
	bare     bool // there are no conditions but host and path
}

// routes finds the first match without looking at routes for other hosts.
// Each bucket is in the order of the contract: priority, longer path, name.
type routes struct {
	byName *iradix.Tree[*Route]
	exact  *iradix.Tree[[]entry] // by host
	wild   *iradix.Tree[[]entry] // by ".foo.com"
	any    []entry
}

func newRoutes() routes {
	return routes{
		byName: iradix.New[*Route](),
		exact:  iradix.New[[]entry](),
		wild:   iradix.New[[]entry](),
	}
}

// routeEdit collects what a change does to the routes, so that each bucket is
// copied and put in order once.
type routeEdit struct {
	routes  routes
	buckets map[string]*bucketEdit // by "" for any, "host", ".wild.host"
}

type bucketEdit struct {
	gone map[*Route]struct{}
	add  []entry
}

func (e *routeEdit) add(r *Route) {
	var mine []entry
	m := &r.Def.Match
	bare := r.Def.When == "" && len(r.regexps) == 0 && len(m.Method) == 0 && len(m.Client) == 0 && len(m.Header) == 0 && len(m.Query) == 0
	for _, p := range orAny(r.Def.Match.Path) {
		one := entry{route: r, path: p, priority: r.Def.Priority, bare: bare}
		if strings.HasSuffix(p, "/*") {
			one.path, one.prefix = p[:len(p)-1], true
		}
		mine = append(mine, one)
	}
	e.each(r, func(b *bucketEdit) { b.add = append(b.add, mine...) })
	e.routes.byName, _, _ = e.routes.byName.Insert([]byte(r.Name), r)
}

func (e *routeEdit) remove(r *Route) {
	e.each(r, func(b *bucketEdit) { b.gone[r] = struct{}{} })
	e.routes.byName, _, _ = e.routes.byName.Delete([]byte(r.Name))
}

// each calls f with the buckets that a route is in.
func (e *routeEdit) each(r *Route, f func(*bucketEdit)) {
	for _, h := range orAny(r.Def.Match.Host) {
		key := strings.TrimPrefix(h, "*")
		b := e.buckets[key]
		if b == nil {
			b = &bucketEdit{gone: make(map[*Route]struct{})}
			if e.buckets == nil {
				e.buckets = make(map[string]*bucketEdit)
			}
			e.buckets[key] = b
		}
		f(b)
	}
}

// commit returns the index with all of it done.
func (e *routeEdit) commit() routes {
	rs := e.routes
	in := func(tree *iradix.Tree[[]entry], key string, b *bucketEdit) *iradix.Tree[[]entry] {
		old, _ := tree.Get([]byte(key))
		next := b.apply(old)
		if len(next) == 0 {
			tree, _, _ = tree.Delete([]byte(key))
			return tree
		}
		tree, _, _ = tree.Insert([]byte(key), next)
		return tree
	}
	for key, b := range e.buckets {
		switch {
		case key == "":
			rs.any = b.apply(rs.any)
		case key[0] == '.':
			rs.wild = in(rs.wild, key, b)
		default:
			rs.exact = in(rs.exact, key, b)
		}
	}
	return rs
}

// apply merges what is added into what stays: one copy of the bucket, and no
// sorting but of what is new.
func (b *bucketEdit) apply(old []entry) []entry {
	slices.SortFunc(b.add, order)
	next := make([]entry, 0, len(old)+len(b.add))
	add := b.add
	for _, e := range old {
		if _, gone := b.gone[e.route]; gone {
			continue
		}
		for len(add) > 0 && order(add[0], e) < 0 {
			next, add = append(next, add[0]), add[1:]
		}
		next = append(next, e)
	}
	return append(next, add...)
}

// orAny makes a missing condition the one that always holds.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

// order is the contract's order among routes of equal hosts. Of two paths of
// one length the exact one is the more specific.
func order(a, b entry) int {
	exact := func(e entry) int {
		if e.prefix {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(b.priority, a.priority),
		cmp.Compare(len(b.path), len(a.path)),
		cmp.Compare(exact(b), exact(a)),
		cmp.Compare(a.route.Name, b.route.Name),
	)
}

// Match finds the route a request takes and the name it leads to. Without a
// matching route it is nil and the default rule's name: the one called
// default, else the oldest backend, else 0. The error is ErrPath or
// ErrCondition.
func (t *Table) Match(a *Ask) (*Route, Ref, error) {
	r := a.request
	var hostBuf, pathBuf [256]byte
	rawPath, query, _ := bytes.Cut(r.Target, []byte{'?'})
	path, err := Normalize(pathBuf[:0], rawPath)
	if err != nil {
		return nil, 0, err
	}
	rs := &t.routes
	if rs.byName.Len() == 0 {
		return nil, t.fallback, nil
	}
	m := match{r: r, path: path, query: query, client: a.client}
	host := hostname(hostBuf[:0], r.Authority)
	var best *entry
	consider := func(bucket []entry) { // buckets come from the most specific host on
		if found := m.first(bucket); found != nil && (best == nil || found.priority > best.priority) {
			best = found
		}
	}
	if rs.exact.Len() > 0 {
		bucket, _ := rs.exact.Get(host)
		consider(bucket)
	}
	if rs.wild.Len() > 0 {
		for i := range host {
			if host[i] == '.' && i > 0 {
				bucket, _ := rs.wild.Get(host[i:])
				consider(bucket)
			}
		}
	}
	consider(rs.any)
	if best == nil {
		return nil, t.fallback, nil
	}
	if !best.bare && best.route.Def.When != "" {
		return best.route, 0, ErrCondition
	}
	return best.route, best.route.Target, nil
}

// match is one request being matched.
type match struct {
	r           *message.Request
	path, query []byte
	client      netip.Addr
}

func (m *match) first(bucket []entry) *entry {
	for i := range bucket {
		e := &bucket[i]
		switch {
		case e.path == "":
		case e.prefix:
			if !bytes.HasPrefix(m.path, []byte(e.path)) {
				continue
			}
		case string(m.path) != e.path:
			continue
		}
		if e.bare || m.rest(e.route) {
			return e
		}
	}
	return nil
}

// rest are the conditions that no index serves.
func (m *match) rest(r *Route) bool {
	c := &r.Def.Match
	if r.Def.When != "" && r.Def.OnError == store.SkipRoute {
		return false
	}
	if len(r.regexps) > 0 && !slices.ContainsFunc(r.regexps, func(x *regexp.Regexp) bool { return x.MatchString(string(m.path)) }) {
		return false
	}
	if len(c.Method) > 0 && !slices.ContainsFunc(c.Method, func(s string) bool { return s == string(m.r.Method) }) {
		return false
	}
	if len(c.Client) > 0 && !slices.ContainsFunc(c.Client, func(p netip.Prefix) bool { return p.Contains(m.client.Unmap()) }) {
		return false
	}
	for name, want := range c.Header {
		if !m.header(name, want) {
			return false
		}
	}
	for name, want := range c.Query {
		if !m.parameter(name, want) {
			return false
		}
	}
	return true
}

func (m *match) header(name string, want []string) bool {
	for i := range m.r.Fields {
		f := &m.r.Fields[i]
		if len(f.Name) == len(name) && strings.EqualFold(string(f.Name), name) && wanted(want, f.Value) {
			return true
		}
	}
	return false
}

func (m *match) parameter(name string, want []string) bool {
	for rest := m.query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{'&'})
		k, v, _ := bytes.Cut(pair, []byte{'='})
		if unescape(k) == name && wanted(want, []byte(unescape(v))) {
			return true
		}
	}
	return false
}

// wanted says whether a value is one of those asked for; "*" asks for any.
func wanted(want []string, value []byte) bool {
	return slices.ContainsFunc(want, func(w string) bool { return w == "*" || w == string(value) })
}

// unescape decodes a query's name or value; what is no valid encoding stays.
func unescape(b []byte) string {
	if !bytes.ContainsAny(b, "%+") {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '+':
			out = append(out, ' ')
		case b[i] == '%' && i+2 < len(b) && digit(b[i+1]) >= 0 && digit(b[i+2]) >= 0:
			out = append(out, byte(digit(b[i+1])<<4|digit(b[i+2])))
			i += 2
		default:
			out = append(out, b[i])
		}
	}
	return string(out)
}

// hostname appends the host of an authority to dst: lower case, without port
// and without the root's dot.
func hostname(dst, authority []byte) []byte {
	host := authority
	if n := bytes.LastIndexByte(host, ':'); n >= 0 && !bytes.HasSuffix(host, []byte{']'}) {
		host = host[:n]
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return bytes.TrimSuffix(dst, []byte{'.'})
}
