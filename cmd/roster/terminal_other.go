//go:build !unix

package main

import (
	"context"
	"io"
)

// width knows no terminal here.
func width(io.Writer) (columns int, terminal bool) { return 0, false }

// whileRead does not know here whether anybody reads: the next write does.
func whileRead(ctx context.Context, _ io.Writer) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}
