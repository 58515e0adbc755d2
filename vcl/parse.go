package vcl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"roster/store"
)

// Definition is one definition made of VCL.
type Definition struct {
	Key        store.Key
	Definition store.Definition
	Position   Position // of its name
}

// Note says what became of a place that is not simply a definition.
type Note struct {
	Position Position
	Text     string // one line
	Skipped  bool   // a statement is not imported; else it is, with something to know about it
}

func (n Note) String() string { return n.Position.String() + ": " + n.Text }

// Error is one thing wrong with a file.
type Error struct {
	Position Position
	Msg      string
}

func (e *Error) Error() string { return e.Position.String() + ": " + e.Msg }

// File is what an include stands for.
type File struct {
	Name string // as Position.File has it
	Text string
}

// Include finds the files that an include names. from are the files that led to it, the
// one parsed first; glob is set for "include +glob", where pattern has wildcards and
// there may be several files. None and no error is a file that is not there.
type Include func(from []string, pattern string, glob bool) ([]File, error)

// Result is what a file says: backends, probes, directors and routes, each in the order
// in which they are declared, and the notes in the order of the file.
type Result struct {
	Definitions []Definition
	Notes       []Note
}

// Count is how many definitions are of a kind.
func (r *Result) Count(kind store.Kind) int {
	n := 0
	for _, d := range r.Definitions {
		if d.Key.Kind == kind {
			n++
		}
	}
	return n
}

// Skipped is how many statements are not imported.
func (r *Result) Skipped() int {
	n := 0
	for _, note := range r.Notes {
		if note.Skipped {
			n++
		}
	}
	return n
}

// The limits on what includes may add up to.
const (
	maxDepth   = 16
	maxSources = 1000
	maxText    = 16 << 20
	maxErrors  = 100 // of which a file full of them has enough
)

// Parse reads a VCL file. With a nil include, none is followed. A file that is not found
// is not an error but a Note, and then nor is a name that is not declared.
//
// The error is a *multierror.Error of *Error, in the order of the files, at most 100.
func Parse(name, text string, include Include) (*Result, error) {
	p := &parser{result: &Result{}, include: include, declared: map[string]declared{}, modules: map[string]string{}, bodies: map[string][]body{}, objects: map[string]*director{}, vias: map[string]bool{}}
	p.load(newSource(0, name, text, nil), 0)
	p.tokens = append(p.tokens, token{kind: endToken, place: place{p.top, len(p.top.text)}, end: len(p.top.text)})
	p.file()
	p.initialise()
	p.define()
	p.reportBodies()
	if p.errs == nil {
		p.fallback()
	}
	if p.errs != nil {
		return nil, p.errors()
	}
	slices.SortStableFunc(p.notes, func(a, b note) int { return a.place.compare(b.place) })
	for _, n := range slices.Compact(p.notes) { // a sub that is called twice has its notes twice
		p.result.Notes = append(p.result.Notes, Note{n.place.position(), n.text, n.skipped})
	}
	return p.result, nil
}

// parser reads all the files as one run of tokens, as Varnish does: first the
// declarations, then what vcl_init does with them.
type parser struct {
	include Include
	top     *source
	sources int
	size    int
	tokens  []token
	at      int

	declared  map[string]declared // of backends, directors, probes and acls
	backends  []*object
	probes    []*object
	directors []*director
	objects   map[string]*director // what vcl_init made, no directors included
	modules   map[string]string    // what imports call a module, by its name here
	bodies    map[string][]body    // of subs
	subs      []string             // in order
	budget    int                  // of tokens that vcl_init may still run
	vias      map[string]bool      // backends with a via
	partial   bool                 // an include was not followed: names may be declared there

	result *Result
	notes  []note
	errs   []fault
	seen   map[fault]bool
}

type note struct {
	place   place
	text    string
	skipped bool
}

type fault struct {
	place place
	msg   string
}

// declared is what a name stands for.
type declared struct {
	what  string // "a backend"
	place place
	none  bool // a backend that is none
}

// body is the tokens of a sub between its braces.
type body struct {
	tokens []token
	place  place
	ran    bool
}

