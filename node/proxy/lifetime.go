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

// deadline is a lifetime that ends at a time as well, for waits that a route limits. It
// takes the memory of a context and a timer only when somebody waits: most requests find
// an idle connection.
type deadline struct {
	life  *lifetime
	at    time.Time
	inner context.Context // nil: nobody has waited
	stop  context.CancelFunc
}

// context is first called by the owner.
func (d *deadline) context() context.Context {
	if d.inner == nil {
		d.inner, d.stop = context.WithDeadline(d.life, d.at)
	}
	return d.inner
}

func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }
func (d *deadline) Done() <-chan struct{}       { return d.context().Done() }
func (d *deadline) Err() error                  { return d.context().Err() }
func (d *deadline) Value(key any) any           { return d.context().Value(key) }
