package main

import (
	"fmt"
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"

	"roster/node"
)

// notifier tells the service manager at $NOTIFY_SOCKET.
func notifier(log *slog.Logger) func(state string) {
	return func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("the service manager could not be told", "state", state, "error", err)
		}
	}
}

// reload does what SIGHUP asks for. Certificate files need no word: they are loaded when
// they change.
func reload(n *node.Node, notify func(string)) {
	if notify == nil {
		n.Reopen()
		return
	}
	// The time tells systemd which of two reloads is done.
	notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, monotonicMicros()))
	n.Reopen()
	notify(daemon.SdNotifyReady)
}
