//go:build !unix

package backlog

import (
	"errors"
	"os"
)

func duplicate(*os.File) (*owned, error) { return nil, errors.ErrUnsupported }
