package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Set is the sockets of a process. The zero value has inherited none.
type Set struct {
	mu    sync.Mutex
	given []given     // inherited, and not asked for yet
	all   []*Listener // handed out
	heir  bool        // of another process of roster
}

// given is a socket that was inherited.
type given struct {
	socket *Socket
	name   string // as LISTEN_FDNAMES has it
	wanted string // what the process before had listened for; empty if that is not known
}

// Lent says whether some socket belongs to a service manager, which keeps it when this
// process ends.
func (s *Set) Lent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		for _, socket := range l.Sockets {
			if !socket.mine {
				return true
			}
		}
	}
	return false
}

// Listen returns the inherited sockets that are bound to an address, as net.Listen takes
// it, or else opens count of them (fewer where the system does not let an address have
// several, and one for a Unix-domain socket). The file of a Unix-domain socket that nobody
// listens on any more is replaced.
func (s *Set) Listen(network, address string, count int) (*Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := network + " " + address
	l := &Listener{wanted: text}
	var rest []given
	for _, g := range s.given {
		if g.wanted == text || matches(network, address, g.socket.addr) {
			l.Sockets = append(l.Sockets, g.socket)
		} else {
			rest = append(rest, g)
		}
	}
	if len(l.Sockets) > 0 {
		s.given, l.Inherited = rest, true
	} else {
		sockets, err := open(network, address, count)
		if err != nil {
			if errors.Is(err, syscall.EADDRINUSE) && len(rest) > 0 {
				err = fmt.Errorf("%w; inherited, and bound to another address, are %s", err, addresses(rest))
			}
			return nil, err
		}
		for _, socket := range sockets {
			socket.own(true)
		}
		l.Sockets = sockets
	}
	s.all = append(s.all, l)
	return l, nil
}

// Leftover ends the choice: what is inherited and was not asked for is closed if an older
// process of roster had it, which empties its queue. If a service manager has it the error
// names it: clients would wait in it for ever.
func (s *Set) Leftover() (closed []net.Addr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.given) == 0 {
		return nil, nil
	}
	if !s.heir {
		return nil, fmt.Errorf("inherited sockets that nothing listens on: %s; want a --listen, --admin or --peer-listen for each, or no such line in the socket's unit", addresses(s.given))
	}
	for _, g := range s.given {
		closed = append(closed, g.socket.addr)
		g.socket.Close()
	}
	s.given = nil
	return closed, nil
}

// Close closes what is still open.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		l.Close()
	}
	for _, g := range s.given {
		g.socket.Close()
	}
	s.given = nil
}

// Adopt makes the sockets' files this process's, which is the last that listens on them now.
func (s *Set) Adopt() { s.own(true) }

// Release leaves the sockets' files to the process that the sockets were passed on to.
func (s *Set) Release() { s.own(false) }

func (s *Set) own(files bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		for _, socket := range l.Sockets {
			socket.own(files)
		}
	}
}

func addresses(list []given) string {
	var all []string
	for _, g := range list {
		text := g.socket.addr.String()
		if g.name != "" && g.wanted == "" {
			text += " (" + g.name + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// matches says whether a socket that is bound to an address is what net.Listen would have
// made of network and address. A port of 0 is any, and so matches none.
func matches(network, address string, bound net.Addr) bool {
	switch bound := bound.(type) {
	case *net.UnixAddr:
		if network != "unix" {
			return false
		}
		if abstract(address) || abstract(bound.Name) {
			return address == bound.Name
		}
		return filepath.Clean(address) == filepath.Clean(bound.Name)
	case *net.TCPAddr:
		if network != "tcp" {
			return false
		}
		want, err := net.ResolveTCPAddr(network, address)
		if err != nil || want.Port != bound.Port {
			return false
		}
		if want.IP == nil {
			return bound.IP.IsUnspecified()
		}
		return want.IP.Equal(bound.IP) && want.Zone == bound.Zone
	}
	return false
}

// open opens sockets for an address.
func open(network, address string, count int) ([]*Socket, error) {
	first, err := openOne(network, address)
	if err != nil {
		return nil, err
	}
	all := []*Socket{{addr: first.Addr(), mine: true, fd: -1, ln: first}}
	tcp, ok := first.Addr().(*net.TCPAddr)
	if !ok || count <= 1 || share(first) != nil {
		return all, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return all, nil
	}
	shared := listenConfig(true)
	for len(all) < count {
		ln, err := shared.Listen(context.Background(), network, net.JoinHostPort(host, strconv.Itoa(tcp.Port)))
		if err != nil {
			break // what there is serves as well
		}
		all = append(all, &Socket{addr: ln.Addr(), mine: true, fd: -1, ln: ln})
	}
	return all, nil
}

// openOne opens the first socket of an address, which must be free.
func openOne(network, address string) (net.Listener, error) {
	config := listenConfig(false)
	l, err := config.Listen(context.Background(), network, address)
	if err == nil || network != "unix" || !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	conn, dialled := net.Dial(network, address)
	if dialled == nil {
		conn.Close()
		return nil, err
	}
	if info, missing := os.Lstat(address); missing != nil || info.Mode().Type() != os.ModeSocket || !errors.Is(dialled, syscall.ECONNREFUSED) {
		return nil, err // a socket that may live, or no socket
	}
	if removed := os.Remove(address); removed != nil {
		return nil, removed
	}
	return config.Listen(context.Background(), network, address)
}
