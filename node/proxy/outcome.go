package proxy

import (
	"time"

	"roster/exchange"
	"roster/node/table"
)

// outcome is what the table has to be told of the backend that it chose: once for
// each choice, however the request ends there. Directors go by it: outlier, p2c.
type outcome struct {
	due    bool // a choice was made, and nothing told of it
	timed  bool // the time that it took is wanted, too
	sent   bool // the request, or it was begun
	status int  // of the answer, once its head is there; 101 among them
	began  time.Duration
	took   time.Duration // until the head; 0: not known
}

// send marks the time before a request is sent.
func (o *outcome) send(c *client) {
	o.sent = true
	if o.timed {
		o.began = c.p.now()
	}
}

// head marks that of an answer's head, which is not an interim one. A body that was
// longer on its way than the backend took is the client's time, and where it is not
// sent yet, nobody knows how long the backend takes.
func (o *outcome) head(c *client) {
	status := c.answer.Status
	if status < 200 && status != 101 {
		return
	}
	o.status = status
	if !o.timed {
		return
	}
	since := o.began
	if c.upload != nil || c.sending != nil {
		sent := c.sentAt()
		if sent == 0 {
			return
		}
		since = max(since, sent)
	}
	o.took = max(c.p.now()-since, 1)
}

// after judges the backend by what failed, if anything did. After an answer of 5xx it
// is bad whatever followed; but 501 and 505 speak of the request. That the route's time was
// over says nothing of a backend which had not got the request.
func (o *outcome) after(failed exchange.Kind) table.Outcome {
	switch {
	case o.status >= 500 && o.status != 501 && o.status != 505:
		return table.Bad
	case failed == exchange.None:
		return table.Good
	case failed.Backend() && (failed != exchange.Late || o.sent):
		return table.Bad
	}
	return table.Unknown
}

// tell tells the table, if nothing was told since it chose.
func (c *client) tell(result table.Outcome) {
	o := &c.outcome
	if !o.due {
		return
	}
	o.due = false
	now := c.now()
	if o.timed && o.took == 0 && o.status == 0 && result == table.Bad {
		o.took = max(now-o.began, 1) // as long as it was waited for
	}
	c.shard.outcomes[result].Add(1)
	c.ask.Done(result, o.took, now)
}

// budget is that of a client's retries, which counts what it refuses.
type budget struct{ *client }

// Take is exchange.Budget's.
func (b budget) Take() bool {
	if b.ask.Take(b.p.now()) {
		return true
	}
	b.shard.refused.Add(1)
	return false
}
