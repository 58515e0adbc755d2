package http2

import (
	"encoding/binary"
	"errors"
	"io"

	frames "golang.org/x/net/http2"

	"roster/http1"
)

// read reads frames until an error: a *connError, or that of reading.
func (c *Conn) read() error {
	if !c.client {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	for {
		c.await9()
		fh, err := c.fr.ReadFrameHeader()
		if err == nil {
			c.received.Add(1)
			err = c.readFrame(fh)
			c.runLater()
		}
		if err == nil {
			continue
		}
		var stream frames.StreamError
		var conn frames.ConnectionError
		switch {
		case errors.As(err, &stream):
			err = c.resetByID(stream.StreamID, uint32(stream.Code))
			c.runLater()
		case errors.As(err, &conn):
			err = fatal(uint32(conn), "invalid frame")
			if detail := c.fr.ErrorDetail(); detail != nil {
				err = fatal(uint32(conn), detail.Error())
			}
		case errors.Is(err, frames.ErrFrameTooLarge):
			err = fatal(FrameSize, "frame too large")
		}
		if err != nil {
			return err
		}
	}
}

// await9 and want see to it that what this goroutine left to be written is,
// before it waits for n bytes.
func (c *Conn) await9() { c.want(frameHeader) }

func (c *Conn) want(n int) {
	if c.kick && c.br.Buffered() < n {
		c.kick = false
		c.mu.Lock()
		if c.out != nil {
			c.flushLater()
		}
		c.mu.Unlock()
	}
}

func (c *Conn) readPreface() error {
	for n := 0; n < len(frames.ClientPreface); {
		c.want(n + 1)
		if _, err := c.br.Peek(n + 1); err != nil {
			return err
		}
		n = min(c.br.Buffered(), len(frames.ClientPreface))
		p, _ := c.br.Peek(n)
		if string(p) != frames.ClientPreface[:n] {
			return fatal(ProtocolError, "invalid preface")
		}
	}
	c.br.Discard(len(frames.ClientPreface))
	return nil
}

// readFrame reads and handles what follows a frame's header. What is frequent is
// read without the Framer, which makes an object for each frame.
func (c *Conn) readFrame(fh frames.FrameHeader) error {
	if !c.settings && fh.Type != frames.FrameSettings {
		return fatal(ProtocolError, "no SETTINGS first")
	}
	switch fh.Type {
	case frames.FrameData:
		return c.readData(fh)
	case frames.FrameHeaders:
		return c.readHeaders(fh)
	case frames.FrameWindowUpdate:
		return c.readWindowUpdate(fh)
	case frames.FramePushPromise:
		return fatal(ProtocolError, "PUSH_PROMISE")
	case frames.FrameSettings, frames.FramePing, frames.FrameGoAway, frames.FrameRSTStream, frames.FramePriority:
	default:
		return c.skip(int(fh.Length)) // RFC 9113 section 4.1
	}
	c.want(int(fh.Length))
	f, err := c.fr.ReadFrameForHeader(fh)
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *frames.SettingsFrame:
		return c.takeSettings(f)
	case *frames.PingFrame:
		return c.takePing(f)
	case *frames.GoAwayFrame:
		return c.takeGoAway(f)
	case *frames.RSTStreamFrame:
		return c.takeReset(f)
	case *frames.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return frames.StreamError{StreamID: f.StreamID, Code: frames.ErrCodeProtocol}
		}
	}
	return nil
}

