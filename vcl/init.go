package vcl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"roster/store"
)

// director is an object that vcl_init makes.
type director struct {
	name    token
	kind    store.DirectorType // "" for an object that is no director
	members []member
	in      map[string]bool // members by name, of a shard director
	fields  []attribute     // beside members
}

type member struct {
	name   string
	place  place
	weight string // as JSON; "" is not given
	rampup string
}

// statements walks the statements of a block, blocks within it included.
type statements struct {
	p      *parser
	tokens []token
	at     int
	blocks []bool // each open one, and whether a condition governs it
	header bool   // the next block is a condition's
}

// conditional says that the statement is run only if a condition holds.
func (s *statements) conditional() bool { return len(s.blocks) > 0 && s.blocks[len(s.blocks)-1] }

// next is the next statement, without its ";". It is nil at the end. A condition is a
// statement by itself; what it governs comes next, in a block or not. Else is none.
func (s *statements) next() []token {
	for s.at < len(s.tokens) {
		t := s.tokens[s.at]
		switch {
		case t.is("{"):
			s.blocks, s.header = append(s.blocks, s.header || s.conditional()), false
			s.at++
			continue
		case t.is("}"):
			s.blocks = s.blocks[:max(len(s.blocks)-1, 0)]
			s.at++
			continue
		case t.is(";"):
			s.at++
			continue
		case t.named("else"):
			s.header = true
			s.at++
			continue
		case t.kind == inlineC:
			s.at++
			return s.tokens[s.at-1 : s.at]
		}
		start, parens := s.at, 0
		condition := isCondition(t)
		for s.at < len(s.tokens) {
			switch t := s.tokens[s.at]; {
			case t.is("("):
				parens++
			case t.is(")"):
				if parens--; condition && parens == 0 {
					s.at++
					if s.at == len(s.tokens) || !s.tokens[s.at].is("{") {
						s.p.fail(t.place, "no { follows the condition, which VCL wants even around one statement")
					}
					s.header = true
					return s.tokens[start:s.at]
				}
			case t.is(";"):
				s.at++
				return s.tokens[start : s.at-1]
			case t.is("{"), t.is("}"):
				s.p.fail(t.place, "%s instead of \";\" at the end of the statement", t.what())
				return s.tokens[start:s.at]
			}
			s.at++
		}
		s.p.fail(s.tokens[start].place, "the statement that begins here has no \";\"")
		return s.tokens[start:]
	}
	return nil
}

func isCondition(t token) bool {
	return t.kind == nameToken && slices.Contains([]string{"if", "elsif", "elseif", "elif"}, t.value)
}

// written is a statement as it stands in the file, on one line and not too long.
func written(statement []token) string {
	const most = 70
	var b strings.Builder
	var before token
	for i, t := range statement {
		if i > 0 && (t.place.src != before.place.src || t.place.offset > before.end) {
			b.WriteByte(' ')
		}
		text := t.place.src.text[t.place.offset:min(t.end, t.place.offset+2*most)]
		b.WriteString(strings.Join(strings.Fields(text), " "))
		if b.Len() > most {
			break
		}
		before = t
	}
	s := b.String()
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError || 0x7f <= r && r < 0xa0 {
			return '?' // it is shown on terminals
		}
		return r
	}, s)
}

// initialise runs vcl_init, all of its declarations after one another.
func (p *parser) initialise() {
	p.budget = 4*len(p.tokens) + 1000 // lest subs that call others twice double it each time
	p.run("vcl_init", nil)
}

// run does what a sub says, as far as that is making directors. It is false behind a
// return, which ends the callers, too. callers are the subs that it is called from.
func (p *parser) run(sub string, callers []string) bool {
	bodies := p.bodies[sub]
	for i := range bodies {
		b := &bodies[i]
		b.ran = true
		if p.budget -= len(b.tokens) + 1; p.budget < 0 {
			p.fail(b.place, "sub %s is called by vcl_init too often", sub)
			return false
		}
		if p.runBody(b.tokens, sub, callers) {
			continue
		}
		for j := i + 1; j < len(bodies); j++ {
			p.report(bodies[j].tokens, sub+", behind a return")
			bodies[j].ran = true
		}
		return false
	}
	return true
}

