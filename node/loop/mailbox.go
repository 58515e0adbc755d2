package loop

// A post is a function to be run by the loop. Posts make a stack that producers
// push to without a lock: one that is not scheduled holds nobody up.
type post struct {
	run  func()
	next *post
}

// closed is on top of the mailbox of a loop that has ended.
var closed post

// Post has f run on the loop's thread in its next turn, after what was posted
// before. It never blocks. It returns false if the loop has ended, and f will not
// run; what it has returned true for runs, even if Stop was called.
func (l *Loop) Post(f func()) bool {
	l.guests.Add(1)
	defer l.guests.Add(-1)
	p := &post{run: f}
	for {
		p.next = l.mail.Load()
		if p.next == &closed {
			return false
		}
		if l.mail.CompareAndSwap(p.next, p) {
			l.rouse()
			return true
		}
	}
}

// rouse ends the loop's wait, if it waits. Its caller is a guest.
func (l *Loop) rouse() {
	if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
		sysWake(l.wake)
	}
}

// take empties the mailbox, oldest first.
func (l *Loop) take() *post {
	if p := l.mail.Load(); p == nil || p == &closed {
		return nil
	}
	return reversed(l.mail.Swap(nil))
}

// takeLast empties and closes the mailbox.
func (l *Loop) takeLast() *post {
	p := l.mail.Swap(&closed)
	if p == &closed {
		return nil
	}
	return reversed(p)
}

func reversed(p *post) (oldest *post) {
	for p != nil {
		p.next, oldest, p = oldest, p, p.next
	}
	return oldest
}

// collect runs what was posted.
func (l *Loop) collect() {
	if l.posted == nil {
		if l.posted = l.take(); l.posted == nil {
			return
		}
	}
	l.doing = taking
	for l.posted != nil {
		p := l.posted
		l.posted = p.next
		p.run()
	}
	l.Tick()
}
