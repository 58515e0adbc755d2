package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
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
	accepting  atomic.Bool   // clients are served
	upgrades   chan struct{} // holds one that is asked for
}

func newTurn() turn {
	return turn{here: make(chan struct{}), over: make(chan struct{}), upgrades: make(chan struct{}, 1)}
}

func (t *turn) isOver() bool {
	select {
	case <-t.over:
		return true
	default:
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

// upgrade does what Upgrade asks for until ctx ends or a new process serves: then it
// calls superseded.
func (n *Node) upgrade(ctx context.Context, superseded func()) error {
	for {
		select {
		case <-n.turn.upgrades:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		pid, err := n.replace(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			n.config.Logger.Error("no upgrade: this process serves on", "error", err)
			select { // what was asked for meanwhile would fare no better
			case <-n.turn.upgrades:
			default:
			}
			continue
		}
		n.config.Logger.Info("upgraded: the new process serves, this one drains", "pid", pid, "old_pid", os.Getpid(), "took", time.Since(began))
		n.config.Sockets.Release()
		close(n.turn.over)
		n.config.Notify(movedTo(pid, n.servingAt()))
		superseded()
		return nil
	}
}

// replace starts a new process and returns once it serves.
func (n *Node) replace(ctx context.Context) (pid int, err error) {
	switch {
	case n.config.Program == nil:
		return 0, errors.New("a process cannot be replaced on this system")
	case n.config.Embedded != nil:
		return 0, errors.New("the node's own etcd has its data open: stop the node and start it again, or run etcd by itself and give --etcd")
	case os.Getpid() == 1:
		return 0, errors.New("this is the first process of a container, which ends with it: start another container")
	case !n.turn.accepting.Load():
		return 0, errors.New("the node does not serve yet: stop it and start it again")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.config.UpgradeTimeout, errors.New("the new process was not ready within --upgrade-timeout ("+n.config.UpgradeTimeout.String()+")"))
	defer cancel()
	passage, err := n.config.Sockets.Pass()
	if err != nil {
		return 0, err
	}
	next, err := n.config.Program.Start(passage)
	passage.Close()
	if err != nil {
		return 0, err
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
		return 0, err
	}
	pid = next.Pid()
	next.Leave()
	return pid, nil
}

// movedTo is what Notify is told when another process serves.
func movedTo(pid int, status string) string { return fmt.Sprintf("MAINPID=%d\nSTATUS=%s", pid, status) }

// awaitTurn waits until this process is to serve. It is false if ctx ends before.
func (n *Node) awaitTurn(ctx context.Context) bool {
	if old := n.config.Predecessor; old != nil { // which serves meanwhile
		select {
		case <-n.ready:
		case <-ctx.Done():
			return false
		}
		if old.Ready(ctx) != nil {
			return false
		}
		n.config.Sockets.Adopt()
		close(n.turn.here)
		return true
	}
	log, answers := n.config.Logger, n.config.firstAnswers
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
		log.Warn("no definitions yet: requests are answered 503", "waiting_for", n.config.Store.Endpoints)
	case <-ctx.Done():
		return false
	}
	return true
}
