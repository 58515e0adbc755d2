package proxy

import "sync"

// Sizes of buffers. Most requests are below 2 KiB, most answers' heads below 1;
// streams get a large one, which halves the system calls of each doubling.
const (
	smallBuffer = 16 << 10
	largeBuffer = 64 << 10
)

// buffer holds what was received and not used yet: b[r:w].
type buffer struct {
	b    []byte
	r, w int
}

func (b *buffer) unread() []byte { return b.b[b.r:b.w] }
func (b *buffer) empty() bool    { return b.r == b.w }

// room returns where to receive to. What is unread stays where it is if there
// is room behind it.
func (b *buffer) room() []byte {
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
	if b.w == len(b.b) {
		b.move()
	}
	return b.b[b.w:]
}

// move makes room: what is unread goes to the front, or to a buffer of twice
// the size if it is there. Who parses what is unread bounds its length.
func (b *buffer) move() {
	if b.r > 0 {
		b.r, b.w = 0, copy(b.b, b.unread())
		return
	}
	b.grow(2 * len(b.b))
}

// grow changes to a buffer of at least n bytes.
func (b *buffer) grow(n int) {
	if n <= len(b.b) {
		return
	}
	old := b.b
	if n <= largeBuffer {
		b.b = large.Get().(*[largeBuffer]byte)[:]
	} else {
		b.b = make([]byte, n)
	}
	b.r, b.w = 0, copy(b.b, old[b.r:b.w])
	give(old)
}

// take gives an empty buffer its memory.
func (b *buffer) take() {
	b.b, b.r, b.w = small.Get().(*[smallBuffer]byte)[:], 0, 0
}

// free gives the memory back.
func (b *buffer) free() {
	give(b.b)
	*b = buffer{}
}

func give(b []byte) {
	switch len(b) {
	case smallBuffer:
		small.Put((*[smallBuffer]byte)(b))
	case largeBuffer:
		large.Put((*[largeBuffer]byte)(b))
	}
}

var (
	small = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	large = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)
