package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"roster/store"
)

// Set is the certificates of a node's listeners. Use New. All methods may be
// called from any goroutine.
type Set struct {
	config Config
	tls    *tls.Config
	files  []*pairFile // of Run
	ca     *clientCA   // nil for none

	mu       sync.RWMutex
	defined  map[string]*entry
	hosts    map[string][]*entry // by host or "*.domain"; lists are replaced, never changed
	fallback []*entry            // the first file; empty for none
	current  []*entry            // of the files
	reloads  uint64
	failures uint64
	stale    int
}

// New reads the files. Its error has everything that is wrong with them.
func New(c Config) (*Set, error) {
	s, err := load(c)
	if err != nil {
		return nil, err
	}
	for _, e := range s.current {
		s.warn(e)
	}
	return s, nil
}

func newSet(c Config) *Set {
	if c.Interval == 0 {
		c.Interval = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Set{config: c, defined: make(map[string]*entry), hosts: make(map[string][]*entry)}
	s.tls = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.certificate,
		// Small records at first would be a write each; what is read by machines and
		// in one go is better off with whole ones.
		DynamicRecordSizingDisabled: true,
	}
	for i, p := range c.Files {
		s.files = append(s.files, &pairFile{cert: file{path: p.Cert}, key: file{path: p.Key}, rank: i})
	}
	if c.ClientCA != "" {
		s.ca = &clientCA{file: file{path: c.ClientCA}}
		// The keys of session tickets are those of s.tls whatever it returns.
		s.tls.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.ca.config.Load(), nil }
	}
	return s
}

// TLS is the configuration for listeners: TLS 1.2 and 1.3, with the suites that
// crypto/tls has by default, ALPN for HTTP/2 and HTTP/1.1. It is the same at each
// call, and not to be changed.
func (s *Set) TLS() *tls.Config { return s.tls }

// Apply puts definitions into effect, by name; nil takes one out of effect. All
// of them are seen at once by handshakes.
func (s *Set) Apply(changes map[string]*store.Certificate) {
	fresh := make(map[string]*entry, len(changes))
	for name, def := range changes {
		if def != nil {
			fresh[name] = newDefined(name, len(s.config.Files), def)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range changes {
		old, next := s.defined[name], fresh[name]
		if old != nil {
			s.remove(old)
			delete(s.defined, name)
		}
		if next != nil {
			s.defined[name] = next
			s.add(next)
		}
	}
}

// add and remove edit the index by host, with mu held, or before the Set is out.
func (s *Set) add(e *entry) {
	for _, host := range e.hosts {
		list := append(slices.Clone(s.hosts[host]), e)
		slices.SortStableFunc(list, byRank)
		s.hosts[host] = slices.Compact(list) // a certificate may name a host twice
	}
}

func (s *Set) remove(e *entry) {
	for _, host := range e.hosts {
		list := slices.DeleteFunc(slices.Clone(s.hosts[host]), func(other *entry) bool { return other == e })
		if len(list) == 0 {
			delete(s.hosts, host)
		} else {
			s.hosts[host] = list
		}
	}
}

// certificate is tls.Config's GetCertificate. Nil without an error is what
// crypto/tls answers with the alert unrecognized_name.
func (s *Set) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return choose(s.lookup(normal(hello.ServerName)), hello)
}

func (s *Set) lookup(host string) []*entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if list := s.hosts[host]; list != nil {
		return list
	}
	if dot := strings.IndexByte(host, '.'); dot > 0 {
		if list := s.hosts["*"+host[dot:]]; list != nil {
			return list
		}
	}
	return s.fallback
}

// Run looks for changes of the files until ctx ends, and returns nil.
func (s *Set) Run(ctx context.Context) error {
	if len(s.files) == 0 && s.ca == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(s.config.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.check()
		}
	}
}

// check looks at each file once.
func (s *Set) check() {
	log := s.config.Logger
	var reloads, failures uint64
	stale := 0
	tell := func(f *fault, path string) {
		if f.err != nil && !f.told {
			f.told = true
			failures++
			log.Error("certificate file cannot be used, what was loaded before stays in effect", "file", path, "error", f.err)
		}
	}
	for i, f := range s.files {
		if !f.poll() {
			tell(&f.fault, f.cert.path)
		} else if e, err := f.load(); err != nil {
			f.fault = fault{err: err}
		} else {
			f.fault = fault{}
			reloads++
			s.swap(i, e)
			log.Info("certificate reloaded", "file", e.name, "hosts", e.hosts, "not_after", e.notAfter)
			s.warn(e)
		}
		if f.fault.err != nil {
			stale++
		}
	}
	if ca := s.ca; ca != nil {
		if !ca.file.poll() {
			tell(&ca.fault, ca.file.path)
		} else if ca.fault = (fault{err: ca.load(s.tls)}); ca.fault.err == nil {
			reloads++
			log.Info("client CA reloaded", "file", ca.file.path)
		}
		if ca.fault.err != nil {
			stale++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloads += reloads
	s.failures += failures
	s.stale = stale
}

// swap puts a new certificate in the place of a file's old one.
func (s *Set) swap(i int, next *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(s.current[i])
	s.add(next)
	s.current = slices.Clone(s.current)
	s.current[i] = next
	s.fallback = s.current[:1]
}

// warn says what no client will accept.
func (s *Set) warn(e *entry) {
	if time.Now().After(e.notAfter) {
		s.config.Logger.Warn("certificate has expired", "file", e.name, "not_after", e.notAfter)
	}
}
