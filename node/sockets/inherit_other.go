//go:build !unix

package sockets

import (
	"errors"
	"os"
)

// Inherit returns an empty Set: nothing is inherited on this system.
func Inherit(bool) (*Set, error) { return &Set{}, nil }

// Passage is a copy of a Set's sockets for another process.
type Passage struct {
	Files []*os.File
	Env   []string
}

// Close closes the copies.
func (p *Passage) Close() {}

// Pass is for Unix systems only.
func (s *Set) Pass() (*Passage, error) { return nil, errors.ErrUnsupported }
