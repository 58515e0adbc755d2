package vcl

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"roster/store"
)

// The kinds of declarations, in words.
const (
	backendWord  = "a backend"
	probeWord    = "a probe"
	directorWord = "a director"
)

// object is a declaration with its attributes, or the probe within a backend.
type object struct {
	name       token
	none       bool
	attributes []attribute
	bad        bool // an attribute could not be read, and is not among them
}

// attribute is one of them as the definition's field of that name has it.
type attribute struct {
	name   string
	place  place   // of the value
	value  string  // as JSON
	text   string  // of one string, or the name of what is referred to
	object *object // of a probe within a backend
}

func (o *object) get(name string) *attribute {
	for i := range o.attributes {
		if o.attributes[i].name == name {
			return &o.attributes[i]
		}
	}
	return nil
}

func (o *object) set(name, value string, at place) {
	o.attributes = append(o.attributes, attribute{name: name, value: value, place: at})
}

// json is the definition.
func (o *object) json() []byte {
	if o.none {
		return []byte(`{"none":true}`)
	}
	b := []byte{'{'}
	for i, a := range o.attributes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, a.name), ':')
		if a.object != nil {
			b = append(b, a.object.json()...)
		} else {
			b = append(b, a.value...)
		}
	}
	return append(b, '}')
}

// where finds the place of a field by its path, as store spells it. It is false for a
// field that is not there only because it could not be read.
func (o *object) where(path string) (place, bool) {
	field, rest, _ := strings.Cut(path, ".")
	field, _, _ = strings.Cut(field, "[")
	switch a := o.get(field); {
	case a == nil:
		return o.name.place, !o.bad
	case a.object != nil && rest != "":
		return a.object.where(rest)
	default:
		return a.place, true
	}
}

// reader reads the value of an attribute. It fails by itself, and then is false.
type reader func(*parser, *attribute) bool

// backendAttributes are those of vcl-backend(7), which has the defaults, too.
var backendAttributes = map[string]reader{
	"host":                  (*parser).text,
	"port":                  (*parser).port,
	"path":                  (*parser).socket,
	"host_header":           (*parser).text,
	"connect_timeout":       (*parser).duration,
	"first_byte_timeout":    (*parser).duration,
	"between_bytes_timeout": (*parser).duration,
	"max_connections":       (*parser).integer,
	"proxy_header":          (*parser).integer,
	"preamble":              (*parser).blob,
	"probe":                 (*parser).probeOf,
	"via":                   (*parser).reference,
	"authority":             (*parser).text,
	"wait_limit":            (*parser).integer,
	"wait_timeout":          (*parser).duration,
}

// probeAttributes are those of vcl-probe(7).
var probeAttributes = map[string]reader{
	"url":               (*parser).text,
	"request":           (*parser).texts,
	"expected_response": (*parser).integer,
	"timeout":           (*parser).duration,
	"interval":          (*parser).duration,
	"initial":           (*parser).integer,
	"window":            (*parser).integer,
	"threshold":         (*parser).integer,
	"expect_close":      (*parser).flag,
}

func (p *parser) backend() {
	name, ok := p.name("backend")
	if !ok {
		p.resync()
		return
	}
	none := p.peek().named("none")
	known := p.declare(name, backendWord, none)
	o := &object{name: name, none: none}
	if none {
		p.at++
		if !p.want(";", "none") {
			p.resync()
		}
	} else if !p.attributes(o, "a backend", backendAttributes) {
		return
	}
	if known {
		p.backends = append(p.backends, o)
	}
}

func (p *parser) probe() {
	name, ok := p.name("probe")
	if !ok {
		p.resync()
		return
	}
	known := p.declare(name, probeWord, false)
	o := &object{name: name}
	if p.attributes(o, "a probe", probeAttributes) && known {
		p.probes = append(p.probes, o)
	}
}

// attributes reads { .name = value; ... } into o. It is false if there is no such block.
func (p *parser) attributes(o *object, what string, known map[string]reader) bool {
	open := p.peek()
	if !p.want("{", what+" "+o.name.value) {
		p.resync()
		return false
	}
	for {
		t := p.peek()
		if t.is("}") {
			p.at++
			return true
		}
		if t.kind == endToken {
			p.fail(open.place, "the block that begins here has no end, want }")
			return true
		}
		if !p.attribute(o, what, known) {
			p.skipValue()
		}
	}
}

