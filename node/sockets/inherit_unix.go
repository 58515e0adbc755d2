//go:build unix

package sockets

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	firstFD  = 3 // SD_LISTEN_FDS_START
	pidVar   = "LISTEN_PID"
	countVar = "LISTEN_FDS"
	namesVar = "LISTEN_FDNAMES"
)

// Inherit takes the sockets that this process was given, and the variables that say so out
// of the environment. heir says that an older process of roster gave them, see [Set.Pass]:
// it cannot know the process id that LISTEN_PID should have, which else has to be ours. It
// is an error if one is no listening stream socket.
func Inherit(heir bool) (*Set, error) {
	pid, count, names := os.Getenv(pidVar), os.Getenv(countVar), os.Getenv(namesVar)
	for _, name := range []string{pidVar, countVar, namesVar, "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	s := &Set{heir: heir}
	if count == "" || !heir && pid != strconv.Itoa(os.Getpid()) {
		return s, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("%s is %q, want a number", countVar, count)
	}
	named := strings.Split(names, ":")
	for i := range n {
		g := given{}
		if i < len(named) {
			g.name = named[i]
		}
		fd := firstFD + i
		unix.CloseOnExec(fd)
		addr, err := listening(fd)
		if err == nil {
			err = prepare(fd, addr)
		}
		if err != nil {
			return nil, fmt.Errorf("inherited descriptor %d %q: %w", fd, g.name, err)
		}
		g.socket = &Socket{addr: addr, fd: fd}
		if mine, wanted, ok := parseName(g.name); heir && ok {
			g.socket.mine, g.wanted = mine, wanted
		}
		s.given = append(s.given, g)
	}
	return s, nil
}

// listening is the address of a descriptor, which is to be a listening stream socket, and
// is set not to block.
func listening(fd int) (net.Addr, error) {
	const want = "want a listening stream socket (systemd: ListenStream= and Accept=no)"
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("%w, %s", err, want)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || kind != unix.SOCK_STREAM || listens == 0 {
		return nil, fmt.Errorf("is none that listens, %s", want)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port}, nil
	case *unix.SockaddrInet6:
		addr := &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
		if a.ZoneId != 0 {
			addr.Zone = strconv.Itoa(int(a.ZoneId))
			if i, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
				addr.Zone = i.Name
			}
		}
		return addr, nil
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: a.Name, Net: "unix"}, nil
	}
	return nil, fmt.Errorf("is of another kind of network than TCP and Unix-domain sockets, %s", want)
}

// Passage is a copy of a Set's sockets for another process, to be closed once that has
// started.
type Passage struct {
	Files []*os.File // the new process has them as descriptors 3 and following
	Env   []string   // and these variables
}

// Close closes the copies.
func (p *Passage) Close() {
	for _, f := range p.Files {
		f.Close()
	}
}

// Pass makes a copy of all sockets that were asked for, for a process that calls
// Inherit(true). The sockets go on here as if nothing were.
func (s *Set) Pass() (*Passage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &Passage{}
	var names []string
	for _, l := range s.all {
		for _, socket := range l.Sockets {
			fd, err := socket.another()
			if err != nil {
				p.Close()
				return nil, fmt.Errorf("sockets: %s: %w", socket.addr, err)
			}
			p.Files = append(p.Files, os.NewFile(uintptr(fd), "")) // it stays non-blocking
			names = append(names, name(socket.mine, l.wanted))
		}
	}
	p.Env = []string{countVar + "=" + strconv.Itoa(len(p.Files)), namesVar + "=" + strings.Join(names, ":")}
	return p, nil
}

// name is what a socket that is passed on is called: whose its file is, and what was
// listened for.
func name(mine bool, wanted string) string {
	owner := "lent"
	if mine {
		owner = "own"
	}
	return owner + "," + url.QueryEscape(wanted)
}

func parseName(name string) (mine bool, wanted string, ok bool) {
	owner, escaped, ok := strings.Cut(name, ",")
	if !ok || owner != "own" && owner != "lent" {
		return false, "", false
	}
	wanted, err := url.QueryUnescape(escaped)
	return owner == "own", wanted, err == nil
}
