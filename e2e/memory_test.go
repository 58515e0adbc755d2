package e2e_test

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"

	"roster/e2e/harness"
)

// The tests of this file take turns: each needs thousands of descriptors, or most of
// the machine's memory bandwidth.

// idleConnections is how many clients are idle at once.
const idleConnections = 10_000

// A connection that waits for its client's next request costs little memory. What it
// is exactly, BenchmarkIdleConnections of package bench tells.
func TestIdleConnectionsAreCheap(t *testing.T) {
	harness.NeedProc(t)
	harness.NeedDescriptors(t, idleConnections+2000)
	node := harness.StartNode(t, harness.NodeConfig{Plain: true})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put("/roster/backends/web-1", web.Definition()))

	dial := func() (net.Conn, error) { return net.Dial("tcp", node.Address()) }
	harness.OpenIdle(t, 100, "www.example", dial) // what the first ones need once
	node.Collect()
	before, _ := node.Memory()
	harness.OpenIdle(t, idleConnections, "www.example", dial)
	node.Collect()
	after, _ := node.Memory()

	const most = 12 << 10 // twice the aim, for garbage that is not given back yet
	each := (after - before) / idleConnections
	t.Logf("%d bytes for each of %d idle connections", each, idleConnections)
	if each > most {
		t.Errorf("resident memory grew from %d to %d, %d bytes for each of %d idle connections; want at most %d", before, after, each, idleConnections, most)
	}
	if n := web.Requests(); n < idleConnections {
		t.Errorf("%d requests served, want %d", n, idleConnections)
	}
}

// bulk is a body of n bytes without repetition.
type bulk struct {
	n, at int64
	block []byte
	sum   hash.Hash32
}

func newBulk(n int64) *bulk {
	b := &bulk{n: n, block: make([]byte, 1<<20), sum: crc32.New(castagnoli)}
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b.block); i += 8 {
		binary.LittleEndian.PutUint64(b.block[i:], random.Uint64())
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// next returns the next block, nil after the last.
func (b *bulk) next() []byte {
	block := b.block[:min(int64(len(b.block)), b.n-b.at)]
	if len(block) == 0 {
		return nil
	}
	if len(block) >= 8 {
		binary.LittleEndian.PutUint64(block, uint64(b.at))
	}
	b.at += int64(len(block))
	b.sum.Write(block)
	return block
}

// bulkOrigin sends bodies at /N and at /chunked/N, N being their length, and receives
// bodies at /upload.
type bulkOrigin struct {
	*httptest.Server
	moved   atomic.Int64  // bytes of the body so far
	sum     atomic.Uint32 // of the body, when it has ended
	arrived chan struct{} // closed when the first MiB of an upload is here,
	goOn    chan struct{} // which then waits until this is closed
}

func startBulk(t *testing.T) *bulkOrigin {
	o := &bulkOrigin{arrived: make(chan struct{}), goOn: make(chan struct{})}
	mux := http.NewServeMux()
	send := func(w http.ResponseWriter, r *http.Request, n int64) {
		o.moved.Store(0)
		b := newBulk(n)
		for block := b.next(); block != nil; block = b.next() {
			if _, err := w.Write(block); err != nil {
				return
			}
			o.moved.Add(int64(len(block)))
		}
		o.sum.Store(b.sum.Sum32())
	}
	length := func(r *http.Request) int64 {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		return n
	}
	mux.HandleFunc("/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", r.PathValue("n"))
		send(w, r, length(r))
	})
	mux.HandleFunc("/chunked/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		send(w, r, length(r))
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		o.moved.Store(0)
		sum := crc32.New(castagnoli)
		n, err := o.receive(sum, r.Body)
		o.sum.Store(sum.Sum32())
		fmt.Fprint(w, n, " ", err)
	})
	o.Server = httptest.NewServer(mux)
	t.Cleanup(o.Close)
	return o
}

func (o *bulkOrigin) definition() string {
	return fmt.Sprintf(`{"host": %q}`, o.Listener.Addr())
}

