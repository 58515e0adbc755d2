package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roster/node/certs/certstest"
	"roster/store"
)

func define(p certstest.Pair, hosts ...string) *store.Certificate {
	return &store.Certificate{Cert: p.Cert, Key: p.Key, Hosts: hosts}
}

// handshake makes one with a server that has that configuration, reads a byte
// and returns the client's end of it.
func handshake(server, client *tls.Config) (tls.ConnectionState, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a net.Pipe would hold two alerts that cross for ever
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		tls.Server(conn, server).Write([]byte("x"))
		io.Copy(io.Discard, conn) // a close with bytes unread would be a reset
	}()
	defer func() { <-ended }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		l.Close()
		return tls.ConnectionState{}, err
	}
	defer a.Close()
	conn := tls.Client(a, client)
	_, err = io.ReadFull(conn, make([]byte, 1)) // with TLS 1.3 the client's certificate is judged after its handshake
	return conn.ConnectionState(), err
}

// serial is the number of the certificate that a client with that server name gets,
// 0 for the alert unrecognized_name.
func serial(t *testing.T, s *Set, name string) int64 {
	t.Helper()
	state, err := handshake(s.TLS(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil && strings.HasSuffix(err.Error(), "tls: unrecognized name") {
		return 0
	}
	if err != nil {
		t.Fatalf("%q: %v", name, err)
	}
	return state.PeerCertificates[0].SerialNumber.Int64()
}

func newTestSet(t *testing.T, c Config) *Set {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func files(t *testing.T, dir, name string, p certstest.Pair) Pair {
	t.Helper()
	cert, key := p.Write(t, dir, name)
	return Pair{Cert: cert, Key: key}
}

func TestExactHostBeforeWildcardBeforeDefault(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	first := ca.Issue(t, "first.test")
	second := ca.Issue(t, "Second.TEST", "both.test", "*.wild.test")
	exact, wild, both := ca.Issue(t), ca.Issue(t), ca.Issue(t)
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "1", first), files(t, dir, "2", second)}})
	s.Apply(map[string]*store.Certificate{
		"exact": define(exact, "a.foo.test", "b.wild.test"), "wild": define(wild, "*.foo.test"), "both": define(both, "both.test"),
	})
	for name, want := range map[string]*big.Int{
		"":             first.Serial,
		"unknown.test": first.Serial,
		"first.test":   first.Serial,
		"second.test":  second.Serial,
		"SECOND.test":  second.Serial,
		"a.foo.test":   exact.Serial,
		"b.foo.test":   wild.Serial,
		"foo.test":     first.Serial, // not below itself
		"a.b.foo.test": first.Serial, // one label only
		"x.wild.test":  second.Serial,
		"b.wild.test":  exact.Serial,
		"both.test":    second.Serial, // a file comes first
	} {
		if got := serial(t, s, name); got != want.Int64() {
			t.Errorf("%q got certificate %d, want %v", name, got, want)
		}
	}
}

func TestWithoutADefaultAnUnknownNameIsUnrecognized(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := newTestSet(t, Config{})
	p := ca.Issue(t)
	s.Apply(map[string]*store.Certificate{"a": define(p, "a.test")})
	for name, want := range map[string]int64{"a.test": p.Serial.Int64(), "b.test": 0, "": 0} {
		if got := serial(t, s, name); got != want {
			t.Errorf("%q got certificate %d, want %d", name, got, want)
		}
	}
}

func TestDefinitionsComeChangeAndGo(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := newTestSet(t, Config{})
	one, two, three := ca.Issue(t), ca.Issue(t), ca.Issue(t)
	check := func(step string, want map[string]*big.Int) {
		t.Helper()
		for name, n := range want {
			number := int64(0)
			if n != nil {
				number = n.Int64()
			}
			if got := serial(t, s, name); got != number {
				t.Errorf("%s: %s got certificate %d, want %d", step, name, got, number)
			}
		}
	}
	s.Apply(map[string]*store.Certificate{"b": define(one, "x.test", "y.test")})
	check("put", map[string]*big.Int{"x.test": one.Serial, "y.test": one.Serial})
	s.Apply(map[string]*store.Certificate{"a": define(two, "x.test")})
	check("a second for a host: the lower name", map[string]*big.Int{"x.test": two.Serial, "y.test": one.Serial})
	s.Apply(map[string]*store.Certificate{"a": define(three, "z.test", "z.test")})
	check("other hosts", map[string]*big.Int{"x.test": one.Serial, "y.test": one.Serial, "z.test": three.Serial})
	s.Apply(map[string]*store.Certificate{"a": nil, "b": define(two, "z.test"), "never": nil})
	check("one deleted, one changed, at once", map[string]*big.Int{"x.test": nil, "y.test": nil, "z.test": two.Serial})
	s.Apply(map[string]*store.Certificate{"b": nil})
	if len(s.hosts)+len(s.defined) != 0 {
		t.Errorf("left after all is deleted: %v, %v", s.hosts, s.defined)
	}
}

