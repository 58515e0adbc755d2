package proxy

import (
	"io"
	"runtime/debug"

	"roster/http2"
	"roster/message"
)

// serveStream serves the one request of a stream. c is its connection.
func (c *client) serveStream(s *http2.Stream) {
	r := &client{
		p: c.p, l: c.l, shard: c.shard, stream: s,
		peer: c.peer.Fork(c.p.policy), remote: c.remote, server: c.server,
	}
	r.http2.Store(c.http2.Load())
	defer r.endStream()
	s.OnGone(r.abort)
	r.takeWork()
	if err := s.Request(&r.request); err != nil {
		r.refuse(badRequest(err))
		r.reply()
		return
	}
	r.begin()
	r.exchange()
}

// endStream ends what serveStream began, also after a panic.
func (c *client) endStream() {
	if r := recover(); r != nil {
		c.p.config.Logger.Error("panic while serving a stream", "client", c.remote, "panic", r, "stack", string(debug.Stack()))
		c.stopUpload()
		c.dropBackend(false)
		c.stream.Reset(http2.InternalError)
		c.work = nil // it may be in any state
	}
	c.life.end()
	c.giveWork()
}

// beginStream takes what is there of the body, if that is all of it.
func (c *client) beginStream() {
	c.body.Reset(0) // the stream has its own
	if c.request.Length == 0 {
		c.whole = true
		return
	}
	if !c.stream.ReadEnded() {
		return
	}
	for c.in.w < len(c.in.b) {
		n, err := c.stream.Read(c.in.b[c.in.w:])
		c.in.w += n
		if err == io.EOF {
			c.whole = true
			break
		}
		if err != nil {
			return // the upload will meet it again
		}
	}
	c.first = c.in.unread()
	c.in.r = c.in.w
	c.shard.received.Add(uint64(len(c.first)))
	if c.whole && len(c.stream.Trailers()) == 0 {
		c.request.Length = int64(len(c.first))
	}
}

// sendStream sends of the answer to a stream. The client has WriteTimeout to
// accept some of it.
func (c *client) sendStream(head *message.Response, data []byte, end bool, trailers []message.Field) error {
	c.stream.ArmWrite(c.p.config.WriteTimeout)
	err := c.stream.Send(head, data, end, trailers)
	if err == nil {
		c.shard.sent.Add(uint64(len(data)))
	}
	return err
}