func (p *parser) runBody(tokens []token, sub string, callers []string) bool {
	s := &statements{p: p, tokens: tokens}
	for {
		statement := s.next()
		if statement == nil {
			return true
		}
		first := statement[0]
		switch {
		case isCondition(first), s.conditional():
			p.reportOne(statement, sub)
		case first.named("return"):
			if len(statement) > 1 && !(len(statement) == 4 && statement[2].named("ok")) {
				p.reportOne(statement, sub)
			}
			p.report(s.tokens[s.at:], sub+", behind a return")
			return len(statement) == 1 // return alone is from this sub only
		case first.named("new"):
			p.create(statement)
		case first.named("call") && len(statement) == 2 && statement[1].kind == nameToken:
			if !p.call(statement, sub, callers) {
				p.report(s.tokens[s.at:], sub+", behind a return")
				return false
			}
		case !p.method(statement):
			p.reportOne(statement, sub)
		}
	}
}

// call runs another sub.
func (p *parser) call(statement []token, sub string, callers []string) bool {
	name := statement[1]
	callers = append(slices.Clip(callers), sub)
	switch {
	case slices.Contains(callers, name.value):
		p.fail(name.place, "sub %s calls itself", name.value)
	case len(p.bodies[name.value]) > 0:
		return p.run(name.value, callers)
	case p.partial:
		p.reportOne(statement, sub)
	default:
		p.fail(name.place, "sub %s is not declared", name.value)
	}
	return true
}

// reportBodies notes the statements of all subs that were not run.
func (p *parser) reportBodies() {
	for _, sub := range p.subs {
		for _, b := range p.bodies[sub] {
			if !b.ran {
				p.report(b.tokens, sub)
			}
		}
	}
}

// report notes each statement as not imported.
func (p *parser) report(tokens []token, sub string) {
	s := &statements{p: p, tokens: tokens}
	for statement := s.next(); statement != nil; statement = s.next() {
		p.reportOne(statement, sub)
	}
}

func (p *parser) reportOne(statement []token, sub string) {
	first := statement[0]
	if first.kind == inlineC {
		p.skip(first.place, "inline C is not imported (sub %s)", sub)
		return
	}
	way := ""
	// set req.backend_hint = web; set req.backend_hint = cluster.backend(...)
	if len(statement) > 3 && first.named("set") && statement[2].is("=") && statement[3].kind == nameToken &&
		(statement[1].value == "req.backend_hint" || statement[1].value == "bereq.backend") {
		name := strings.TrimSuffix(statement[3].value, ".backend")
		if d, ok := p.lookup(name, backendWord); ok && (d.what == backendWord || d.what == directorWord) {
			way = fmt.Sprintf("; a route with backend=%s sends requests there", name)
		}
	}
	p.skip(first.place, "%s is not imported (sub %s)%s", written(statement), sub, way)
}