func (p *parser) fail(at place, format string, args ...any) {
	f := fault{at, fmt.Sprintf(format, args...)}
	if p.seen[f] {
		return // a statement that is read in two ways has its faults in both
	}
	if p.seen == nil {
		p.seen = map[fault]bool{}
	}
	p.seen[f] = true
	p.errs = append(p.errs, f)
}

func (p *parser) errors() error {
	slices.SortStableFunc(p.errs, func(a, b fault) int { return a.place.compare(b.place) })
	var errs []error
	for i, f := range p.errs {
		if i == maxErrors {
			errs = append(errs, &Error{f.place.position(), fmt.Sprintf("and %d more errors from here on", len(p.errs)-i)})
			break
		}
		errs = append(errs, &Error{f.place.position(), f.msg})
	}
	return &multierror.Error{Errors: errs}
}

// skip notes a statement that is not imported.
func (p *parser) skip(at place, format string, args ...any) {
	p.notes = append(p.notes, note{at, fmt.Sprintf(format, args...), true})
}

// remark notes something about what is imported.
func (p *parser) remark(at place, format string, args ...any) {
	p.notes = append(p.notes, note{at, fmt.Sprintf(format, args...), false})
}

// load puts the tokens of a source, and of what it includes where it does, behind those
// there are.
func (p *parser) load(src *source, depth int) {
	if p.top == nil {
		p.top = src
	}
	p.sources++
	p.size += len(src.text)
	l := &lexer{src: src, fail: p.fail}
	l.run()
	tokens := p.version(src, l.tokens)
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		if t.named("include") && (i == 0 || startsAfter(tokens[i-1])) {
			i = p.includes(src, tokens, i, depth)
			continue
		}
		p.tokens = append(p.tokens, t)
	}
}

// startsAfter says that a statement may start after t.
func startsAfter(t token) bool { return t.is(";") || t.is("{") || t.is("}") || t.kind == inlineC }

// version reads the version that a file starts with; only the first file has to.
func (p *parser) version(src *source, tokens []token) []token {
	for first := true; ; first = false {
		switch {
		case len(tokens) >= 3 && tokens[0].named("vcl") && tokens[1].kind == numberToken && tokens[2].is(";"):
		case first && src == p.top:
			at := place{src, 0}
			if len(tokens) > 0 {
				at = tokens[0].place
			}
			p.fail(at, "the file does not start with its version, want vcl 4.0; or vcl 4.1; "+
				"(of a file that another one includes, import that one; Varnish 3 is not read)")
			return tokens
		default:
			return tokens
		}
		switch v := tokens[1]; {
		case v.value != "4.0" && v.value != "4.1":
			p.fail(v.place, "the version is %s, want 4.0 or 4.1", v.value)
		case first && src == p.top:
			p.modules[versionModule] = v.value
		case v.value > p.modules[versionModule] && p.modules[versionModule] != "":
			p.fail(v.place, "the version is %s, above %s of the first file", v.value, p.modules[versionModule])
		}
		tokens = tokens[3:]
	}
}

// versionModule is where the version is kept: a name that no module has.
const versionModule = ""

// includes follows the include at i, and returns the index of its last token.
func (p *parser) includes(src *source, tokens []token, i, depth int) int {
	at := tokens[i].place
	glob, j := false, i+1
	if j+1 < len(tokens) && tokens[j].is("+") && tokens[j+1].named("glob") {
		glob, j = true, j+2
	}
	if j >= len(tokens) || tokens[j].kind != stringToken {
		p.fail(at, "include has no file, want its name in quotes")
		return j - 1
	}
	pattern := tokens[j].value
	if j+1 >= len(tokens) || !tokens[j+1].is(";") {
		p.fail(tokens[j].place, "include %s has no \";\" behind it", quote(pattern))
		j--
	}
	if p.include == nil {
		p.unfollowed(at, "include %s is not followed", quote(pattern))
		return j + 1
	}
	var from []string
	for s := src; s != nil; s = s.from {
		from = append(from, s.name)
	}
	slices.Reverse(from)
	if depth == maxDepth {
		p.fail(at, "include %s is nested deeper than %d", quote(pattern), maxDepth)
		return j + 1
	}
	files, err := p.include(from, pattern, glob)
	switch {
	case err != nil:
		p.fail(at, "include %s: %v", quote(pattern), err)
	case len(files) == 0:
		p.unfollowed(at, "include %s is not followed: there is no such file; put it beside this one, or import it by itself", quote(pattern))
	}
	for _, f := range files {
		switch {
		case slices.Contains(from, f.Name):
			p.fail(at, "include %s includes itself", quote(f.Name))
		case p.sources >= maxSources || p.size+len(f.Text) > maxText:
			p.fail(at, "include %s: all files together are more than %d, or more than %d MiB", quote(f.Name), maxSources, maxText>>20)
			return j + 1
		default:
			p.load(newSource(p.sources, f.Name, f.Text, src), depth+1)
		}
	}
	return j + 1
}

