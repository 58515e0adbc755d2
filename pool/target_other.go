//go:build !linux

package pool

import "errors"

const canConnect = false // so there is no Target

// Connect is for Linux only.
func (t Target) Connect() (fd int, err error) { return -1, errors.ErrUnsupported }

// Finish is for Linux only.
func (t Target) Finish(fd int) error { return errors.ErrUnsupported }