// create makes a director: new x = directors.round_robin();
func (p *parser) create(statement []token) {
	if len(statement) < 5 || statement[1].kind != nameToken || !statement[2].is("=") || statement[3].kind != nameToken || !statement[4].is("(") {
		p.fail(statement[0].place, "%s is not of the form new x = directors.round_robin()", written(statement))
		return
	}
	name, class := statement[1], statement[3]
	alias, kind, _ := strings.Cut(class.value, ".")
	module, imported := p.modules[alias]
	if !imported || alias == versionModule {
		if !p.partial {
			p.fail(class.place, "%s is not imported, want import %s; before it", alias, alias)
			return
		}
		module = alias
	}
	d := &director{name: name, in: map[string]bool{}}
	if module != "directors" {
		if p.declare(name, "an object of "+module, false) {
			p.skip(statement[0].place, "%s is not imported: roster has nothing of the module %s", written(statement), module)
			p.objects[name.value] = d
		}
		return
	}
	switch kind {
	case "round_robin", "random", "fallback", "hash", "shard":
		d.kind = store.DirectorType(kind)
	case "shard_param":
		if p.declare(name, "an object of "+module, false) {
			p.skip(statement[0].place, "%s is not imported: what a shard director hashes is its by", written(statement))
			p.objects[name.value] = d
		}
		return
	default:
		p.fail(class.place, "%s is not a director of Varnish, want round_robin, random, fallback, hash or shard", class.value)
		return
	}
	if !p.declare(name, directorWord, false) {
		return
	}
	p.directors = append(p.directors, d)
	p.objects[name.value] = d
	args, ok := p.arguments(statement[4:], map[bool][]string{true: {"sticky"}}[kind == "fallback"])
	if !ok {
		return
	}
	if sticky, given := args["sticky"]; given {
		switch {
		case len(sticky) == 1 && sticky[0].named("true"), len(sticky) == 1 && sticky[0].value == "1":
			d.set("sticky", "true", sticky[0].place)
		case len(sticky) == 1 && sticky[0].named("false"), len(sticky) == 1 && sticky[0].value == "0":
		default:
			p.fail(sticky[0].place, "%s is neither true nor false", written(sticky))
		}
	}
	if d.kind == store.Hash || d.kind == store.Shard {
		p.remark(name.place, "director %s hashes the URL; if VCL gives another key to %s.backend(), set it as by", name.value, name.value)
	}
}

func (d *director) set(name, value string, at place) {
	d.fields = slices.DeleteFunc(d.fields, func(a attribute) bool { return a.name == name })
	d.fields = append(d.fields, attribute{name: name, value: value, place: at})
}

// method does what a call of an object's method says. It is false for what is no such
// call, which is then not imported.
func (p *parser) method(statement []token) bool {
	if len(statement) < 3 || statement[0].kind != nameToken || !statement[1].is("(") {
		return false
	}
	object, method, ok := cutLast(statement[0].value)
	if !ok {
		return false
	}
	d, made := p.objects[object]
	if !made {
		module, _, _ := strings.Cut(object, ".")
		if _, imported := p.modules[module]; !imported && !p.partial {
			p.fail(statement[0].place, "%s is not declared, neither as a director nor as a module", object)
			return true
		}
		return false
	}
	if d.kind == "" {
		return false
	}
	var known []string
	switch {
	case method == "add_backend" && d.kind == store.Shard:
		known = []string{"backend", "ident", "rampup", "weight"}
	case method == "add_backend" && (d.kind == store.Random || d.kind == store.Hash):
		known = []string{"backend", "weight"}
	case method == "add_backend":
		known = []string{"backend"}
	case method == "remove_backend" && d.kind == store.Shard:
		known = []string{"backend", "ident"}
	case method == "remove_backend":
		known = []string{"backend"}
	case d.kind != store.Shard:
		return false
	case method == "clear":
	case method == "set_warmup":
		known = []string{"probability"}
	case method == "set_rampup":
		known = []string{"duration"}
	case method == "reconfigure":
		known = []string{"replicas"}
	default:
		return false
	}
	args, ok := p.arguments(statement[1:], known)
	if !ok {
		return true
	}
	switch method {
	case "add_backend":
		p.addMember(d, statement, args)
	case "remove_backend":
		return p.removeMember(d, args)
	case "clear":
		d.members = nil
		clear(d.in)
	case "set_warmup":
		p.setNumber(d, "warmup", statement, args["probability"])
	case "set_rampup":
		if value, at, ok := p.needDuration(statement, args["duration"], "set_rampup"); ok {
			d.set("rampup", value, at)
		}
	case "reconfigure":
		if args["replicas"] != nil {
			p.setNumber(d, "replicas", statement, args["replicas"])
		}
	}
	return true
}