func (p *parser) unfollowed(at place, format string, args ...any) {
	p.partial = true
	p.skip(at, format, args...)
}

// peek is the token at hand; there is always one, endToken at the end.
func (p *parser) peek() token { return p.tokens[p.at] }

// take returns the token at hand and goes on to the next.
func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != endToken {
		p.at++
	}
	return t
}

// want takes a symbol, or fails and takes nothing.
func (p *parser) want(symbol, after string) bool {
	if p.peek().is(symbol) {
		p.at++
		return true
	}
	p.fail(p.peek().place, "%s instead of %q after %s", p.peek().what(), symbol, after)
	return false
}

// file reads all declarations.
func (p *parser) file() {
	for {
		t := p.take()
		switch {
		case t.kind == endToken:
			return
		case t.named("backend"):
			p.backend()
		case t.named("probe"):
			p.probe()
		case t.named("sub"):
			p.sub()
		case t.named("acl"):
			p.acl(t)
		case t.named("import"):
			p.imports(t)
		case t.kind == inlineC:
			p.skip(t.place, "inline C is not imported")
		default:
			p.fail(t.place, "%s is no declaration, want backend, probe, acl, sub, import or include%s", t.what(), hint(t))
			p.resync()
		}
	}
}

// hint says what is to be done about a word of another VCL.
func hint(t token) string {
	switch t.value {
	case "director":
		return "; a director of Varnish 3 is made in vcl_init since: new x = directors.round_robin();"
	case "vcl":
		return "; the version goes first in a file"
	}
	return ""
}

// resync goes on to where the next declaration may be: behind a ";" or a whole block, or
// before a word that begins one.
func (p *parser) resync() {
	for {
		t := p.peek()
		switch {
		case t.kind == endToken:
			return
		case t.is("{"):
			p.block()
			return
		case t.is(";"):
			p.at++
			return
		case t.named("backend"), t.named("probe"), t.named("sub"), t.named("acl"), t.named("import"):
			return
		}
		p.at++
	}
}

// block takes a block with all in it, and returns what is between its braces. One that
// has no end is an error.
func (p *parser) block() []token {
	open := p.take()
	start, depth := p.at, 1
	for {
		switch t := p.peek(); {
		case t.kind == endToken:
			p.fail(open.place, "the block that begins here has no end, want }")
			return p.tokens[start:p.at]
		case t.is("{"):
			depth++
		case t.is("}"):
			depth--
		}
		p.at++
		if depth == 0 {
			return p.tokens[start : p.at-1]
		}
	}
}

// name takes the name of what is declared.
func (p *parser) name(what string) (token, bool) {
	t := p.peek()
	if t.kind != nameToken {
		p.fail(t.place, "%s instead of the %s's name", t.what(), what)
		return t, false
	}
	p.at++
	return t, true
}

// declare gives a name its meaning, if it has none. The name default may be had by one
// of each.
func (p *parser) declare(name token, what string, none bool) bool {
	n := name.value
	switch {
	case strings.Contains(n, "."):
		p.fail(name.place, "the name %s has a \".\" in it, which VCL does not allow", quote(n))
		return false
	case strings.HasPrefix(n, "vcl_"):
		p.fail(name.place, "the name %s begins with vcl_, which is VCL's own", quote(n))
		return false
	}
	key := n
	if n == "default" {
		key = "default " + what
	}
	if before, twice := p.declared[key]; twice {
		p.fail(name.place, "the name %s is that of %s already, declared at %s; rename one of them",
			quote(n), before.what, before.place.position())
		return false
	}
	p.declared[key] = declared{what, name.place, none}
	return true
}

