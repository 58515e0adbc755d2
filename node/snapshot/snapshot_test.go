package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/node/guard"
	"roster/store"
	"roster/watcher"
)

func backend(name string) store.Key { return store.Key{Kind: store.Backends, Name: name} }

func item(name string, mod int64, value string) watcher.Item {
	return watcher.Item{Key: backend(name), CreateRevision: 2, ModRevision: mod, Value: value}
}

func put(revision int64, items ...watcher.Item) watcher.Change {
	return watcher.Change{Revision: revision, Touched: revision, Cluster: 7, Puts: items}
}

// picture has one of everything.
func picture() *Picture {
	rejected := item("b", 3, "2")
	rejected.Rejected = &watcher.Rejection{CreateRevision: 2, Revision: 8, Value: "{"}
	return &Picture{
		Prefix: "/roster/", Node: "edge-1:8080", Written: time.Unix(1e9, 5),
		Saved: watcher.Saved{Cluster: 1<<63 + 5, Revision: 9, Touched: 8, Ack: 4, Items: []watcher.Item{
			item("a", 2, "1"), rejected,
			{Key: backend("c"), Rejected: &watcher.Rejection{CreateRevision: 7, Revision: 7, Value: "\x00\xff"}},
			{Key: store.SecretKey, CreateRevision: 2, ModRevision: 2, Value: strings.Repeat("s", 32)},
		}},
		Most: 3,
		Held: []guard.Kept{{Item: item("gone", 5, "3"), Revision: 6, Since: time.Unix(1e9, 0)}},
	}
}

