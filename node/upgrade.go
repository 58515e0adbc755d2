package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"roster/node/handover"
)

// firstTable is how long clients wait in the listeners' queues for the first
// table of a node that starts. After it they are answered 503.
const firstTable = time.Second

// firstAnswers is how long they wait besides for the first answers of that table's
// probes, before which a backend counts as sick.
const firstAnswers = time.Second

// turn is this process's time to serve: others may have it before and after.
type turn struct {
	here, over chan struct{} // closed when it begins and ends
	accepting  chan struct{} // closed when clients are served
	upgrades   chan struct{} // holds one that is asked for
}

func newTurn() turn {
	return turn{here: make(chan struct{}), over: make(chan struct{}), accepting: make(chan struct{}), upgrades: make(chan struct{}, 1)}
}

func (t *turn) isHere() bool { return isClosed(t.here) }
func (t *turn) isOver() bool { return isClosed(t.over) }

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cedeLimit is how long a new process waits at most for the snapshot, which a disk that
// hangs never lets go.
const cedeLimit = time.Second

// within calls f, and says whether it returns within a time.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// upgradeTimeout is Config.UpgradeTimeout's default: more than a node takes to be ready
// with the defaults of all others.
const upgradeTimeout = time.Minute

// Upgrade has the node replaced by a new process of its program, which gets its sockets:
// once that serves, this one drains, and Run returns nil. What hinders it is logged, and
// the node serves on. It may be called at any time and returns at once.
func (n *Node) Upgrade() {
	select {
	case n.turn.upgrades <- struct{}{}:
	default: // one is asked for already
	}
}

// upgrade does what Upgrade asks for, once clients are served and this is the only process
// that does, until ctx ends or a new process serves: then it calls superseded.
func (n *Node) upgrade(ctx context.Context, superseded func()) error {
	for _, soon := range []chan struct{}{n.turn.accepting, n.turn.here} {
		select {
		case <-soon:
		case <-ctx.Done():
			return nil
		}
	}
	for {
		select {
		case <-n.turn.upgrades:
		case <-ctx.Done():
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		next, err := n.replace(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			n.config.Logger.Error("no upgrade: this process serves on", "error", err)
			select { // what was asked for meanwhile would fare no better
			case <-n.turn.upgrades:
			default:
			}
			continue
		}
		// It serves, whatever is asked of this process meanwhile.
		n.config.Logger.Info("upgraded: the new process serves, this one drains", "pid", next.Pid(), "old_pid", os.Getpid(), "took", time.Since(began))
		n.config.Sockets.Release()
		close(n.turn.over)
		n.config.Notify(movedTo(next.Pid(), n.servingAt()))
		superseded()
		if n.snapshots != nil && !within(cedeLimit, n.snapshots.Cede) {
			n.config.Logger.Warn("the snapshot's disk hangs: an older state of this process may yet replace the new one's first")
		}
		next.Leave()
		return nil
	}
}

// replace starts a new process and returns it once it serves: it is to be left to itself.
func (n *Node) replace(ctx context.Context) (*handover.Successor, error) {
	switch {
	case n.config.Program == nil:
		return nil, errors.New("a process cannot be replaced on this system")
	case n.config.Embedded != nil:
		return nil, errors.New("the node's own etcd has its data open: stop the node and start it again, or run etcd by itself and give --etcd")
	case os.Getpid() == 1:
		return nil, errors.New("this is the first process of a container, which ends with it: start another container")
	}
	if h := n.held(n.watcher.Status()); h != nil {
		return nil, fmt.Errorf("this process serves what etcd does not have any more, and a new one would not: put it again, or, if that is meant, roster ack %d, and then upgrade", h.Revision)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.config.UpgradeTimeout, errors.New("the new process was not ready within --upgrade-timeout ("+n.config.UpgradeTimeout.String()+")"))
	defer cancel()
	passage, err := n.config.Sockets.Pass()
	if err != nil {
		return nil, err
	}
	next, err := n.config.Program.Start(passage)
	passage.Close()
	if err != nil {
		return nil, err
	}
	n.config.Logger.Info("upgrading: a new process starts", "pid", next.Pid(), "program", n.config.Program.Path())
	if err = next.Ready(ctx); err == nil {
		err = next.Go(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		next.End()
		return nil, err
	}
	return next, nil
}

// movedTo is what Notify is told when another process serves.
func movedTo(pid int, status string) string { return fmt.Sprintf("MAINPID=%d\nSTATUS=%s", pid, status) }

// turnIsHere gives an heir what two processes cannot share. An upgrade that was asked for
// before was meant for the old one, which has had it.
func (n *Node) turnIsHere() {
	select {
	case <-n.turn.upgrades:
	default:
	}
	n.config.Sockets.Adopt()
	close(n.turn.here)
}

// awaitTurn waits until this process is to serve. It is false if ctx ends before.
func (n *Node) awaitTurn(ctx context.Context) bool {
	log := n.config.Logger
	if old := n.config.Predecessor; old != nil { // which serves meanwhile
		alone, err := old.Await(ctx, n.ready)
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("not needed", "error", err)
			}
			return false
		}
		if !alone {
			return true
		}
		log.Warn("the old process has ended: this one takes its place")
		n.turnIsHere()
	}
	answers := n.config.firstAnswers
	if n.config.Sockets.Lent() {
		answers = max(answers, n.config.ReadyTimeout) // at a restart, when waiting is better than to fail
	}
	select {
	case <-n.read:
		select {
		case <-n.applied: // soon: it is being made
		case <-ctx.Done():
			return false
		}
		select {
		case <-n.ready:
		case <-time.After(answers):
			log.Warn("no answer to some probes yet: their backends count as sick")
		case <-ctx.Done():
			return false
		}
	case <-time.After(firstTable):
		why := cmp.Or(n.watcher.Status().Error, "no answer yet")
		log.Warn("no definitions yet: requests are answered 503", "waiting_for", n.config.Store.Endpoints, "error", why)
	case <-ctx.Done():
		return false
	}
	return true
}
