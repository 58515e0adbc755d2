package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/http2"
	"roster/node/inbound"
)

// greet does what comes before the first request of a connection: the PROXY
// header that its listener asks for, and TLS. It is false if the connection is
// to end. It has HeadTimeout for each of them.
func (c *client) greet() bool {
	var early []byte // received behind the PROXY header
	if c.mustIntroduce() {
		c.conn.SetReadDeadline(time.Now().Add(c.p.config.HeadTimeout))
		src, dst, rest, err := inbound.ReadHeader(c.conn)
		if err != nil {
			if !errors.Is(err, inbound.ErrInvalid) {
				return false // a check whether anybody listens, perhaps
			}
			c.shard.noHeader.Add(1)
			c.p.config.Logger.Debug("no PROXY header", "peer", c.remote, "error", err)
			if c.l.TLS == nil {
				c.peer = c.p.policy.Peer(c.remote.Addr(), false)
				c.takeWork()
				c.refuse(noHeader)
				c.reply()
				c.ending = linger
			}
			return false
		}
		if src.IsValid() && dst.IsValid() {
			c.remote, c.server = src, &dst
		}
		early = rest
	}
	if c.l.TLS != nil {
		if !c.secure(early) {
			return false
		}
	} else if len(early) > 0 {
		c.takeWork()
		copy(c.in.room(), early) // it is at most what ReadHeader reads, less than the room
		c.in.w += len(early)
	}
	c.peer = c.p.policy.Peer(c.remote.Addr(), c.l.TLS != nil)
	c.conn.SetDeadline(time.Time{})
	c.reading, c.writing = alarm{}, alarm{}
	c.greeting.Store(false)
	return true
}

// mustIntroduce says whether a PROXY header has to come first.
func (c *client) mustIntroduce() bool {
	return slices.ContainsFunc(c.l.AcceptProxy, func(p netip.Prefix) bool { return p.Contains(c.remote.Addr()) })
}

// noHeader is why a client without a PROXY header is refused.
var noHeader = exchange.Failure{Kind: exchange.BadRequest, Text: "a PROXY header is required here, and what came is none"}

// secure puts TLS over the connection.
func (c *client) secure(early []byte) bool {
	under := &underTLS{Conn: c.conn, early: early}
	conn := tls.Server(under, c.l.TLS)
	c.conn.SetDeadline(time.Now().Add(c.p.config.HeadTimeout))
	if err := conn.Handshake(); err != nil {
		c.shard.handshakesFailed.Add(1)
		c.p.config.Logger.Debug("TLS handshake", "client", c.remote, "error", err)
		return false
	}
	c.shard.handshakes.Add(1)
	c.conn, c.under = conn, under
	under.owner = c
	return true
}

// underTLS is the connection below TLS. It can read without waiting, so that a
// TLS connection is served as a plain one is: from inside the wait for its socket.
type underTLS struct {
	net.Conn
	owner   *client // once the handshake is done
	early   []byte  // to be read before what comes from the connection
	fd      uintptr
	quick   bool // read from fd what is there
	drained bool // nothing is, since the socket became readable
}

func (u *underTLS) Read(b []byte) (int, error) {
	if len(u.early) > 0 {
		n := copy(b, u.early)
		if u.early = u.early[n:]; len(u.early) == 0 {
			u.early = nil
		}
		return n, nil
	}
	if !u.quick {
		return u.Conn.Read(b)
	}
	if u.drained {
		return 0, errNothingYet
	}
	n, again, err := rawRead(u.fd, b)
	if again {
		u.drained = true
		return 0, errNothingYet
	}
	u.drained = n < len(b)
	return n, err
}

// Write goes on where a deadline came early, or after the client took something:
// a record that was cut off by a deadline makes crypto/tls fail for ever after.
func (u *underTLS) Write(b []byte) (n int, err error) {
	for {
		k, err := u.Conn.Write(b[n:])
		n += k
		if err == nil || u.owner == nil || !u.owner.early(err, k > 0) {
			return n, err
		}
	}
}

// nothingYet is a temporary net.Error, after which a TLS connection stays usable.
type nothingYet struct{}

var errNothingYet error = nothingYet{}

func (nothingYet) Error() string   { return "nothing to read yet" }
func (nothingYet) Timeout() bool   { return false }
func (nothingYet) Temporary() bool { return true }

// readNow receives what is there, over TLS or not, without waiting. more says that there may be
// something left.
func (c *client) readNow(fd uintptr, b []byte) (n int, again, more bool, err error) {
	if c.under == nil {
		n, again, err = rawRead(fd, b)
		return n, again, n == len(b), err
	}
	c.under.fd, c.under.quick = fd, true
	n, err = c.conn.Read(b)
	c.under.quick = false
	switch {
	case n > 0: // an error that comes with it comes again
		return n, false, true, nil
	case err == errNothingYet:
		return 0, true, false, nil
	}
	return 0, false, true, err
}

// speaksHTTP2 tells if HTTP/2 was agreed on, or the client begins with its preface. sure
// is false if that takes more bytes to know.
func (c *client) speaksHTTP2() (is, sure bool) {
	if conn, ok := c.conn.(*tls.Conn); ok {
		return conn.ConnectionState().NegotiatedProtocol == "h2", true
	}
	if c.work == nil {
		return false, false
	}
	is, maybe := http1.IsH2Preface(c.in.unread())
	return is, !maybe
}

// preread is a connection of which some was read already.
type preread struct {
	net.Conn
	early []byte
}

func (p *preread) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		p.early = p.early[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// CloseWrite is the connection's.
func (p *preread) CloseWrite() error {
	if half, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// serveHTTP2 serves the connection's streams until its end.
func (c *client) serveHTTP2() {
	conn := c.conn
	if c.work != nil {
		if !c.in.empty() {
			conn = &preread{conn, slices.Clone(c.in.unread())}
		}
		c.giveWork()
	}
	c.conn.SetDeadline(time.Time{})
	if c.under != nil {
		c.under.owner = nil // it times its own writes
	}
	if c.server == nil {
		local := c.local()
		c.server = &local // of all streams
	}
	config := &c.p.config
	h := http2.NewServer(conn, http2.Config{
		MaxHeaderSize: config.Limits.MaxHead,
		MaxFields:     config.Limits.MaxFields,
		MaxTarget:     config.Limits.MaxTarget,
		IdleTimeout:   config.IdleTimeout,
		WriteTimeout:  config.WriteTimeout,
		PingInterval:  config.IdleTimeout,
	})
	c.http2.Store(h)
	if c.p.ending.Load() || c.life.over.Load() {
		h.GoAway()
	}
	c.shard.http2.Add(1)
	if err := h.Serve(c.serveStream); err != nil {
		c.p.config.Logger.Debug("HTTP/2 connection", "client", c.remote, "error", err)
	}
}