func TestAClientGetsTheKeyItCanUse(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := newTestSet(t, Config{})
	ecdsa, rsa := ca.Issue(t), ca.IssueRSA(t)
	s.Apply(map[string]*store.Certificate{"a": define(ecdsa, "x.test"), "b": define(rsa, "x.test")})
	if got := serial(t, s, "x.test"); got != ecdsa.Serial.Int64() {
		t.Errorf("a client that can use both got %d, want the first, %v", got, ecdsa.Serial)
	}
	state, err := handshake(s.TLS(), &tls.Config{
		ServerName: "x.test", InsecureSkipVerify: true,
		MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil || state.PeerCertificates[0].SerialNumber.Cmp(rsa.Serial) != 0 {
		t.Errorf("a client of RSA alone: %v, want certificate %v", err, rsa.Serial)
	}
}

func TestVersionsAndALPN(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := newTestSet(t, Config{Files: []Pair{files(t, t.TempDir(), "a", ca.Issue(t, "a.test"))}})
	for _, test := range []struct {
		name     string
		min, max uint16
		offer    []string
		version  uint16
		protocol string
		fails    bool
	}{
		{name: "newest", offer: []string{"h2", "http/1.1"}, version: tls.VersionTLS13, protocol: "h2"},
		{name: "the server's order", offer: []string{"http/1.1", "h2"}, version: tls.VersionTLS13, protocol: "h2"},
		{name: "TLS 1.2", max: tls.VersionTLS12, offer: []string{"http/1.1"}, version: tls.VersionTLS12, protocol: "http/1.1"},
		{name: "no ALPN", version: tls.VersionTLS13},
		{name: "only what is not spoken", offer: []string{"spdy/3"}, fails: true},
		{name: "TLS 1.1", min: tls.VersionTLS11, max: tls.VersionTLS11, fails: true},
	} {
		state, err := handshake(s.TLS(), &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), MinVersion: test.min, MaxVersion: test.max, NextProtos: test.offer})
		if (err != nil) != test.fails {
			t.Errorf("%s: %v", test.name, err)
		}
		if err == nil && (state.Version != test.version || state.NegotiatedProtocol != test.protocol) {
			t.Errorf("%s: %s and %q, want %s and %q", test.name, tls.VersionName(state.Version), state.NegotiatedProtocol, tls.VersionName(test.version), test.protocol)
		}
	}
}

func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	authority := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, authority, ca.PEM)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, mutual := range []bool{false, true} {
			c := Config{Files: []Pair{files(t, dir, "a", ca.Issue(t, "a.test"))}}
			client := &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			if mutual {
				c.ClientCA = authority
				client.Certificates = []tls.Certificate{ca.Issue(t).TLS(t)}
			}
			s := newTestSet(t, c)
			for i := range 3 {
				state, err := handshake(s.TLS(), client)
				if err != nil || state.DidResume != (i > 0) {
					t.Errorf("%s, client certificates %v, handshake %d: resumed %v, %v", tls.VersionName(version), mutual, i, state.DidResume, err)
				}
			}
		}
	}
}

// log is a logger and what it was told.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *log) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), what)
}

func TestChangedFilesAreLoadedAndBadOnesKeepTheOld(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	one, two, other := ca.Issue(t, "a.test"), ca.Issue(t, "b.test"), ca.Issue(t, "c.test")
	l := new(log)
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "a", one), files(t, dir, "c", other)}, Logger: l.logger()})
	check := func(step string, want certstest.Pair, reloads, failures uint64, stale int) {
		t.Helper()
		s.check()
		s.check() // a fault is told at the second look, and at no later one
		s.check()
		for name, want := range map[string]certstest.Pair{"": want, "a.test": want, "b.test": want, "c.test": other} {
			if got := serial(t, s, name); got != want.Serial.Int64() {
				t.Errorf("%s: %q got certificate %d, want %v", step, name, got, want.Serial)
			}
		}
		st := s.Stats(10)
		if st.Reloads != reloads || st.Failures != failures || st.Stale != stale {
			t.Errorf("%s: %d reloads, %d failures, %d stale, want %d, %d, %d", step, st.Reloads, st.Failures, st.Stale, reloads, failures, stale)
		}
		if got := l.count("cannot be used"); got != int(failures) {
			t.Errorf("%s: the log has %d faults, want %d:\n%s", step, got, failures, l.buf.String())
		}
	}
	cert, key := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")
	check("nothing new", one, 0, 0, 0)
	two.Write(t, dir, "a")
	check("replaced", two, 1, 0, 0)
	certstest.WriteFile(t, cert, "nonsense")
	check("nonsense", two, 1, 1, 1)
	certstest.WriteFile(t, cert, "other nonsense")
	check("other nonsense", two, 1, 2, 1)
	certstest.WriteFile(t, cert, one.Cert)
	check("a certificate of another key", two, 1, 3, 1)
	certstest.WriteFile(t, key, one.Key)
	check("and its key", one, 2, 3, 0)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	check("key removed", one, 2, 4, 1)
	certstest.WriteFile(t, key, one.Key)
	check("and back", one, 3, 4, 0)
	// The times of a file may stay, as rsync and cp -p have it.
	info, err := os.Stat(cert)
	if err != nil {
		t.Fatal(err)
	}
	two.Write(t, dir, "a")
	if err := os.Chtimes(cert, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	check("with the old times", two, 4, 4, 0)
}

