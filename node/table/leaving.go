package table

import (
	"cmp"
	"slices"
	"time"
)

// Left is a removed backend.
type Left struct {
	Name           string
	Active, Queued int       // requests that chose it before
	Since          time.Time // of its removal
}

// Left gives the removed backends that may have a request yet, in the order of their
// names: those with one, and those removed less than grace ago. Any goroutine may ask.
func (a *Applier) Left(grace time.Duration) (all []Left) {
	now := time.Now()
	a.mu.Lock()
	for name, l := range a.leaving {
		left := Left{name, l.Active(), l.Queued(), l.since}
		if left.Active+left.Queued > 0 || now.Sub(l.since) < grace {
			all = append(all, left)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(a, b Left) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
