package store

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"roster/condition"
)

// Inherit is the value of a duration that is not given, where 0 is no limit:
// a route's timeouts are then the backend's.
const Inherit time.Duration = -1

// OnError is what a route does when its condition cannot be computed.
type OnError string

// The ways to go on after an error in When.
const (
	FailRequest OnError = "fail" // answer 500
	SkipRoute   OnError = "skip" // as if the condition were false
)

// Route sends the requests it matches to a backend or director, or answers by
// itself. Exactly one of Backend and Respond is set.
type Route struct {
	Match    Match
	When     string // CEL; "" = always
	OnError  OnError
	Priority int // higher first

	// Condition is When compiled, and written as When; nil where that is "".
	Condition *condition.Condition

	Backend string // name of a backend or director
	Respond *Respond

	RequestHeaders, ResponseHeaders HeaderEdits

	StripPrefix string // "" = none
	RewriteHost string // "" = none
	Retries     int    // other members tried

	Timeout                                               time.Duration // whole request; 0 = none
	ConnectTimeout, FirstByteTimeout, BetweenBytesTimeout time.Duration // Inherit, or in place of the backend's
}

// Match is what a request has to be: all of the fields, and of each field any.
type Match struct {
	Host      []string // lower case, no port; "*.foo.com" is what is below foo.com
	Path      []string // normal (RFC 3986 6.2.2); "/java/*" is what is below /java/
	PathRegex []string // RE2, and valid
	Method    []string
	Header    map[string][]string // by name in lower case; "*" is any value
	Query     map[string][]string // "*" is any value
	Client    []netip.Prefix
}

// Respond is an answer without a backend.
type Respond struct {
	Status  int // 200 to 599
	Headers []HeaderField
	Body    string
}

// HeaderEdits are changes to the fields of a head: first Remove, then Set,
// which replaces, then Add. Set and Add are in order of name.
type HeaderEdits struct {
	Set, Add []HeaderField
	Remove   []string
}

func (h *HeaderEdits) empty() bool { return len(h.Set)+len(h.Add)+len(h.Remove) == 0 }

// HeaderField is one line of a head.
type HeaderField struct{ Name, Value string }

// Plain says whether the route only chooses a backend: it changes nothing of a request or
// an answer, has no retries, and no timeouts of its own.
func (r *Route) Plain() bool {
	return r.Respond == nil && r.RequestHeaders.empty() && r.ResponseHeaders.empty() &&
		r.StripPrefix == "" && r.RewriteHost == "" && r.Retries == 0 && r.Timeout == 0 &&
		r.ConnectTimeout == Inherit && r.FirstByteTimeout == Inherit && r.BetweenBytesTimeout == Inherit
}

// Kind is Routes.
func (*Route) Kind() Kind { return Routes }

const (
	maxRetries = 100
	// What a regular expression may cost: a{1000} has 1000 instructions of
	// 40 bytes, and they can be put next to each other.
	maxRegexps      = 64     // of one route
	maxRegexp       = 4096   // bytes
	maxInstructions = 20_000 // about 1 MiB
)

var routeFields = newSchema("a route",
	field[Route]{name: "match",
		read: func(d *decoder, r *Route) { matchFields.read(d, &r.Match) },
		write: func(e *encoder, r *Route) {
			if !r.Match.empty() {
				e.field("match")
				matchFields.write(e, &r.Match)
			}
		}, shape: matchFields.shape},
	text("when", func(r *Route) *string { return &r.When }, "", nil).as(someText),
	choice("on_error", func(r *Route) *OnError { return &r.OnError }, FailRequest, FailRequest, SkipRoute),
	integer("priority", func(r *Route) *int { return &r.Priority }, 0, -maxCount, maxCount),
	text("backend", func(r *Route) *string { return &r.Backend }, "", ValidateName).as(nameShape),
	object("respond", func(r *Route) **Respond { return &r.Respond }, respondFields, finishRespond),
	edits("request_headers", func(r *Route) *HeaderEdits { return &r.RequestHeaders }, requestEdits),
	edits("response_headers", func(r *Route) *HeaderEdits { return &r.ResponseHeaders }, responseEdits),
	text("strip_prefix", func(r *Route) *string { return &r.StripPrefix }, "", checkPath).as(pathShape),
	text("rewrite_host", func(r *Route) *string { return &r.RewriteHost }, "", checkHostField).as(someText),
	integer("retries", func(r *Route) *int { return &r.Retries }, 0, 0, maxRetries),
	duration("timeout", func(r *Route) *time.Duration { return &r.Timeout }, 0, 0),
	override("connect_timeout", func(r *Route) *time.Duration { return &r.ConnectTimeout }),
	override("first_byte_timeout", func(r *Route) *time.Duration { return &r.FirstByteTimeout }),
	override("between_bytes_timeout", func(r *Route) *time.Duration { return &r.BetweenBytesTimeout }),
)

