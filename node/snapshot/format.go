package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"strings"
	"time"

	"roster/node/guard"
	"roster/store"
	"roster/watcher"
)

// A file is magic, the number of the format and a newline; the prefix, so that nobody
// else's file is written over; the rest of the head, the keys and what is held, see
// encoder; and the SHA-256 of all that.
const (
	magic  = "roster snapshot "
	format = 1
)

var opening = fmt.Sprintf("%s%d\n", magic, format)

// Picture is what a file has.
type Picture struct {
	Prefix  string
	Node    string    // that wrote it
	Written time.Time // by its clock
	watcher.Saved
	Most int          // see guard.Keeping
	Held []guard.Kept // of their items the values count, as of those in Saved
}

// What an item has.
const (
	hasEffect   = 1 << iota // a version in effect
	hasRejected             // a newer value that is not
)

// encode writes a picture whose keys are those of items, count of them.
func encode(w io.Writer, p *Picture, count int, items iter.Seq[watcher.Item]) error {
	sum := sha256.New()
	e := encoder{w: bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)}
	e.w.WriteString(opening)
	e.string(p.Prefix)
	e.string(p.Node)
	e.int(p.Written.UnixNano())
	e.uint(p.Cluster)
	e.int(p.Revision)
	e.int(p.Touched)
	e.int(p.Ack)
	e.uint(uint64(count))
	for item := range items {
		e.item(item)
	}
	e.uint(uint64(p.Most))
	e.uint(uint64(len(p.Held)))
	for _, h := range p.Held {
		e.item(h.Item)
		e.int(h.Revision)
		e.int(h.Since.UnixNano())
	}
	if err := e.w.Flush(); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// encoder writes numbers as varints, and strings with their lengths before them.
type encoder struct{ w *bufio.Writer } // which keeps the first error

func (e *encoder) uint(v uint64) { e.w.Write(binary.AppendUvarint(e.w.AvailableBuffer(), v)) }

func (e *encoder) int(v int64) { e.uint(uint64(v)) }

func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	e.w.WriteString(s)
}

func (e *encoder) item(item watcher.Item) {
	e.string(item.Key.String())
	var has uint64
	if item.ModRevision > 0 {
		has |= hasEffect
	}
	if item.Rejected != nil {
		has |= hasRejected
	}
	e.uint(has)
	if has&hasEffect != 0 {
		e.int(item.CreateRevision)
		e.int(item.ModRevision)
		e.string(item.Value)
	}
	if has&hasRejected != 0 {
		e.int(item.Rejected.CreateRevision)
		e.int(item.Rejected.Revision)
		e.string(item.Rejected.Value)
	}
}

var errNoSnapshot = errors.New("it is no snapshot of roster")

// decode reads what encode wrote, all of it or nothing.
func decode(data []byte) (*Picture, error) {
	head := data[:min(len(data), len(opening))]
	switch {
	case len(data) == 0:
		return nil, errors.New("it is empty")
	case string(head) != opening && bytes.HasPrefix(data, []byte(magic)):
		version, _, _ := strings.Cut(string(data[len(magic):min(len(data), len(magic)+20)]), "\n")
		return nil, fmt.Errorf("it has format %q, and this release reads format %d", version, format)
	case string(head) != opening:
		return nil, errNoSnapshot
	case len(data) < len(opening)+sha256.Size:
		return nil, errors.New("it is cut short")
	}
	end := len(data) - sha256.Size
	if sum := sha256.Sum256(data[:end]); !bytes.Equal(sum[:], data[end:]) {
		return nil, errors.New("its checksum is wrong: it is damaged, or cut short")
	}
	d := decoder{rest: string(data[len(opening):end])}
	p := &Picture{Prefix: d.string(), Node: d.string(), Written: time.Unix(0, d.int())}
	p.Cluster, p.Revision, p.Touched, p.Ack = d.uint(), d.int(), d.int(), d.int()
	if p.Cluster == 0 {
		d.fail("no cluster")
	}
	if p.Revision <= 0 {
		d.fail("revision is %d", p.Revision)
	}
	if p.Touched < 0 || p.Touched > p.Revision {
		d.fail("touched at revision %d, after %d", p.Touched, p.Revision)
	}
	count := d.count()
	seen := make(map[store.Key]bool, min(count, len(d.rest)/6))
	for range count {
		item := d.item()
		mod := item.ModRevision
		if item.Rejected != nil {
			mod = item.Rejected.Revision
		}
		if seen[item.Key] {
			d.fail("%s twice", item.Key)
		}
		if mod > p.Revision {
			d.fail("%s of revision %d, after %d", item.Key, mod, p.Revision)
		}
		if d.err != nil {
			break
		}
		seen[item.Key] = true
		p.Items = append(p.Items, item)
	}
	most := d.uint()
	p.Most = int(most)
	held := d.count()
	if most > math.MaxInt32 || held > p.Most {
		d.fail("%d held of %d", held, most)
	}
	for range held {
		h := guard.Kept{Item: d.item(), Revision: d.int(), Since: time.Unix(0, d.int())}
		if h.Item.Key.Kind != store.Backends || h.Item.ModRevision == 0 || h.Item.Rejected != nil {
			d.fail("%s held", h.Item.Key)
		}
		if d.err != nil {
			break
		}
		p.Held = append(p.Held, h)
	}
	if d.rest != "" {
		d.fail("%d bytes too many", len(d.rest))
	}
	if d.err != nil {
		return nil, fmt.Errorf("it is damaged: %w", d.err)
	}
	return p, nil
}

// decoder takes apart what encoder wrote. After an error it gives zeros.
type decoder struct {
	rest string
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
		d.rest = ""
	}
}

func (d *decoder) uint() uint64 {
	var v uint64
	for n := 0; n < len(d.rest) && n < binary.MaxVarintLen64; n++ {
		b := d.rest[n]
		v |= uint64(b&0x7f) << (7 * n)
		if b < 0x80 {
			d.rest = d.rest[n+1:]
			return v
		}
	}
	d.fail("it ends in a number")
	return 0
}

func (d *decoder) int() int64 { return int64(d.uint()) }

// count is how many of something follow, of which each has at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.rest)) {
		d.fail("%d of something in %d bytes", n, len(d.rest))
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.count()
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) item() (item watcher.Item) {
	name := d.string()
	key, ok := store.ParseKey(name)
	if !ok {
		d.fail("%q is no key", name)
	}
	item.Key = key
	has := d.uint()
	if has == 0 || has > hasEffect|hasRejected {
		d.fail("%s has %d", key, has)
	}
	if has&hasEffect != 0 {
		item.CreateRevision, item.ModRevision, item.Value = d.int(), d.int(), d.string()
		if item.CreateRevision <= 0 || item.CreateRevision > item.ModRevision {
			d.fail("%s of revision %d, created at %d", key, item.ModRevision, item.CreateRevision)
		}
	}
	if has&hasRejected != 0 {
		r := &watcher.Rejection{CreateRevision: d.int(), Revision: d.int(), Value: d.string()}
		if r.CreateRevision <= 0 || r.CreateRevision > r.Revision || item.ModRevision >= r.Revision {
			d.fail("%s rejected at revision %d, created at %d", key, r.Revision, r.CreateRevision)
		}
		item.Rejected = r
	}
	return item
}
