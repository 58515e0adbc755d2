package inbound_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"roster/node/inbound"
)

const sig = "\r\n\r\n\x00\r\nQUIT\n"

// pieces is a connection that brings one piece a read, then fails with end.
type pieces struct {
	net.Conn
	left  [][]byte
	end   error
	reads int
}

func (p *pieces) Read(b []byte) (int, error) {
	p.reads++
	if len(p.left) == 0 {
		return 0, p.end
	}
	n := copy(b, p.left[0])
	if p.left[0] = p.left[0][n:]; len(p.left[0]) == 0 {
		p.left = p.left[1:]
	}
	return n, nil
}

func whole(s string) *pieces { return &pieces{left: [][]byte{[]byte(s)}, end: io.EOF} }

func single(s string) *pieces {
	p := &pieces{end: io.EOF}
	for i := range len(s) {
		p.left = append(p.left, []byte(s[i:i+1]))
	}
	return p
}

func v2(command, family byte, length int, rest string) string {
	return sig + string([]byte{command, family, byte(length >> 8), byte(length)}) + rest
}

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

var (
	addrs4 = unhex("c0a80001 c0a8000b dc04 01bb")
	addrs6 = unhex("20010db8000000000000000000000007 20010db8000000000000000000000001 c350 01bb")
	mapped = unhex("00000000000000000000ffffc0000207 00000000000000000000ffffc6336401 c350 0050")
	unix   = "/run/client.sock" + strings.Repeat("\x00", 92) + "/run/server.sock" + strings.Repeat("\x00", 92)
	long6  = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
)