func encoded(t interface{ Fatal(...any) }, p *Picture) []byte {
	var b bytes.Buffer
	if err := encode(&b, p, len(p.Items), slices.Values(p.Items)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	want := picture()
	got, err := decode(encoded(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func TestWhatIsNotWholeIsNotRead(t *testing.T) {
	t.Parallel()
	whole := encoded(t, picture())
	for n := range whole {
		if _, err := decode(whole[:n]); err == nil {
			t.Errorf("the first %d bytes of %d are read", n, len(whole))
		}
		damaged := slices.Clone(whole)
		damaged[n] ^= 1
		if _, err := decode(damaged); err == nil {
			t.Errorf("with byte %d changed it is read", n)
		}
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"empty":         {nil, "it is empty"},
		"cut short":     {whole[:100], "cut short"},
		"too long":      {append(slices.Clone(whole), 0), "checksum"},
		"newer format":  {append([]byte("roster snapshot 2\n"), whole...), `it has format "2", and this release reads format 1`},
		"another thing": {[]byte("root:x:0:0:root:/root:/bin/sh\n"), "it is no snapshot of roster"},
		"less":          {sealed([]byte("\x08/roster/")), "it is damaged: it ends in a number"},
		"no cluster":    {sealed([]byte("\x00\x00\x00\x00\x01\x01\x00\x00\x00")), "it is damaged: no cluster"},
		"held of none":  {sealed([]byte("\x00\x00\x00\x01\x01\x01\x00\x00\x00\x01----")), "it is damaged: 1 held of 0"},
		"too many":      {sealed([]byte("\x00\x00\x00\x01\x01\x01\x00\xff\xff\xff\xff\x7f")), "of something in 0 bytes"},
	} {
		if _, err := decode(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// sealed is what a file is with a body.
func sealed(body []byte) []byte {
	data := append([]byte(opening), body...)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func FuzzDecode(f *testing.F) {
	whole := encoded(f, picture())
	f.Add(whole[len(opening) : len(whole)-sha256.Size])
	f.Add([]byte("\x00\x00\x00\x01\x01\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x01\x01\x01\x00\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		decode(body) // with a checksum that is wrong, and perhaps a head
		p, err := decode(sealed(body))
		if err != nil {
			return
		}
		again, err := decode(encoded(t, p))
		if err != nil {
			t.Fatalf("what was read, and written again, is not: %v", err)
		}
		if diff := cmp.Diff(p, again); diff != "" {
			t.Fatalf("what was read, and written again, is another (-read +again):\n%s", diff)
		}
	})
}

func TestReadSaysWhyNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := encoded(t, picture())
	if _, _, err := Read(filepath.Join(dir, "none"), "/roster/"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v, want ErrNotExist", err)
	}
	if p, open, err := Read(file("good", 0o600, whole), "/roster/"); err != nil || open || len(p.Items) != 4 {
		t.Errorf("good: %v, open %t", err, open)
	}
	if _, open, err := Read(file("open", 0o640, whole), "/roster/"); err != nil || !open {
		t.Errorf("one that others may read: %v, open %t, want that said", err, open)
	}
	for name, tt := range map[string]struct {
		path, prefix, want string
	}{
		"writable":       {file("writable", 0o620, whole), "/roster/", "others than its owner may write it (mode 0620, want 0600)"},
		"another prefix": {file("prefix", 0o600, whole), "/other/", "it is of the prefix /roster/, not /other/"},
		"a folder":       {dir, "/roster/", "it is no file"},
		"damaged":        {file("damaged", 0o600, whole[:60]), "/roster/", "checksum"},
	} {
		if p, _, err := Read(tt.path, tt.prefix); err == nil || p != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestAFileThatIsNotItsOwnIsLeft(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	for name, tt := range map[string]struct {
		data []byte
		want string // "": it may be written over
	}{
		"empty":           {nil, ""},
		"its own":         {encoded(t, picture()), ""},
		"damaged":         {encoded(t, picture())[:40], ""},
		"hardly begun":    {[]byte(opening), ""},
		"other format":    {[]byte("roster snapshot 99\nwhatever"), ""},
		"something else":  {[]byte("root:x:0:0:root:/root:/bin/sh\n"), "it is no snapshot of roster, and is left as it is"},
		"something short": {[]byte("x"), "it is no snapshot"},
		"another prefix":  {encoded(t, &Picture{Prefix: "/other/"}), "it is a snapshot of the prefix /other/, not /roster/"},
	} {
		if err := os.WriteFile(path, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := ours(path, "/roster/"); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// rig is a writer that runs in a bubble, and what it logs.
type rig struct {
	*Writer
	t       *testing.T
	file    string
	current atomic.Bool
	stop    func()

	mu  sync.Mutex
	log strings.Builder
}

func (r *rig) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

func inBubble(t *testing.T, f func(r *rig)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, file: filepath.Join(dir, "snapshot")}
		r.run()
		defer func() { r.stop() }()
		f(r)
		r.stop()
		r.whole()
	})
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.Writer = New(Config{File: r.file, Prefix: "/roster/", Node: "n", Current: r.current.Load, Logger: slog.New(slog.NewTextHandler(r, nil))})
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	r.stop = func() { cancel(); wg.Wait() }
}

// whole says that nothing is left beside the file.
func (r *rig) whole() {
	r.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(r.file))
	if err != nil || len(entries) != 1 {
		r.t.Errorf("%v, %v, want the file alone", entries, err)
	}
}

func (r *rig) read() *Picture {
	r.t.Helper()
	p, open, err := Read(r.file, "/roster/")
	if err != nil || open {
		r.t.Fatalf("%v, open %t\n%s", err, open, r.log.String())
	}
	return p
}

func (r *rig) writes(want uint64) {
	r.t.Helper()
	synctest.Wait()
	if st := r.Status(); st.Writes != want || st.Error != "" {
		r.t.Fatalf("%d writes, error %q, want %d", st.Writes, st.Error, want)
	}
}

func TestWritesAreCoalesced(t *testing.T) {
	inBubble(t, func(r *rig) {
		for i := range int64(101) { // at 0s, 90ms, ... 9s
			r.Applied(put(10+i, item("a", 10+i, fmt.Sprint(i))))
			synctest.Wait()
			if i < 100 {
				time.Sleep(90 * time.Millisecond)
			}
		}
		r.writes(2) // at 0s and 5s
		if p := r.read(); p.Revision != 65 || p.Cluster != 7 {
			t.Errorf("file of revision %d, want 65, that of 4.95s", p.Revision)
		}
		time.Sleep(Least)
		r.writes(3)
		if p := r.read(); p.Revision != 110 || len(p.Items) != 1 || p.Items[0].Value != "100" {
			t.Errorf("file = %+v, want the last", p)
		}
		time.Sleep(Refresh / 2)
		r.writes(3) // nothing to write
	})
}

func TestTheEndWritesWhatWasApplied(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Applied(put(2, item("a", 2, "1")))
		r.writes(1)
		c := put(3, item("b", 3, "2"))
		c.Deletes = []store.Key{backend("a")}
		r.Applied(c)
		r.stop()
		r.writes(2)
		if p := r.read(); p.Revision != 3 || len(p.Items) != 1 || p.Items[0].Key.Name != "b" {
			t.Errorf("file = %+v, want the last", p)
		}
	})
}

// TestAFileIsCededForGood: neither what is written just then, nor what there is to write at
// the end, comes over what the next process writes.
func TestAFileIsCededForGood(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.current.Store(true)
		r.Applied(put(2, item("a", 2, "1")))
		r.writes(1)
		r.Applied(put(3, item("b", 3, "2")))
		old := r.Writer
		old.Cede()
		r.stop()
		r.writes(1)
		r.run()
		r.Applied(put(9, item("c", 9, "3")))
		r.writes(1)
		old.take()
		old.write(guard.Keeping{}) // as if it had begun before
		if st := old.Status(); st.Writes != 1 || st.Failures > 0 || st.Error != "" {
			t.Errorf("status of the first = %+v", st)
		}
		if p := r.read(); p.Revision != 9 || len(p.Items) != 1 || p.Items[0].Key.Name != "c" {
			t.Errorf("file = %+v, want the second process's", p)
		}
		r.whole()
	})
}

// TestAFileIsCededWhileItIsWritten, at any moment of that.
func TestAFileIsCededWhileItIsWritten(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		dir := t.TempDir()
		of := func(revision int64) *Writer {
			w := New(Config{File: filepath.Join(dir, "snapshot"), Prefix: "/roster/", Logger: slog.New(slog.DiscardHandler)})
			w.Applied(put(revision, item("a", revision, "1")))
			w.take()
			return w
		}
		first, second := of(2), of(3)
		var wg sync.WaitGroup
		wg.Go(func() {
			for writes := uint64(0); first.Status().Writes == writes; writes++ { // until it is refused
				first.write(guard.Keeping{})
			}
		})
		for range round * 100 {
			runtime.Gosched()
		}
		first.Cede()
		second.write(guard.Keeping{})
		wg.Wait()
		if p, _, err := Read(first.cfg.File, "/roster/"); err != nil || p.Revision != 3 {
			t.Fatalf("round %d: %+v, %v, want the second process's", round, p, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%v, %v, want the file alone", entries, err)
		}
	}
}

func TestAFileOf20MBIsWrittenEvery20Seconds(t *testing.T) {
	inBubble(t, func(r *rig) {
		value := strings.Repeat("v", 20*PerSecond/100)
		var items []watcher.Item
		for i := range 100 {
			items = append(items, item(fmt.Sprintf("w%d", i), 2, value))
		}
		r.Applied(put(2, items...))
		r.writes(1)
		for i := range int64(55) {
			r.Applied(put(3+i, item("w0", 3+i, "1")))
			time.Sleep(time.Second)
		}
		r.writes(3)
	})
}

// TestApplyingIsNotHeldUp: it is done with before the write is, which here never comes to
// an end.
func TestApplyingIsNotHeldUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	busy := make(chan struct{})
	w := New(Config{File: filepath.Join(t.TempDir(), "f"), Prefix: "/roster/", Logger: slog.New(slog.DiscardHandler),
		Current: func() bool { close(busy); <-release; return false }})
	w.last.Revision = 1
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it asks whether what it has is current, and hangs there
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	<-busy
	for i := range int64(1000) {
		w.Applied(put(2+i, item("a", 2+i, "1")))
	}
	close(release)
	<-done
}

func TestWhatWasReadIsNotWrittenAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		c := put(2, item("a", 2, "1"))
		c.Listed, c.Resumed = true, true
		r.Applied(c)
		time.Sleep(2 * Refresh)
		r.writes(0)
		r.current.Store(true) // etcd has nothing newer
		time.Sleep(Refresh)
		r.writes(1)
		was := r.read().Written
		time.Sleep(Refresh)
		r.writes(2)
		if now := r.read().Written; now.Sub(was) != Refresh {
			t.Errorf("made younger by %v, want %v", now.Sub(was), Refresh)
		}
	})
}

