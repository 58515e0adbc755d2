package http2

import "sync"

// A block holds received bytes of a body that were not read yet: those from r to w.
type block struct {
	b    []byte
	r, w int
	next *block
}

// Sizes of blocks: a small one for what is whole in one small frame, so that many
// streams with a few bytes each do not hold a large one each.
const (
	smallBlock = 2 << 10
	largeBlock = maxFrame
)

var (
	smallBlocks = sync.Pool{New: func() any { return &block{b: make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{b: make([]byte, largeBlock)} }}
)

func newBlock(n int) *block {
	if n <= smallBlock {
		return smallBlocks.Get().(*block)
	}
	return largeBlocks.Get().(*block)
}

func (b *block) free() {
	b.r, b.w, b.next = 0, 0, nil
	if len(b.b) == smallBlock {
		smallBlocks.Put(b)
	} else {
		largeBlocks.Put(b)
	}
}

// A body is a queue of blocks. The connection's lock guards it; but the reader
// fills the room in the last block without, and filling says so.
type body struct {
	first, last *block
	filling     bool
	dropped     bool // while filling: the block is the reader's to free
	size        int  // bytes
}

// room returns where the next of n bytes may be put.
func (q *body) room(n int) []byte {
	if q.last == nil || q.last.w == len(q.last.b) {
		b := newBlock(n)
		if q.last == nil {
			q.first = b
		} else {
			q.last.next = b
		}
		q.last = b
	}
	b := q.last
	return b.b[b.w:min(len(b.b), b.w+n)]
}

// added notes n more bytes in the room.
func (q *body) added(n int) {
	q.last.w += n
	q.size += n
}

// read moves bytes to p.
func (q *body) read(p []byte) (n int) {
	for n < len(p) && q.size > 0 {
		b := q.first
		m := copy(p[n:], b.b[b.r:b.w])
		b.r += m
		q.size -= m
		n += m
		if b.r == b.w {
			q.pop()
		}
	}
	return n
}

// pop frees the first block, which was read, unless the reader is filling it.
func (q *body) pop() {
	b := q.first
	if b == q.last {
		if q.filling {
			return
		}
		q.last = nil
	}
	q.first = b.next
	b.free()
}

// drop throws everything away and returns how many bytes that was.
func (q *body) drop() (n int) {
	n, q.size = q.size, 0
	for q.first != nil {
		b := q.first
		if b == q.last {
			q.first, q.last = nil, nil
			if q.filling {
				q.dropped = true // read has b.b and gives it back itself
				break
			}
		} else {
			q.first = b.next
		}
		b.free()
	}
	return n
}
