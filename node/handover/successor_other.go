//go:build !unix

package handover

import (
	"context"
	"errors"

	"roster/node/sockets"
)

// Program is what this process was started as.
type Program struct{}

// Self is for Unix systems only.
func Self() (*Program, error) { return nil, errors.ErrUnsupported }

// Path is the file that Start runs.
func (p *Program) Path() string { return "" }

// Successor is the new process.
type Successor struct{}

// Start is for Unix systems only.
func (p *Program) Start(*sockets.Passage) (*Successor, error) { return nil, errors.ErrUnsupported }

// Pid is its process id.
func (s *Successor) Pid() int { return 0 }

// Ready waits until it could serve.
func (s *Successor) Ready(context.Context) error { return errors.ErrUnsupported }

// Go lets it serve.
func (s *Successor) Go(context.Context) error { return errors.ErrUnsupported }

// End ends it.
func (s *Successor) End() {}

// Leave leaves it to itself.
func (s *Successor) Leave() {}

// Predecessor is the old process, in the new one.
type Predecessor struct{}

// Find returns nil: there is none on this system.
func Find() (*Predecessor, error) { return nil, nil }

// Await waits until this process is to serve.
func (p *Predecessor) Await(ctx context.Context, _ <-chan struct{}) (alone bool, err error) {
	return true, ctx.Err()
}

// Serving says that it does.
func (p *Predecessor) Serving(ctx context.Context) error { return ctx.Err() }
