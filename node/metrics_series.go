package node

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"strings"

	"roster/node/table"
)

// Series says which backends have series of their own in the metrics. The sums over
// all backends are there in any case.
type Series string

const (
	// TopSeries are for the labelled backends, then for those given most requests, up
	// to the limit: all of them, in a fleet that is not above it. It is what the zero
	// value stands for.
	TopSeries Series = "top"
	// LabelledSeries are for the backends with the label [SeriesLabel] alone, up to
	// the limit.
	LabelledSeries Series = "labelled"
	// AllSeries are for every backend, whatever their number.
	AllSeries Series = "all"
	// NoSeries are for none.
	NoSeries Series = "none"
)

// SeriesLabel is the label of a backend that asks for series of its own, by the
// value "on".
const SeriesLabel = "roster.metrics"

// defaultSeriesLimit keeps a scrape below half a megabyte. With series for each of
// 100,000 backends it is 40, and more than a second's work (docs/PERFORMANCE.md).
const defaultSeriesLimit = 1000

// MetricsConfig bounds what a scrape of the metrics has.
type MetricsConfig struct {
	// Backends says which backends have series of their own. Empty: TopSeries.
	Backends Series
	// Limit is for how many of them at most; AllSeries knows none. Zero: 1000.
	Limit int
}

// Validate reports all values that cannot be meant.
func (c MetricsConfig) Validate() error {
	switch c.Backends {
	case "", TopSeries, LabelledSeries, AllSeries, NoSeries:
	default:
		return fmt.Errorf("metrics-backends is %q, want top, labelled, all or none", c.Backends)
	}
	if c.Limit < 0 {
		return fmt.Errorf("metrics-backends-limit is %d, want 1 or more", c.Limit)
	}
	return nil
}

func (c MetricsConfig) withDefaults() MetricsConfig {
	if c.Backends == "" {
		c.Backends = TopSeries
	}
	if c.Limit == 0 {
		c.Limit = defaultSeriesLimit
	}
	return c
}

// A choice collects the slots that get series of their own. Of more than the limit it
// keeps the first in the order of less, in a heap whose root is the last of those kept:
// 100,000 backends take one look each, and no memory.
type choice struct {
	MetricsConfig
	kept []candidate
}

type candidate struct {
	slot     *table.Slot
	labelled bool
	requests uint64
}

// offer has a backend's slot kept, if it is to have series.
func (c *choice) offer(s *table.Slot) {
	if c.Backends == NoSeries {
		return
	}
	value, _ := s.Backend.Def.Labels.Get(SeriesLabel)
	next := candidate{slot: s, labelled: value == "on", requests: s.Backend.Runtime.Requests.Load()}
	switch {
	case c.Backends == LabelledSeries && !next.labelled:
	case c.Backends == AllSeries || len(c.kept) < c.Limit:
		c.kept = append(c.kept, next)
		if c.Backends != AllSeries && len(c.kept) == c.Limit {
			heap.Init(c)
		}
	case next.compare(c.kept[0]) < 0:
		c.kept[0] = next
		heap.Fix(c, 0)
	}
}

// compare orders candidates: those who asked first, then by requests; by name at last, so
// that one scrape has the same as the next.
func (a candidate) compare(b candidate) int {
	switch {
	case a.labelled != b.labelled && a.labelled:
		return -1
	case a.labelled != b.labelled:
		return 1
	case a.requests != b.requests:
		return cmp.Compare(b.requests, a.requests)
	}
	return strings.Compare(a.slot.Name, b.slot.Name)
}

// slots are those kept.
func (c *choice) slots() []candidate {
	slices.SortFunc(c.kept, func(a, b candidate) int { return strings.Compare(a.slot.Name, b.slot.Name) })
	return c.kept
}

// These make it a [heap.Interface]; it never grows or shrinks as one.
func (c *choice) Len() int           { return len(c.kept) }
func (c *choice) Less(i, j int) bool { return c.kept[i].compare(c.kept[j]) > 0 }
func (c *choice) Swap(i, j int)      { c.kept[i], c.kept[j] = c.kept[j], c.kept[i] }
func (c *choice) Push(any)           { panic("node: a choice does not grow as a heap") }
func (c *choice) Pop() any           { panic("node: a choice does not shrink as a heap") }
