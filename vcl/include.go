package vcl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// FromDisk is an Include that finds files as a Varnish does that has them in one place:
// an absolute name as it is, and others beside the file with the include or else beside
// the first one.
func FromDisk(from []string, pattern string, glob bool) ([]File, error) {
	for _, dir := range directories(from, pattern) {
		names := []string{filepath.Join(dir, pattern)}
		if glob {
			var err error
			if names, err = filepath.Glob(names[0]); err != nil {
				return nil, err
			}
		}
		var files []File
		for _, name := range names {
			text, err := readFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			files = append(files, File{name, text})
		}
		if files != nil {
			return files, nil
		}
	}
	return nil, nil
}

func directories(from []string, pattern string) []string {
	if filepath.IsAbs(pattern) || len(from) == 0 {
		return []string{""}
	}
	return slices.Compact([]string{filepath.Dir(from[len(from)-1]), filepath.Dir(from[0])})
}

func readFile(name string) (string, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", name)
	case info.Size() > maxText:
		return "", fmt.Errorf("%s is larger than %d MiB", name, maxText>>20)
	}
	data, err := os.ReadFile(name)
	return string(data), err
}