// attribute reads one, with its ";". It is false if there is more to skip.
func (p *parser) attribute(o *object, what string, known map[string]reader) bool {
	t := p.take()
	name := p.peek()
	if !t.is(".") || name.kind != nameToken {
		if !t.is(".") {
			name = t
		}
		if t.is("{") || t.is("}") || t.is(";") {
			p.at-- // for skipValue to balance
		}
		p.fail(name.place, "%s instead of an attribute of %s such as %s", name.what(), what, example[what])
		return false
	}
	p.at++
	read, ok := known[name.value]
	if !ok {
		o.bad = true // of a misspelt host, it is not to be told that it is missing
		names := slices.Sorted(maps.Keys(known))
		p.fail(name.place, ".%s is not an attribute of %s, want one of .%s", name.value, what, strings.Join(names, ", ."))
		return false
	}
	if !p.want("=", "."+name.value) {
		o.bad = true
		return false
	}
	a := attribute{name: name.value, place: p.peek().place}
	if !read(p, &a) {
		o.bad = true
		return false
	}
	if o.get(a.name) != nil {
		p.fail(name.place, ".%s is given twice", a.name)
	} else {
		o.attributes = append(o.attributes, a)
	}
	if a.object != nil {
		if p.peek().is(";") {
			p.at++
		}
		return true // the block needs no ";"
	}
	return p.want(";", "the value of ."+name.value)
}

var example = map[string]string{"a backend": `.host = "10.0.0.7";`, "a probe": `.url = "/health";`}

// skipValue goes behind the next ";", or before the "}" of the block at hand.
func (p *parser) skipValue() {
	for {
		switch t := p.peek(); {
		case t.kind == endToken, t.is("}"):
			return
		case t.is(";"):
			p.at++
			return
		case t.is("{"):
			p.block()
			return
		}
		p.at++
	}
}

// string takes a string of one or more parts; those behind the first need a "+" if plus
// is set.
func (p *parser) string(what string, plus bool) (string, bool) {
	t := p.peek()
	if t.kind != stringToken {
		p.fail(t.place, "%s instead of %s in quotes", t.what(), what)
		return "", false
	}
	var s strings.Builder
	for {
		t := p.take()
		s.WriteString(t.value)
		if !utf8.ValidString(t.value) {
			p.fail(t.place, "%s is not UTF-8, which a definition has to be", quote(t.value))
			return "", false
		}
		switch next := p.peek(); {
		case next.is("+"):
			p.at++
			if t := p.peek(); t.kind != stringToken {
				p.fail(t.place, "%s instead of a string in quotes after +", t.what())
				return "", false
			}
		case next.kind == stringToken && !plus:
		default:
			return s.String(), true
		}
	}
}

func (p *parser) text(a *attribute) bool {
	s, ok := p.string("a value", false)
	a.text, a.value = s, toJSON(s)
	return ok
}

// texts reads a list of strings.
func (p *parser) texts(a *attribute) bool {
	var all []string
	for {
		s, ok := p.string("a line", true)
		if !ok {
			return false
		}
		all = append(all, s)
		if p.peek().kind != stringToken {
			break
		}
	}
	a.value = toJSON(all)
	return true
}

// port is a string in VCL and a number in a definition, or a service's name.
func (p *parser) port(a *attribute) bool {
	if t := p.peek(); t.kind == numberToken {
		p.fail(t.place, "the port is the number %s, want it in quotes, as VCL has it", t.value)
		return false
	}
	if !p.text(a) {
		return false
	}
	if n, err := strconv.ParseUint(a.text, 10, 63); err == nil {
		a.value = strconv.FormatUint(n, 10)
	}
	return true
}

func (p *parser) socket(a *attribute) bool {
	if p.modules[versionModule] == "4.0" {
		p.fail(a.place, ".path needs vcl 4.1; at the start of the file")
	}
	return p.text(a)
}

// units are those of VCL.
var units = []string{"ms", "s", "m", "h", "d", "w", "y"}

func (p *parser) duration(a *attribute) bool {
	number := p.peek()
	if number.kind != numberToken {
		p.fail(number.place, "%s instead of a duration such as 1.5s", number.what())
		return false
	}
	p.at++
	unit := p.peek()
	if unit.kind != nameToken || !slices.Contains(units, unit.value) {
		p.fail(unit.place, "%s instead of a unit after %s, want %s", unit.what(), number.value, strings.Join(units, ", "))
		return false
	}
	p.at++
	a.value = toJSON(number.value + unit.value)
	return true
}

func (p *parser) integer(a *attribute) bool {
	t := p.peek()
	if t.kind != numberToken || strings.Contains(t.value, ".") {
		p.fail(t.place, "%s instead of a whole number", t.what())
		return false
	}
	p.at++
	if a.value = strings.TrimLeft(t.value, "0"); a.value == "" {
		a.value = "0"
	}
	return true
}

func (p *parser) flag(a *attribute) bool {
	t := p.peek()
	if !t.named("true") && !t.named("false") {
		p.fail(t.place, "%s instead of true or false", t.what())
		return false
	}
	p.at++
	a.value = t.value
	return true
}

func (p *parser) blob(a *attribute) bool {
	t := p.peek()
	if t.kind != blobToken {
		p.fail(t.place, "%s instead of bytes in base64 between colons, such as :aGVsbG8=:", t.what())
		return false
	}
	p.at++
	if _, err := base64.StdEncoding.Strict().DecodeString(t.value); err != nil {
		p.fail(t.place, "%s between the colons is not base64 with its padding", quote(t.value))
		return false
	}
	a.value = toJSON(t.value)
	return true
}

