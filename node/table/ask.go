package table

import (
	"net/netip"
	"time"

	"roster/message"
	"roster/store"
)

// Outcome is what became of a request at the backend that was picked for it.
type Outcome uint8

const (
	// Unknown: nothing can be said of the backend. The client went away, say, or the
	// node itself was short of something.
	Unknown Outcome = iota
	// Good: the backend answered.
	Good
	// Bad: it failed, or answered 5xx; 501 and 505 are about the request, and good.
	Bad
)

// Ask is one request on its way to a backend: what routes and directors look at, what
// was tried, and what has to be told afterwards. The zero value is ready for Begin. It
// belongs to one request at a time, is meant to be used again for the next, and is not
// for concurrent use.
type Ask struct {
	request *message.Request
	client  netip.Addr
	now     time.Duration
	picked  bool // and Done was not called since
}

// Begin prepares for a request. r must stay as it is until the last Pick. client is who
// it is from, after --trusted-proxies. now is the time since Applier.Start.
func (a *Ask) Begin(r *message.Request, client netip.Addr, now time.Duration) {
	a.End()
	a.request, a.client, a.now = r, client, now
}

// End forgets the request. A pick without Done ends as Unknown.
func (a *Ask) End() {
	if a.picked {
		a.Done(Unknown, 0, a.now)
	}
	*a = Ask{}
}

// Done tells what became of the request at the backend that Pick returned, once for
// each Pick that returned one. latency is the time from the request's sending to the
// answer's head; it is asked for where Timed says so, and of Good and Bad ones. now is
// the time since Applier.Start. Without a pick Done does nothing.
func (a *Ask) Done(o Outcome, latency time.Duration, now time.Duration) {
	a.picked = false
	a.now = now
}

// Timed says whether Done wants the latency: a director that goes by it chose.
func (a *Ask) Timed() bool { return false }

// Take says whether the request may be tried again, as far as the budget of retries
// goes: that of the first director asked, else the backend's own. It takes one from it.
func (a *Ask) Take() bool { return true }

// Cookie returns the cookie that the answer has to set, so that the client comes back
// to the same member: that of the first director asked which has one, unless the
// request brought the right value. value is valid until the next Begin.
func (a *Ask) Cookie() (c *store.Cookie, value []byte, ok bool) { return nil, nil, false }