// override is a duration in place of a backend's.
func override(name string, at func(*Route) *time.Duration) field[Route] {
	return duration(name, at, Inherit, 0)
}

var matchFields = newSchema("match",
	anyOf("host", func(m *Match) *[]string { return &m.Host }, maxList, `a host such as "foo.com" or "*.foo.com"`, matchHost),
	anyOf("path", func(m *Match) *[]string { return &m.Path }, maxList, `a path such as "/java/x" or "/java/*"`, matchPath),
	anyOf("path_regex", func(m *Match) *[]string { return &m.PathRegex }, maxRegexps, "a regular expression (RE2)", matchRegexp),
	anyOf("method", func(m *Match) *[]string { return &m.Method }, maxList, "a method", matchMethod),
	wanted("header", func(m *Match) *map[string][]string { return &m.Header }, func(name string) (string, error) {
		if !isToken(name) {
			return "", errors.New("is not the name of a header field")
		}
		return strings.ToLower(name), nil
	}, func(value string) (string, error) { return value, checkFieldValue(value) }),
	wanted("query", func(m *Match) *map[string][]string { return &m.Query }, nil, nil),
	field[Match]{name: "client", read: readClient, write: writeClient, shape: func() *shape { return oneOrMore(someText(), maxList) }},
)

var respondFields = newSchema("respond",
	integer("status", func(r *Respond) *int { return &r.Status }, 200, 200, 599),
	headers("headers", func(r *Respond) *[]HeaderField { return &r.Headers }, notOurs),
	text("body", func(r *Respond) *string { return &r.Body }, "", nil),
)

func finishRespond(d *decoder, r *Respond, g given[Respond]) {
	if r.Body != "" && (r.Status == 204 || r.Status == 205 || r.Status == 304) {
		d.failAt("body", "does not go with the status %d, which has none", r.Status)
	}
}

// forwarding is what has a meaning only where a backend is asked.
var forwarding = []string{"request_headers", "strip_prefix", "rewrite_host", "retries",
	"timeout", "connect_timeout", "first_byte_timeout", "between_bytes_timeout"}

func readRoute(d *decoder, r *Route) {
	g, ok := routeFields.read(d, r)
	if !ok {
		return
	}
	switch {
	case !g.has("backend") && !g.has("respond"):
		d.failAt("backend", "is missing; one of backend and respond is required")
	case g.has("backend") && g.has("respond"):
		d.failAt("respond", "does not go with backend; only one of them may be given")
	case g.has("respond"):
		for _, name := range forwarding {
			if g.has(name) {
				d.failAt(name, "does not go with respond, which asks no backend")
			}
		}
	}
	switch {
	case !g.has("when") || g.bad("when"):
	case strings.TrimSpace(r.When) == "":
		d.failAt("when", "is empty, want a condition in CEL, or no when")
	default:
		readCondition(d, r)
	}
	if g.has("on_error") && !g.has("when") {
		d.failAt("on_error", "does not go without when")
	}
}

// readCondition compiles the condition; each fault in it is one of the value.
func readCondition(d *decoder, r *Route) {
	var errs condition.Errors
	c, err := condition.Compile(r.When)
	switch {
	case err == nil:
		r.Condition = c
	case errors.As(err, &errs):
		for _, err := range errs {
			d.failAt("when", "%v", err)
		}
	default:
		d.failAt("when", "%v", err)
	}
}

func (m *Match) empty() bool {
	return len(m.Host)+len(m.Path)+len(m.PathRegex)+len(m.Method)+len(m.Header)+len(m.Query)+len(m.Client) == 0
}

// matchPath reads a path that requests are compared with.
func matchPath(s string) (string, error) {
	if prefix, below := strings.CutSuffix(s, "/*"); below {
		return s, checkPath(prefix + "/")
	}
	return s, checkPath(s)
}

