package inbound_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"roster/node/inbound"
)

// Whatever is sent, the result does not depend on how it is cut, and it is what the
// library reads, but where the specification is stricter, or wants more accepted.
func FuzzReadHeader(f *testing.F) {
	for _, seed := range []string{
		"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n",
		"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 65535\r\n",
		"PROXY UNKNOWN " + long6 + " " + long6 + " 65535 65535\r\n",
		"PROXY TCP4 192.0.2.7 192.0.2.8 +1 002\r\n",
		"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
		"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n",
		v2(0x21, 0x11, 12, addrs4) + "GET",
		v2(0x21, 0x21, 36+4, addrs6+"\x04\x00\x01x"),
		v2(0x21, 0x21, 36, mapped),
		v2(0x20, 0x11, 0, ""),
		v2(0x21, 0x00, 3, "\x04\x00\x00"),
		v2(0x21, 0x31, 216, unix),
		v2(0x21, 0x12, 12, addrs4),
		v2(0x21, 0x13, 12, addrs4),
		v2(0x21, 0x11, 0xffff, addrs4),
	} {
		f.Add([]byte(seed), []byte{1, 20, 3})
	}
	f.Fuzz(func(t *testing.T, sent, cuts []byte) {
		one := read(whole(string(sent)), sent)
		if got := read(single(string(sent)), sent); got != one {
			t.Fatalf("%q by bytes: %v\nwhole: %v", sent, got, one)
		}
		c := &pieces{end: io.EOF}
		for left := sent; len(left) > 0; {
			n := len(left)
			if len(cuts) > 0 {
				n, cuts = min(n, 1+int(cuts[0])), cuts[1:]
			}
			c.left, left = append(c.left, left[:n]), left[n:]
		}
		if got := read(c, sent); got != one {
			t.Fatalf("%q cut: %v\nwhole: %v", sent, got, one)
		}
		compare(t, sent, one)
	})
}

// result is what ReadHeader makes of some bytes.
type result struct {
	src, dst netip.AddrPort
	used     int // of what was sent
	err      string
	invalid  bool
}

func read(c *pieces, sent []byte) result {
	src, dst, rest, err := inbound.ReadHeader(c)
	if err != nil {
		return result{src: src, dst: dst, err: err.Error(), invalid: errors.Is(err, inbound.ErrInvalid)}
	}
	after := 0
	for _, p := range c.left {
		after += len(p)
	}
	r := result{src: src, dst: dst, used: len(sent) - len(rest) - after}
	if !bytes.Equal(rest, sent[r.used:][:len(rest)]) {
		r.err = fmt.Sprintf("rest %q is not what was sent", rest)
	}
	return r
}

func compare(t *testing.T, sent []byte, got result) {
	in := bytes.NewReader(sent)
	r := bufio.NewReaderSize(in, 1<<17)
	h, err := proxyproto.Read(r)
	accepted := got.err == ""
	switch {
	case err != nil && !accepted:
		return
	case err != nil:
		// LOCAL and unspecific ones, whose block is to be skipped unread.
		if len(sent) < 16 || sent[0] != '\r' || got.src.IsValid() || got.dst.IsValid() {
			t.Fatalf("%q: read as %v, which the library refuses: %v", sent, got, err)
		}
		command, family := sent[12], sent[13]
		if command != 0x20 && (family == 0x11 || family == 0x21) {
			t.Fatalf("%q: read as %v, which the library refuses: %v", sent, got, err)
		}
		return
	case !accepted:
		if !got.invalid {
			t.Fatalf("%q: %v, and the library reads %+v", sent, got, h)
		}
		for _, stricter := range []string{"does not begin with one", "which means nothing", "bytes long, more than 4096", "not of the form"} {
			if strings.Contains(got.err, stricter) {
				return
			}
		}
		t.Fatalf("%q: refused with %q, and the library reads %+v", sent, got.err, h)
	}
	if used := len(sent) - r.Buffered() - in.Len(); used != got.used {
		t.Fatalf("%q: header of %d bytes, the library reads %d", sent, got.used, used)
	}
	var src, dst netip.AddrPort
	if from, to, ok := h.TCPAddrs(); ok && h.Command == proxyproto.PROXY {
		src, dst = addrPort(from), addrPort(to)
	}
	if got.src != src || got.dst != dst {
		t.Fatalf("%q: %v to %v, the library reads %v to %v", sent, got.src, got.dst, src, dst)
	}
	if src.Addr().Is4In6() || dst.Addr().Is4In6() {
		t.Fatalf("%q: %v to %v is mapped", sent, src, dst)
	}
}

func addrPort(a *net.TCPAddr) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(a.Port))
}
