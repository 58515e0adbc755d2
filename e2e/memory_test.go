package e2e_test

import (
	"crypto/tls"
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
	"roster/node/certs/certstest"
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
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) { idleConnectionsAreCheap(t, d) })
	}
}

func idleConnectionsAreCheap(t *testing.T, d driver) {
	node := harness.StartNode(t, harness.NodeConfig{Plain: true, Args: d.args()})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put("/roster/backends/web-1", web.Definition()))

	dial := func() (net.Conn, error) { return net.Dial("tcp", node.Address()) }
	harness.OpenIdle(t, 100, "www.example", dial) // what the first ones need once
	node.Collect()
	before, _ := node.Memory()
	harness.OpenIdle(t, idleConnections, "www.example", dial)
	node.Collect()
	after, _ := node.Memory()

	most := int64(2 << 10)
	if d.loops == 0 {
		most = 12 << 10 // twice the aim, for garbage that is not given back yet
	}
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
	sum     atomic.Uint32 // of the body so far
	arrived chan struct{} // closed when the first MiB of an upload is here,
	goOn    chan struct{} // which then waits until this is closed
}

func startBulk(t *testing.T) *bulkOrigin {
	o := &bulkOrigin{arrived: make(chan struct{}), goOn: make(chan struct{})}
	mux := http.NewServeMux()
	send := func(w http.ResponseWriter, n int64) {
		o.moved.Store(0)
		b := newBulk(n)
		for block := b.next(); block != nil; block = b.next() {
			o.sum.Store(b.sum.Sum32()) // before the client can have the last block
			if _, err := w.Write(block); err != nil {
				return
			}
			o.moved.Add(int64(len(block)))
		}
	}
	length := func(r *http.Request) int64 {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		return n
	}
	mux.HandleFunc("/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", r.PathValue("n"))
		send(w, length(r))
	})
	mux.HandleFunc("/chunked/{n}", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		send(w, length(r))
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		o.moved.Store(0)
		sum := crc32.New(castagnoli)
		n, err := o.receive(sum, r.Body)
		o.sum.Store(sum.Sum32())
		fmt.Fprint(w, n, " ", err)
	})
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		mux.ServeHTTP(w, r)
	}))
	o.Config.Protocols = new(http.Protocols)
	o.Config.Protocols.SetHTTP1(true)
	o.Config.Protocols.SetUnencryptedHTTP2(true)
	o.Start()
	t.Cleanup(o.Close)
	return o
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
	// bodyMemory is by how much a large body may raise the node's memory above
	// that of 1 KiB: one buffer of 64 KiB for each direction, HTTP/2's windows, garbage.
	bodyMemory = 8 << 20
	// inSockets is how much a sender gets rid of while the receiver takes nothing:
	// what sockets hold, which Linux lets grow to some MiB at either end.
	inSockets = 64 << 20
)

// bulkWay is how a large body travels.
type bulkWay struct {
	name     string
	driver   driver
	chunked  bool   // no length is announced
	front    bool   // HTTP/2 from the client, over TLS
	protocol string // to the backend
	size     int64
}

var bulkWays = []bulkWay{
	{"with a length", drivers[0], false, false, "http/1.1", gib},
	{"with a length by goroutines", drivers[1], false, false, "http/1.1", gib / 4},
	{"chunked", drivers[0], true, false, "http/1.1", gib / 4},
	{"chunked by goroutines", drivers[1], true, false, "http/1.1", gib / 8},
	{"HTTP/2 from the client", drivers[0], false, true, "http/1.1", gib / 8},
	{"HTTP/2 to the backend", drivers[0], true, false, "h2c", gib / 8},
	{"HTTP/2 all the way", drivers[0], true, true, "h2c", gib / 8},
}

// bulkNode is a node between a client and an origin of large bodies.
type bulkNode struct {
	*harness.Node
	way    bulkWay
	origin *bulkOrigin
	client *http.Client
	url    string
}

func startBulkNode(t *testing.T, way bulkWay) *bulkNode {
	t.Helper()
	harness.NeedProc(t)
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "www.example").Write(t, t.TempDir(), "www")
	secure := harness.FreeAddress(t)
	n := &bulkNode{way: way, origin: startBulk(t)}
	n.Node = harness.StartNode(t, harness.NodeConfig{Plain: true, Args: way.driver.args("--listen", "tls://"+secure, "--tls-cert", cert, "--tls-key", key)})
	n.WaitRevision(n.Put("/roster/backends/bulk", fmt.Sprintf(`{"host": %q, "protocol": %q}`, n.origin.Listener.Addr(), way.protocol)))
	transport := &http.Transport{DisableCompression: true, ReadBufferSize: 256 << 10, WriteBufferSize: 256 << 10}
	n.url = n.URL()
	if way.front {
		transport.TLSClientConfig = &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example"}
		transport.ForceAttemptHTTP2 = true
		n.url = "https://" + secure
	}
	n.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return n
}

