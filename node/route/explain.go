package route

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"roster/store"
)

// Verdict is what became of one route in the search for a request's.
type Verdict struct {
	Route *Route
	// Considered says that Match came to it: host and path are right, and no
	// route before it was taken.
	Considered bool
	// Matches says that all that the route asks for is so. The first that
	// matches is taken; those after it were not needed.
	Matches bool
	// Field is the first that does not match, as in a definition: "host",
	// "header.x-canary", "when"; "" where all do. Got is what the request has
	// there, and Want what would match.
	Field, Got, Want string
	// Err is why the condition could not be computed. Without on_error skip, the
	// route is taken nevertheless, and the request fails.
	Err error
}

// Taken says whether the request goes by the route, or fails by it.
func (v *Verdict) Taken() bool { return v.Considered && (v.Matches || v.Err != nil && !v.skipped()) }

func (v *Verdict) skipped() bool { return v.Err != nil && v.Route.Def.OnError == store.SkipRoute }

// Explain says what Match does with the request: the routes it considers, in
// their order, up to the one that is taken, and then others in the order of their
// names, at most most in all. It is for people: it looks at routes one by one.
func (ix *Index) Explain(q *Query, most int) []Verdict {
	if q.err != nil || most <= 0 {
		return nil
	}
	var verdicts []Verdict
	seen := map[*Route]bool{}
	for r := range ix.considered(q) {
		if seen[r] {
			continue // by another of its hosts or paths
		}
		seen[r] = true
		v := Verdict{Route: r, Considered: true}
		v.judge(q)
		verdicts = append(verdicts, v)
		if v.Taken() {
			break
		}
	}
	if len(verdicts) > most { // the end tells most
		verdicts = verdicts[len(verdicts)-most:]
	}
	for r := range ix.All("", "") {
		if len(verdicts) >= most {
			break
		}
		if seen[r] {
			continue
		}
		v := Verdict{Route: r}
		m := &r.Def.Match
		switch {
		case len(m.Host) > 0 && !matchesHost(m.Host, q.in.Host):
			v.Field, v.Got, v.Want = "host", string(q.in.Host), anyOf(m.Host)
		case len(m.Path) > 0 && !matchesPath(m.Path, q.in.Path):
			v.Field, v.Got, v.Want = "path", string(q.in.Path), anyOf(m.Path)
		default:
			v.judge(q)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// judge fills in what refuses says.
func (v *Verdict) judge(q *Query) {
	m := &v.Route.Def.Match
	what, n, err := v.Route.refuses(q)
	v.Err = err
	switch what {
	case nothing:
		v.Matches = true
	case method:
		v.Field, v.Got, v.Want = "method", string(q.in.Request.Method), anyOf(m.Method)
	case client:
		v.Field, v.Got, v.Want = "client", addressOf(q.in.Client), anyOf(m.Client)
	case header:
		p := &v.Route.headers[n]
		v.Field, v.Want = "header."+p.name, anyOf(p.want())
		var got []string
		for _, f := range q.in.Request.Fields {
			if len(f.Name) == len(p.name) && equalFold(f.Name, p.name) {
				got = append(got, string(f.Value))
			}
		}
		if host := q.in.Request.Authority; len(host) > 0 && p.name == "host" {
			got = []string{string(host)}
		}
		v.Got = strings.Join(got, ", ")
	case param:
		p := &v.Route.params[n]
		v.Field, v.Want = "query."+p.name, anyOf(p.want())
		var got []string
		for one := range bytes.SplitSeq(q.in.Query, []byte{'&'}) {
			if name, value, _ := bytes.Cut(one, []byte{'='}); len(one) > 0 && unescapes(name, p.name) {
				got = append(got, string(value))
			}
		}
		v.Got = strings.Join(got, ", ")
	case pathRegex:
		v.Field, v.Got, v.Want = "path_regex", string(q.in.Path), anyOf(m.PathRegex)
	case when:
		v.Field, v.Got, v.Want = "when", "false", v.Route.Def.When
		if err != nil {
			v.Got = err.Error()
		}
	}
}

func addressOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// anyOf joins what would match.
func anyOf[T any](list []T) string {
	const most = 5
	var b strings.Builder
	for i, one := range list {
		if i == most {
			fmt.Fprintf(&b, " or %d more", len(list)-most)
			break
		}
		if i > 0 {
			b.WriteString(" or ")
		}
		fmt.Fprint(&b, one)
	}
	return b.String()
}

// matchesHost compares one by one what Match finds by index.
func matchesHost(list []string, host []byte) bool {
	for _, h := range list {
		below, wild := strings.CutPrefix(h, "*")
		if string(host) == h || wild && len(host) > len(below) && strings.HasSuffix(string(host), below) {
			return true
		}
	}
	return false
}

func matchesPath(list []string, path []byte) bool {
	for _, p := range list {
		prefix, wild := strings.CutSuffix(p, "*")
		if string(path) == p || wild && strings.HasPrefix(string(path), prefix) {
			return true
		}
	}
	return false
}
