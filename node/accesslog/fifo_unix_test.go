//go:build unix

package accesslog

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

// A FIFO that nobody reads is an error at the start: opening it would wait forever.
func TestAFIFONeedsAReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Format: JSON, File: path}); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("error is %v, want %v", err, syscall.ENXIO)
	}
}
