package store

import (
	"fmt"
	"strings"
	"time"
)

// ProbeType is what a probe does.
type ProbeType string

// The types of probes.
const (
	HTTPProbe ProbeType = "http"
	GRPCProbe ProbeType = "grpc" // grpc.health.v1
	TCPProbe  ProbeType = "tcp"  // connects, and no more
)

// Probe is a check of a backend's health, and how it is judged.
type Probe struct {
	Type ProbeType
	Port uint16 // of the same host; 0 = the backend's

	// Of HTTPProbe only, else zero. Either URL or Request is set.
	URL              string   // sent with GET; "/"
	Request          []string // lines sent instead, without their CRLF
	ExpectedResponse int      // status; 200
	ExpectClose      bool     // good only if the backend closes in time

	Service string // of GRPCProbe only; "" = the server as a whole

	Timeout  time.Duration // of the whole probe; 2s, never 0
	Interval time.Duration // from the end of one to the start of the next; 5s, never 0

	// Of the last Window probes (1 to 64) at least Threshold (1 to Window)
	// good ones are healthy; Initial good ones (0 to Threshold) are assumed
	// at the start.
	Window, Threshold, Initial int
}

// Kind is Probes.
func (*Probe) Kind() Kind { return Probes }

// maxRequest bounds what a probe sends, in bytes: what servers commonly take
// as a head.
const maxRequest = 64 << 10

var probeFields = newSchema("a probe",
	choice("type", func(p *Probe) *ProbeType { return &p.Type }, HTTPProbe, HTTPProbe, GRPCProbe, TCPProbe),
	field[Probe]{name: "port",
		read: func(d *decoder, p *Probe) {
			if port, ok := d.port(); ok {
				p.Port = port
			}
		},
		write: func(e *encoder, p *Probe) {
			if p.Port != 0 {
				e.field("port")
				e.integer(int(p.Port))
			}
		}, shape: portShape},
	field[Probe]{name: "url",
		read: func(d *decoder, p *Probe) { d.textInto(&p.URL, checkTarget) },
		write: func(e *encoder, p *Probe) {
			if p.URL != "/" && p.URL != "" {
				e.field("url")
				e.text(p.URL)
			}
		}, shape: func() *shape { return pathShape().or("/", true) }},
	texts("request", func(p *Probe) *[]string { return &p.Request }, maxList, "a line", checkLine),
	field[Probe]{name: "expected_response", init: func(p *Probe) { p.ExpectedResponse = 200 },
		read: func(d *decoder, p *Probe) {
			if n, ok := d.integer(100, 999); ok {
				p.ExpectedResponse = n
			}
		},
		write: func(e *encoder, p *Probe) {
			if p.Type == HTTPProbe && p.ExpectedResponse != 200 {
				e.field("expected_response")
				e.integer(p.ExpectedResponse)
			}
		}, shape: func() *shape { return integerShape(100, 999).or(200, true) }},
	field[Probe]{name: "expect_close", init: func(p *Probe) { p.ExpectClose = true },
		read: func(d *decoder, p *Probe) {
			if b, ok := d.flag(); ok {
				p.ExpectClose = b
			}
		},
		write: func(e *encoder, p *Probe) {
			if p.Type == HTTPProbe && !p.ExpectClose {
				e.field("expect_close")
				e.flag(false)
			}
		}, shape: func() *shape { return flagShape().or(true, true) }},
	text("service", func(p *Probe) *string { return &p.Service }, "", nil),
	duration("timeout", func(p *Probe) *time.Duration { return &p.Timeout }, 2*time.Second, 1),
	duration("interval", func(p *Probe) *time.Duration { return &p.Interval }, 5*time.Second, 1),
	integer("window", func(p *Probe) *int { return &p.Window }, 8, 1, 64),
	integer("threshold", func(p *Probe) *int { return &p.Threshold }, 3, 1, 64),
	field[Probe]{name: "initial", init: func(p *Probe) { p.Initial = -1 },
		read: func(d *decoder, p *Probe) {
			if n, ok := d.integer(0, 64); ok {
				p.Initial = n
			}
		},
		write: func(e *encoder, p *Probe) {
			if p.Initial != p.Threshold-1 {
				e.field("initial")
				e.integer(p.Initial)
			}
		}, shape: func() *shape { return integerShape(0, 64) }},
)

// readProbe reads a probe. Window and threshold have their defaults one by
// one, where Varnish wants both or computes one: a threshold that needs a
// wider window is an error that names both. More initial good ones than the
// threshold are as many as the threshold, as in Varnish, where
// .initial = .window is a common way to start healthy.
func readProbe(d *decoder, p *Probe) {
	before := d.count()
	g, ok := probeFields.read(d, p)
	if !ok {
		return
	}
	if g.has("url") && g.has("request") {
		d.failAt("request", "does not go with url; only one of them may be given")
	}
	if len(p.Request) > 0 && p.Request[0] == "" {
		d.failAt("request[0]", "is empty, want a request line")
	}
	size := 0
	for _, line := range p.Request {
		size += len(line) + 2
	}
	if size > maxRequest {
		d.failAt("request", "is %d bytes, want at most %d", size, maxRequest)
	}
	if p.Type != HTTPProbe && !g.bad("type") {
		for _, name := range [...]string{"url", "request", "expected_response", "expect_close"} {
			if g.has(name) {
				d.failAt(name, "does not go with the type %q, only with %q", p.Type, HTTPProbe)
			}
		}
	}
	if p.Type != GRPCProbe && !g.bad("type") && g.has("service") {
		d.failAt("service", "does not go with the type %q, only with %q", p.Type, GRPCProbe)
	}
	if p.Threshold > p.Window && !g.bad("threshold") && !g.bad("window") {
		shown := func(name string, n int) string {
			if g.has(name) {
				return fmt.Sprint(n)
			}
			return fmt.Sprintf("%d by default", n)
		}
		at := "threshold"
		if !g.has(at) {
			at = "window"
		}
		d.failAt(at, "the threshold is %s and the window %s, want a threshold from 1 to window",
			shown("threshold", p.Threshold), shown("window", p.Window))
	}
	if d.count() > before {
		return
	}
	switch p.Type {
	case HTTPProbe:
		if !g.has("url") && !g.has("request") {
			p.URL = "/"
		}
	default:
		p.ExpectedResponse, p.ExpectClose = 0, false
	}
	if p.Initial < 0 {
		p.Initial = p.Threshold - 1
	}
	p.Initial = min(p.Initial, p.Threshold)
}

// checkLine reads one line of a probe's request.
func checkLine(s string) (string, error) {
	if i := strings.IndexAny(s, "\r\n\x00"); i >= 0 {
		return "", fmt.Errorf("has %s in it, want one line, without its end", quoteRune(s[i:]))
	}
	return s, nil
}