func TestAnAcknowledgementIsKept(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.Applied(put(2, item("a", 2, "1")))
		r.writes(1)
		r.Applied(watcher.Change{Revision: 5, Touched: 5, Cluster: 7, Ack: 4})
		time.Sleep(Least)
		r.writes(2)
		if p := r.read(); p.Ack != 4 || p.Revision != 5 || p.Touched != 2 {
			t.Errorf("ack %d, revision %d, touched %d, want 4, 5 and 2", p.Ack, p.Revision, p.Touched)
		}
	})
}

func TestAFileThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		dir := filepath.Dir(r.file)
		if err := os.Rename(dir, dir+"-away"); err != nil {
			t.Fatal(err)
		}
		r.Applied(put(2, item("a", 2, "1")))
		for range 4 {
			time.Sleep(Least)
		}
		synctest.Wait()
		if st := r.Status(); st.Writes != 0 || st.Failures < 3 || !strings.Contains(st.Error, "no such file") {
			t.Errorf("status = %+v, want failures", st)
		}
		r.mu.Lock()
		lines := strings.Count(r.log.String(), "the snapshot is not written")
		r.mu.Unlock()
		if lines != 1 {
			t.Errorf("%d lines, want 1:\n%s", lines, r.log.String())
		}
		if err := os.Rename(dir+"-away", dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Least)
		r.writes(1)
		r.read()
	})
}