// cutLast cuts object.method; an object's name has no dots, a module's function may.
func cutLast(s string) (object, method string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// arguments splits (a, name = b) into the tokens of each, by name; known are the names
// in the order of those that are given without. It fails, and is false, for others.
func (p *parser) arguments(tokens []token, known []string) (map[string][]token, bool) {
	args := map[string][]token{}
	start, depth, next := 1, 0, 0
	take := func(end int) bool {
		arg := tokens[start:end]
		if len(arg) == 0 {
			if end == len(tokens)-1 && start == 1 {
				return true // ()
			}
			p.fail(tokens[end].place, "an argument is empty")
			return false
		}
		name := ""
		if len(arg) > 2 && arg[0].kind == nameToken && arg[1].is("=") {
			name = arg[0].value
			if !slices.Contains(known, name) {
				p.fail(arg[0].place, "%s is not an argument of this, want %s", name, either(known))
				return false
			}
			arg = arg[2:]
		} else {
			if next >= len(known) {
				p.fail(arg[0].place, "%s is one argument too many, want %s", written(arg), either(known))
				return false
			}
			name = known[next]
			next++
		}
		if args[name] != nil {
			p.fail(arg[0].place, "%s is given twice", name)
			return false
		}
		args[name] = arg
		return true
	}
	for i, t := range tokens {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			if depth--; depth > 0 {
				continue
			}
			if i != len(tokens)-1 {
				p.fail(tokens[i+1].place, "%s instead of \";\" behind the arguments", tokens[i+1].what())
				return nil, false
			}
			return args, take(i)
		case t.is(",") && depth == 1:
			if !take(i) {
				return nil, false
			}
			start = i + 1
		}
	}
	p.fail(tokens[0].place, "the arguments that begin here have no end, want )")
	return nil, false
}

