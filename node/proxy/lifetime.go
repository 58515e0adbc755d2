package proxy

import (
	"context"
	"sync/atomic"
	"time"
)

// lifetime is the context of what a client's requests wait for. It ends with end,
// from any goroutine. It takes the memory of a context only while somebody waits:
// most connections are idle, and most requests wait for nothing.
type lifetime struct {
	inner atomic.Pointer[cancelable]
	over  atomic.Bool
}

type cancelable struct {
	context.Context
	cancel context.CancelFunc
}

// context is for the owner of the lifetime, and those that it calls.
func (l *lifetime) context() context.Context {
	if inner := l.inner.Load(); inner != nil {
		return inner
	}
	inner := new(cancelable)
	inner.Context, inner.cancel = context.WithCancel(context.Background())
	l.inner.Store(inner)
	if l.over.Load() { // end may not have seen inner
		inner.cancel()
	}
	return inner
}

func (l *lifetime) end() {
	l.over.Store(true)
	if inner := l.inner.Load(); inner != nil {
		inner.cancel()
	}
}

// rest gives the memory back. Nobody waits.
func (l *lifetime) rest() {
	if l.inner.Load() != nil && !l.over.Load() {
		l.inner.Store(nil)
	}
}

// The methods of a context.Context.

func (l *lifetime) Deadline() (time.Time, bool) { return time.Time{}, false }
func (l *lifetime) Done() <-chan struct{}       { return l.context().Done() }
func (l *lifetime) Err() error                  { return l.context().Err() }
func (l *lifetime) Value(key any) any           { return l.context().Value(key) }
