package harness

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// spawn starts cmd so that the kernel sends it a signal when this process dies, even
// by SIGKILL or a test timeout. The kernel ties that to the thread that forked, so all
// are started from one thread that lives as long as the process.
func spawn(cmd *exec.Cmd, death syscall.Signal) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: death}
	starter.once.Do(func() {
		starter.queue = make(chan job)
		go runStarter(starter.queue)
	})
	s := job{cmd, make(chan error, 1)}
	starter.queue <- s
	return <-s.done
}

type job struct {
	cmd  *exec.Cmd
	done chan error
}

var starter struct {
	once  sync.Once
	queue chan job
}

func runStarter(queue chan job) {
	runtime.LockOSThread()
	for s := range queue {
		s.done <- s.cmd.Start()
	}
}
