package proxy

import (
	"roster/exchange"
	"roster/message"
	"roster/node/tracing"
)

// beginTrace has the request take part in a trace.
func (c *client) beginTrace() {
	if c.p.config.Tracing == nil {
		return
	}
	c.trace.Begin(c.p.config.Tracing, c.request.Fields, c.peer.Trusted())
	c.x.Trace(c.trace.Parent(), c.trace.State())
	if !c.trace.Recorded() {
		return
	}
	r := &c.request
	c.trace.Start(tracing.Request{
		Method: r.Method, Target: r.Target, Authority: r.Authority, UserAgent: r.Get(message.UserAgent), ID: c.x.RequestID(),
		TLS: c.l.TLS != nil, Major: r.Major, Minor: r.Minor, Client: c.x.Client(), Peer: c.remote,
	})
}

// beginTry begins what the trace has of a try.
func (c *client) beginTry() {
	if !c.trace.Recorded() {
		return
	}
	c.trace.BeginTry(tracing.Try{
		Method: c.request.Method, Backend: c.picked.Name,
		Host: c.picked.Def.Host, Port: int(c.picked.Def.Port), Retries: c.x.Retries(),
	})
}

// endTry ends it, if it has not ended yet, by what failed, if anything did. The connection
// is still at hand, if there is one.
func (c *client) endTry(failed exchange.Kind) {
	if !c.trace.Trying() {
		return
	}
	result := tracing.Result{Status: c.outcome.status, Failure: failure(failed), Bad: failed.Backend()}
	switch {
	case c.to.IsValid():
		result.Peer = c.to
	case c.link != nil:
		result.Peer = addrPort(c.link.RemoteAddr())
	case c.session != nil:
		result.Peer = addrPort(c.session.RemoteAddr())
	}
	c.trace.EndTry(result)
}

// endTrace ends the request's part in its trace.
func (c *client) endTrace() {
	if !c.trace.Recorded() {
		return
	}
	failed := c.x.Failure()
	result := tracing.Result{Status: c.status, Failure: failure(failed), Bad: failed.Backend(), Retries: c.x.Retries()}
	result.Route, result.Director, result.Backend = c.chosen()
	if c.table != nil {
		result.Revision = c.table.Revision()
	}
	c.trace.End(result)
}

// failure is a kind in a word, empty for none.
func failure(k exchange.Kind) string {
	if k == exchange.None {
		return ""
	}
	return k.String()
}
