package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// accessLine is what these tests look at in a line of JSON.
type accessLine struct {
	Method    string   `json:"method"`
	Target    string   `json:"target"`
	Status    int      `json:"status"`
	Bytes     int64    `json:"bytes"`
	Received  int64    `json:"received"`
	Backend   string   `json:"backend"`
	Address   string   `json:"address"`
	Error     string   `json:"error"`
	RequestID string   `json:"request_id"`
	Queue     *float64 `json:"queue"`
	Connect   *float64 `json:"connect"`
	FirstByte *float64 `json:"first_byte"`
	Total     *float64 `json:"total"`
}

func accessLines(t *testing.T, path string) []accessLine {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []accessLine
	for line := range strings.Lines(string(text)) {
		var l accessLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		lines = append(lines, l)
	}
	return lines
}

// Each request has a line, also one that is refused or fails, and the last ones before
// the end; a file that was moved away is left at SIGHUP.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			accessLog(t, d)
		})
	}
}

func accessLog(t *testing.T, d driver) {
	dir := t.TempDir()
	path, old := filepath.Join(dir, "access.log"), filepath.Join(dir, "access.log.1")
	node := harness.StartNode(t, harness.NodeConfig{Args: d.args("--access-log", "json", "--access-log-file", path)})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put(webKey, web.Definition()))

	hello := node.Get("/hello?q=%22")
	bad := harness.Dial(t, "tcp", node.Address())
	bad.Send("GET / HTTP/1.1\r\nno field\r\n\r\n")
	if m := bad.Response(); m.Status() != 400 {
		t.Fatalf("answer is %v, want 400", m)
	}
	harness.Until(t, "two lines", func() (bool, any) {
		n := len(accessLines(t, path))
		return n == 2, n
	})
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	node.Signal(syscall.SIGHUP)
	harness.Until(t, "the new file", func() (bool, any) {
		_, err := os.Stat(path)
		return err == nil, err
	})
	web.Stop()
	resp, err := http.Post(node.URL()+"/gone", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	lines := append(accessLines(t, old), accessLines(t, path)...)
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3: %+v", len(lines), lines)
	}
	byStatus := map[int]accessLine{}
	for _, l := range lines {
		byStatus[l.Status] = l
	}
	l := byStatus[200]
	if l.Method != "GET" || l.Target != "/hello?q=%22" || l.Bytes != int64(len(hello.Body)) || l.Backend != "web-1" || l.Address != web.Address() || l.Error != "" {
		t.Errorf("served: %+v", l)
	}
	if l.Queue == nil || l.Connect == nil || l.FirstByte == nil || l.Total == nil || *l.FirstByte > *l.Total {
		t.Errorf("served: times are missing or out of order: %+v", l)
	}
	if l = byStatus[400]; l.Error == "" || l.Backend != "" || l.FirstByte != nil {
		t.Errorf("refused: %+v", l)
	}
	if l = byStatus[502]; l.Method != "POST" || l.Target != "/gone" || l.Backend != "web-1" || l.Error == "" || l.RequestID != resp.Header.Get("X-Request-Id") || l.FirstByte != nil {
		t.Errorf("failed: %+v, request id %q", l, resp.Header.Get("X-Request-Id"))
	}
}

// A log that nobody reads costs lines, which are counted, and holds no request up, nor
// the node's end.
func TestAnAccessLogThatBlocksHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			blockedAccessLog(t, d)
		})
	}
}

func blockedAccessLog(t *testing.T, d driver) {
	fifo := filepath.Join(t.TempDir(), "access.fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // which waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	node := harness.StartNode(t, harness.NodeConfig{Args: d.args("--access-log", "combined", "--access-log-file", fifo)})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put(webKey, web.Definition()))

	const requests = 1500 // some 2 MiB of lines
	long := strings.Repeat("x", 1<<10)
	c := harness.Dial(t, "tcp", node.Address())
	go func() {
		for i := range requests {
			fmt.Fprintf(c.Conn, "GET /%d/%s HTTP/1.1\r\nHost: www.example\r\n\r\n", i, long)
		}
	}()
	in := bufio.NewReader(c.Conn)
	for i := range requests {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			t.Fatalf("answer %d: %s, %v", i, resp.Status, err)
		}
	}
	if n := node.Metric("roster_access_log_dropped_total"); n == 0 {
		t.Error("no lines are counted as dropped")
	}
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
