package http2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	frames "golang.org/x/net/http2"
)

// A buffer holds frames to be written.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{make([]byte, 0, 4<<10)} }}

func (b *buffer) free() {
	const usual = 2 * maxOut
	if cap(b.b) <= usual {
		b.b = b.b[:0]
		buffers.Put(b)
	}
}

const (
	frameHeader = 9 // bytes
	// dataFrame is how much is in a DATA frame that we send at most: with its header,
	// one TLS record.
	dataFrame = record - frameHeader
	record    = 16384
	// maxOut bounds what waits to be written; who has more to send waits as well.
	maxOut = 4 * record
	// maxAnswers bounds what waits to be written in answer to frames of the peer, that
	// is a thousand PINGs or so. More: it does not read, and is not worth it.
	maxAnswers = 16 << 10
)

// buf is what frames are appended to.
func (c *Conn) buf() *buffer {
	if c.out == nil {
		c.out = buffers.Get().(*buffer)
	}
	return c.out
}

func (c *Conn) appendFrame(t frames.FrameType, flags frames.Flags, id uint32, length int) {
	out := c.buf()
	out.b = append(out.b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func (c *Conn) append32(n uint32) { c.out.b = binary.BigEndian.AppendUint32(c.out.b, n) }

func (c *Conn) appendSettings(s []frames.Setting) {
	c.appendFrame(frames.FrameSettings, 0, 0, 6*len(s))
	for _, s := range s {
		c.out.b = binary.BigEndian.AppendUint16(c.out.b, uint16(s.ID))
		c.append32(s.Val)
	}
}

func (c *Conn) appendWindow(id uint32, n int32) {
	c.appendFrame(frames.FrameWindowUpdate, 0, id, 4)
	c.append32(uint32(n))
}

func (c *Conn) appendReset(id, code uint32) {
	c.appendFrame(frames.FrameRSTStream, 0, id, 4)
	c.append32(code)
}

// What is in our PINGs, to know their answers.
var (
	drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}
	alivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}
)

func (c *Conn) appendPing(ack bool, data [8]byte) {
	var flags frames.Flags
	if ack {
		flags = frames.FlagPingAck
	}
	c.appendFrame(frames.FramePing, flags, 0, len(data))
	c.out.b = append(c.out.b, data[:]...)
}

func (c *Conn) appendGoAway(last, code uint32, msg string) {
	c.appendFrame(frames.FrameGoAway, 0, 0, 8+len(msg))
	c.append32(last)
	c.append32(code)
	c.out.b = append(c.out.b, msg...)
}

// appendData appends a DATA frame that the windows allow, and counts it.
func (c *Conn) appendData(s *Stream, p []byte, end bool) {
	var flags frames.Flags
	if end {
		flags = frames.FlagDataEndStream
	}
	c.appendFrame(frames.FrameData, flags, s.id, len(p))
	c.out.b = append(c.out.b, p...)
	c.sendWindow -= int32(len(p))
	s.sendWindow -= int32(len(p))
}

// startHeaders makes room for the header of a HEADERS frame. The block is to be
// appended to c.out.b, then endHeaders called with what this returned.
func (c *Conn) startHeaders() (start int) {
	out := c.buf()
	start = len(out.b)
	var header [frameHeader]byte
	out.b = append(out.b, header[:]...)
	if !c.sizeSaid {
		// Once for all: no table, whatever size SETTINGS will allow (RFC 7541 section 4.2).
		c.sizeSaid = true
		out.b = append(out.b, tableSize)
	}
	return start
}

func (c *Conn) endHeaders(start int, id uint32, end bool) {
	var flags frames.Flags
	if end {
		flags = frames.FlagHeadersEndStream
	}
	b := c.out.b
	if n := len(b) - start - frameHeader; n <= maxFrame {
		c.out.b = b[:start]
		c.appendFrame(frames.FrameHeaders, flags|frames.FlagHeadersEndHeaders, id, n)
		c.out.b = b
		return
	}
	block := append([]byte(nil), b[start+frameHeader:]...)
	c.out.b = b[:start]
	for t := frames.FrameHeaders; len(block) > 0; t = frames.FrameContinuation {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= frames.FlagHeadersEndHeaders // as of CONTINUATION
		}
		c.appendFrame(t, flags, id, n)
		c.out.b = append(c.out.b, block[:n]...)
		block, flags = block[n:], 0
	}
}

