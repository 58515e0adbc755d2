package proxy

import (
	"bytes"
	"net"
	"net/netip"
	"time"

	"roster/exchange"
	"roster/message"
	"roster/node/accesslog"
	"roster/node/tracing"
)

// marks are when a request came how far, by Proxy.now; 0: not. They are set only
// if there is an access log.
type marks struct{ slot, connected, firstByte time.Duration }

func (c *client) mark(at *time.Duration) {
	if c.p.config.AccessLog != nil {
		*at = c.p.now()
	}
}

// since is how long after from a mark was set, -1 if it was not.
func since(from, mark time.Duration) time.Duration {
	if from == 0 || mark == 0 {
		return -1
	}
	return mark - from
}

// keepEntry copies what the access log needs of the request's head, whose memory
// is about to be used for the body.
func (c *client) keepEntry() {
	if c.p.config.AccessLog == nil {
		return
	}
	c.noteHead()
	if c.stream == nil {
		for _, b := range []*[]byte{&c.entry.Method, &c.entry.Target, &c.entry.Host, &c.entry.UserAgent, &c.entry.Referer, &c.entry.TraceID} {
			*b = bytes.Clone(*b)
		}
	}
	c.kept = true
}

// noteHead fills in what the entry has of the request's head.
func (c *client) noteHead() {
	r, e := &c.request, &c.entry
	e.Method, e.Target, e.Host = r.Method, r.Target, r.Authority
	e.UserAgent, e.Referer = r.Get(message.UserAgent), r.Get(message.Referer)
	if e.TraceID = c.trace.ID(); e.TraceID == nil {
		e.TraceID = tracing.TraceID(r.Fields)
	}
	switch {
	case len(r.Method) == 0:
		e.Proto = ""
	case r.Major > 1:
		e.Proto = "HTTP/2.0"
	case r.Minor == 0:
		e.Proto = "HTTP/1.0"
	default:
		e.Proto = "HTTP/1.1"
	}
}

// log records the request that has ended.
func (c *client) log(now time.Duration) {
	log := c.p.config.AccessLog
	if log == nil {
		return
	}
	e := &c.entry
	if !c.kept {
		c.noteHead()
	}
	e.Time = c.p.start.Add(c.began)
	e.Peer, e.Client = c.remote, c.remote
	if a := c.x.Client(); a.IsValid() && a != c.remote.Addr() {
		e.Client = netip.AddrPortFrom(a, 0)
	}
	e.TLS = c.l.TLS != nil
	e.RequestID = c.x.RequestID()
	e.Status = c.status
	e.Sent = c.bodySent
	e.Received = int64(len(c.first)) + c.tunnelled
	switch {
	case c.upload != nil:
		e.Received = c.upload.body
	case c.sending != nil:
		e.Received = c.sending.body
	}
	e.Route, e.Director, e.Backend = c.chosen()
	e.Address = c.address
	if c.table != nil {
		e.Revision = c.table.Revision()
	}
	e.Retries = c.x.Retries()
	e.Queue = since(c.began, c.marks.slot)
	e.Connect = since(c.marks.slot, c.marks.connected)
	e.FirstByte = since(c.began, c.marks.firstByte)
	e.Total = now - c.began
	if f := c.x.Failure(); f != exchange.None {
		e.Error, e.Cause = f.String(), c.cause
	}
	log.Record(e)
	*e = accesslog.Entry{}
	c.kept = false
}

// chosen are the names of what was chosen for the request, as far as it came.
func (c *client) chosen() (route, director, backend string) {
	if c.taken != nil {
		route = c.taken.Name
		if s := c.table.Lookup(c.taken.Def.Backend); s != nil && s.Director != nil {
			director = s.Name
		} else {
			backend = c.taken.Def.Backend
		}
	}
	if c.picked != nil {
		backend = c.picked.Name
	}
	return route, director, backend
}

// noteAddress notes to where the connection of the backend leads.
func (c *client) noteAddress(conn interface{ RemoteAddr() net.Addr }) {
	if c.p.config.AccessLog != nil {
		c.address = addrPort(conn.RemoteAddr())
	}
}