func (c *Conn) skip(n int) error {
	for n > 0 {
		c.want(1)
		m, err := c.br.Discard(min(n, c.br.Size()))
		if n -= m; err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// unexpected is err of reading within a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// payload returns n bytes, and whether they are still to be discarded.
func (c *Conn) payload(n int) (p []byte, peeked bool, err error) {
	c.want(n)
	if n <= c.br.Size() {
		p, err = c.br.Peek(n)
		return p, true, unexpected(err)
	}
	p = make([]byte, n)
	_, err = io.ReadFull(c.br, p)
	return p, false, unexpected(err)
}

// maxContinuations bounds the frames a field block comes in. Whole frames of the
// largest block that is decoded are 8 by default.
const maxContinuations = 64

// readHeaders reads a field block: HEADERS and the CONTINUATION frames after it.
func (c *Conn) readHeaders(fh frames.FrameHeader) error {
	p, peeked, err := c.payload(int(fh.Length))
	if err != nil {
		return err
	}
	block := p
	pad := 0
	if fh.Flags.Has(frames.FlagHeadersPadded) {
		if len(block) < 1 {
			return fatal(FrameSize, "HEADERS too short")
		}
		pad, block = int(block[0]), block[1:]
	}
	selfish := false
	if fh.Flags.Has(frames.FlagHeadersPriority) {
		if len(block) < 5 {
			return fatal(FrameSize, "HEADERS too short")
		}
		// Priorities are ignored, but for what RFC 7540 section 5.3.1 forbids.
		selfish = binary.BigEndian.Uint32(block)&maxStreamID == fh.StreamID
		block = block[5:]
	}
	if pad > len(block) {
		return fatal(ProtocolError, "padding too long")
	}
	if fh.StreamID == 0 {
		return fatal(ProtocolError, "HEADERS of stream 0")
	}
	block = block[:len(block)-pad]
	if !fh.Flags.Has(frames.FlagHeadersEndHeaders) {
		c.block = append(c.block[:0], block...)
		if peeked {
			c.br.Discard(len(p))
			peeked = false
		}
		if err := c.readContinuations(); err != nil {
			return err
		}
		block = c.block
	}
	h, err := c.decode(block)
	if err != nil {
		return err
	}
	if peeked {
		c.br.Discard(len(p))
	}
	if cap(c.block) > smallBlock {
		c.block = nil
	}
	h.end = fh.Flags.Has(frames.FlagHeadersEndStream)
	if c.client {
		return c.takeAnswer(fh.StreamID, h)
	}
	return c.takeHead(fh.StreamID, h, selfish)
}

// readContinuations appends the rest of a field block to c.block. The Framer sees
// to it that nothing comes between. A block that is larger than its fields may be
// twice over is not decoded, which ends the connection.
func (c *Conn) readContinuations() error {
	for n := 1; ; n++ {
		c.await9()
		fh, err := c.fr.ReadFrameHeader()
		if err != nil {
			return unexpected(err)
		}
		c.received.Add(1)
		if n > maxContinuations || len(c.block)+int(fh.Length) > 2*c.cfg.MaxHeaderSize+maxFrame {
			return fatal(EnhanceYourCalm, "endless field block")
		}
		p, peeked, err := c.payload(int(fh.Length))
		if err != nil {
			return err
		}
		c.block = append(c.block, p...)
		if peeked {
			c.br.Discard(len(p))
		}
		if fh.Flags.Has(frames.FlagContinuationEndHeaders) {
			return nil
		}
	}
}

// takeHead takes a request's head or trailers.
func (c *Conn) takeHead(id uint32, h *head, selfish bool) error {
	if id%2 == 0 {
		return fatal(ProtocolError, "stream with an even number")
	}
	c.mu.Lock()
	if s := c.streams[id]; s != nil {
		defer c.mu.Unlock()
		if s.remoteEnded {
			return c.refuse(s, StreamClosed, "HEADERS after the end")
		}
		return c.takeTrailers(s, h)
	}
	if id <= c.peerID {
		defer c.mu.Unlock()
		h.free()
		if c.forgotten(id) || c.drain == gone && id > c.lastID {
			return nil
		}
		return fatal(StreamClosed, "HEADERS of a closed stream")
	}
	c.peerID = id
	var code uint32
	switch {
	case c.drain == gone:
		c.mu.Unlock()
		h.free()
		return nil
	case h.checkRequest() != "" || selfish:
		code = ProtocolError
	case uint32(len(c.streams)) >= c.cfg.MaxStreams || c.running >= 2*int(c.cfg.MaxStreams):
		code = RefusedStream
	}
	if code != 0 {
		defer c.mu.Unlock()
		h.free()
		c.appendReset(id, code)
		c.forget(id)
		return c.fault(resetSize)
	}
	s := c.newStream(id)
	s.heads = h
	if h.lengths == nil && !h.large {
		s.declared = h.length
	}
	s.remoteEnded = h.end
	c.running++
	c.mu.Unlock()
	select {
	case c.work <- s:
	default:
		c.mu.Lock()
		c.workers++
		c.wg.Add(1)
		c.mu.Unlock()
		go c.worker(s)
	}
	return nil
}

const resetSize = frameHeader + 4

// fault counts a stream's reset that the peer did or caused, and n bytes appended
// for that.
func (c *Conn) fault(n int) error {
	if !c.faults.spend() {
		return fatal(EnhanceYourCalm, "too many resets")
	}
	return c.answer(n)
}

// refuse resets a stream for what the peer did wrong.
func (c *Conn) refuse(s *Stream, code uint32, msg string) error {
	var err error = &ResetError{Code: code}
	if c.client && !s.answered {
		err = errMalformed(msg)
	}
	return c.refuseWith(s, code, err)
}

func (c *Conn) refuseWith(s *Stream, code uint32, err error) error {
	s.lost() // the peer did as good as reset it
	s.reset(code, err, true)
	return c.fault(resetSize)
}

// resetByID is for a mistake in a frame of a stream.
func (c *Conn) resetByID(id, code uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		return c.refuse(s, code, "invalid frame")
	}
	if c.idle(id) {
		return fatal(code, "invalid frame")
	}
	c.appendReset(id, code)
	return c.fault(resetSize)
}

// idle says whether a stream was never opened.
func (c *Conn) idle(id uint32) bool {
	if c.client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.peerID
}

func (c *Conn) takeTrailers(s *Stream, h *head) error {
	if msg := h.checkTrailers(); msg != "" || h.large {
		return c.refuse(s, ProtocolError, msg)
	}
	allowed := h.fields[:0]
	for _, f := range h.fields {
		if http1.TrailerAllowed(f.ID) {
			allowed = append(allowed, f)
		}
	}
	h.fields = allowed
	s.trailers = h
	return c.endBody(s)
}

// endBody takes the end of the peer's side.
func (c *Conn) endBody(s *Stream) error {
	if s.declared >= 0 && s.received != s.declared {
		return c.refuse(s, ProtocolError, "body shorter than content-length")
	}
	s.endRemote()
	return nil
}

// maxInterims bounds the interim heads that wait to be read.
const maxInterims = 16

// takeAnswer takes an answer's head, interim or final, or its trailers.
func (c *Conn) takeAnswer(id uint32, h *head) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case s == nil && c.idle(id):
		return fatal(ProtocolError, "HEADERS of a stream that was not opened")
	case s == nil:
		h.free()
		return nil
	case s.remoteEnded:
		return c.refuse(s, StreamClosed, "HEADERS after the end")
	case s.answered:
		return c.takeTrailers(s, h)
	}
	if msg := h.checkResponse(); msg != "" {
		return c.refuse(s, ProtocolError, msg)
	}
	if h.large {
		return c.refuseWith(s, EnhanceYourCalm, errAnswerLarge)
	}
	if h.status < 200 {
		if s.interims++; s.interims > maxInterims {
			return c.refuse(s, EnhanceYourCalm, "too many interim responses")
		}
	} else {
		s.answered = true
		s.empty = s.toHEAD || h.status == 204 || h.status == 304 || s.toCONNECT && h.status < 300
		if s.empty {
			s.declared = 0
		} else {
			s.declared = h.length
		}
	}
	if s.heads == nil {
		s.heads = h
	} else {
		s.lastHead.next = h
	}
	s.lastHead = h
	if h.end {
		return c.endBody(s)
	}
	s.readable.Signal()
	return nil
}