func TestReadHeader(t *testing.T) {
	t.Parallel()
	const request = "GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
	for _, row := range []struct {
		name, header, src, dst string // src and dst empty: not valid
	}{
		// The example of the specification, 2.1.
		{"v1 IPv4", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1:56324", "192.168.0.11:443"},
		{"v1 longest IPv4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535", "255.255.255.255:65535"},
		{"v1 IPv6", "PROXY TCP6 2001:db8::7 2001:DB8::1 50000 443\r\n", "[2001:db8::7]:50000", "[2001:db8::1]:443"},
		{"v1 longest IPv6", "PROXY TCP6 " + long6 + " " + long6 + " 65535 65535\r\n", "[" + long6 + "]:65535", "[" + long6 + "]:65535"},
		{"v1 IPv4 in IPv6's form", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 50000 80\r\n", "192.0.2.7:50000", "[2001:db8::1]:80"},
		{"v1 port 0", "PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", "192.0.2.7:0", "198.51.100.1:0"},
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", "", ""},
		{"v1 UNKNOWN with addresses", "PROXY UNKNOWN 192.0.2.7 192.0.2.8 1 2\r\n", "", ""},
		{"v1 UNKNOWN with anything", "PROXY UNKNOWN \x00\r\xff what?\r\n", "", ""},
		{"v1 longest line", "PROXY UNKNOWN " + long6 + " " + long6 + " 65535 65535\r\n", "", ""},
		{"v2 IPv4", v2(0x21, 0x11, 12, addrs4), "192.168.0.1:56324", "192.168.0.11:443"},
		{"v2 IPv6", v2(0x21, 0x21, 36, addrs6), "[2001:db8::7]:50000", "[2001:db8::1]:443"},
		{"v2 IPv4 in IPv6's form", v2(0x21, 0x21, 36, mapped), "192.0.2.7:50000", "198.51.100.1:80"},
		{"v2 IPv4 with TLVs", v2(0x21, 0x11, 12+3+11+3, addrs4+"\x02\x00\x0bweb.example"+"\x04\x00\x00"), "192.168.0.1:56324", "192.168.0.11:443"},
		{"v2 IPv6 with what is no TLV", v2(0x21, 0x21, 36+2, addrs6+"\x02\xff"), "[2001:db8::7]:50000", "[2001:db8::1]:443"},
		{"v2 with a checksum that is wrong", v2(0x21, 0x11, 12+7, addrs4+"\x03\x00\x04\xde\xad\xbe\xef"), "192.168.0.1:56324", "192.168.0.11:443"},
		{"v2 of the greatest length", v2(0x21, 0x11, 4096-16, addrs4+"\x04\x0f\xe1"+strings.Repeat("x", 4096-16-12-3)), "192.168.0.1:56324", "192.168.0.11:443"},
		{"v2 LOCAL", v2(0x20, 0x00, 0, ""), "", ""},
		{"v2 LOCAL with addresses", v2(0x20, 0x11, 12, addrs4), "", ""},
		{"v2 LOCAL with a family and no addresses", v2(0x20, 0x11, 0, ""), "", ""},
		{"v2 LOCAL with a family that means nothing", v2(0x20, 0xff, 3, "abc"), "", ""},
		{"v2 LOCAL with TLVs", v2(0x20, 0x00, 6, "\x04\x00\x03abc"), "", ""},
		{"v2 UNSPEC", v2(0x21, 0x00, 0, ""), "", ""},
		{"v2 UNSPEC with TLVs", v2(0x21, 0x00, 6, "\x04\x00\x03abc"), "", ""},
		{"v2 IPv4 of no protocol", v2(0x21, 0x10, 12, addrs4), "", ""},
		{"v2 UDP", v2(0x21, 0x12, 12, addrs4), "", ""},
		{"v2 unix", v2(0x21, 0x31, 216, unix), "", ""},
		{"v2 unix datagrams", v2(0x21, 0x32, 216, unix), "", ""},
	} {
		var want [2]netip.AddrPort
		if row.src != "" {
			want = [2]netip.AddrPort{netip.MustParseAddrPort(row.src), netip.MustParseAddrPort(row.dst)}
		}
		for how, c := range map[string]*pieces{"whole": whole(row.header + request), "by bytes": single(row.header + request)} {
			src, dst, rest, err := inbound.ReadHeader(c)
			if err != nil {
				t.Errorf("%s, %s: %v", row.name, how, err)
				continue
			}
			if got := [2]netip.AddrPort{src, dst}; got != want {
				t.Errorf("%s, %s: got %v, want %v", row.name, how, got, want)
			}
			after, _ := io.ReadAll(c)
			if got := string(rest) + string(after); got != request {
				t.Errorf("%s, %s: then comes %q, want %q", row.name, how, got, request)
			}
		}
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	t.Parallel()
	const begin = "the connection does not begin with one"
	const form = "the line of version 1 is not of the form the protocol demands"
	for _, row := range []struct{ name, sent, want string }{
		{"a request", "GET / HTTP/1.1\r\n\r\n", begin},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", begin},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc", begin},
		{"a line that begins in lower case", "proxy TCP4 192.0.2.7 192.0.2.8 1 2\r\n", begin},
		{"a longer word", "PROXYFOO TCP4 192.0.2.7 192.0.2.8 1 2\r\n", begin},
		{"empty lines before a request", "\r\n\r\nGET / HTTP/1.1\r\n\r\n", begin},
		{"v1 without CR", "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\nGET / HTTP/1.1\r\n\r\n", "the line of version 1 ends without CR"},
		{"v1 too long", "PROXY UNKNOWN " + long6 + " " + long6 + " 65535 65535 \r\n", "the line of version 1 has no end within 107 bytes"},
		{"v1 endless", "PROXY UNKNOWN " + strings.Repeat("x", 1<<16), "the line of version 1 has no end within 107 bytes"},
		{"v1 of another family", "PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n", "can't read address family or protocol"},
		{"v1 UNKNOWN in other words", "PROXY UNKNOWN? 192.0.2.7\r\n", "can't read address family or protocol"},
		{"v1 without addresses", "PROXY TCP4\r\n", "can't read address family or protocol"},
		{"v1 without a port", "PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n", "can't read address family or protocol"},
		{"v1 two spaces", "PROXY TCP4  192.0.2.7 192.0.2.8 1 2\r\n", "invalid address"},
		{"v1 a tab", "PROXY TCP4 192.0.2.7\t192.0.2.8 1 2 3\r\n", "invalid address"},
		{"v1 IPv6 as IPv4", "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", "invalid address"},
		{"v1 IPv4 as IPv6", "PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n", "invalid address"},
		{"v1 leading zeros", "PROXY TCP4 192.000.2.7 192.0.2.8 1 2\r\n", "invalid address"},
		{"v1 port too great", "PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n", "invalid port number"},
		{"v1 port below zero", "PROXY TCP4 192.0.2.7 192.0.2.8 1 -2\r\n", "invalid port number"},
		{"v1 port with a sign", "PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n", form},
		{"v1 port with zeros", "PROXY TCP4 192.0.2.7 192.0.2.8 1 0080\r\n", form},
		{"v1 more fields", "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n", form},
		{"v1 space at the end", "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 \r\n", form},
		{"v1 zone", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", form},
		{"v2 version 1", v2(0x11, 0x11, 12, addrs4), "version and command are 0x11, want 0x20 (LOCAL) or 0x21 (PROXY)"},
		{"v2 version 3", v2(0x31, 0x11, 12, addrs4), "version and command are 0x31, want 0x20 (LOCAL) or 0x21 (PROXY)"},
		{"v2 command 2", v2(0x22, 0x11, 12, addrs4), "version and command are 0x22, want 0x20 (LOCAL) or 0x21 (PROXY)"},
		{"v2 family 4", v2(0x21, 0x41, 12, addrs4), "address family and protocol are 0x41, which means nothing"},
		{"v2 protocol 3", v2(0x21, 0x13, 12, addrs4), "address family and protocol are 0x13, which means nothing"},
		{"v2 IPv4 too short", v2(0x21, 0x11, 11, addrs4), "invalid length"},
		{"v2 IPv6 too short", v2(0x21, 0x21, 12, addrs4), "invalid length"},
		{"v2 too long", v2(0x21, 0x11, 4096-15, addrs4), "it is 4097 bytes long, more than 4096"},
		{"v2 LOCAL too long", v2(0x20, 0x00, 0xffff, ""), "it is 65551 bytes long, more than 4096"},
	} {
		for how, c := range map[string]*pieces{"whole": whole(row.sent), "by bytes": single(row.sent)} {
			src, dst, _, err := inbound.ReadHeader(c)
			if want := "no valid PROXY header: " + row.want; err == nil || err.Error() != want || !errors.Is(err, inbound.ErrInvalid) {
				t.Errorf("%s, %s: error is\n%v, want\n%s", row.name, how, err, want)
			}
			if src.IsValid() || dst.IsValid() {
				t.Errorf("%s, %s: addresses %v and %v with an error", row.name, how, src, dst)
			}
		}
	}
}

// Whoever is no proxy is refused at the first byte that no header has, however long
// the connection stays silent then.
func TestRefusedAtTheFirstWrongByte(t *testing.T) {
	t.Parallel()
	for _, sent := range []string{"G", "PROXYF", "\r\n\r\nG", sig + "\x11", sig + "\x21\x41", sig + "\x21\x11\xff\xff"} {
		c := single(sent)
		c.end = errors.New("read after the wrong byte")
		if _, _, _, err := inbound.ReadHeader(c); !errors.Is(err, inbound.ErrInvalid) {
			t.Errorf("%q: %v", sent, err)
		}
		c = single(sent[:len(sent)-1])
		if _, _, _, err := inbound.ReadHeader(c); errors.Is(err, inbound.ErrInvalid) {
			t.Errorf("%q: refused without its last byte: %v", sent, err)
		}
	}
}

func TestHeadersCutOff(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, header := range []string{"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n", v2(0x21, 0x11, 15, addrs4+"\x04\x00\x00")} {
		for n := range header {
			_, _, _, err := inbound.ReadHeader(whole(header[:n]))
			switch {
			case n == 0 && err != io.EOF:
				t.Errorf("nothing sent: error is %v, want io.EOF", err)
			case n > 0 && (!errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, inbound.ErrInvalid)):
				t.Errorf("%q: error is %v, want an unexpected EOF", header[:n], err)
			}
			c := whole(header[:n])
			c.end = broken
			if _, _, _, err := inbound.ReadHeader(c); !errors.Is(err, broken) {
				t.Errorf("%q: error is %v, want the connection's", header[:n], err)
			}
		}
	}
	var endless pieces
	if _, _, _, err := inbound.ReadHeader(&endless); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("reads without bytes: %v, want %v", err, io.ErrNoProgress)
	}
}

// One read is enough when all is there, and none follows the header's last byte.
func TestNoReadAfterTheHeader(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n", "PROXY UNKNOWN\r\n", v2(0x20, 0, 0, ""), v2(0x21, 0x21, 36, addrs6)} {
		c := whole(header)
		if _, _, rest, err := inbound.ReadHeader(c); err != nil || len(rest) > 0 || c.reads != 1 {
			t.Errorf("%q: %d reads, rest %q, error %v", header, c.reads, rest, err)
		}
		c = single(header + "x")
		if _, _, rest, err := inbound.ReadHeader(c); err != nil || len(rest) > 0 || c.reads != len(header) {
			t.Errorf("%q by bytes: %d reads, rest %q, error %v", header, c.reads, rest, err)
		}
	}
}

func TestTheDeadlineIsTheCallers(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	near.SetReadDeadline(time.Now().Add(-time.Second))
	if _, _, _, err := inbound.ReadHeader(near); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, inbound.ErrInvalid) {
		t.Errorf("error is %v, want %v", err, os.ErrDeadlineExceeded)
	}
}

func TestAtMostOneBufferIsRead(t *testing.T) {
	t.Parallel()
	const header = "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"
	c := whole(header + strings.Repeat("x", 1<<20))
	_, _, rest, err := inbound.ReadHeader(c)
	if err != nil || len(rest) != 4096-len(header) || !bytes.Equal(bytes.Trim(rest, "x"), nil) {
		t.Errorf("rest has %d bytes, error %v", len(rest), err)
	}
}

func ExampleReadHeader() {
	client, server := net.Pipe()
	go io.WriteString(client, "PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nGET / HTTP/1.1\r\n")

	server.SetReadDeadline(time.Now().Add(time.Minute))
	src, dst, rest, err := inbound.ReadHeader(server)
	fmt.Println(src, dst, err)
	fmt.Printf("%q\n", rest)
	// Output:
	// 192.0.2.7:50000 198.51.100.1:443 <nil>
	// "GET / HTTP/1.1\r\n"
}