// checkPath says what is wrong with a path that normalised ones are compared
// with: one that is not normal itself would never match.
func checkPath(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("is %s, want a path that begins with \"/\"", quote(s))
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '*':
			return fmt.Errorf("is %s with a \"*\" in it, want one only at the end, after a \"/\"; path_regex can say more", quote(s))
		case c == '?' || c == '#':
			return fmt.Errorf("is %s with %q in it, want a path alone", quote(s), c)
		case c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0: // RFC 3986 3.3 has no such octet in a path
			return fmt.Errorf("is %s with %s in it, want it percent-encoded", quote(s), quoteRune(s[i:]))
		case c == '%':
			hex := s[i+1 : min(i+3, len(s))]
			const digits = "0123456789ABCDEF"
			if len(hex) < 2 || strings.IndexByte(digits, hex[0]) < 0 || strings.IndexByte(digits, hex[1]) < 0 {
				return fmt.Errorf("is %s, want two hexadecimal digits in upper case after \"%%\"", quote(s))
			}
			o := byte(strings.IndexByte(digits, hex[0])<<4 | strings.IndexByte(digits, hex[1]))
			if isLetter(o) || isDigit(o) || strings.IndexByte("-._~", o) >= 0 {
				return fmt.Errorf("is %s, want %q instead of \"%%%s\"", quote(s), o, hex)
			}
			if o == 0 {
				return fmt.Errorf("is %s, which no request has: a NUL is refused", quote(s))
			}
		}
	}
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		if segment == "." || segment == ".." || segment == "" && i < len(segments)-1 {
			return fmt.Errorf("is %s, want no empty, \".\" or \"..\" segment: requests are compared without them", quote(s))
		}
	}
	return nil
}

func matchRegexp(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("is empty, want a regular expression (RE2)")
	case len(s) > maxRegexp:
		return "", fmt.Errorf("is %d bytes long, want at most %d", len(s), maxRegexp)
	}
	re, err := syntax.Parse(s, syntax.Perl) // as regexp.Compile does
	if err != nil {
		return "", fmt.Errorf("is %s, want a regular expression (RE2): %v", quote(s), err)
	}
	program, err := syntax.Compile(re.Simplify())
	if err != nil {
		return "", fmt.Errorf("is %s, want a regular expression (RE2): %v", quote(s), err)
	}
	if n := len(program.Inst); n > maxInstructions {
		return "", fmt.Errorf("is %s, which compiles to %d instructions, want at most %d", quote(s), n, maxInstructions)
	}
	return s, nil
}

func matchMethod(s string) (string, error) {
	if !isToken(s) {
		return "", fmt.Errorf("is %s, want a method such as \"GET\"", quote(s))
	}
	known := []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
	if upper := strings.ToUpper(s); upper != s && slices.Contains(known, upper) {
		return "", fmt.Errorf("is %s, want %q: methods are case-sensitive", quote(s), upper)
	}
	return s, nil
}

// wanted is an object of names with the values wanted of each.
func wanted(name string, at func(*Match) *map[string][]string, checkName, checkValue func(string) (string, error)) field[Match] {
	return field[Match]{
		name: name,
		read: func(d *decoder, m *Match) {
			all := map[string][]string{}
			d.pairs(`an object of names and values, "*" for any value`, func(name string) {
				if checkName != nil {
					var err error
					if name, err = checkName(name); err != nil {
						d.fail("%v", err)
						d.skip()
						return
					}
				}
				if _, twice := all[name]; twice {
					d.fail("is given twice")
				}
				all[name], _ = d.texts(true, maxList, `a value, or "*" for any`, checkValue)
			})
			if len(all) > 0 {
				*at(m) = all
			}
		},
		write: func(e *encoder, m *Match) {
			all := *at(m)
			if len(all) == 0 {
				return
			}
			e.field(name)
			e.b = append(e.b, '{')
			for _, name := range slices.Sorted(maps.Keys(all)) {
				e.field(name)
				e.anyOf(all[name])
			}
			e.b = append(e.b, '}')
		},
		shape: valuesShape,
	}
}