// readData reads a DATA frame into its stream's blocks.
func (c *Conn) readData(fh frames.FrameHeader) error {
	id, left := fh.StreamID, int(fh.Length)
	if id == 0 {
		return fatal(ProtocolError, "DATA of stream 0")
	}
	pad, overhead := 0, 0
	if fh.Flags.Has(frames.FlagDataPadded) {
		c.want(1)
		b, err := c.br.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		pad, overhead = int(b), 1+int(b)
		if overhead > left {
			return fatal(ProtocolError, "padding too long")
		}
		left -= overhead
	}
	end := fh.Flags.Has(frames.FlagDataEndStream)

	c.mu.Lock()
	if int64(fh.Length) > int64(c.recvWindow) {
		c.mu.Unlock()
		return fatal(FlowControl, "more DATA than the connection's window")
	}
	c.recvWindow -= int32(fh.Length)
	s := c.streams[id]
	var code uint32
	var msg string
	switch {
	case s == nil && c.idle(id):
		c.mu.Unlock()
		return fatal(ProtocolError, "DATA of a stream that was not opened")
	case s == nil:
		if c.client || c.forgotten(id) || c.drain == gone && id > c.lastID {
			break // it may not know yet
		}
		code = StreamClosed
	case s.remoteEnded:
		code, msg = StreamClosed, "DATA after the end"
	case c.client && !s.answered:
		code, msg = ProtocolError, "DATA before HEADERS"
	case fh.Length > 0 && int64(fh.Length) > int64(s.recvWindow): // which our SETTINGS can make negative
		code, msg = FlowControl, "more DATA than the stream's window"
	case s.declared >= 0 && s.received+int64(left) > s.declared:
		code, msg = ProtocolError, "body longer than content-length"
	case left == 0 && !end && !c.empties.spend():
		c.mu.Unlock()
		return fatal(EnhanceYourCalm, "too many empty frames")
	}
	if s == nil || code != 0 {
		c.credit(int(fh.Length))
		c.kick = true
		var err error
		if s != nil {
			err = c.refuse(s, code, msg)
		} else if code != 0 {
			c.appendReset(id, code)
			err = c.fault(resetSize)
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		return c.skip(left + pad)
	}
	s.recvWindow -= int32(fh.Length)
	if overhead > 0 {
		s.credit(overhead)
		c.kick = true
	}
	for left > 0 {
		room := s.body.room(left)
		b := s.body.last
		s.body.filling = true
		c.mu.Unlock()
		c.want(1)
		n, err := c.br.Read(room)
		c.mu.Lock()
		s.body.filling = false
		if s.body.dropped {
			s.body.dropped = false
			b.free()
		}
		if s.err != nil { // reset meanwhile
			c.credit(left)
			c.kick = true
			c.mu.Unlock()
			if err != nil {
				return unexpected(err)
			}
			return c.skip(left - n + pad)
		}
		s.body.added(n)
		s.received += int64(n)
		left -= n
		s.readable.Signal()
		if err != nil && left > 0 { // else the next read says it too
			c.mu.Unlock()
			return unexpected(err)
		}
	}
	if pad > 0 {
		c.mu.Unlock()
		if err := c.skip(pad); err != nil {
			return err
		}
		c.mu.Lock()
		if s.err != nil {
			c.mu.Unlock()
			return nil
		}
	}
	var err error
	if end {
		err = c.endBody(s)
	}
	c.mu.Unlock()
	return err
}

func (c *Conn) readWindowUpdate(fh frames.FrameHeader) error {
	if fh.Length != 4 {
		return fatal(FrameSize, "WINDOW_UPDATE is not 4 bytes")
	}
	p, _, err := c.payload(4)
	if err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(p) & maxStreamID)
	c.br.Discard(4)
	c.mu.Lock()
	defer c.mu.Unlock()
	if fh.StreamID == 0 {
		if n == 0 {
			return fatal(ProtocolError, "WINDOW_UPDATE of 0")
		}
		if int64(c.sendWindow)+n > maxStreamID {
			return fatal(FlowControl, "window too large")
		}
		c.sendWindow += int32(n)
		c.nextTurn()
		return nil
	}
	s := c.streams[fh.StreamID]
	switch {
	case s == nil && c.idle(fh.StreamID):
		return fatal(ProtocolError, "WINDOW_UPDATE of a stream that was not opened")
	case s == nil:
		return nil
	case n == 0:
		return c.refuse(s, ProtocolError, "WINDOW_UPDATE of 0")
	case int64(s.sendWindow)+n > maxStreamID:
		return c.refuse(s, FlowControl, "window too large")
	}
	s.sendWindow += int32(n)
	s.writable.Signal()
	return nil
}

