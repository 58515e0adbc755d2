package pool

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"roster/store"
)

// A key update on an idle connection is answered and does not end it. The server
// is OpenSSL's, which can be told to send one; crypto/tls cannot.
func TestKeyUpdateOnAnIdleConnection(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("ROSTER_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip("there is no openssl to send a key update: ", err)
	}
	ca := newCA(t)
	certificate := ca.issue(t, "127.0.0.1")
	dir := t.TempDir()
	for name, content := range map[string]string{"cert": certificate.Cert, "key": certificate.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	server := exec.Command(openssl, "s_server", "-accept", "127.0.0.1:"+strconv.Itoa(port), "-tls1_3",
		"-cert", filepath.Join(dir, "cert"), "-key", filepath.Join(dir, "key"))
	keys, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	received, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	lines := make(chan byte, 1<<16)
	go func() {
		defer close(lines)
		b := make([]byte, 1)
		for {
			if _, err := received.Read(b); err != nil {
				return
			}
			lines <- b[0]
		}
	}()
	expect := func(want string) {
		t.Helper()
		got := ""
		for deadline := time.After(10 * time.Second); ; {
			select {
			case c, ok := <-lines:
				if got += string(c); !ok {
					t.Fatalf("the server ended: %q", got)
				}
				if len(got) >= len(want) && got[len(got)-len(want):] == want {
					return
				}
			case <-deadline:
				t.Fatalf("no %q in %q", want, got)
			}
		}
	}
	expect("ACCEPT\n")

	p := acquireWith(t, manager(t, Config{}), store.Backend{Host: "127.0.0.1", Port: uint16(port), TLS: &store.TLS{CA: ca.pem}}, Deps{})
	first := get(t, p)
	first.Put()
	for _, key := range []string{"k\n", "K\n", "k\n"} { // K wants an update in return
		c := get(t, p)
		if c != first {
			t.Fatal("another connection")
		}
		c.Put()
		io.WriteString(keys, key)
		pending(t, c)
		if c = get(t, p); c != first {
			t.Fatal("the key update cost the connection")
		}
		io.WriteString(c, "after "+key)
		expect("after " + key)
		c.Put()
	}
}
