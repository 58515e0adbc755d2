package node

import (
	"context"
	"fmt"
	"time"

	"roster/node/admin"
)

// secretPause is the time from one attempt to make the fleet's secret to the next.
const secretPause = 10 * time.Second

// needSecret has the fleet's secret made if the newest table needs it.
func (n *Node) needSecret() {
	if n.Table().NeedsSecret() {
		select {
		case n.secretNeeded <- struct{}{}:
		default:
		}
	}
}

// makeSecret makes the fleet's secret when a director's cookie needs it and there is
// none. A node that may not write goes on trying: its rights may change, and another
// node may be quicker.
func (n *Node) makeSecret(ctx context.Context) error {
	for {
		select {
		case <-n.secretNeeded:
		case <-ctx.Done():
			return nil
		}
		for said := false; n.Table().NeedsSecret(); {
			err := n.store.CreateSecret(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				text := fmt.Sprintf("no session cookies are set, for the fleet has no secret and this node could not make one: %v", err)
				n.noSecret.Store(&text)
				if !said {
					said = true
					n.config.Logger.Warn("no session cookies are set: cannot make the fleet's secret", "error", err)
				}
			}
			select {
			case <-time.After(secretPause):
			case <-ctx.Done():
				return nil
			}
		}
		n.noSecret.Store(nil)
	}
}

// secretWarnings is what status says of it.
func (n *Node) secretWarnings() []admin.Warning {
	if text := n.noSecret.Load(); text != nil && n.Table().NeedsSecret() {
		return []admin.Warning{{Key: "secret", Warnings: []string{*text}}}
	}
	return nil
}