// A renewal writes two files, and a look may come between.
func TestAPairWrittenInTwoStepsIsNoFault(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	one, two := ca.Issue(t, "a.test"), ca.Issue(t, "a.test")
	l := new(log)
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "a", one)}, Logger: l.logger()})
	certstest.WriteFile(t, filepath.Join(dir, "a.pem"), two.Cert)
	s.check()
	if got := serial(t, s, "a.test"); got != one.Serial.Int64() {
		t.Errorf("half replaced: certificate %d, want %v", got, one.Serial)
	}
	certstest.WriteFile(t, filepath.Join(dir, "a.key"), two.Key)
	s.check()
	if got := serial(t, s, "a.test"); got != two.Serial.Int64() || l.count("cannot be used") != 0 {
		t.Errorf("replaced: certificate %d, want %v; log:\n%s", got, two.Serial, l.buf.String())
	}
}

// A look may come while a file is being written, and a file may be damaged: neither
// must leave clients without a part of the chain, or without their CA.
func TestFilesWithADamagedPartAreNotUsed(t *testing.T) {
	t.Parallel()
	ca, next, dir := certstest.NewCA(t), certstest.NewCA(t), t.TempDir()
	one, two := ca.Issue(t, "a.test"), ca.Issue(t, "a.test")
	authority := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, authority, ca.PEM+next.PEM)
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "a", one)}, ClientCA: authority})
	mine := ca.Issue(t).TLS(t)
	got := func() (serial int64, chain int) {
		t.Helper()
		state, err := handshake(s.TLS(), &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), Certificates: []tls.Certificate{mine}})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64(), len(state.PeerCertificates)
	}
	cert, key := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")
	certstest.WriteFile(t, key, two.Key)
	for _, rest := range []string{ca.PEM[:len(ca.PEM)/2], strings.Replace(ca.PEM, "M", "!", 1), "-----BEGIN CERTIFICATE-----"} {
		certstest.WriteFile(t, cert, two.Cert+rest)
		certstest.WriteFile(t, authority, next.PEM+rest+"\n"+next.PEM)
		s.check()
		if number, _ := got(); number != one.Serial.Int64() || s.Stats(1).Stale != 2 {
			t.Errorf("with %q behind it certificate %d is in effect, %+v", rest, number, s.Stats(1))
		}
	}
	certstest.WriteFile(t, cert, two.Cert+ca.PEM)
	certstest.WriteFile(t, authority, "of the office\n"+ca.PEM+"and\n"+next.PEM)
	s.check()
	if number, chain := got(); number != two.Serial.Int64() || chain != 2 || s.Stats(1).Stale != 0 {
		t.Errorf("whole: certificate %d with a chain of %d, %+v", number, chain, s.Stats(1))
	}
}

func TestClientCA(t *testing.T) {
	t.Parallel()
	ca, next, dir := certstest.NewCA(t), certstest.NewCA(t), t.TempDir()
	authority := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, authority, ca.PEM)
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "a", ca.Issue(t, "a.test"))}, ClientCA: authority})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		certstest.WriteFile(t, authority, ca.PEM)
		s.check()
		client := func(signer *certstest.CA) *tls.Config {
			c := &tls.Config{ServerName: "a.test", RootCAs: ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			if signer != nil {
				pair := signer.Issue(t).TLS(t)
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			return c
		}
		mine, others, none := client(ca), client(next), client(nil)
		try := func(step string, c *tls.Config, ok bool) {
			t.Helper()
			if _, err := handshake(s.TLS(), c); (err == nil) != ok {
				t.Errorf("%s, %s: %v, want success %v", tls.VersionName(version), step, err, ok)
			}
		}
		try("no certificate", none, false)
		try("one of another CA", others, false)
		try("a good one", mine, true)
		certstest.WriteFile(t, authority, next.PEM)
		s.check()
		try("the session of one that is not good any more", mine, false)
		try("a good one of the new CA", others, true)
		certstest.WriteFile(t, authority, "nonsense")
		s.check()
		s.check()
		try("no certificate, and the CA's file is nonsense", none, false)
		try("the CA loaded before", others, true)
	}
}

func TestNewReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	a, b := ca.Issue(t), ca.Issue(t)
	mixed := files(t, dir, "a", a)
	mixed.Key = files(t, dir, "b", b).Key
	locked := files(t, dir, "locked", certstest.Pair{Cert: a.Cert, Key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"})
	empty := filepath.Join(dir, "empty")
	certstest.WriteFile(t, empty, "")
	err := Config{
		Files:    []Pair{{Cert: filepath.Join(dir, "none"), Key: mixed.Key}, {Cert: filepath.Join(dir, "b.pem"), Key: filepath.Join(dir, "nokey")}, mixed, locked, locked},
		ClientCA: empty, Interval: -1,
	}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"interval", "certificate: open " + filepath.Join(dir, "none"), "key: open " + filepath.Join(dir, "nokey"),
		"certificate " + mixed.Cert + " with key " + mixed.Key + ": private key does not match public key",
		"key " + locked.Key + " has a password", "certificate " + locked.Cert + " is given twice", "client CA " + empty + ": no certificate in it",
	} {
		if !strings.Contains(strings.ReplaceAll(err.Error(), "stat ", "open "), want) {
			t.Errorf("nothing about %q in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "AAAA") {
		t.Errorf("a file's content is in: %v", err)
	}
}

func TestRunLooksAtTheFiles(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	old := files(t, dir, "a", ca.IssueUntil(t, time.Now().Add(-time.Hour), "a.test"))
	l := new(log)
	synctest.Test(t, func(t *testing.T) {
		s := newTestSet(t, Config{Files: []Pair{old}, Logger: l.logger()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		end := time.Now().Add(time.Hour)
		ca.IssueUntil(t, end, "a.test").Write(t, dir, "a")
		time.Sleep(2*time.Second + 1)
		synctest.Wait()
		if st := s.Stats(10); st.Reloads != 1 || len(st.Files) != 1 || st.Files[0].NotAfter.Unix() != end.Unix() {
			t.Errorf("after an interval: %+v, want one reload and the end %v", st, end)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestExpiredFilesAreWarnedOf(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	l := new(log)
	newTestSet(t, Config{Files: []Pair{files(t, dir, "a", ca.IssueUntil(t, time.Now().Add(-time.Hour), "a.test"))}, Logger: l.logger()})
	if l.count("certificate has expired") != 1 {
		t.Errorf("the log: %s", l.buf.String())
	}
}

func TestStatsOfManyDefinitionsAreOfTheFirstToEnd(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	s := newTestSet(t, Config{})
	changes := map[string]*store.Certificate{}
	for i := range 4 {
		changes[fmt.Sprint("c", i)] = define(ca.IssueUntil(t, time.Now().Add(time.Duration(10-i)*time.Hour)), fmt.Sprint(i, ".test"))
	}
	s.Apply(changes)
	if st := s.Stats(4); len(st.Defined) != 4 || st.Defined[0].Name != "c0" {
		t.Errorf("%+v, want all by name", st)
	}
	if st := s.Stats(3); len(st.Defined) != 1 || st.Defined[0].Name != "c3" {
		t.Errorf("%+v, want c3 alone", st)
	}
}

// Handshakes go on while everything changes below them.
func TestChangesDuringHandshakes(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	pairs := []certstest.Pair{ca.Issue(t, "a.test"), ca.Issue(t, "a.test")}
	s := newTestSet(t, Config{Files: []Pair{files(t, dir, "f", ca.Issue(t, "f.test"))}})
	s.Apply(map[string]*store.Certificate{"a": define(pairs[0], "a.test")})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, name := range []string{"a.test", "f.test"} {
					if _, err := handshake(s.TLS(), &tls.Config{ServerName: name, RootCAs: ca.Pool()}); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			}
		})
	}
	for i := range 50 {
		s.Apply(map[string]*store.Certificate{"a": define(pairs[i%2], "a.test", fmt.Sprint(i, ".test"))})
		ca.Issue(t, "f.test").Write(t, dir, "f")
		s.check()
		s.Stats(10)
	}
	close(done)
	wg.Wait()
}

func Example() {
	set, err := New(Config{}) // no files: certificates come from definitions alone
	if err != nil {
		fmt.Println(err)
		return
	}
	var definition *store.Certificate // as store decodes it
	set.Apply(map[string]*store.Certificate{"www": definition})
	_, err = handshake(set.TLS(), &tls.Config{ServerName: "www.test", RootCAs: x509.NewCertPool()})
	fmt.Println(err)
	// Output: remote error: tls: unrecognized name
}
