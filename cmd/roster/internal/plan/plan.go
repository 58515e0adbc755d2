// Package plan works out what writing a set of definitions changes in etcd.
package plan

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-multierror"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

// Action is what becomes of one definition.
type Action string

// The actions.
const (
	Create Action = "create"
	Change Action = "change"
	Keep   Action = "keep"   // etcd has just this definition, perhaps spelt in another way
	Delete Action = "delete" // the set's owner has it yet, and the set no more
)

// Step is one definition and what becomes of it.
type Step struct {
	Action Action
	Entry  manifest.Entry // of a deletion, the key alone
	Before store.Entry    // what etcd has; the zero Entry without that
}

// Plan is what a set changes, in the order of the set.
type Plan struct {
	Steps    []Step
	Revision int64 // of etcd, compared with

	owners []store.Op // what notes whose the definitions are, see Claim
}

// Reader is what Make needs of a store.
type Reader interface {
	Get(ctx context.Context, key store.Key, revision int64) (store.Entry, int64, error)
	List(ctx context.Context, kind store.Kind, under string, revision int64) ([]store.Entry, int64, error)
}

// singly is up to how many definitions each is read by itself. Above, whole kinds are
// listed, where etcd allows that: it costs less than as many round trips.
const singly = 32

// Make compares a set with etcd as it is at one revision. A backend whose name a
// director in etcd has, or the other way round, is an error that wraps
// store.ErrConflict: nodes would reject the newer of them. It is not found out where
// etcd does not let the user read the other key.
func Make(ctx context.Context, r Reader, entries []manifest.Entry) (Plan, error) {
	if len(entries) == 0 {
		return Plan{}, nil
	}
	now, revision, err := read(ctx, r, entries)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Revision: revision}
	var errs *multierror.Error
	for _, e := range entries {
		before, there := now[e.Key]
		if other, ok := manifest.SharesName(e.Key); ok && !there {
			if _, taken := now[other]; taken {
				errs = multierror.Append(errs, fmt.Errorf(
					"%s: %s has that name, and backends and directors share one namespace: choose another name, or delete %s first: %w",
					e.Key, other, other, store.ErrConflict))
				continue
			}
		}
		p.Steps = append(p.Steps, Step{action(before, there, e), e, before})
	}
	if errs != nil {
		return Plan{}, errs
	}
	return p, nil
}

func action(before store.Entry, there bool, e manifest.Entry) Action {
	if !there {
		return Create
	}
	def, _, err := store.Decode(e.Key, before.Value, store.Reject)
	if err == nil && bytes.Equal(store.Encode(def), store.Encode(e.Definition)) {
		return Keep
	}
	return Change
}

// read gets what etcd has of the keys of a set, and of those that share their names,
// all at one revision.
//
// Who has a role for some names only may not list a kind, so its keys are read one by
// one. Who has one for backends and not for directors may write a backend all the same:
// whether a director has its name is then not known, and nodes reject the newer anyway.
func read(ctx context.Context, r Reader, entries []manifest.Entry) (map[store.Key]store.Entry, int64, error) {
	now := map[store.Key]store.Entry{}
	var revision int64 // 0 means the newest, so the first read fixes it
	var keys []store.Key
	own := make(map[store.Key]bool, len(entries))
	kinds, listed := map[store.Kind]bool{}, map[store.Kind]bool{}
	for _, e := range entries {
		keys = append(keys, e.Key)
		own[e.Key] = true
		kinds[e.Key.Kind] = true
		if other, ok := manifest.SharesName(e.Key); ok {
			keys = append(keys, other)
			kinds[other.Kind] = true
		}
	}
	for _, kind := range store.Kinds() {
		if !kinds[kind] || len(entries) <= singly {
			continue
		}
		list, rev, err := r.List(ctx, kind, "", revision)
		if errors.Is(err, store.ErrDenied) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		listed[kind] = true
		revision = rev
		for _, e := range list {
			now[e.Key] = e
		}
	}
	for _, k := range keys {
		if listed[k.Kind] {
			continue
		}
		e, rev, err := r.Get(ctx, k, revision)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case errors.Is(err, store.ErrDenied) && !own[k]:
		case err != nil:
			return nil, 0, err
		default:
			now[k] = e
		}
		if revision == 0 {
			revision = rev
		}
	}
	return now, revision, nil
}

// Count is how many steps have an action.
func (p Plan) Count(a Action) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// Written is the newest revision that wrote one of the set's values, of those that etcd
// has.
func (p Plan) Written() (revision int64) {
	for _, s := range p.Steps {
		revision = max(revision, s.Before.ModRevision)
	}
	return revision
}

// Ops are the writes of the plan, for one transaction: what is kept is not written. What
// is deleted must be what it was.
func (p Plan) Ops() []store.Op {
	return append(p.writes(), p.owners...)
}

func (p Plan) writes() []store.Op {
	var ops []store.Op
	for _, s := range p.Steps {
		switch s.Action {
		case Keep:
		case Delete:
			ops = append(ops, store.Op{Key: s.Entry.Key, IfRevision: s.Before.ModRevision})
		default:
			ops = append(ops, store.Op{Key: s.Entry.Key, Value: s.Entry.Value, IfRevision: store.AnyRevision})
		}
	}
	return ops
}
