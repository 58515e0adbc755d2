package pool

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
)

// prepare gives c what it needs before its first request: TLS towards the via
// and towards the backend, and the prologue, the bytes that come before either
// the request or the next handshake. In order: the via's preamble, the PROXY
// header that tells the via where to connect, the backend's preamble, the PROXY
// header for the backend.
func (s *shared) prepare(ctx context.Context, c *Conn, t target, dst netip.AddrPort, r Request, probe bool) error {
	prologue := s.def.Preamble
	if via := s.viaDef(); via != nil {
		prologue = via.Preamble
		if via.TLS != nil {
			config, err := s.extra.viaTLS.get(via, s.extra.deps.ViaCertificate)
			if err != nil {
				return err
			}
			if err := c.handshake(ctx, t.String(), prologue, config); err != nil {
				return err
			}
			prologue = nil
		}
		prologue = appendViaHeader(clip(prologue), dst, s.def.Authority)
		prologue = append(prologue, s.def.Preamble...)
	}
	if v := s.def.ProxyHeader; v != 0 {
		switch {
		case !probe:
			prologue = appendProxyHeader(clip(prologue), v, r.Client, r.Server)
		case v == 1:
			// As Varnish does: the connection's own address at both ends.
			own := addrPort(c.socket.LocalAddr())
			prologue = appendProxyHeader(clip(prologue), v, own, own)
		default:
			prologue = appendV2(clip(prologue), v2Local, noAddr, noAddr, "")
		}
	}
	if s.def.TLS != nil {
		config, err := s.extra.tls.get(s.def, s.extra.deps.Certificate)
		if err != nil {
			return err
		}
		if err := c.handshake(ctx, t.String(), prologue, config); err != nil {
			return err
		}
		return c.agreed(t.String(), s.def.Protocol)
	}
	if len(prologue) > 0 {
		c.prologue = prologue
	}
	return nil
}

// clip makes sure that append copies: a definition's preamble is shared.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return noAddr
}

// appendProxyHeader adds the header of the PROXY protocol (haproxy's
// proxy-protocol.txt) that names client and server.
func appendProxyHeader(b []byte, version int, client, server netip.AddrPort) []byte {
	if version == 2 {
		return appendV2(b, v2Proxy, client, server, "")
	}
	client, server, family := sameFamily(client, server)
	switch family {
	case familyNone:
		return append(b, "PROXY UNKNOWN\r\n"...)
	case family4:
		b = append(b, "PROXY TCP4 "...)
	case family6:
		b = append(b, "PROXY TCP6 "...)
	}
	b = client.Addr().AppendTo(b)
	b = append(b, ' ')
	b = server.Addr().AppendTo(b)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(client.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(server.Port()), 10)
	return append(b, "\r\n"...)
}

// appendViaHeader adds the header that tells a via to connect to dst. The client
// is not named, as connections are shared by clients (Varnish sends the
// unspecified address, too).
func appendViaHeader(b []byte, dst netip.AddrPort, authority string) []byte {
	nobody := netip.IPv6Unspecified()
	if dst.Addr().Is4() {
		nobody = netip.IPv4Unspecified()
	}
	return appendV2(b, v2Proxy, netip.AddrPortFrom(nobody, 0), dst, authority)
}

const (
	v2Signature = "\r\n\r\n\x00\r\nQUIT\n"
	v2Local     = 0x20
	v2Proxy     = 0x21
	// tlvAuthority is PP2_TYPE_AUTHORITY.
	tlvAuthority = 0x02
)

// The address families of version 2, with SOCK_STREAM.
const (
	familyNone = 0x00
	family4    = 0x11
	family6    = 0x21
)

func appendV2(b []byte, command byte, src, dst netip.AddrPort, authority string) []byte {
	src, dst, family := sameFamily(src, dst)
	b = append(b, v2Signature...)
	b = append(b, command, family)
	at := len(b)
	b = append(b, 0, 0)
	if family != familyNone {
		b = append(b, src.Addr().AsSlice()...)
		b = append(b, dst.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, src.Port())
		b = binary.BigEndian.AppendUint16(b, dst.Port())
	}
	if authority != "" {
		b = append(b, tlvAuthority)
		b = binary.BigEndian.AppendUint16(b, uint16(len(authority)))
		b = append(b, authority...)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

// sameFamily returns both addresses in one family: IPv4 if both are, by whatever
// notation, else IPv6. Without two valid addresses there is none.
func sameFamily(a, b netip.AddrPort) (netip.AddrPort, netip.AddrPort, byte) {
	if !a.IsValid() || !b.IsValid() {
		return noAddr, noAddr, familyNone
	}
	x, y := a.Addr().Unmap().WithZone(""), b.Addr().Unmap().WithZone("")
	family := byte(family4)
	if x.Is6() || y.Is6() {
		family = family6
		x, y = netip.AddrFrom16(x.As16()), netip.AddrFrom16(y.As16())
	}
	return netip.AddrPortFrom(x, a.Port()), netip.AddrPortFrom(y, b.Port()), family
}
