package snapshot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Read reads a file. An error is fs.ErrNotExist, or says why it cannot be used: it is
// damaged, of another format or prefix, or others than its owner may write it. open says
// that others may read it, who should not.
func Read(file, prefix string) (p *Picture, open bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, errors.New("it is no file")
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, false, fmt.Errorf("others than its owner may write it (mode %#o, want 0600)", mode)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, false, err
	}
	if p, err = decode(data); err != nil {
		return nil, false, err
	}
	if p.Prefix != prefix {
		return nil, false, fmt.Errorf("it is of the prefix %s, not %s", p.Prefix, prefix)
	}
	return p, info.Mode().Perm()&0o044 != 0, nil
}

// ours says whether a file may be written over: there is none, or it is empty, or it
// begins as a snapshot of the prefix does, or as one of another format.
func ours(file, prefix string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	head := make([]byte, len(opening))
	switch n, err := io.ReadFull(r, head); {
	case err == io.EOF:
		return nil
	case n < len(magic) || string(head[:len(magic)]) != magic:
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		return fmt.Errorf("%w, and is left as it is: remove it, or name another file", errNoSnapshot)
	case string(head) != opening:
		return nil
	}
	n, err := binary.ReadUvarint(r)
	if err != nil || n > 1<<10 {
		return nil // damaged
	}
	was := make([]byte, n)
	if _, err := io.ReadFull(r, was); err == nil && string(was) != prefix {
		return fmt.Errorf("it is a snapshot of the prefix %s, not %s, and is left as it is: remove it, or name another file", was, prefix)
	}
	return nil
}

// between is in the name of a file that is being written; what follows is random.
const between = ".tmp-"

// replace writes a file whole, or leaves it as it was, and says how many bytes it has now.
// rename has the last word.
func replace(file string, write func(io.Writer) error, rename func(from, to string) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+between+"*") // of mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return 0, err
	}
	if err = f.Sync(); err != nil {
		return 0, err
	}
	if err = f.Close(); err != nil {
		return 0, err
	}
	if err = rename(f.Name(), file); err != nil {
		return 0, err
	}
	return size, syncFolder(filepath.Dir(file))
}

// syncFolder makes a renaming last. Where folders cannot be synced, nothing can be done.
func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// abandoned is the age from which on a file being written is that of a process that was
// killed: it takes seconds, and another process with the same file may be at it.
const abandoned = time.Minute

// sweep removes what processes that were killed have left.
func sweep(file string) {
	entries, _ := os.ReadDir(filepath.Dir(file))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(file)+between) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			os.Remove(filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
}