func (o *bulkOrigin) receive(sum io.Writer, body io.Reader) (int64, error) {
	n, err := io.CopyN(io.MultiWriter(sum, counter{&o.moved}), body, 1<<20)
	if err == nil {
		close(o.arrived)
		<-o.goOn
		var more int64
		more, err = io.CopyBuffer(io.MultiWriter(sum, counter{&o.moved}), body, make([]byte, 1<<20))
		n += more
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// stalled waits until nothing moves any more and returns how much has moved.
func stalled(t *testing.T, what string, moved *atomic.Int64) int64 {
	t.Helper()
	last, still := int64(-1), 0
	harness.Until(t, what+" to be held up", func() (bool, any) {
		now := moved.Load()
		if still++; now != last {
			last, still = now, 0
		}
		return still == 20, now
	})
	return last
}

const (
	gib = 1 << 30
	// bodyMemory is by how much a body of 1 GiB may raise the node's memory above
	// that of 1 KiB: one buffer of 64 KiB for each direction, and garbage.
	bodyMemory = 8 << 20
	// inSockets is how much a sender gets rid of while the receiver takes nothing:
	// what sockets hold, which Linux lets grow to some MiB at either end.
	inSockets = 64 << 20
)

// peak is the node's highest resident memory while f runs.
func peak(node *harness.Node, f func()) int64 {
	node.Collect()
	node.ResetPeak()
	f()
	_, peak := node.Memory()
	return peak
}

func checkPeaks(t *testing.T, small, large int64) {
	t.Helper()
	t.Logf("resident at most: %d KiB with a body of 1 KiB, %+d KiB with one of 1 GiB", small>>10, (large-small)>>10)
	if large-small > bodyMemory {
		t.Errorf("resident memory was up to %d with a body of 1 KiB, and to %d with one of 1 GiB; want at most %d more", small, large, int64(bodyMemory))
	}
}

// An answer of any size takes the same memory, also while the client does not read.
func TestALargeAnswerTakesNoMemory(t *testing.T) {
	harness.NeedProc(t)
	node := harness.StartNode(t, harness.NodeConfig{Plain: true})
	origin := startBulk(t)
	node.WaitRevision(node.Put("/roster/backends/bulk", origin.definition()))
	for name, prefix := range map[string]string{"with a length": "/", "chunked": "/chunked/"} {
		t.Run(name, func(t *testing.T) {
			get := func(n int64) func() { return func() { download(t, node, origin, prefix, n) } }
			get(1 << 10)() // what the first one needs once
			small := peak(node, get(1<<10))
			checkPeaks(t, small, peak(node, get(gib)))
		})
	}
}

// download gets a body, slowly at first, and checks it.
func download(t *testing.T, node *harness.Node, origin *bulkOrigin, prefix string, n int64) {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, ReadBufferSize: 256 << 10}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(node.URL() + prefix + strconv.FormatInt(n, 10))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	sum := crc32.New(castagnoli)
	got, err := io.CopyN(sum, resp.Body, min(n, 1<<20))
	if err == nil && n > inSockets {
		if moved := stalled(t, "the origin", &origin.moved); moved > inSockets {
			t.Errorf("the origin could send %d bytes while the client did not read", moved)
		}
	}
	if err == nil {
		var more int64
		more, err = io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{resp.Body}, make([]byte, 1<<20))
		got += more
	}
	if err != nil || got != n || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s with %d bytes, %v; want %d", resp.Status, got, err, n)
	}
	if want := origin.sum.Load(); sum.Sum32() != want {
		t.Errorf("the body is not the one that was sent: checksum %08x, want %08x", sum.Sum32(), want)
	}
}

// A request's body of any size takes the same memory, whoever is slow.
func TestALargeUploadTakesNoMemory(t *testing.T) {
	harness.NeedProc(t)
	node := harness.StartNode(t, harness.NodeConfig{Plain: true})
	for name, length := range map[string]func(int64) int64{
		"with a length": func(n int64) int64 { return n },
		"chunked":       func(int64) int64 { return -1 },
	} {
		t.Run(name, func(t *testing.T) {
			origin := startBulk(t)
			node.WaitRevision(node.Put("/roster/backends/bulk", origin.definition()))
			post := func(n int64) func() { return func() { upload(t, node, origin, n, length(n)) } }
			post(1 << 10)() // what the first one needs once
			small := peak(node, post(1<<10))
			checkPeaks(t, small, peak(node, post(gib)))
		})
	}
}

// upload posts a body, slowly at first, then faster than the origin reads, then as fast
// as can be, and checks what has come.
func upload(t *testing.T, node *harness.Node, origin *bulkOrigin, n, length int64) {
	t.Helper()
	transport := &http.Transport{WriteBufferSize: 256 << 10}
	defer transport.CloseIdleConnections()
	b := newBulk(n)
	var sent atomic.Int64
	r, w := io.Pipe()
	done := make(chan string, 1)
	go func() {
		req, err := http.NewRequest(http.MethodPost, node.URL()+"/upload", r)
		if err != nil {
			panic(err)
		}
		req.ContentLength = length
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			r.CloseWithError(err)
			done <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		done <- resp.Status + " " + string(text)
	}()
	go func() {
		for block := b.next(); block != nil; block = b.next() {
			if _, err := w.Write(block); err != nil {
				return
			}
			if sent.Add(int64(len(block))) == 1<<20 {
				select {
				case <-origin.arrived: // slow: nothing is under way
				case <-t.Context().Done():
				}
			}
		}
		w.Close()
	}()
	if n > inSockets {
		if moved := stalled(t, "the client", &sent); moved > inSockets {
			t.Errorf("the client could send %d bytes while the origin did not read", moved)
		}
		close(origin.goOn)
	}
	if got, want := <-done, fmt.Sprintf("200 OK %d <nil>", n); got != want {
		t.Fatalf("answer is %q, want %q", got, want)
	}
	if got, want := origin.sum.Load(), b.sum.Sum32(); got != want {
		t.Errorf("the body is not the one that was sent: checksum %08x, want %08x", got, want)
	}
}
