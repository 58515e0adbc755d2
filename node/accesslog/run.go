package accesslog

import (
	"context"
	"time"
)

// flushLimit is how long the end waits for an output that blocks.
const flushLimit = time.Second

// Run writes what is recorded until ctx ends, then the rest, and closes the file.
// An output that blocks holds the end up for a second at most; what it has not taken
// by then is dropped, and the goroutine that is blocked in the write stays behind,
// as nothing can end it. The error is always nil.
func (l *Log) Run(ctx context.Context) error {
	stop, done := make(chan struct{}), make(chan struct{})
	go l.write(stop, done)
	<-ctx.Done()
	close(stop)
	limit := time.NewTimer(flushLimit)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		l.dropped.Add(countLines(l.take(nil, true)))
		l.out.logger.Warn("access log: the output takes nothing", "file", l.out.name(), "dropped", l.Dropped())
	}
	return nil
}

func (l *Log) write(stop, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.flush(false)
		case <-l.full:
			l.flush(false)
		case <-l.reopen:
			l.flush(false)
			l.out.reopen()
		case <-stop:
			l.flush(true)
			l.out.close()
			return
		}
	}
}

// flush writes what was recorded. After the last time no more is taken.
func (l *Log) flush(last bool) {
	if b := l.take(l.out.spare, last); b != nil {
		written, err := l.out.write(b)
		l.written.Add(written)
		l.dropped.Add(countLines(b) - written)
		l.out.note(err)
		l.out.spare = b[:0]
	}
	l.out.report(l.Dropped(), last)
}