// reference reads the name of a backend.
func (p *parser) reference(a *attribute) bool {
	t := p.peek()
	if t.kind != nameToken {
		p.fail(t.place, "%s instead of the name of a backend", t.what())
		return false
	}
	p.at++
	a.text, a.value = t.value, toJSON(t.value)
	return true
}

// probeOf reads the probe of a backend, by name or in place.
func (p *parser) probeOf(a *attribute) bool {
	switch t := p.peek(); {
	case t.is("{"):
		a.object = &object{name: token{kind: nameToken, place: t.place, value: "of a backend"}}
		return p.attributes(a.object, "a probe", probeAttributes)
	case t.kind == nameToken:
		p.at++
		a.text, a.value = t.value, toJSON(t.value)
		return true
	default:
		p.fail(t.place, "%s instead of the name of a probe, or a probe in braces", t.what())
		return false
	}
}

// toJSON makes JSON of a string or strings, which are UTF-8.
func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a string has always a JSON form
	}
	return string(b)
}

// define makes definitions of what is declared.
func (p *parser) define() {
	for _, o := range p.backends {
		p.vias[o.name.value] = o.get("via") != nil
	}
	for _, o := range p.backends {
		p.defineBackend(o)
	}
	for _, o := range p.probes {
		p.complete(o)
		if def := p.finish(store.Probes, o.name, o.json(), o.where); def != nil {
			p.add(store.Probes, o.name, def)
		}
	}
	for _, d := range p.directors {
		p.defineDirector(d)
	}
}

// complete gives a probe the window that Varnish gives it: with a threshold alone, one
// more than that. A window alone is refused there.
func (p *parser) complete(o *object) {
	window, threshold := o.get("window"), o.get("threshold")
	switch {
	case window != nil && threshold == nil:
		p.fail(window.place, "probe %s: .window is given without .threshold, want both, as Varnish does", o.name.value)
	case window == nil && threshold != nil:
		if n, err := strconv.Atoi(threshold.value); err == nil && 1 <= n && n <= 64 {
			o.set("window", strconv.Itoa(min(n+1, 64)), threshold.place)
		}
	}
}

func (p *parser) defineBackend(o *object) {
	name := o.name.value
	if a := o.get("probe"); a != nil {
		if a.object != nil {
			p.complete(a.object)
		} else {
			p.refer(a.place, a.text, probeWord)
		}
	}
	if a := o.get("via"); a != nil {
		d, ok := p.refer(a.place, a.text, backendWord)
		switch {
		case !ok:
		case d.none:
			p.fail(a.place, "backend %s: .via is %s, which is none: nothing is reached through it", name, a.text)
		case p.vias[a.text]:
			p.fail(a.place, "backend %s: .via is %s, which has a .via itself: want a backend without one", name, a.text)
		}
	}
	def, _ := p.finish(store.Backends, o.name, o.json(), o.where).(*store.Backend)
	if def == nil {
		return
	}
	if !def.None && o.get("host_header") == nil {
		def = p.hostHeader(o, def)
	}
	p.add(store.Backends, o.name, def)
}

// refer finds what a name stands for, and reports one that is not declared as what is
// wanted. Where files are missing it may be in one of them.
func (p *parser) refer(at place, name, want string) (declared, bool) {
	d, ok := p.lookup(name, want)
	switch {
	case ok && d.what == want:
		return d, true
	case ok:
		p.fail(at, "%s is %s, want the name of %s", name, d.what, want)
	case p.partial:
		p.remark(at, "%s is not declared here, perhaps in a file that is not followed: define it too", name)
	default:
		p.fail(at, "%s is not declared, want the name of %s", name, want)
	}
	return declared{}, false
}

// socketHost is the Host field that Varnish sends over a Unix-domain socket if nothing
// says another (lib/libvcc/vcc_backend.c).
const socketHost = "0.0.0.0"

// hostHeader is the backend with the Host field that Varnish gives it, if roster's
// default is another: .host as written, and nothing of .port.
func (p *parser) hostHeader(o *object, def *store.Backend) *store.Backend {
	sent, at := socketHost, o.name.place
	if host := o.get("host"); host != nil {
		sent, at = host.text, host.place
	}
	if def.HostHeader == sent {
		return def
	}
	explicit := object{name: o.name, attributes: slices.Clone(o.attributes)}
	explicit.set("host_header", toJSON(sent), at)
	key := store.Key{Kind: store.Backends, Name: o.name.value}
	same, _, err := store.Decode(key, explicit.json(), store.Reject)
	if err != nil {
		p.remark(at, "backend %s: requests and probes without a Host get %s, where Varnish sends %s, which is no valid one",
			o.name.value, def.HostHeader, quote(sent))
		return def
	}
	return same.(*store.Backend)
}
