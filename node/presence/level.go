package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"roster/store"
)

// LevelError says that a definition needs more than the release of a member takes.
type LevelError struct {
	Key  store.Key
	Need store.Need
	// Members are those of too low a level, for people; empty: etcd does not let us see
	// what there are.
	Members []string
}

func (e *LevelError) Error() string { return fmt.Sprintf("%s: %v", e.Key, e.FieldError()) }

// FieldError is the error without the key, as one of the field.
func (e *LevelError) FieldError() *store.FieldError {
	why := "and etcd does not let you see whether all nodes have that"
	if len(e.Members) > 0 {
		why = "more than " + strings.Join(e.Members[:min(len(e.Members), maxNamed)], ", ")
		if more := len(e.Members) - maxNamed; more > 0 {
			why += fmt.Sprintf(" and %d more", more)
		}
		if len(e.Members) == 1 {
			why += " has"
		} else {
			why += " have"
		}
	}
	return &store.FieldError{Path: e.Need.Path, Msg: fmt.Sprintf("is %s of definition level %d, %s", e.Need.What, e.Need.Level, why)}
}

// maxNamed is how many members an error names.
const maxNamed = 3

// CheckLevels returns a *multierror.Error with a *LevelError for all in some definitions
// that a member's release does not take: an unknown member's as well, which may be serving.
// Members are read only if a definition needs more than level 1 at all. Any other error is
// one of reading them. Whoever comes afterwards is not asked: a node of an older release
// keeps what it takes of each key, see store.Warn.
func CheckLevels(ctx context.Context, from Source, values map[store.Key][]byte) error {
	needs := map[store.Key][]store.Need{}
	for key, value := range values {
		if some := store.Needs(key, value); some != nil {
			needs[key] = some
		}
	}
	if len(needs) == 0 {
		return nil
	}
	events, _, err := from.Members(ctx)
	denied := errors.Is(err, store.ErrDenied)
	if err != nil && !denied {
		return err
	}
	var all Members
	all.Take(events)
	var errs *multierror.Error
	for _, key := range slices.SortedFunc(maps.Keys(needs), func(a, b store.Key) int { return cmp.Compare(a.String(), b.String()) }) {
		for _, need := range needs[key] {
			if names := all.below(need.Level); denied || names != nil {
				errs = multierror.Append(errs, &LevelError{key, need, names})
			}
		}
	}
	return errs.ErrorOrNil()
}

// below are the members whose releases have a lower level, for people.
func (all Members) below(level int) (names []string) {
	var instances []store.Instance
	for i := range all {
		instances = append(instances, i)
	}
	named := Names(instances)
	for _, m := range all.Sorted() {
		p, unknown := cmp.Or(m.Presence, m.Static), ""
		if m.Presence == nil {
			unknown = "unknown, "
		}
		if has := max(1, p.Level); has < level { // one that cannot be read counts for the first release
			names = append(names, fmt.Sprintf("%s (%sroster %s, level %d)", named[m.Instance], unknown, cmp.Or(p.Version, "of unknown version"), has))
		}
	}
	return names
}
