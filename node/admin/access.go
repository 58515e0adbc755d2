package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/node/certs"
)

// Access says who may use the API, and how it is spoken to. The zero value is right on
// loopback, and only there.
type Access struct {
	// Hosts are names and addresses besides loopback's that a request may have as Host,
	// where there is no TokenFile; with any port.
	Hosts []string
	// TokenFile is a file with tokens, one a line, of which a request has to have one
	// (RFC 6750). Empty: no token is asked for.
	TokenFile string
	// Cert and Key are files in PEM of the API's certificate, loaded again when they
	// change. Empty: no TLS.
	Cert, Key string
}

// Validate reads the files and reports all that is wrong. For an address that is not
// loopback there have to be tokens and TLS.
func (a Access) Validate(address string, loopback bool) error {
	var errs *multierror.Error
	fail := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	switch {
	case loopback:
	case a.TokenFile == "" && a.Cert == "" && a.Key == "":
		fail("admin is %q, want a loopback address such as 127.0.0.1:6082, or admin-token-file, admin-tls-cert and admin-tls-key: whoever reaches it can change what is served", address)
	case a.TokenFile == "":
		fail("admin-token-file is missing: admin is %q, and other than on loopback it needs tokens", address)
	case a.Cert == "" && a.Key == "":
		fail("admin-tls-cert and admin-tls-key are missing: admin is %q, and other than on loopback it needs TLS, for tokens not to be read on their way", address)
	}
	for _, host := range a.Hosts {
		switch _, err := netip.ParseAddr(host); {
		case err == nil, hostName.MatchString(host):
		case hostOf(host) != host && !strings.Contains(host, "/"):
			fail("admin-host is %q, want it without a port or brackets: any port is right", host)
		default:
			fail("admin-host is %q, want a name such as admin.example.com, or an address", host)
		}
	}
	if a.TokenFile != "" {
		if _, err := newTokens(a.TokenFile, nil); err != nil {
			fail("admin-token-file: %w", err)
		}
	}
	switch {
	case a.Cert != "" && a.Key == "":
		fail("admin-tls-key is missing, the file with the key of admin-tls-cert")
	case a.Cert == "" && a.Key != "":
		fail("admin-tls-cert is missing, the file with the certificate of admin-tls-key")
	case a.Cert != "":
		if err := a.certificates(nil).Validate(); err != nil {
			fail("admin-tls-cert: %w", err)
		}
	}
	return errs.ErrorOrNil()
}

// hostName is a name as it may be in a URL, in any case.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

func (a Access) certificates(log *slog.Logger) certs.Config {
	return certs.Config{Files: []certs.Pair{{Cert: a.Cert, Key: a.Key}}, Logger: log}
}

// leastToken is how short a token may be, in bytes: 64 bits in hexadecimal.
const leastToken = 16

// tokens are those of a file. The file is read for each request: what is taken out of it
// is refused at once.
type tokens struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	raw   []byte              // as last read
	sums  [][sha256.Size]byte // of the tokens in the last good one
	fault string              // why the newest is not used; told once
}

// newTokens reads a file of tokens. log may be nil.
func newTokens(path string, log *slog.Logger) (*tokens, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sums, err := parseTokens(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &tokens{path: path, log: log, raw: raw, sums: sums}, nil
}

// parseTokens reads tokens, one a line; empty lines and those that begin with # are none.
// Its errors do not quote.
func parseTokens(raw []byte) (sums [][sha256.Size]byte, err error) {
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		token := bytes.TrimSpace(line)
		switch {
		case len(token) == 0 || token[0] == '#':
			continue
		case len(token) < leastToken:
			return nil, fmt.Errorf("line %d: a token of %d characters, want at least %d; openssl rand -hex 32 makes one", n, len(token), leastToken)
		}
		for _, c := range token {
			if c <= ' ' || c >= 0x7f {
				return nil, fmt.Errorf("line %d: a token with white space or other than ASCII in it, want one token a line", n)
			}
		}
		sums = append(sums, sha256.Sum256(token))
	}
	if sums == nil {
		return nil, errors.New("no token in it, want one a line")
	}
	return sums, nil
}

// accept says whether a token is one of the file's. How long that takes tells nothing of
// them. A file that cannot be read, or holds none, leaves what was there before: it may be
// being written.
func (t *tokens) accept(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, known := range t.current() {
		found |= subtle.ConstantTimeCompare(sum[:], known[:])
	}
	return found == 1
}

func (t *tokens) current() [][sha256.Size]byte {
	raw, err := os.ReadFile(t.path)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && !bytes.Equal(raw, t.raw) {
		var sums [][sha256.Size]byte
		if sums, err = parseTokens(raw); err == nil {
			t.raw, t.sums = raw, sums
		}
	}
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	if fault != "" && fault != t.fault && t.log != nil {
		t.log.Error("admin tokens cannot be read, those from before stay in effect", "file", t.path, "error", fault)
	}
	t.fault = fault
	return t.sums
}

// guard lets through who may ask: with tokens, who has one; without, who uses a Host that
// only this machine has, so that a page which a name of an attacker's leads here does not.
// And no page of another site writes, nor, where the browser tells, reads.
func (s *Server) guard(open func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength != 0 { // the server waits for it, also of who is refused
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // there is none in tests
		}
		switch {
		case s.tokens == nil && !s.allowed(r.Host):
			fail(w, http.StatusMisdirectedRequest, "Host is %q, want a loopback name or one given by --admin-host", r.Host)
			return
		case s.tokens != nil && !open(r):
			switch token := bearer(r); {
			case token == "":
				h.Set("WWW-Authenticate", `Bearer realm="roster"`)
				fail(w, http.StatusUnauthorized, "a token is needed, in the field Authorization: Bearer TOKEN; --admin-token-file of the node has them")
				return
			case !s.tokens.accept(token):
				h.Set("WWW-Authenticate", `Bearer realm="roster", error="invalid_token"`)
				fail(w, http.StatusUnauthorized, "the token is none of those in --admin-token-file of the node")
				return
			}
		}
		if site := r.Header.Get("Sec-Fetch-Site"); (site == "cross-site" || site == "same-site") && !followed(r) {
			fail(w, http.StatusForbidden, "the request comes from a page of another site")
			return
		}
		if origin := r.Header.Values("Origin"); r.Method != http.MethodGet && r.Method != http.MethodHead && origin != nil {
			if len(origin) != 1 || !sameOrigin(origin[0], r.Host) {
				fail(w, http.StatusForbidden, "the request comes from a page of %q, and only pages of %q may write", strings.Join(origin, ", "), r.Host)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// bearer is the token of a request; empty: it has none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// events sends events for as long as the client's token is one of the file's.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	s.Events.serve(w, r, func() bool { return s.tokens == nil || s.tokens.accept(bearer(r)) })
}

// followed says whether somebody follows a link to the dashboard. The page that has the
// link sees nothing of it, and the dashboard is in no frame.
func followed(r *http.Request) bool {
	return r.URL.Path == "/" && r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// sameOrigin says whether an Origin is that of the API's own pages. Its scheme is not
// compared: who ends TLS in front of the API has another one than we.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.EqualFold(u.Host, host)
}

// allowed says whether a Host is one that only a user of this machine sends.
func (s *Server) allowed(host string) bool {
	host = hostOf(host)
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return true
	}
	return host != "" && (strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.Access.Hosts, func(h string) bool { return strings.EqualFold(h, host) }))
}

// hostOf is a Host without its port, and an address of IPv6 without brackets.
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.Trim(host, "[]")
}
