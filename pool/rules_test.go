package pool

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrPorts(s ...string) (out []netip.AddrPort) {
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

func TestProhibitedDestinations(t *testing.T) {
	t.Parallel()
	own := ""
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			own = n.IP.String()
		}
	}
	admin := Rules{Self: addrPorts("127.0.0.1:6082", "[::1]:2379")}
	wildcard := Rules{Self: addrPorts("0.0.0.0:6082", "[::]:2380")}
	for _, row := range []struct {
		name    string
		rules   Rules
		dst     string
		allowed bool
	}{
		{"ordinary", Rules{}, "10.0.0.1:80", true},
		{"loopback", Rules{}, "127.0.0.1:80", true},
		{"metadata service", Rules{}, "169.254.169.254:80", false},
		{"metadata service, mapped", Rules{}, "[::ffff:169.254.169.254]:80", false},
		{"metadata service, compatible", Rules{}, "[::a9fe:a9fe]:80", false},
		{"metadata service, NAT64", Rules{}, "[64:ff9b::a9fe:a9fe]:80", false},
		{"link-local", Rules{}, "[fe80::1]:80", false},
		{"link-local with zone", Rules{}, "[fe80::1%eth0]:80", false},
		{"end of link-local", Rules{}, "[febf::1]:80", false},
		{"after link-local", Rules{}, "[fec0::1]:80", true},
		{"beside metadata", Rules{}, "169.253.169.254:80", true},

		{"admin", admin, "127.0.0.1:6082", false},
		{"admin, mapped", admin, "[::ffff:127.0.0.1]:6082", false},
		{"admin by unspecified", admin, "0.0.0.0:6082", false},
		{"admin by unspecified IPv6", admin, "[::]:6082", false},
		{"another port of it", admin, "127.0.0.1:6083", true},
		{"another loopback address", admin, "127.0.0.2:6082", true},
		{"etcd", admin, "[::1]:2379", false},
		{"same port elsewhere", admin, "10.0.0.1:6082", true},
		{"on wildcard: loopback", wildcard, "127.0.0.1:6082", false},
		{"on wildcard: any loopback", wildcard, "127.9.9.9:6082", false},
		{"on wildcard: IPv6 loopback", wildcard, "[::1]:6082", false},
		{"on wildcard: unspecified", wildcard, "0.0.0.0:2380", false},
		{"on wildcard: elsewhere", wildcard, "203.0.113.77:6082", true},
		{"on wildcard: own address", wildcard, own + ":6082", false},
		{"on wildcard: own address, mapped", wildcard, "[::ffff:" + own + "]:2380", false},
		{"on wildcard: own address, another port", wildcard, own + ":80", true},
		{"allow does not open admin", Rules{Self: admin.Self, Allow: prefixes("127.0.0.0/8")}, "127.0.0.1:6082", false},

		{"denied", Rules{Deny: prefixes("10.0.0.0/8")}, "10.1.2.3:80", false},
		{"denied, mapped", Rules{Deny: prefixes("10.0.0.0/8")}, "[::ffff:10.1.2.3]:80", false},
		{"beside the denied", Rules{Deny: prefixes("10.0.0.0/8")}, "11.1.2.3:80", true},
		{"allowed within the denied", Rules{Deny: prefixes("10.0.0.0/8"), Allow: prefixes("10.1.0.0/16")}, "10.1.2.3:80", true},
		{"denied within the allowed", Rules{Deny: prefixes("10.1.0.0/16"), Allow: prefixes("10.0.0.0/8")}, "10.1.2.3:80", false},
		{"denied and allowed alike", Rules{Deny: prefixes("10.0.0.0/8"), Allow: prefixes("10.0.0.0/8")}, "10.1.2.3:80", false},
		{"only what is allowed", Rules{Deny: prefixes("0.0.0.0/0", "::/0"), Allow: prefixes("10.0.0.0/8")}, "10.1.2.3:80", true},
		{"only what is allowed: others", Rules{Deny: prefixes("0.0.0.0/0", "::/0"), Allow: prefixes("10.0.0.0/8")}, "[fd00::1]:80", false},
		{"metadata allowed", Rules{Allow: prefixes("169.254.0.0/16")}, "169.254.169.254:80", true},
		{"metadata allowed alone", Rules{Allow: prefixes("169.254.169.254/32")}, "169.254.169.254:80", true},
		{"everything allowed leaves metadata refused", Rules{Allow: prefixes("0.0.0.0/0")}, "169.254.169.254:80", false},
	} {
		if own == "" && strings.HasPrefix(row.name, "on wildcard: own") {
			continue
		}
		err := row.rules.Check(netip.MustParseAddrPort(row.dst))
		if (err == nil) != row.allowed {
			t.Errorf("%s: Check(%s) = %v, want allowed %v", row.name, row.dst, err, row.allowed)
		}
	}
}

func TestPathsAreConfined(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	for _, dir := range []string{in, filepath.Join(in, "sub"), out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"in/a", "in/sub/b", "out/c"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"in/good": "sub/b", "in/bad": "../out/c", "in/dir": "../out", "in/dangling": "../out/new", "alias": "in", "out/back": "../in/a",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		name, path, dials string // relative to root; dials == "": refused
	}{
		{"inside", "in/a", "in/a"},
		{"deeper", "in/sub/b", "in/sub/b"},
		{"not there yet", "in/sub/new", "in/sub/new"},
		{"link that stays", "in/good", "in/sub/b"},
		{"through a link to the directory", "alias/a", "in/a"},
		{"link from outside that leads in", "out/back", "in/a"},
		{"outside", "out/c", ""},
		{"dots", "in/../out/c", ""},
		{"dots that come back", "in/../in/a", "in/a"},
		{"link that leaves", "in/bad", ""},
		{"link that leads nowhere", "in/dangling", ""},
		{"through a link that leaves", "in/dir/c", ""},
		{"dots after a link that leaves", "in/dir/../in/a", "in/a"},
		{"the directory's namesake", "in2", ""},
		{"nowhere", "no/such/dir", ""},
	} {
		got, err := (&Rules{PathDir: in}).CheckPath(root + "/" + row.path)
		want := ""
		if row.dials != "" {
			want = filepath.Join(root, row.dials)
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: CheckPath(%s) = %q, %v, want %q", row.name, row.path, got, err, want)
		}
	}
	if _, err := (&Rules{PathDir: in}).CheckPath("@abstract"); err == nil {
		t.Error("abstract socket is allowed")
	}
	if got, err := (&Rules{}).CheckPath("@abstract"); got != "@abstract" || err != nil {
		t.Errorf("without PathDir: %q, %v", got, err)
	}
}
