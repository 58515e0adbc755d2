// Package embedded runs one etcd member inside the process, for a node that
// needs no etcd of its own beside it.
//
// The member serves gRPC and etcd's v3 JSON gateway on one address. What etcd's
// own configuration leaves open is closed here, because the default address has
// no passwords:
//
//   - Requests over HTTP need a Host that is a loopback name or the listening
//     host, so that no web page reaches it by rebinding its DNS name.
//   - The gateway refuses requests that a browser sends for a page of another
//     origin. CORS does not: it hides the answer from the page but lets a plain
//     POST happen. No CORS header is ever sent.
//   - There is no WebSocket at the gateway: CORS does not apply to those.
//   - An address other than loopback needs TLS with client certificates. Such a
//     member speaks gRPC alone, because the gateway would pass its callers on
//     under the server's own certificate.
//
// History is kept by number of revisions, not by age: the last 100,000 can be
// read and rolled back to, however long ago they were. Nothing is ever
// defragmented; the space of compacted revisions is used again.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
)

// DefaultListen is etcd's own client address.
const DefaultListen = "127.0.0.1:2379"

// Config says where the member lives. Only Dir is required.
type Config struct {
	// Dir holds the data; it is created, readable by its owner alone. One
	// process at a time may use it.
	Dir string

	// Listen is the host and port for clients; empty means DefaultListen. The
	// host is an IP address or localhost, empty for all IPv4 addresses; port 0
	// takes a free one.
	Listen string

	// CertFile and KeyFile are the server's certificate, ClientCAFile the one
	// that clients' certificates are signed with: all three or none. Without
	// them Listen must be loopback. They are read again for each connection.
	CertFile, KeyFile, ClientCAFile string

	// Logger gets etcd's warnings and errors as they are and the rest at debug.
	// Nil discards.
	Logger *slog.Logger

	// Tune, if set, has the last word on etcd's configuration: tests turn fsync
	// off and shorten elections with it, or make the member one of several.
	Tune func(*embed.Config)
}

// A Server is a running member. All methods may be called from any goroutine.
type Server struct {
	etcd     *embed.Etcd
	endpoint string
	gateway  *gateway
	lock     *fileutil.LockedFile
	failed   chan error // buffered, one

	closing  sync.Once
	stopping atomic.Bool
	dead     atomic.Bool // parts of it ended in the middle of what they did
	closed   chan struct{}
}