func (c *Conn) takeSettings(f *frames.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.IsAck() {
		if !c.settings {
			return fatal(ProtocolError, "no SETTINGS first")
		}
		if !c.acked {
			c.acked = true
			c.shiftReceiving()
		}
		return nil
	}
	if c.settings && !c.empties.spend() {
		return fatal(EnhanceYourCalm, "too many SETTINGS")
	}
	first := !c.settings
	if first {
		c.settings = true
		if c.cfg.IdleTimeout > 0 {
			c.arm(c.idleSince + int64(c.cfg.IdleTimeout))
		}
	}
	err := f.ForeachSetting(func(set frames.Setting) error {
		if err := set.Valid(); err != nil {
			return err
		}
		switch set.ID {
		case frames.SettingEnablePush:
			if c.client && set.Val != 0 {
				return fatal(ProtocolError, "a server cannot enable push")
			}
		case frames.SettingMaxConcurrentStreams:
			c.peerMax = set.Val
		case frames.SettingInitialWindowSize:
			return c.shiftSending(int32(set.Val))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if first {
		close(c.ready)
	}
	c.appendFrame(frames.FrameSettings, frames.FlagSettingsAck, 0, 0)
	return c.answer(frameHeader)
}

// shiftSending changes all streams' windows by as much as the initial one changed
// (RFC 9113 section 6.9.2).
func (c *Conn) shiftSending(initial int32) error {
	change := int64(initial) - int64(c.sendInit)
	c.sendInit = initial
	for _, s := range c.streams {
		n := int64(s.sendWindow) + change
		if n > maxStreamID {
			return fatal(FlowControl, "window too large")
		}
		s.sendWindow = int32(n)
		s.writable.Signal()
	}
	return nil
}

// shiftReceiving makes our initial window count, if it is smaller than the one
// before SETTINGS.
func (c *Conn) shiftReceiving() {
	change := c.cfg.StreamWindow - c.recvInit
	c.recvInit = c.cfg.StreamWindow
	for _, s := range c.streams {
		s.recvWindow += change
	}
}

func (c *Conn) takePing(f *frames.PingFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.IsAck() {
		c.appendPing(true, f.Data)
		return c.answer(frameHeader + len(f.Data))
	}
	if f.Data == drainPing {
		c.drained()
	}
	return nil
}

func (c *Conn) takeGoAway(f *frames.GoAwayFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.client {
		c.goAway()
		return nil
	}
	c.drain = gone
	for id, s := range c.streams {
		if id > f.LastStreamID {
			s.err, s.kept = &ResetError{Code: RefusedStream, Remote: true, Unprocessed: true}, true
			c.closeStream(s)
			s.wake()
		}
	}
	c.closeIfDone()
	return nil
}

func (c *Conn) takeReset(f *frames.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[f.StreamID]
	if s == nil {
		if c.idle(f.StreamID) {
			return fatal(ProtocolError, "RST_STREAM of a stream that was not opened")
		}
		return nil
	}
	code := uint32(f.ErrCode)
	s.err = &ResetError{Code: code, Remote: true, Unprocessed: code == RefusedStream}
	s.kept = c.client
	c.closeStream(s)
	if !c.client {
		s.discard()
		c.kick = true
	}
	s.wake()
	s.lost()
	if !c.client && !c.faults.spend() {
		return fatal(EnhanceYourCalm, "too many resets")
	}
	return nil
}

// runLater calls what OnGone was given, without the lock.
func (c *Conn) runLater() {
	for i, f := range c.later {
		c.later[i] = nil
		f()
	}
	c.later = c.later[:0]
}