func either(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// memberName reads a backend, or a director as director.backend().
func (p *parser) memberName(d *director, arg []token) (string, bool) {
	switch {
	case len(arg) == 0:
		p.fail(d.name.place, "director %s has a member without a name", d.name.value)
		return "", false
	case len(arg) == 1 && arg[0].kind == nameToken:
		name := arg[0].value
		found, ok := p.refer(arg[0].place, name, backendWord)
		if ok && found.none {
			p.fail(arg[0].place, "%s is none, the backend that always fails, and cannot be in a director", name)
			return "", false
		}
		return name, ok || p.partial
	case len(arg) > 2 && arg[0].kind == nameToken && arg[1].is("("):
		name, method, ok := cutLast(arg[0].value)
		if !ok || method != "backend" {
			break
		}
		if made := p.objects[name]; made != nil && made.kind == "" {
			break // of a module that roster does not know
		}
		_, ok = p.refer(arg[0].place, name, directorWord)
		if len(arg) > 3 {
			p.remark(arg[1].place, "the arguments of %s are not imported: a director hashes by its by", written(arg))
		}
		return name, ok || p.partial
	}
	return "", true // an expression
}

func (p *parser) addMember(d *director, statement []token, args map[string][]token) {
	arg := args["backend"]
	if arg == nil {
		p.fail(statement[0].place, "%s names no backend", written(statement))
		return
	}
	name, ok := p.memberName(d, arg)
	if !ok {
		return
	}
	if name == "" {
		p.skip(statement[0].place, "%s is not imported: %s is neither a backend nor a director made here", written(statement), written(arg))
		return
	}
	m := member{name: name, place: arg[0].place}
	if weight := args["weight"]; weight != nil {
		value, isNumber := number(weight)
		if !isNumber {
			p.fail(weight[0].place, "the weight is %s, want a number", written(weight))
			return
		}
		m.weight = value
		if w, err := strconv.ParseFloat(value, 64); d.kind == store.Shard && err == nil && w < 1 {
			p.remark(weight[0].place, "the weight %s of %s is taken as 1: a shard director has none below, in Varnish neither", value, name)
			m.weight = ""
		}
	} else if d.kind == store.Random {
		p.fail(statement[0].place, "%s has no weight, which a random director wants in VCL: %s.add_backend(%s, 1);", written(statement), d.name.value, name)
		return
	}
	if rampup := args["rampup"]; rampup != nil {
		value, _, ok := p.needDuration(statement, rampup, "rampup")
		if !ok {
			return
		}
		m.rampup = value
	}
	if ident := args["ident"]; ident != nil {
		p.skip(ident[0].place, "ident = %s is not imported: a member's place on the ring is that of its name; name the backend so to keep it", written(ident))
	}
	if d.kind == store.Shard && d.in[name] {
		p.skip(statement[0].place, "%s is not imported: %s is in the shard director already, where Varnish has it once, too", written(statement), name)
		return
	}
	d.in[name] = true
	d.members = append(d.members, m)
}

// removeMember takes a member out again: of a shard director by name, else the first.
func (p *parser) removeMember(d *director, args map[string][]token) bool {
	if args["backend"] == nil || args["ident"] != nil {
		return false
	}
	name, ok := p.memberName(d, args["backend"])
	if !ok {
		return true
	}
	if name == "" {
		return false
	}
	if i := slices.IndexFunc(d.members, func(m member) bool { return m.name == name }); i >= 0 {
		d.members = slices.Delete(d.members, i, i+1)
		delete(d.in, name)
	}
	return true
}

func (p *parser) setNumber(d *director, field string, statement, arg []token) {
	if value, ok := number(arg); ok {
		d.set(field, value, arg[0].place)
		return
	}
	at, got := statement[0].place, "nothing"
	if len(arg) > 0 {
		at, got = arg[0].place, written(arg)
	}
	p.fail(at, "the %s is %s, want a number", field, got)
}

// number is a number as JSON.
func number(arg []token) (string, bool) {
	if len(arg) != 1 || arg[0].kind != numberToken {
		return "", false
	}
	whole, frac, _ := strings.Cut(arg[0].value, ".")
	if whole = strings.TrimLeft(whole, "0"); whole == "" {
		whole = "0"
	}
	if frac == "" {
		return whole, true
	}
	return whole + "." + frac, true
}

func (p *parser) needDuration(statement, arg []token, what string) (value string, at place, ok bool) {
	if len(arg) == 2 && arg[0].kind == numberToken && arg[1].kind == nameToken && slices.Contains(units, arg[1].value) {
		return toJSON(arg[0].value + arg[1].value), arg[0].place, true
	}
	at = statement[0].place
	got := "nothing"
	if len(arg) > 0 {
		at, got = arg[0].place, written(arg)
	}
	p.fail(at, "%s is %s, want a duration such as 30s", what, got)
	return "", at, false
}

// defineDirector makes the definition of a director.
func (p *parser) defineDirector(d *director) {
	o := &object{name: d.name}
	o.set("type", toJSON(string(d.kind)), d.name.place)
	members := []byte{'['}
	for i, m := range d.members {
		if i > 0 {
			members = append(members, ',')
		}
		members = append(members, `{"name":`+toJSON(m.name)...)
		if m.weight != "" {
			members = append(members, `,"weight":`+m.weight...)
		}
		if m.rampup != "" {
			members = append(members, `,"rampup":`+m.rampup...)
		}
		members = append(members, '}')
	}
	o.set("backends", string(append(members, ']')), d.name.place)
	o.attributes = append(o.attributes, d.fields...)
	where := func(path string) (place, bool) {
		if rest, ok := strings.CutPrefix(path, "backends["); ok {
			index, _, _ := strings.Cut(rest, "]")
			if i, err := strconv.Atoi(index); err == nil && i < len(d.members) {
				return d.members[i].place, true
			}
		}
		return o.where(path)
	}
	if len(d.members) == 0 {
		p.remark(d.name.place, "director %s has no backends: it answers 503", d.name.value)
	}
	if def := p.finish(store.Directors, d.name, o.json(), where); def != nil {
		p.add(store.Directors, d.name, def)
	}
}
