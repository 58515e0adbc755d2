package sockets

import (
	"errors"
	"net"
	"os"
	"sync"
)

// Socket is one listening socket. It is in one of two forms at a time, and changes from
// one to the other as often as it is asked to: a descriptor of which the runtime knows
// nothing, for a loop of one's own, and a net.Listener.
type Socket struct {
	addr net.Addr
	mine bool // the file is this process's to remove, or will be

	mu     sync.Mutex
	fd     int          // -1 in the other form
	ln     net.Listener // nil in the other form
	file   string       // to be removed with the socket; empty for none
	closed bool
}

// Addr is where it listens.
func (s *Socket) Addr() net.Addr { return s.addr }

// FD is the socket as a descriptor, which remains the Socket's: non-blocking, closed on
// exec, and not known to the runtime's poller. Before, nobody may be in Accept of what
// Listener has returned. Only on Unix systems.
func (s *Socket) FD() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return -1, net.ErrClosed
	}
	if s.fd < 0 {
		fd, err := duplicate(s.ln)
		if err != nil {
			return -1, err
		}
		keepFile(s.ln)
		s.ln.Close()
		s.fd, s.ln = fd, nil
	}
	return s.fd, nil
}

// Listener is the socket as a net.Listener, a *net.TCPListener or *net.UnixListener. Its
// Close is as good as the Socket's.
func (s *Socket) Listener() (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if s.ln == nil {
		ln, err := listenerOf(s.fd)
		if err != nil {
			return nil, err
		}
		closeFD(s.fd)
		s.fd, s.ln = -1, ln
		s.setFileLocked(s.file)
	}
	return s.ln, nil
}

// Close closes it, and removes its file if that is this process's.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	if s.ln != nil {
		return s.ln.Close() // and it removes the file
	}
	if s.file != "" {
		os.Remove(s.file) // before: who finds it finds somebody
	}
	return closeFD(s.fd)
}

// own says whether the file is removed with the socket.
func (s *Socket) own(file bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.addr.(*net.UnixAddr)
	if !ok || s.closed {
		return
	}
	s.file = ""
	if file && s.mine && !abstract(a.Name) {
		s.file = a.Name
	}
	s.setFileLocked(s.file)
}

func (s *Socket) setFileLocked(file string) {
	if u, ok := s.ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(file != "")
	}
}

// another is a further descriptor of the socket, closed on exec.
func (s *Socket) another() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return -1, net.ErrClosed
	case s.ln != nil:
		return duplicate(s.ln)
	}
	return duplicateFD(s.fd)
}

func keepFile(ln net.Listener) {
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
}

func abstract(path string) bool { return path == "" || path[0] == '@' || path[0] == 0 }

// Listener is an address and its sockets.
type Listener struct {
	// Sockets are at least one. All have to be accepted from.
	Sockets []*Socket
	// Inherited says that they were given to this process.
	Inherited bool

	wanted string // what it was asked for by
}

// Addr is that of the first socket; all have the same, but for a wildcard that was
// inherited as one socket for each version of IP.
func (l *Listener) Addr() net.Addr { return l.Sockets[0].Addr() }

// Close closes the sockets that are still open.
func (l *Listener) Close() error {
	var errs []error
	for _, s := range l.Sockets {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
