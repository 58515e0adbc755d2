package pool

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"pgregory.net/rapid"
)

func TestProxyHeaderBytes(t *testing.T) {
	t.Parallel()
	const sig = "0d0a0d0a000d0a515549540a"
	for _, row := range []struct {
		name           string
		version        int
		client, server string
		want           string // version 2 in hex
	}{
		{"v1 IPv4", 1, "192.0.2.7:50000", "198.51.100.1:80", "PROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\n"},
		{"v1 IPv6", 1, "[2001:db8::7]:50000", "[2001:db8::1]:443", "PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n"},
		{"v1 IPv4 by an IPv6 socket", 1, "[::ffff:192.0.2.7]:50000", "[::ffff:198.51.100.1]:80", "PROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\n"},
		{"v1 mixed", 1, "192.0.2.7:50000", "[2001:db8::1]:80", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 50000 80\r\n"},
		{"v1 zone", 1, "[fe80::1%eth0]:1", "[fe80::2%eth0]:2", "PROXY TCP6 fe80::1 fe80::2 1 2\r\n"},
		{"v1 unix", 1, "", "", "PROXY UNKNOWN\r\n"},
		{"v2 IPv4", 2, "192.0.2.7:50000", "198.51.100.1:80", sig + "2111" + "000c" + "c0000207" + "c6336401" + "c350" + "0050"},
		{"v2 IPv6", 2, "[2001:db8::7]:50000", "[2001:db8::1]:443", sig + "2121" + "0024" +
			"20010db8000000000000000000000007" + "20010db8000000000000000000000001" + "c350" + "01bb"},
		{"v2 unix", 2, "", "", sig + "2100" + "0000"},
	} {
		var client, server netip.AddrPort
		if row.client != "" {
			client, server = netip.MustParseAddrPort(row.client), netip.MustParseAddrPort(row.server)
		}
		got := string(appendProxyHeader(nil, row.version, client, server))
		if row.version == 2 {
			got = hex.EncodeToString([]byte(got))
		}
		if got != row.want {
			t.Errorf("%s:\n got %q\nwant %q", row.name, got, row.want)
		}
	}
}

func TestViaHeaderBytes(t *testing.T) {
	t.Parallel()
	const sig = "0d0a0d0a000d0a515549540a"
	for _, row := range []struct{ name, dst, authority, want string }{
		{"IPv4", "10.0.0.7:8080", "", sig + "2111" + "000c" + "00000000" + "0a000007" + "0000" + "1f90"},
		{"IPv4 with authority", "10.0.0.7:8080", "web.example", sig + "2111" + "001a" + "00000000" + "0a000007" + "0000" + "1f90" +
			"02" + "000b" + hex.EncodeToString([]byte("web.example"))},
		{"IPv6 with authority", "[fd00::7]:443", "a.b", sig + "2121" + "002a" + strings.Repeat("00", 16) + "fd000000000000000000000000000007" +
			"0000" + "01bb" + "02" + "0003" + hex.EncodeToString([]byte("a.b"))},
	} {
		got := hex.EncodeToString(appendViaHeader(nil, netip.MustParseAddrPort(row.dst), row.authority))
		if got != row.want {
			t.Errorf("%s:\n got %s\nwant %s", row.name, got, row.want)
		}
	}
}

// Whatever the two ends are, another implementation reads the same ones.
func TestProxyHeaderIsUnderstood(t *testing.T) {
	t.Parallel()
	genAddr := rapid.Custom(func(t *rapid.T) netip.AddrPort {
		n := rapid.SampledFrom([]int{4, 16}).Draw(t, "family")
		ip, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "ip"))
		return netip.AddrPortFrom(ip, rapid.Uint16Min(1).Draw(t, "port"))
	})
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.IntRange(1, 2).Draw(t, "version")
		client, server := genAddr.Draw(t, "client"), genAddr.Draw(t, "server")
		b := appendProxyHeader([]byte("x"), version, client, server)
		r := bufio.NewReader(bytes.NewReader(append(b[1:], "rest"...)))
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		src, dst := h.SourceAddr.(*net.TCPAddr), h.DestinationAddr.(*net.TCPAddr)
		if !src.IP.Equal(client.Addr().AsSlice()) || src.Port != int(client.Port()) ||
			!dst.IP.Equal(server.Addr().AsSlice()) || dst.Port != int(server.Port()) || int(h.Version) != version {
			t.Fatalf("%q is read as %v -> %v", b, src, dst)
		}
		if r.Buffered() != len("rest") {
			t.Fatalf("%q: %d bytes left, want those of the request", b, r.Buffered())
		}
	})
}

func TestPreambleOfADefinitionIsNeverWrittenTo(t *testing.T) {
	t.Parallel()
	preamble := make([]byte, 2, 64)
	copy(preamble, "ab")
	one := appendProxyHeader(clip(preamble), 2, noAddr, noAddr)
	two := appendProxyHeader(clip(preamble), 1, noAddr, noAddr)
	if !strings.HasPrefix(string(one[2:]), v2Signature) || string(two[2:]) != "PROXY UNKNOWN\r\n" {
		t.Errorf("%q, %q", one, two)
	}
}
