package pool

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"roster/store"
)

// heldWrites lets a test send several TLS records in one write.
type heldWrites struct {
	net.Conn
	hold bool
	held bytes.Buffer
}

func (h *heldWrites) Write(b []byte) (int, error) {
	if h.hold {
		return h.held.Write(b)
	}
	return h.Conn.Write(b)
}

func (h *heldWrites) release() {
	h.hold = false
	h.Conn.Write(h.held.Bytes())
}

// pending waits until something came that nobody has read.
func pending(t *testing.T, c *Conn) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); alive(c.fd); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing came")
		}
	}
}

// What TLS says by itself on an idle connection does not cost the connection; what
// the backend says does, wherever it is already. Both hold for the janitor, too.
func TestIdleTLSConnectionThatReceived(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	certificate := pair(t, ca.issue(t, "127.0.0.1"))
	for _, row := range []struct {
		name    string
		max     uint16
		do      func(t *testing.T, c *Conn, end *tls.Conn, raw *heldWrites) // before Put
		pending bool                                                        // at the socket, then
		reused  bool
	}{
		{"nothing", tls.VersionTLS12, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) {}, false, true},
		{"a session ticket with the handshake", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) {}, false, true},
		{"a session ticket", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) {}, true, true},
		{"an unasked answer", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) { end.Write([]byte("what?")) }, true, false},
		{"an unasked answer together with the last", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, raw *heldWrites) {
			raw.hold = true
			end.Write([]byte("ok"))
			end.Write([]byte("what?"))
			raw.release()
			if got := read(t, c, 2); got != "ok" {
				t.Errorf("got %q", got)
			}
		}, false, false},
		{"the same in TLS 1.2", tls.VersionTLS12, func(t *testing.T, c *Conn, end *tls.Conn, raw *heldWrites) {
			raw.hold = true
			end.Write([]byte("ok"))
			end.Write([]byte("what?"))
			raw.release()
			if got := read(t, c, 2); got != "ok" {
				t.Errorf("got %q", got)
			}
		}, false, false},
		{"the end of TLS only", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) { end.CloseWrite() }, true, false},
		{"the end", tls.VersionTLS13, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) { end.Close() }, true, false},
		{"deadlines of the last owner", tls.VersionTLS12, func(t *testing.T, c *Conn, end *tls.Conn, _ *heldWrites) {
			c.ArmRead(time.Millisecond)
			c.ArmWrite(time.Millisecond)
			time.Sleep(5 * time.Millisecond)
		}, false, true},
	} {
		for _, by := range []string{"Get", "RoundTrip", "the janitor"} {
			t.Run(row.name+"/"+by, func(t *testing.T) {
				t.Parallel()
				o := listen(t, "tcp", "127.0.0.1:0")
				def := o.backend()
				def.TLS = &store.TLS{CA: ca.pem}
				p := acquireWith(t, manager(t, Config{}), def, Deps{})
				got := make(chan *Conn)
				go func() {
					c, err := p.Get(t.Context(), Request{ConnectTimeout: 10 * time.Second})
					if err != nil {
						t.Error(err)
					}
					got <- c
				}()
				raw := &heldWrites{Conn: o.accept()}
				config := &tls.Config{Certificates: []tls.Certificate{certificate}, MaxVersion: row.max}
				if row.name == "a session ticket" {
					config.ClientAuth = tls.RequestClientCert // then it comes after the client's part
				}
				end := tls.Server(raw, config)
				if err := end.Handshake(); err != nil {
					t.Fatal(err)
				}
				c := <-got
				row.do(t, c, end, raw)
				if row.pending {
					pending(t, c)
				}
				c.Put()
				if by == "the janitor" {
					for range 2 {
						p.sweep(p.m.now())
					}
					checkCounts(t, p)
					if !row.pending {
						return // it looks only at the sockets
					}
					if st := p.Stats(); (st.Idle == 1) != row.reused {
						t.Fatalf("%+v, want it kept: %v", st, row.reused)
					}
					if !row.reused {
						return
					}
				}
				if by == "RoundTrip" {
					c, err := p.Get(t.Context(), Request{Unchecked: true})
					if err != nil {
						t.Fatal(err)
					}
					go func() {
						if b := make([]byte, 9); row.reused {
							n, _ := end.Read(b)
							end.Write(b[:n])
						}
					}()
					b := make([]byte, 9)
					n, err := c.RoundTrip([]byte("again"), nil, b)
					if row.reused && (err != nil || string(b[:n]) != "again") || !row.reused && err != ErrStale {
						t.Errorf("RoundTrip = %q, %v", b[:n], err)
					}
					c.Discard()
					return
				}
				reused := p.reuse(p, false)
				if (reused != nil) != row.reused {
					t.Errorf("reused %v, want %v", reused != nil, row.reused)
				}
				if reused == nil {
					return
				}
				if reused != c {
					t.Fatal("another")
				}
				go end.Read(make([]byte, 1))
				if _, err := c.Write([]byte("x")); err != nil {
					t.Error(err)
				}
				c.Discard()
			})
		}
	}
}

// The look of RoundTrip leaves alone what was armed for it.
func TestRoundTripOverReusedTLSTimesOut(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	certificate := pair(t, ca.issue(t, "127.0.0.1"))
	o := listen(t, "tcp", "127.0.0.1:0")
	def := o.backend()
	def.TLS = &store.TLS{CA: ca.pem}
	p := acquireWith(t, manager(t, Config{}), def, Deps{})
	go func() {
		tls.Server(o.accept(), &tls.Config{Certificates: []tls.Certificate{certificate}}).Handshake()
	}()
	c := get(t, p)
	c.ArmRead(time.Millisecond)
	time.Sleep(5 * time.Millisecond)
	c.Put()
	c, err := p.Get(t.Context(), Request{Unchecked: true})
	if err != nil || !c.Reused() {
		t.Fatal("not reused", err)
	}
	c.ArmRead(50 * time.Millisecond)
	if _, err := c.RoundTrip([]byte("?"), nil, make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	c.Discard()
}
