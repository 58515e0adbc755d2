package harness

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Fields of a checked request and its answer.
const (
	checkedField = "X-Checked" // a number that no other request has; the answer has it too
	sumField     = "X-Sum"     // of the body, in either direction
	sizeField    = "X-Answer"  // bytes that the answer's body has to have
	// HostField of an answer is the Host that the origin was asked for, and EchoField
	// what the request had in the field of the same name when it came to the origin.
	HostField, EchoField = "X-Host", "X-Echo"
)

// MaxChecked is the largest body, in bytes.
const MaxChecked = 1 << 20

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	noise      = func() []byte {
		b := make([]byte, 2*MaxChecked)
		random := rand.New(rand.NewPCG(1, 2))
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], random.Uint64())
		}
		return b
	}()
	checkedIDs atomic.Int64
)

// checkedBody is size bytes that differ from those of other ids.
func checkedBody(id int64, size int) []byte {
	at := int(id * 7919 % MaxChecked)
	return noise[at : at+size]
}

func checkSum(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, castagnoli)), 16)
}

// serveChecked reads a body and answers with one.
func serveChecked(w http.ResponseWriter, r *http.Request) {
	got, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	id, _ := strconv.ParseInt(r.Header.Get(checkedField), 10, 64)
	size, err := strconv.Atoi(r.Header.Get(sizeField))
	if err != nil || size < 0 || size > MaxChecked || checkSum(got) != r.Header.Get(sumField) {
		http.Error(w, fmt.Sprintf("the origin got %d bytes, sum %s, of %v", len(got), checkSum(got), r.Header), http.StatusBadRequest)
		return
	}
	body := checkedBody(id, size)
	h := w.Header()
	h.Set(checkedField, strconv.FormatInt(id, 10))
	h.Set(sumField, checkSum(body))
	h.Set(HostField, r.Host)
	h.Set(EchoField, r.Header.Get(EchoField))
	if id%2 == 0 { // else in chunks
		h.Set("Content-Length", strconv.Itoa(size))
	}
	w.Write(body)
}

// A Checker is one client. It verifies every byte that it gets from an Origin, which
// verifies those of a request, and tries nothing twice, as net/http's client would: what
// failed has failed. It belongs to one goroutine.
type Checker struct {
	conns map[Dialer]*checkedConn
}

// A Dialer is what a Checker connects to: a Node, or any comparable value.
type Dialer interface{ Dial() (net.Conn, error) }

type checkedConn struct {
	net.Conn
	in *bufio.Reader
}

// A Check is one request.
type Check struct {
	Method string // GET or POST
	Host   string
	Path   string
	Upload int  // bytes of the request's body
	Answer int  // bytes of the answer's
	Fresh  bool // on a connection of its own, which ends with it
}

// A Checked is what became of a Check.
type Checked struct {
	Begun, Ended time.Time
	Status       int         // 0 without an answer
	Header       http.Header // of the answer
	Err          error       // there is no whole answer
	Wrong        string      // an answer of 200, or by an origin, that is not the right one
}

// Failed reports whether the request has not had its answer.
func (c Checked) Failed() bool { return c.Err != nil || c.Wrong != "" || c.Status != http.StatusOK }

func (c Checked) String() string {
	return fmt.Sprintf("%s, %v later: status %d, error %v, wrong %q, %v", c.Begun.Format("15:04:05.000"),
		c.Ended.Sub(c.Begun).Round(time.Millisecond), c.Status, c.Err, c.Wrong, c.Header)
}

// Do sends a request to a node.
func (c *Checker) Do(n Dialer, check Check) Checked {
	r := Checked{Begun: time.Now()}
	conn, err := c.take(n, check.Fresh)
	if err != nil {
		r.Ended, r.Err = time.Now(), fmt.Errorf("connect: %w", err)
		return r
	}
	keep := r.exchange(conn, check)
	r.Ended = time.Now()
	if keep && !check.Fresh && r.Err == nil {
		if c.conns == nil {
			c.conns = map[Dialer]*checkedConn{}
		}
		c.conns[n] = conn
	} else {
		conn.Close()
	}
	return r
}

func (c *Checker) take(n Dialer, fresh bool) (*checkedConn, error) {
	if conn := c.conns[n]; conn != nil && !fresh {
		delete(c.conns, n)
		return conn, nil
	}
	conn, err := n.Dial()
	if err != nil {
		return nil, err
	}
	return &checkedConn{conn, bufio.NewReader(conn)}, nil
}

// Forget closes the connection to a node that is kept.
func (c *Checker) Forget(n Dialer) {
	if conn := c.conns[n]; conn != nil {
		conn.Close()
		delete(c.conns, n)
	}
}

// Close closes all connections that are kept.
func (c *Checker) Close() {
	for n := range c.conns {
		c.Forget(n)
	}
}

// exchange sends the request and reads the answer. The connection may be kept if it
// says so.
func (r *Checked) exchange(conn *checkedConn, check Check) (keep bool) {
	conn.SetDeadline(time.Now().Add(WaitLimit))
	id := checkedIDs.Add(1)
	upload := checkedBody(id, check.Upload)
	req, err := http.NewRequest(check.Method, "http://"+check.Host+check.Path, bytes.NewReader(upload))
	if err != nil {
		r.Err = err
		return false
	}
	if id%4 < 2 && check.Upload > 0 {
		req.ContentLength = -1 // chunks
	}
	req.Close = check.Fresh
	req.Header.Set(checkedField, strconv.FormatInt(id, 10))
	req.Header.Set(sumField, checkSum(upload))
	req.Header.Set(sizeField, strconv.Itoa(check.Answer))
	sent := req.Write(conn)
	resp, err := http.ReadResponse(conn.in, req) // an answer may come before all is sent, and end that
	if err != nil {
		r.Err = errors.Join(sent, err)
		return false
	}
	defer resp.Body.Close()
	r.Status, r.Header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Err = fmt.Errorf("after %d bytes of the body: %w", len(body), err)
		return false
	}
	switch {
	case resp.StatusCode == http.StatusBadRequest && resp.Header.Get("X-Origin") != "":
		r.Wrong = string(body)
	case resp.StatusCode != http.StatusOK:
	case resp.Header.Get(checkedField) != strconv.FormatInt(id, 10):
		r.Wrong = fmt.Sprintf("the answer of request %q, not of %d", resp.Header.Get(checkedField), id)
	case !bytes.Equal(body, checkedBody(id, check.Answer)):
		r.Wrong = fmt.Sprintf("%d bytes with the sum %s, want %d with %s", len(body), checkSum(body), check.Answer, resp.Header.Get(sumField))
	case sent != nil:
		r.Wrong = fmt.Sprintf("200 to a request that was not sent: %v", sent)
	}
	return sent == nil && !resp.Close
}
