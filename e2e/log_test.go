package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// A standard error that nobody reads costs lines of the log, and holds up neither requests
// nor changes, nor the node's start and end; one whose reader has gone ends nothing.
func TestALogThatBlocksHoldsNothingUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo, script := filepath.Join(dir, "log.fifo"), filepath.Join(dir, "roster")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0) // which waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	raw, err := reader.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fill := func(fd uintptr) {
		for page := make([]byte, 4096); err == nil; {
			_, err = syscall.Write(int(fd), page)
		}
	}
	if failed := raw.Control(fill); failed != nil || err != syscall.EAGAIN {
		t.Fatalf("the pipe cannot be filled: %v, %v", failed, err)
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %q \"$@\" 2>%q\n", harness.Roster(t), fifo)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}

	const stranger = "127.88.0.9" // of whom each connection is worth a line
	node := harness.StartNode(t, harness.NodeConfig{Binary: script, Args: []string{
		"--log-level", "debug", "--accept-proxy", stranger + "/32",
	}})
	web := harness.StartOrigin(t, "web-1")
	serves := func(what string) {
		t.Helper()
		node.WaitRevision(node.Put(webKey, web.Definition(fmt.Sprintf(`"comment": %q`, what))))
		for range 20 {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stranger)}, Timeout: harness.WaitLimit}
			conn, err := d.Dial("tcp", node.Address())
			if err != nil {
				harness.Lack(t, "no connection from %s, as Linux has it: %v", stranger, err)
			}
			w := harness.NewWire(t, conn)
			w.Send(canary)
			if m, err := w.ReadResponse("GET"); err != nil || m.Status() != 400 {
				t.Fatalf("%s: no PROXY header: %v, %v", what, m, err)
			}
			w.Close()
			c := harness.Dial(t, "tcp", node.Address())
			c.Send(canary)
			if m := c.Response(); m.Status() != 200 {
				t.Fatalf("%s: %v", what, m)
			}
			c.Close()
		}
	}
	serves("the pipe is full")
	reader.Close()
	serves("the pipe has no reader")
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
