package vcl

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"roster/store"
)

// Write writes backends and probes as VCL, which Parse reads as what they were. What
// VCL cannot say is a comment where it would stand, and of the other kinds only the
// names are there, as comments.
//
// Backends are in the order given, those with a via behind the others, so the first is
// VCL's default if none is named so. left is how many definitions are comments only.
func Write(w io.Writer, all []Definition) (left int, err error) {
	o := &writer{backends: map[string]bool{}, probes: map[string]bool{}}
	o.line("vcl 4.1;")
	for _, d := range all {
		if probe, ok := d.Definition.(*store.Probe); ok {
			o.probe(d.Key, probe)
		}
	}
	for _, viaed := range []bool{false, true} {
		for _, d := range all {
			if b, ok := d.Definition.(*store.Backend); ok && (b.Via != "") == viaed {
				o.backend(d.Key, b)
			}
		}
	}
	for _, d := range all {
		switch d.Definition.(type) {
		case *store.Backend, *store.Probe:
		default:
			o.leave(d.Key, "only backends and probes are written as VCL")
		}
	}
	_, err = w.Write(o.b.Bytes())
	return o.left, err
}

type writer struct {
	b                bytes.Buffer
	backends, probes map[string]bool // written so far
	left             int
}

func (o *writer) line(format string, args ...any) {
	fmt.Fprintf(&o.b, format, args...)
	o.b.WriteByte('\n')
}

// remark writes a comment, which no text in it ends early.
func (o *writer) remark(indent, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		o.line("%s# %s", indent, strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, line))
	}
}

// leave says that a definition is not written.
func (o *writer) leave(key store.Key, format string, args ...any) {
	o.left++
	o.line("")
	o.remark("", "%s is left out: %s", key, fmt.Sprintf(format, args...))
}

// nameless says why a name cannot be one in VCL; empty if it can.
func nameless(name string) string {
	switch {
	case strings.ContainsAny(name, "./"):
		return `VCL has no "." and "/" in names`
	case strings.HasPrefix(name, "vcl_"):
		return "names that begin with vcl_ are VCL's own"
	}
	return ""
}

// fields are those of a definition that are not at their defaults, in order.
func fields(def store.Definition) (names []string, values map[string]json.RawMessage) {
	data := store.Encode(def)
	values = map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &values); err != nil {
		panic(err) // Encode writes JSON
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.Token() // {
	for dec.More() {
		name, _ := dec.Token()
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			panic(err) // it is what was read above
		}
		names = append(names, name.(string))
	}
	return names, values
}

// field is one that VCL does not have, as a comment.
func (o *writer) field(indent, name string, value json.RawMessage) {
	o.remark(indent, "not in VCL: %s %s", name, value)
}

func (o *writer) probe(key store.Key, p *store.Probe) {
	why := nameless(key.Name)
	if why == "" {
		why = inexpressible(p)
	}
	if why != "" {
		o.leave(key, "%s", why)
		return
	}
	o.probes[key.Name] = true
	o.line("")
	o.line("probe %s {", key.Name)
	o.check("    ", p)
	o.line("}")
}

// inexpressible says why a probe is none of Varnish's; empty if it is one.
func inexpressible(p *store.Probe) string {
	switch {
	case p.Type != store.HTTPProbe:
		return fmt.Sprintf("Varnish has no probe of type %s", p.Type)
	case p.Port != 0:
		return fmt.Sprintf("Varnish probes the backend's port, not %d", p.Port)
	case !writable(p.URL):
		return "VCL has no string for its url"
	}
	for _, line := range p.Request {
		if !writable(line) {
			return "VCL has no string for a line of its request"
		}
	}
	return ""
}

// The attributes that Varnish fills in as roster does are written only if they differ.
func (o *writer) check(indent string, p *store.Probe) {
	if len(p.Request) > 0 {
		o.line("%s.request =", indent)
		for i, line := range p.Request {
			end := ""
			if i == len(p.Request)-1 {
				end = ";"
			}
			o.line("%s    %s%s", indent, stringOf(line), end)
		}
	} else if p.URL != "/" && p.URL != "" {
		o.line("%s.url = %s;", indent, stringOf(p.URL))
	}
	if p.ExpectedResponse != 200 {
		o.line("%s.expected_response = %d;", indent, p.ExpectedResponse)
	}
	if !p.ExpectClose {
		o.line("%s.expect_close = false;", indent)
	}
	o.duration(indent, "timeout", p.Timeout, 2*time.Second)
	o.duration(indent, "interval", p.Interval, 5*time.Second)
	if p.Window != 8 || p.Threshold != 3 {
		o.line("%s.window = %d;", indent, p.Window) // neither goes without the other
		o.line("%s.threshold = %d;", indent, p.Threshold)
	}
	if p.Initial != p.Threshold-1 {
		o.line("%s.initial = %d;", indent, p.Initial)
	}
}