func TestAForeignFileIsSaidAndLeft(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.stop()
		if err := os.WriteFile(r.file, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.run()
		synctest.Wait()
		if st := r.Status(); !strings.Contains(st.Error, "no snapshot of roster") {
			t.Errorf("status = %+v, want it said before the first change", st)
		}
		r.Applied(put(2, item("a", 2, "1")))
		time.Sleep(Least)
		synctest.Wait()
		if data, _ := os.ReadFile(r.file); string(data) != "mine" {
			t.Errorf("file = %q, want it left", data)
		}
	})
}

func TestTheFileIsItsOwnersAlone(t *testing.T) {
	inBubble(t, func(r *rig) {
		if err := os.WriteFile(r.file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		r.Applied(put(2, item("a", 2, "1")))
		r.writes(1)
		if info, err := os.Stat(r.file); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
		}
	})
}

// TestAWriteThatEndsHalfWayLeavesTheOlderFile, wherever that is.
func TestAWriteThatEndsHalfWayLeavesTheOlderFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "snapshot")
	older := encoded(t, picture())
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no space left on device")
	if _, err := replace(file, func(w io.Writer) error { w.Write(older[:50]); return broken }, os.Rename); err != broken {
		t.Errorf("error = %v, want %v", err, broken)
	}
	if data, err := os.ReadFile(file); err != nil || !bytes.Equal(data, older) {
		t.Errorf("the file is another: %v", err)
	}
	entries, _ := os.ReadDir(filepath.Dir(file))
	if len(entries) != 1 {
		t.Errorf("%d files, want one", len(entries))
	}
}

func TestWhatAProcessLeftThatWasKilledIsSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "snapshot")
	old, fresh, others := path+between+"1", path+between+"2", filepath.Join(dir, "mine"+between+"1")
	for _, name := range []string{old, fresh, others} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * abandoned)
	for _, name := range []string{old, others} {
		if err := os.Chtimes(name, past, past); err != nil {
			t.Fatal(err)
		}
	}
	sweep(path)
	for name, want := range map[string]bool{old: false, fresh: true, others: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", name, err == nil, want)
		}
	}
}

