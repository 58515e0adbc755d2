package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// lentPatience is how long clients without a request are waited for by a node that ends
// while a service manager keeps its sockets: nothing says to them that they should go
// elsewhere.
const lentPatience = time.Second

// drain ends the proxy in good order.
func (n *Node) drain(ctx context.Context) {
	log := n.config.Logger
	n.draining.Store(true)
	n.presence.Changed()
	n.proxy.Retire()
	delay, patience := n.config.DrainDelay, time.Duration(0)
	if n.turn.isOver() {
		// No client has to go elsewhere. What is left of the time is for late requests.
		delay, patience = 0, n.config.DrainTimeout*3/4
	} else {
		if n.config.Sockets.Lent() {
			patience = lentPatience - delay
		}
		n.notify(n.stopping())
	}
	if delay > 0 {
		log.Info("not ready any more", "accepting_for", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	log.Info("draining", "timeout", n.config.DrainTimeout)
	ctx, cancel := context.WithTimeout(ctx, n.config.DrainTimeout)
	defer cancel()
	if err := n.proxy.DrainAfter(ctx, patience); errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests were cut off", "drain_timeout", n.config.DrainTimeout)
	}
}

// notify tells the service manager, which listens to the process that serves.
func (n *Node) notify(state string) {
	if n.turn.isHere() {
		n.config.Notify(state)
	}
}

// servingAt says where clients are served.
func (n *Node) servingAt() string {
	var all []string
	for _, a := range n.serving {
		all = append(all, a.String())
	}
	return "serving at " + strings.Join(all, ", ")
}

// stopping is what Notify is told at the beginning of a drain: also how long it may take,
// or a service manager would cut it short.
func (n *Node) stopping() string {
	const room = 10 * time.Second // for what is below the proxy to end
	most := n.config.DrainDelay + n.config.DrainTimeout
	return fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d\nSTATUS=draining, for at most %v", (most + room).Microseconds(), most)
}