// compare moves a small body and then a large one, and compares what the node's
// memory was at its highest.
func (n *bulkNode) compare(t *testing.T, move func(t *testing.T, n *bulkNode, size int64)) {
	t.Helper()
	move(t, n, 1<<10) // what the first one needs once
	small := n.peak(func() { move(t, n, 1<<10) })
	large := n.peak(func() { move(t, n, n.way.size) })
	t.Logf("resident at most: %d KiB with a body of 1 KiB, %+d KiB with one of %d MiB", small>>10, (large-small)>>10, n.way.size>>20)
	if large-small > bodyMemory {
		t.Errorf("resident memory was up to %d with a body of 1 KiB, and to %d with one of %d; want at most %d more", small, large, n.way.size, int64(bodyMemory))
	}
}

// peak is the node's highest resident memory while f runs.
func (n *bulkNode) peak(f func()) int64 {
	n.Collect()
	n.ResetPeak()
	f()
	_, peak := n.Memory()
	return peak
}

func (n *bulkNode) checkProto(t *testing.T, resp *http.Response) {
	t.Helper()
	if got := resp.ProtoMajor == 2; got != n.way.front {
		t.Errorf("the answer is %s", resp.Proto)
	}
	if got := resp.Header.Get("X-Proto") == "HTTP/2.0"; got != (n.way.protocol == "h2c") {
		t.Errorf("the origin was asked in %s", resp.Header.Get("X-Proto"))
	}
}

// An answer of any size takes the same memory, also while the client does not read.
func TestALargeAnswerTakesNoMemory(t *testing.T) {
	for _, way := range bulkWays {
		t.Run(way.name, func(t *testing.T) { startBulkNode(t, way).compare(t, download) })
	}
}

// download gets a body, slowly at first, and checks it.
func download(t *testing.T, n *bulkNode, size int64) {
	t.Helper()
	path := "/"
	if n.way.chunked {
		path = "/chunked/"
	}
	resp, err := n.client.Get(n.url + path + strconv.FormatInt(size, 10))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n.checkProto(t, resp)
	sum := crc32.New(castagnoli)
	got, err := io.CopyN(sum, resp.Body, min(size, 1<<20))
	if err == nil && size > inSockets {
		if moved := stalled(t, "the origin", &n.origin.moved); moved > inSockets {
			t.Errorf("the origin could send %d bytes while the client did not read", moved)
		}
	}
	if err == nil {
		var more int64
		more, err = io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{resp.Body}, make([]byte, 1<<20))
		got += more
	}
	if err != nil || got != size || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s with %d bytes, %v; want %d", resp.Status, got, err, size)
	}
	if want := n.origin.sum.Load(); sum.Sum32() != want {
		t.Errorf("the body is not the one that was sent: checksum %08x, want %08x", sum.Sum32(), want)
	}
}

// A request's body of any size takes the same memory, whoever is slow.
func TestALargeUploadTakesNoMemory(t *testing.T) {
	for _, way := range bulkWays {
		t.Run(way.name, func(t *testing.T) { startBulkNode(t, way).compare(t, upload) })
	}
}

// upload posts a body, slowly at first, then faster than the origin reads, then as fast
// as can be, and checks what has come.
func upload(t *testing.T, n *bulkNode, size int64) {
	t.Helper()
	b := newBulk(size)
	var sent atomic.Int64
	r, w := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, n.url+"/upload", r)
	if err != nil {
		t.Fatal(err)
	}
	if !n.way.chunked {
		req.ContentLength = size
	}
	done := make(chan string, 1)
	go func() {
		resp, err := n.client.Do(req)
		if err != nil {
			r.CloseWithError(err)
			done <- err.Error()
			return
		}
		defer resp.Body.Close()
		n.checkProto(t, resp)
		text, _ := io.ReadAll(resp.Body)
		done <- fmt.Sprint(resp.StatusCode, " ", string(text))
	}()
	go func() {
		for block := b.next(); block != nil; block = b.next() {
			if _, err := w.Write(block); err != nil {
				return
			}
			if sent.Add(int64(len(block))) == 1<<20 {
				select {
				case <-n.origin.arrived: // slow: nothing is under way
				case <-t.Context().Done():
				}
			}
		}
		w.Close()
	}()
	if size > inSockets {
		if moved := stalled(t, "the client", &sent); moved > inSockets {
			t.Errorf("the client could send %d bytes while the origin did not read", moved)
		}
		close(n.origin.goOn)
	}
	if got, want := <-done, fmt.Sprintf("200 %d <nil>", size); got != want {
		t.Fatalf("answer is %q, want %q", got, want)
	}
	if got, want := n.origin.sum.Load(), b.sum.Sum32(); got != want {
		t.Errorf("the body is not the one that was sent: checksum %08x, want %08x", got, want)
	}
}
