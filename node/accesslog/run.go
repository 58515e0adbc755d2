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
		for i := range l.shards {
			l.lost.Add(countLines(l.shards[i].take(nil, true)))
		}
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

// flush writes what the shards hold. With last they take no more.
func (l *Log) flush(last bool) {
	for i := range l.shards {
		b := l.shards[i].take(l.out.spare, last)
		if len(b) > 0 {
			written, err := l.out.write(b)
			l.written.Add(written)
			l.lost.Add(countLines(b) - written)
			l.out.note(err)
		}
		if b != nil {
			l.out.spare = b[:0]
		}
	}
	l.out.report(l.Dropped(), last)
}

// take returns the lines of the shard, which goes on with an empty buffer. The
// result is nil and the buffer stays if there are none.
func (s *shard) take(empty []byte, last bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.closed || last
	if len(s.buf) == 0 {
		return nil
	}
	b := s.buf
	s.buf = empty
	return b
}
