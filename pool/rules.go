package pool

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Rules say where no backend, via or probe may point, whoever wrote its key.
// They are checked on the address that is about to be dialled, so no name and
// no spelling of an address slips past them. The zero Rules refuse 169.254.0.0/16
// and fe80::/10.
type Rules struct {
	// Self are the addresses of this node that no backend may reach: admin,
	// peer, embedded etcd. One with an unspecified IP stands for all addresses
	// of this machine. Allow does not widen them.
	Self []netip.AddrPort
	// Allow and Deny widen and narrow what may be reached. The longest matching
	// prefix decides; at equal length Deny beats Allow, and Allow the built-in
	// prefixes.
	Allow, Deny []netip.Prefix
	// PathDir, if set, is the directory that sockets have to be in once their
	// path's symbolic links and dots are resolved; abstract sockets are refused
	// then.
	PathDir string
}

// reserved is never a backend's place: metadata services, neighbours on the link.
var reserved = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

// Check returns nil if a backend may be at that address.
func (r *Rules) Check(dst netip.AddrPort) error {
	ip := embedded(dst.Addr().Unmap().WithZone(""))
	for _, self := range r.Self {
		if self.Port() == dst.Port() && reaches(ip, self.Addr().Unmap().WithZone("")) {
			return fmt.Errorf("%v is an address of this node itself", dst)
		}
	}
	deny, denied := longest(r.Deny, ip)
	allow, allowed := longest(r.Allow, ip)
	builtin, refused := longest(reserved, ip)
	switch {
	case denied && (!allowed || deny.Bits() >= allow.Bits()):
		return fmt.Errorf("%v is in %v, which is denied", dst, deny)
	case refused && (!allowed || builtin.Bits() > allow.Bits()):
		return fmt.Errorf("%v is in %v, where no backend may be", dst, builtin)
	}
	return nil
}

// CheckPath returns the path to dial for a socket: without symbolic links if
// PathDir is set, so that what was checked is what is dialled.
func (r *Rules) CheckPath(path string) (string, error) {
	if r.PathDir == "" {
		return path, nil
	}
	if strings.HasPrefix(path, "@") {
		return "", fmt.Errorf("%s is an abstract socket, and sockets have to be in %s", path, r.PathDir)
	}
	outside := fmt.Errorf("%s is not in %s", path, r.PathDir)
	dir, err := filepath.EvalSymlinks(r.PathDir)
	if err != nil {
		return "", outside
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		// A socket that does not exist (yet) is judged by its directory, and
		// one in no directory is as good as outside: nothing is told about what
		// exists elsewhere.
		if real, err = filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			real = filepath.Join(real, filepath.Base(path))
			if _, exists := os.Lstat(real); exists == nil {
				err = outside // a link that leads nowhere now
			}
		}
	}
	if err != nil {
		return "", outside
	}
	if rel, err := filepath.Rel(dir, real); err != nil || !filepath.IsLocal(rel) {
		return "", outside
	}
	return real, nil
}

// embedded returns the IPv4 address that an IPv6 address of a translating or
// compatible form stands for (RFC 6052 2.1, RFC 4291 2.5.5), else ip itself.
func embedded(ip netip.Addr) netip.Addr {
	if !ip.Is6() || ip == netip.IPv6Loopback() || ip.IsUnspecified() {
		return ip
	}
	b := ip.As16()
	if nat64.Contains(ip) || compatible.Contains(ip) {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	compatible = netip.MustParsePrefix("::/96")
)

// longest returns the longest of the prefixes that contain ip.
func longest(prefixes []netip.Prefix, ip netip.Addr) (found netip.Prefix, ok bool) {
	for _, p := range prefixes {
		if p.Contains(ip) && (!ok || p.Bits() > found.Bits()) {
			found, ok = p, true
		}
	}
	return found, ok
}

// reaches tells if dialling ip arrives at a socket that listens on self.
func reaches(ip, self netip.Addr) bool {
	if ip.IsUnspecified() {
		// The kernel connects to loopback then.
		return self.IsUnspecified() || self.IsLoopback()
	}
	if !self.IsUnspecified() {
		return ip == self
	}
	return isLocal(ip)
}

// isLocal asks the system each time: addresses come and go, and the question
// arises only for a port this node listens on.
func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // cannot tell, so refuse
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if local, ok := netip.AddrFromSlice(n.IP); ok && local.Unmap() == ip {
				return true
			}
		}
	}
	return false
}
