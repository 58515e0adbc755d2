//go:build !linux

package harness

import (
	"os/exec"
	"syscall"
)

func spawn(cmd *exec.Cmd, _ syscall.Signal) error { return cmd.Start() }
