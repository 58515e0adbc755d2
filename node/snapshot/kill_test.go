//go:build unix

package snapshot

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"roster/watcher"

	"roster/node/guard"
)

// TestAProcessKilledWhileItWritesLeavesAWholeFile kills one that does nothing else, at
// many moments: the file is always one of those that it wrote, and never goes back.
func TestAProcessKilledWhileItWritesLeavesAWholeFile(t *testing.T) {
	const variable = "ROSTER_SNAPSHOT_TO_WRITE"
	if file := os.Getenv(variable); file != "" {
		writeForever(file)
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	last, left := int64(0), 0
	for round := range 5 {
		cmd := exec.Command(self, "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), variable+"="+file, fmt.Sprintf("FROM=%d", last))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Once a file is written, and the next one is on its way.
		if lines := bufio.NewScanner(out); !lines.Scan() {
			t.Fatalf("round %d: it ended", round)
		}
		for {
			if entries, _ := filepath.Glob(file + between + "*"); len(entries) > left {
				break
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		p, _, err := Read(file, "/roster/")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if p.Revision < last || len(p.Items) != keys {
			t.Fatalf("round %d: revision %d with %d keys, after %d", round, p.Revision, len(p.Items), last)
		}
		last = p.Revision
		entries, _ := filepath.Glob(file + between + "*")
		left = len(entries)
	}
	if left == 0 {
		t.Error("no process was killed while it wrote")
	}
}

// keys make several times what is buffered of a file.
const keys = 5000

// writeForever writes files of higher and higher revisions.
func writeForever(file string) {
	var first int64
	fmt.Sscan(os.Getenv("FROM"), &first)
	w := New(Config{File: file, Prefix: "/roster/", Logger: slog.New(slog.DiscardHandler)})
	first = max(first, 2)
	for revision := first; ; revision++ {
		var items []watcher.Item
		for i := range keys {
			items = append(items, item(fmt.Sprintf("w%d", i), revision, "some value that takes some bytes, as those of backends do; and a bit more of that"))
		}
		w.Applied(put(revision, items...))
		w.take()
		w.write(guard.Keeping{})
		if revision == first+1 {
			fmt.Println("written")
		}
	}
}
