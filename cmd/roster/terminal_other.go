//go:build !unix

package main

import "io"

// width knows no terminal here.
func width(io.Writer) (columns int, terminal bool) { return 0, false }