func readClient(d *decoder, m *Match) {
	const want = `an address or CIDR such as "10.0.0.0/8"`
	texts, ok := d.texts(true, maxList, want, func(s string) (string, error) {
		_, err := parsePrefix(s)
		return s, err
	})
	if !ok {
		return
	}
	m.Client = make([]netip.Prefix, len(texts))
	for i, s := range texts {
		m.Client[i], _ = parsePrefix(s)
	}
}

// parsePrefix reads a CIDR, or an address for it alone.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf(`is %s, want an address or CIDR such as "10.0.0.0/8"`, quote(s))
	case p.Addr().Is4In6():
		return p, fmt.Errorf("is %s, want the IPv4 CIDR that it stands for", quote(s))
	case p.Masked() != p:
		return p, fmt.Errorf("is %s with bits set beyond its length, want %s", quote(s), p.Masked())
	}
	return p, nil
}

func writeClient(e *encoder, m *Match) {
	if len(m.Client) == 0 {
		return
	}
	e.field("client")
	list := make([]string, len(m.Client))
	for i, p := range m.Client {
		list[i] = p.String()
	}
	e.anyOf(list)
}

// headers is an object of header fields: of each name a value, or a list of
// them for several lines.
func headers[T any](name string, at func(*T) *[]HeaderField, check func(name string) error) field[T] {
	return field[T]{
		name: name,
		read: func(d *decoder, v *T) {
			var all []HeaderField
			given := map[string]bool{}
			d.pairs("an object of names and values", func(name string) {
				lower := strings.ToLower(name)
				switch err := check(name); {
				case err != nil:
					d.fail("%v", err)
				case given[lower]:
					d.fail("is given twice")
				}
				given[lower] = true
				values, _ := d.texts(true, maxList, "a value", func(s string) (string, error) { return s, checkFieldValue(s) })
				for _, value := range values {
					all = append(all, HeaderField{name, value})
				}
			})
			slices.SortStableFunc(all, func(a, b HeaderField) int {
				return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
			})
			*at(v) = all
		},
		write: func(e *encoder, v *T) {
			all := *at(v)
			if len(all) == 0 {
				return
			}
			e.field(name)
			e.b = append(e.b, '{')
			for len(all) > 0 {
				n := 1
				for n < len(all) && all[n].Name == all[0].Name {
					n++
				}
				values := make([]string, n)
				for i := range values {
					values[i] = all[i].Value
				}
				e.field(all[0].Name)
				e.anyOf(values)
				all = all[n:]
			}
			e.b = append(e.b, '}')
		},
		shape: valuesShape,
	}
}

// editFields are those of one direction: what may be changed differs.
func editFields(what string, check func(name string) error) *schema[HeaderEdits] {
	return newSchema(what,
		headers("set", func(h *HeaderEdits) *[]HeaderField { return &h.Set }, check),
		headers("add", func(h *HeaderEdits) *[]HeaderField { return &h.Add }, check),
		texts("remove", func(h *HeaderEdits) *[]string { return &h.Remove }, maxList, "the name of a header field",
			func(s string) (string, error) { return s, check(s) }),
	)
}

var (
	requestEdits = editFields("request_headers", func(name string) error {
		if strings.EqualFold(name, "host") {
			return errors.New("is not changed as a header field, want rewrite_host")
		}
		return notOurs(name)
	})
	responseEdits = editFields("response_headers", notOurs)
)

// edits is an object with set, add and remove.
func edits(name string, at func(*Route) *HeaderEdits, s *schema[HeaderEdits]) field[Route] {
	return field[Route]{
		name: name,
		read: func(d *decoder, r *Route) { s.read(d, at(r)) },
		write: func(e *encoder, r *Route) {
			if h := at(r); !h.empty() {
				e.field(name)
				s.write(e, h)
			}
		},
		shape: s.shape,
	}
}

// notOurs says what is wrong with the name of a header field that a definition
// wants to change: no token, or a field of a connection or of framing, which
// are the proxy's own (RFC 9110 7.6.1, RFC 9112 6).
func notOurs(name string) error {
	if !isToken(name) {
		return fmt.Errorf("%s is not the name of a header field", quote(name))
	}
	switch strings.ToLower(name) {
	case "connection", "content-length", "http2-settings", "keep-alive", "proxy-connection",
		"te", "trailer", "transfer-encoding", "upgrade":
		return errors.New("is a field of the connection, which the proxy sets itself")
	}
	return nil
}