func (o *writer) backend(key store.Key, b *store.Backend) {
	names, values := fields(b)
	why := nameless(key.Name)
	switch {
	case why != "":
	case b.TLS != nil:
		why = "Varnish speaks no TLS to backends"
	case b.Protocol != store.HTTP1:
		why = fmt.Sprintf("Varnish speaks no %s to backends", b.Protocol)
	case b.Via != "" && !o.backends[b.Via]:
		why = fmt.Sprintf("its via, %s, is not among the backends above", b.Via)
	case !writable(b.Path):
		why = "VCL has no string for its path"
	case key.Name != "default" && o.probes[key.Name]:
		why = "VCL has one name for one thing, and a probe has this one; rename one of them"
	}
	if why != "" {
		o.leave(key, "%s", why)
		return
	}
	if b.Via == "" {
		o.backends[key.Name] = true
	}
	o.line("")
	if b.Comment != "" {
		o.remark("", "%s", b.Comment)
	}
	if b.None {
		o.line("backend %s none;", key.Name)
		for _, name := range names {
			if name != "none" && name != "comment" {
				o.field("", name, values[name])
			}
		}
		return
	}
	o.line("backend %s {", key.Name)
	host := b.Host
	if b.Path != "" {
		o.line("    .path = %s;", stringOf(b.Path))
		host = socketHost
	} else {
		o.line("    .host = %s;", stringOf(b.Host))
	}
	if b.Port != 80 && b.Port != 0 {
		o.line("    .port = %q;", strconv.Itoa(int(b.Port)))
	}
	if b.HostHeader != host {
		o.line("    .host_header = %s;", stringOf(b.HostHeader))
	}
	for _, name := range names {
		switch name {
		case "host", "port", "path", "host_header", "comment", "authority":
		case "connect_timeout":
			o.duration("    ", name, b.ConnectTimeout, -1)
		case "first_byte_timeout":
			o.duration("    ", name, b.FirstByteTimeout, -1)
		case "between_bytes_timeout":
			o.duration("    ", name, b.BetweenBytesTimeout, -1)
		case "wait_timeout":
			o.duration("    ", name, b.WaitTimeout, -1)
		case "max_connections":
			o.line("    .max_connections = %d;", b.MaxConnections)
		case "wait_limit":
			o.line("    .wait_limit = %d;", b.WaitLimit)
		case "proxy_header":
			o.line("    .proxy_header = %d;", b.ProxyHeader)
		case "preamble":
			o.line("    .preamble = :%s:;", base64.StdEncoding.EncodeToString(b.Preamble))
		case "via":
			o.line("    .via = %s;", b.Via)
			o.line("    .authority = %s;", stringOf(b.Authority))
		case "probe":
			o.probeOf(b.Probe)
		default:
			o.field("    ", name, values[name])
		}
	}
	if value, given := values["authority"]; given && b.Via == "" {
		o.remark("    ", "authority goes with via alone: %s", value)
	}
	o.line("}")
}

func (o *writer) probeOf(ref store.ProbeRef) {
	switch {
	case ref.None && o.probes["default"]:
		o.remark("    ", `not in VCL: probe "none"; Varnish probes it with the probe default`)
	case ref.None:
		o.remark("    ", `not in VCL: probe "none"; without a probe default it is what Varnish does`)
	case ref.Inline != nil:
		if why := inexpressible(ref.Inline); why != "" {
			o.remark("    ", "its probe is left out: %s", why)
			return
		}
		o.line("    .probe = {")
		o.check("        ", ref.Inline)
		o.line("    }")
	case !o.probes[ref.Name]:
		o.remark("    ", "its probe, %s, is not among those above", ref.Name)
	default:
		o.line("    .probe = %s;", ref.Name)
	}
}

// duration writes one that is not the default. VCL has three digits behind the point,
// and milliseconds as the smallest unit.
func (o *writer) duration(indent, name string, d, usual time.Duration) {
	if d == usual {
		return
	}
	if rounded := (d + time.Microsecond - 1) / time.Microsecond * time.Microsecond; rounded != d {
		o.remark(indent, "not in VCL: %s %s, rounded up to microseconds", name, store.FormatDuration(d))
		d = max(rounded, d)
	}
	o.line("%s.%s = %s;", indent, name, durationOf(d))
}

func durationOf(d time.Duration) string {
	unit, name := time.Second, "s"
	if d%time.Millisecond != 0 || d != 0 && d < time.Second {
		unit, name = time.Millisecond, "ms"
	}
	text := strconv.FormatInt(int64(d/unit), 10)
	if part := d % unit * 1000 / unit; part != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%03d", part), "0")
	}
	return text + name
}

// writable says that VCL has a form for a string.
func writable(s string) bool { return stringOf(s) != "" }

// stringOf is s in the form of string that can hold it, empty if none can.
func stringOf(s string) string {
	switch {
	case !strings.ContainsAny(s, "\"\n\x00"):
		return `"` + s + `"`
	case !strings.Contains(s, `"}`) && !strings.Contains(s, "\x00"):
		return `{"` + s + `"}`
	case !strings.Contains(s, `"""`) && !strings.HasSuffix(s, `"`) && !strings.Contains(s, "\x00"):
		return `"""` + s + `"""`
	}
	return ""
}
