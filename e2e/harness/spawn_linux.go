package harness

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// spawn starts cmd so that the kernel ends it when this process dies, even by
// SIGKILL or a test timeout. The kernel ties that to the thread that forked, so all
// are started from one thread that lives as long as the process.
func spawn(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	starter.once.Do(func() {
		starter.queue = make(chan start)
		go runStarter(starter.queue)
	})
	s := start{cmd, make(chan error, 1)}
	starter.queue <- s
	return <-s.done
}

type start struct {
	cmd  *exec.Cmd
	done chan error
}

var starter struct {
	once  sync.Once
	queue chan start
}

func runStarter(queue chan start) {
	runtime.LockOSThread()
	for s := range queue {
		s.done <- s.cmd.Start()
	}
}
