//go:build !unix

package accesslog

import "os"

func stdout() (*os.File, error) { return os.Stdout, nil }