// Start runs a member and returns once it answers, which can take as long as
// reading its log does. When ctx ends before that, Start stops the member and
// returns ctx's error; afterwards ctx has no meaning. A directory or an address
// that another process uses is an error that says so.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := start(ctx, cfg)
	for try := 0; errors.Is(err, syscall.EADDRINUSE) && strings.HasSuffix(cfg.Listen, ":0") && try < 10; try++ {
		s, err = start(ctx, cfg) // somebody took the port between its choice and its use
	}
	if err != nil {
		return nil, fmt.Errorf("embedded etcd: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	listen, err := cfg.listen()
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	unborn, err := unborn(cfg.Dir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s := &Server{lock: lock, failed: make(chan error, 1), closed: make(chan struct{})}
	s.endpoint = listen.String()
	if ip := net.ParseIP(listen.Hostname()); ip != nil && ip.IsUnspecified() {
		s.endpoint = listen.Scheme + "://localhost:" + listen.Port()
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ec, err := s.configure(cfg, listen)
	if err != nil {
		return nil, err
	}

	// StartEtcd reads the log and knows no context.
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan result, 1)
	go func() {
		e, err := embed.StartEtcd(ec) // or ends here, by fatalHook
		started <- result{e, err}
	}()
	slow := time.NewTimer(3 * time.Second) // a new member is ready in less than one
	defer slow.Stop()
	for s.etcd == nil {
		select {
		case r := <-started:
			if r.err != nil {
				return nil, explain(r.err, listen)
			}
			s.etcd = r.etcd
		case err := <-s.failed:
			return nil, err
		case <-slow.C:
			cfg.Logger.Info("embedded etcd is reading its data, or another etcd uses it", "dir", cfg.Dir)
		case <-ctx.Done():
			// It cannot be stopped before it has started; the directory stays
			// locked until then.
			s.lock = nil
			s.stopping.Store(true)
			go func() {
				if r := <-started; r.etcd != nil {
					stop(r.etcd)
				}
				lock.Close()
			}()
			return nil, context.Cause(ctx)
		}
	}
	for {
		select {
		case <-s.etcd.Server.ReadyNotify():
			if err := born(unborn); err != nil {
				return nil, err
			}
			go s.watch()
			return s, nil
		case err := <-s.etcd.Err():
			return nil, err
		case err := <-s.failed:
			return nil, err
		case <-s.etcd.Server.StopNotify():
			return nil, errors.New("stopped while it started")
		case <-slow.C:
			cfg.Logger.Info("embedded etcd is electing itself", "dir", cfg.Dir)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Endpoint is the client URL, for store.Config.
func (s *Server) Endpoint() string { return s.endpoint }

// Addresses are those the member listens on: for clients and, on a free port of
// loopback, for peers it does not have. Whoever speaks to the latter owns the
// data, so nobody may be led to either. An unspecified IP stands for all
// addresses of the machine.
func (s *Server) Addresses() []netip.AddrPort {
	var all []netip.AddrPort
	add := func(l net.Listener) {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			ap := tcp.AddrPort()
			all = append(all, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		}
	}
	for _, l := range s.etcd.Clients {
		add(l)
	}
	for _, l := range s.etcd.Peers {
		add(l)
	}
	return all
}

// Err gives at most one error: why the member failed while it ran, on a full
// disk for example. It answers nothing from then on; what it acknowledged is
// safe. Close it all the same; only a new process can start it again.
func (s *Server) Err() <-chan error { return s.failed }

// Close stops the member and returns when its data is on disk and its address
// is free. Further calls wait for the first.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.stopping.Store(true)
		if s.gateway != nil {
			s.gateway.close()
		}
		defer close(s.closed)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			if s.etcd != nil {
				stop(s.etcd)
			}
			if s.lock != nil {
				s.lock.Close() // which unlocks it
			}
		}()
		if !s.dead.Load() {
			<-stopped
			return
		}
		select {
		case <-stopped:
		case <-time.After(2 * time.Second): // it may hold its own locks for ever
		}
	})
	<-s.closed
}

// stop ends a member, ready or not. Close alone waits, in one that is not, for
// servers that wait for it to be ready.
func stop(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
	default:
		e.Server.Stop()
	}
	e.Close()
}

func (s *Server) watch() {
	select {
	case err, ok := <-s.etcd.Err():
		if ok {
			s.fail(err)
		}
	case <-s.etcd.Server.StopNotify(): // by itself: it was removed from its cluster
		if !s.stopping.Load() {
			s.fail(errors.New("it stopped"))
		}
	case <-s.closed:
	}
}

func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first one is the cause
	}
}

// lockDir makes the directory and takes it for this process, because etcd
// itself would wait without a word for another process to leave it.
func lockDir(dir string) (*fileutil.LockedFile, error) {
	if dir == "" {
		return nil, errNoDir
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("data directory %s is in use by another process", dir)
	}
	return lock, err
}

// unborn returns the name of a file that stands in the directory from before
// etcd first writes there until the member is ready. Etcd that ends in between,
// even by the first keystroke, may leave data that it never becomes ready with,
// nor complains about. Nobody was answered yet, so it begins anew.
func unborn(dir string) (file string, err error) {
	file, member := filepath.Join(dir, "unborn"), filepath.Join(dir, "member")
	if _, err := os.Stat(file); err == nil {
		return file, os.RemoveAll(member)
	}
	if _, err := os.Stat(member); errors.Is(err, fs.ErrNotExist) {
		return file, os.WriteFile(file, nil, 0o600)
	}
	return file, nil
}

// born removes the file of unborn, for good: if it came back after a power cut,
// everything written since would be lost.
func born(file string) error {
	if err := os.Remove(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	dir, err := fileutil.OpenDir(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer dir.Close()
	return fileutil.Fsync(dir)
}
