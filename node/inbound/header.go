package inbound

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pires/go-proxyproto"
)

// ErrInvalid is what the errors of ReadHeader wrap when the bytes received are no
// PROXY header. Other errors are those of the connection.
var ErrInvalid = errors.New("no valid PROXY header")

const (
	// maxHeader bounds a header, and is what one connection may take of memory while
	// its header is read. Addresses take 232 bytes at most; TLVs could take 64 KiB,
	// but the protocol means a header to fit into one segment of 536 bytes, and
	// those with a client's certificate names and a unique id do.
	maxHeader = 4 << 10
	// maxLine bounds a line of version 1, with its CRLF.
	maxLine = 107

	prefix1 = "PROXY "
	prefix2 = "\r\n\r\n\x00\r\nQUIT\n"
	fixed2  = len(prefix2) + 4 // with command, family and length
)

// Begins reports whether b begins as a PROXY header does: to say what is wrong
// where none is expected.
func Begins(b []byte) bool {
	return bytes.HasPrefix(b, []byte(prefix1)) || bytes.HasPrefix(b, []byte(prefix2))
}

// ReadHeader reads a header of version 1 or 2 from the start of a connection. rest
// is what was received after it; at most 4 KiB are read in all. src and dst are the
// client and the address it connected to, IPv4 ones never in IPv6's form. Both are
// invalid where the header does not tell (UNKNOWN, LOCAL, UNSPEC, Unix sockets):
// then the connection's own ends are meant.
//
// It blocks until the header is complete or wrong, or the connection's read deadline
// has passed; setting that is the caller's business. The error is io.EOF when the
// peer closed without having sent a byte, wraps io.ErrUnexpectedEOF when it closed
// within the header, wraps ErrInvalid when what it sent is no header, and wraps the
// connection's error else. After an error the connection is of no more use.
func ReadHeader(c net.Conn) (src, dst netip.AddrPort, rest []byte, err error) {
	buf := make([]byte, maxHeader)
	w, idle := 0, 0
	for {
		n, readErr := c.Read(buf[w:])
		w += n
		src, dst, size, err := ParseHeader(buf[:w])
		switch {
		case err != nil:
			return src, dst, nil, err
		case size > 0:
			return src, dst, buf[size:w], nil
		case readErr == io.EOF && w == 0:
			return src, dst, nil, io.EOF
		case readErr == io.EOF:
			return src, dst, nil, fmt.Errorf("PROXY header cut off after %d bytes: %w", w, io.ErrUnexpectedEOF)
		case readErr != nil:
			return src, dst, nil, fmt.Errorf("PROXY header, after %d bytes: %w", w, readErr)
		}
		if n > 0 {
			idle = 0
		} else if idle++; idle == 100 { // as bufio
			return src, dst, nil, fmt.Errorf("PROXY header, after %d bytes: %w", w, io.ErrNoProgress)
		}
	}
}

// ParseHeader is ReadHeader for whoever reads by himself: of what was received since the
// connection began. size is the length of the header, 0 if its end has not come yet; the
// error wraps ErrInvalid.
func ParseHeader(b []byte) (src, dst netip.AddrPort, size int, err error) {
	if size, err = measure(b); err != nil || size == 0 {
		return src, dst, 0, err
	}
	src, dst, err = parse(b[:size])
	return src, dst, size, err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// measure returns the length of the header that b begins with, 0 if its end has
// not come yet, or what is wrong with it. What is wrong with a piece is the same
// that is wrong with all that begins so.
func measure(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	want := prefix1
	if b[0] == prefix2[0] {
		want = prefix2
	}
	if n := min(len(b), len(want)); string(b[:n]) != want[:n] {
		return 0, invalid("the connection does not begin with one")
	} else if n < len(want) {
		return 0, nil
	}
	if want == prefix1 {
		return measure1(b)
	}
	return measure2(b)
}

func measure1(b []byte) (int, error) {
	b = b[:min(len(b), maxLine)]
	switch end := bytes.IndexByte(b, '\n'); {
	case end >= 0 && b[end-1] == '\r':
		return end + 1, nil
	case end >= 0:
		return 0, invalid("the line of version 1 ends without CR")
	case len(b) == maxLine:
		return 0, invalid("the line of version 1 has no end within %d bytes", maxLine)
	}
	return 0, nil
}

func measure2(b []byte) (int, error) {
	b = b[len(prefix2):]
	if len(b) > 0 && b[0] != byte(proxyproto.LOCAL) && b[0] != byte(proxyproto.PROXY) {
		return 0, invalid("version and command are 0x%02x, want 0x20 (LOCAL) or 0x21 (PROXY)", b[0])
	}
	if len(b) > 1 && b[0] != byte(proxyproto.LOCAL) && (b[1]>>4 > 3 || b[1]&15 > 2) {
		return 0, invalid("address family and protocol are 0x%02x, which means nothing", b[1])
	}
	if len(b) < 4 {
		return 0, nil
	}
	size := fixed2 + int(binary.BigEndian.Uint16(b[2:]))
	if size > maxHeader {
		return 0, invalid("it is %d bytes long, more than %d", size, maxHeader)
	}
	if size > len(prefix2)+len(b) {
		return 0, nil
	}
	return size, nil
}

// parse reads a header that measure has found complete.
func parse(b []byte) (src, dst netip.AddrPort, err error) {
	if b[0] == prefix2[0] {
		// The length of these says all that is to be known. The library would refuse
		// LOCAL with a family and no addresses, and PROXY without a family; the
		// specification wants the first accepted and allows the second, which is what
		// a proxy sends for a client on a Unix socket.
		family := proxyproto.AddressFamilyAndProtocol(b[len(prefix2)+1])
		if b[len(prefix2)] == byte(proxyproto.LOCAL) || family != proxyproto.TCPv4 && family != proxyproto.TCPv6 {
			return src, dst, nil
		}
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return src, dst, invalid("%s", strings.TrimPrefix(err.Error(), "proxyproto: "))
	}
	from, to, ok := h.TCPAddrs()
	if !ok {
		return src, dst, nil
	}
	if h.Version == 1 && !strict(string(b[:len(b)-2]), from.Port, to.Port) {
		return src, dst, invalid("the line of version 1 is not of the form the protocol demands")
	}
	return unmap(from), unmap(to), nil
}

// strict tells if a line of version 1 has nothing but what it may have. The library
// takes more fields, ports such as +80 and 0080, and IPv6 zones.
func strict(line string, from, to int) bool {
	fields := strings.Split(line, " ")
	return len(fields) == 6 && !strings.Contains(line, "%") &&
		fields[4] == strconv.Itoa(from) && fields[5] == strconv.Itoa(to)
}

func unmap(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