// lookup finds what a name stands for.
func (p *parser) lookup(name, what string) (declared, bool) {
	if name == "default" {
		name += " " + what
	}
	d, ok := p.declared[name]
	return d, ok
}

func (p *parser) acl(at token) {
	name, ok := p.name("acl")
	if !ok {
		p.resync()
		return
	}
	p.declare(name, "an acl", false)
	for p.peek().is("+") || p.peek().is("-") { // flags
		p.at += 2
		p.at = min(p.at, len(p.tokens)-1)
	}
	if !p.want("{", "acl "+name.value) {
		p.resync()
		return
	}
	p.at--
	p.block()
	p.skip(at.place, "acl %s is not imported; the match of a route takes CIDRs as client", name.value)
}

// imports reads import NAME [as NAME] [from STRING]; which does nothing by itself.
func (p *parser) imports(at token) {
	name, ok := p.name("module")
	if !ok {
		p.resync()
		return
	}
	as := name
	if p.peek().named("as") {
		p.at++
		if as, ok = p.name("module"); !ok {
			p.resync()
			return
		}
	}
	if p.peek().named("from") {
		p.at++
		if t := p.peek(); t.kind != stringToken {
			p.fail(t.place, "%s instead of a file in quotes after from", t.what())
			p.resync()
			return
		}
		p.at++
	}
	if !p.want(";", "import "+name.value) {
		p.resync()
	}
	p.modules[as.value] = name.value
}

func (p *parser) sub() {
	name, ok := p.name("sub")
	if !ok {
		p.resync()
		return
	}
	if !p.want("{", "sub "+name.value) {
		p.resync()
		return
	}
	p.at--
	if p.bodies[name.value] == nil {
		p.subs = append(p.subs, name.value)
	}
	p.bodies[name.value] = append(p.bodies[name.value], body{place: name.place, tokens: p.block()})
}

// finish makes a definition of a kind, or reports what store says of it. where finds
// the place of a field; false is one that is not to be reported.
func (p *parser) finish(kind store.Kind, name token, value []byte, where func(path string) (place, bool)) store.Definition {
	key := store.Key{Kind: kind, Name: name.value}
	def, _, err := store.Decode(key, value, store.Reject)
	if err == nil {
		return def
	}
	var many *multierror.Error
	if !errors.As(err, &many) {
		many = &multierror.Error{Errors: []error{err}}
	}
	for _, err := range many.Errors {
		var field *store.FieldError
		at, msg := name.place, err.Error()
		if errors.As(err, &field) && field.Path != "" {
			msg = "." + field.Error()
			var told bool
			if at, told = where(field.Path); !told {
				continue
			}
		}
		p.fail(at, "%s %s: %s", kind.Singular(), name.value, msg)
	}
	return nil
}

func (p *parser) add(kind store.Kind, name token, def store.Definition) {
	p.result.Definitions = append(p.result.Definitions,
		Definition{store.Key{Kind: kind, Name: name.value}, def, name.place.position()})
}

// defaultPriority of the route that stands for VCL's default backend is below that of
// any route without one.
const defaultPriority = -1000

// fallback makes the route for VCL's default backend, the one named default or else the
// first. etcd has no first among keys of one transaction.
func (p *parser) fallback() {
	if len(p.backends) == 0 {
		return
	}
	if _, ok := p.lookup("default", backendWord); ok {
		return
	}
	first := p.backends[0].name
	route := token{place: first.place, value: "default"}
	value := fmt.Sprintf(`{"priority":%d,"backend":%q}`, defaultPriority, first.value)
	if def := p.finish(store.Routes, route, []byte(value), func(string) (place, bool) { return first.place, true }); def != nil {
		p.add(store.Routes, route, def)
		p.remark(first.place, "the first backend is VCL's default: the route default, last of all, sends to %s what no other route matches", first.value)
	}
}