// answer counts n bytes just appended because of a frame of the peer.
func (c *Conn) answer(n int) error {
	c.kick = true
	if c.answers += n; c.answers > maxAnswers {
		return fatal(EnhanceYourCalm, "too many frames to answer")
	}
	return nil
}

// flush writes out, unless somebody is writing, who will then write this too. It
// gives up the lock meanwhile. The error says that it was not written, which is
// not the same as that the connection has ended since.
func (c *Conn) flush() error {
	if c.out == nil {
		return nil
	}
	if c.err != nil {
		return c.err
	}
	if c.writing {
		return nil
	}
	c.writing = true
	if len(c.streams) > 1 && len(c.out.b) < record {
		// Others may have something to say that goes out with the same write.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	done, err := c.writeOut()
	if !done {
		done, _ = c.writeOut()
	}
	if !done {
		c.wg.Add(1)
		go c.flusher() // others append faster than this is written
	}
	return err
}

// flushLater has out written, without waiting for that.
func (c *Conn) flushLater() {
	if c.writing || c.err != nil {
		return
	}
	c.writing = true
	c.wg.Add(1)
	go c.flusher()
}

func (c *Conn) flusher() {
	defer c.wg.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	for done := false; !done; {
		done, _ = c.writeOut()
	}
}

// writeOut writes what is in out, and reports whether there is nothing more, when
// writing is not set any more, and whether it was written.
func (c *Conn) writeOut() (done bool, err error) {
	if err = c.err; c.out != nil && err == nil {
		out := c.out
		c.out, c.answers = nil, 0
		limit := c.cfg.WriteTimeout
		if c.pace > 0 && (limit == 0 || c.pace < limit) {
			limit = c.pace
		}
		c.mu.Unlock()
		err = c.write(out.b, limit)
		out.free()
		c.mu.Lock()
		if err != nil {
			err = fmt.Errorf("http2: write: %w", err)
			c.die(err)
			err = c.err // it may be the second reason
		}
		for _, s := range c.full {
			s.writable.Signal()
		}
		c.full = c.full[:0]
		if c.out != nil && c.err == nil {
			return false, err
		}
	}
	if c.closing && !c.halfway && c.err == nil {
		c.halfway = true
		c.mu.Unlock()
		c.half()
		c.mu.Lock()
		if c.out != nil && c.err == nil {
			return false, err
		}
	}
	c.writing = false
	c.quiet.Broadcast()
	return true, err
}

// half closes our direction, and has the peer a moment to close its own. A client
// has nothing to wait for.
func (c *Conn) half() {
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok && !c.client && h.CloseWrite() == nil {
		c.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
		return
	}
	c.nc.Close()
}

// write writes p. Who accepts no byte of it within the limit is lost to all streams.
func (c *Conn) write(p []byte, limit time.Duration) error {
	for len(p) > 0 {
		part := p
		if c.tls && len(part) > record {
			part = p[:record] // one write of the socket, each with its time limit
		}
		if limit > 0 && !c.hurry.Load() {
			// Set ahead, so that it need not be set each time.
			now := time.Now()
			if left := c.writeTill.Sub(now); left < limit || left > limit+limit/4 {
				c.writeTill = now.Add(limit + limit/4)
				c.nc.SetWriteDeadline(c.writeTill)
			}
		}
		n, err := c.nc.Write(part)
		p = p[n:]
		if err != nil {
			if n > 0 && !c.tls && errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
				continue // slow, but alive
			}
			return err
		}
	}
	return nil
}

// allowance is how much of n bytes may be sent now in one frame.
func (c *Conn) allowance(s *Stream, n int) int {
	if len(c.waiting) > 0 && c.waiting[0] != s {
		return 0 // others' turn
	}
	return max(0, min(n, dataFrame, int(c.sendWindow), int(s.sendWindow)))
}

// await queues s for the connection's window, behind all others, unless it is in
// the queue and not first.
func (c *Conn) await(s *Stream) {
	if s.queued && c.waiting[0] != s {
		return
	}
	c.unawait(s)
	s.queued = true
	c.waiting = append(c.waiting, s)
}

// unawait takes s out of the queue, and wakes who is first now.
func (c *Conn) unawait(s *Stream) {
	if !s.queued {
		return
	}
	s.queued = false
	for i, w := range c.waiting {
		if w == s {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			break
		}
	}
	c.nextTurn()
}

// nextTurn wakes the first that waits for the connection's window, if it is open.
func (c *Conn) nextTurn() {
	if len(c.waiting) > 0 && c.sendWindow > 0 {
		c.waiting[0].writable.Signal()
	}
}