// TestAnyChangesAreWhatIsWritten: whatever was put, deleted and rejected.
func TestAnyChangesAreWhatIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		w := New(Config{File: filepath.Join(dir, "snapshot"), Prefix: "/roster/", Logger: slog.New(slog.DiscardHandler), Current: func() bool { return false }})
		want := map[store.Key]watcher.Item{}
		revision := int64(1)
		for range rapid.IntRange(1, 20).Draw(rt, "changes") {
			revision++
			c := put(revision)
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3, rapid.ID).Draw(rt, "names") {
				it := item(name, revision, rapid.String().Draw(rt, "value"))
				switch rapid.IntRange(0, 3).Draw(rt, "what") {
				case 0:
					c.Deletes = append(c.Deletes, it.Key)
					delete(want, it.Key)
					continue
				case 1:
					it.Rejected = &watcher.Rejection{CreateRevision: 2, Revision: revision, Value: "{"}
					it.CreateRevision, it.ModRevision, it.Value = 0, 0, ""
				}
				c.Puts = append(c.Puts, it)
				want[it.Key] = it
			}
			w.Applied(c)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		w.Run(ctx)
		p, _, err := Read(w.cfg.File, "/roster/")
		if err != nil {
			rt.Fatal(err)
		}
		got := map[store.Key]watcher.Item{}
		for _, it := range p.Items {
			got[it.Key] = it
		}
		if diff := cmp.Diff(want, got); diff != "" || p.Revision != revision {
			rt.Fatalf("revision %d, want %d (-want +read):\n%s", p.Revision, revision, diff)
		}
	})
}

// TestWhatIsHeldIsAsOfTheSameRevision: a guard takes a change in before it is applied, and
// what it holds then is not what it held when the change before was.
func TestWhatIsHeldIsAsOfTheSameRevision(t *testing.T) {
	t.Parallel()
	g := guard.New(50)
	file := filepath.Join(t.TempDir(), "snapshot")
	w := New(Config{File: file, Prefix: "/roster/", Guard: g, Logger: slog.New(slog.DiscardHandler), Current: func() bool { return false }})
	names := func() (all []string) {
		p, _, err := Read(file, "/roster/")
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Items {
			all = append(all, i.Key.Name)
		}
		for _, h := range p.Held {
			all = append(all, h.Item.Key.Name)
		}
		slices.Sort(all)
		return all
	}
	guarded := func(c watcher.Change) watcher.Change {
		for i := range c.Puts {
			c.Puts[i].Definition = &store.Backend{}
		}
		g.Apply(c, time.Unix(c.Revision, 0))
		return c
	}
	var want []string
	list, gone := put(2), put(3)
	list.Listed = true
	for i := range 10 {
		want = append(want, fmt.Sprintf("w%d", i))
		list.Puts = append(list.Puts, item(want[i], 2, "1"))
		if i < 9 {
			gone.Deletes = append(gone.Deletes, backend(want[i]))
		}
	}
	w.Applied(guarded(list))
	w.Applied(guarded(gone))

	// One of the nine comes back, and that is not applied yet.
	again := guarded(put(4, item("w0", 4, "2")))
	w.take()
	if _, ok := w.holding(); ok {
		t.Fatal("what is held is taken for that of the change before")
	}
	// Another is being applied already when the writer is told of this one: what is held
	// comes with it.
	w.Applied(again)
	after := put(5, item("w1", 5, "2"))
	w.take()
	guarded(after)
	holding, ok := w.holding()
	if !ok {
		t.Fatal("what is held is not known")
	}
	w.write(holding)
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("in the file: %v, want %v", got, want)
	}
	w.Applied(after)
	w.take()
	if holding, ok = w.holding(); !ok || len(holding.Held) != 7 {
		t.Errorf("%d held, known %t, want 7", len(holding.Held), ok)
	}
}
