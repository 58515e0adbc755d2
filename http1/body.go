package http1

import "roster/message"

// An Event is what Next found.
type Event uint8

const (
	More Event = iota // more bytes are needed
	Data              // data are bytes of the body
	End               // the body has ended
)

// Body delimits one message body.
type Body struct{}

func (b *Body) Reset(length int64)                                        { panic("unfinished") }
func (b *Body) Next(buf []byte) (data []byte, n int, ev Event, err error) { panic("unfinished") }

// Remaining is how many bytes of the connection are body from here on, known
// without looking at them: what may be copied blindly. Report them with Skip.
func (b *Body) Remaining() int64          { panic("unfinished") }
func (b *Body) Skip(n int64)              { panic("unfinished") }
func (b *Body) Done() bool                { panic("unfinished") }
func (b *Body) EOF() error                { panic("unfinished") }
func (b *Body) Trailers() []message.Field { panic("unfinished") }
