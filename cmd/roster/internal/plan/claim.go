package plan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-multierror"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

// Owners is what Claim needs of a store.
type Owners interface {
	Reader
	GetOwner(ctx context.Context, name string) (store.Owner, error)
	Owners(ctx context.Context) ([]store.Owner, error)
}

// Claim notes that the plan's definitions are an owner's, in the transaction that writes
// them. With prune, the plan also deletes what the owner has and the plan has not; what
// somebody else has made anew since, or registered, is left, and the notes say so.
//
// A definition that another owner has is an error that wraps store.ErrConflict, unless it
// is forced: then it is taken over.
func (p *Plan) Claim(ctx context.Context, s Owners, name string, prune, force bool) (notes []string, err error) {
	own, err := s.GetOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := p.takeOver(ctx, s, name, force); err != nil {
		return nil, err
	}
	claimed := store.Owner{Name: name, Keys: map[store.Key]int64{}, Revision: own.Revision}
	for _, step := range p.Steps {
		claimed.Keys[step.Entry.Key] = step.Before.CreateRevision
	}
	var left []manifest.Entry // of the owner's, what the set has not
	for _, key := range slices.SortedFunc(maps.Keys(own.Keys), byKey) {
		if _, ours := claimed.Keys[key]; !ours {
			left = append(left, manifest.Entry{Key: key})
		}
	}
	now, revision, err := read(ctx, s, left)
	if err != nil {
		return nil, err
	}
	p.Revision = max(p.Revision, revision)
	for _, l := range left {
		e, there := now[l.Key]
		switch {
		case !there:
		case !own.Owns(e):
			notes = append(notes, fmt.Sprintf("%s is not %s's any more: somebody has made it anew", l.Key, name))
		case !prune:
			claimed.Keys[l.Key] = e.CreateRevision
		case e.Lease != 0:
			notes = append(notes, fmt.Sprintf("%s is not deleted: it is under a lease, and ends with that", l.Key))
		default:
			p.Steps = append(p.Steps, Step{Action: Delete, Entry: l, Before: e})
		}
	}
	if !maps.Equal(claimed.Keys, own.Keys) {
		p.owners = append(p.owners, store.OwnerOp(claimed))
	}
	return notes, nil
}

// takeOver finds the plan's definitions that other owners have. Who may not read the
// others' notes cannot know, nor write them.
func (p *Plan) takeOver(ctx context.Context, s Owners, name string, force bool) error {
	others, err := s.Owners(ctx)
	if err != nil && !errors.Is(err, store.ErrDenied) {
		return err
	}
	var errs *multierror.Error
	for _, other := range others {
		if other.Name == name {
			continue
		}
		taken := false
		for _, step := range p.Steps {
			if step.Before.CreateRevision == 0 || !other.Owns(step.Before) {
				continue
			}
			taken = true
			delete(other.Keys, step.Entry.Key)
			if !force {
				errs = multierror.Append(errs, fmt.Errorf("%s is owned by %s; --force takes it over: %w", step.Entry.Key, other.Name, store.ErrConflict))
			}
		}
		if taken {
			p.owners = append(p.owners, store.OwnerOp(other))
		}
	}
	return errs.ErrorOrNil()
}

func byKey(a, b store.Key) int {
	return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), cmp.Compare(a.Name, b.Name))
}

// rank orders kinds so that nothing names what comes after it.
func rank(k store.Kind) int {
	return slices.Index([]store.Kind{store.Certificates, store.Probes, store.Backends, store.HealthKind, store.Directors, store.Routes}, k)
}

// Writer is what Split writes with.
type Writer interface {
	Apply(ctx context.Context, ops []store.Op) (int64, error)
}

// Split writes the plan in several transactions, of as many keys as etcd takes. What others
// name is put before and deleted after them, so that at no time a name in it dangles that
// is not meant to. progress, which may be nil, is told how many are written.
//
// An error says how far it came; to do it again does the rest.
func (p *Plan) Split(ctx context.Context, w Writer, progress func(done, of int)) (revision int64, err error) {
	ops := p.writes()
	slices.SortStableFunc(ops, func(a, b store.Op) int {
		deletesA, deletesB := a.Value == nil, b.Value == nil
		switch {
		case deletesA != deletesB && deletesA:
			return 1
		case deletesA != deletesB:
			return -1
		case deletesA:
			return byKey(b.Key, a.Key)
		}
		return byKey(a.Key, b.Key)
	})
	created := map[store.Key]int64{}
	most := store.MaxTxnKeys
	for done := 0; done < len(ops); {
		n, bytes := 0, 0
		for n < min(most, len(ops)-done) {
			op := ops[done+n]
			if bytes += 3*len(op.Key.String()) + len(op.Value) + perOp; n > 0 && bytes > store.MaxTxnBytes {
				break
			}
			n++
		}
		rev, err := w.Apply(ctx, ops[done:done+n])
		var large *store.TooLargeError
		if errors.As(err, &large) && n > 1 {
			if most = n / 2; large.OfKeys && n > usualTxnKeys {
				most = usualTxnKeys
			}
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%d of %d definitions are written, up to revision %d: %w", done, len(ops), revision, err)
		}
		revision = rev
		for _, op := range ops[done : done+n] {
			created[op.Key] = rev
		}
		done += n
		if progress != nil {
			progress(done, len(ops))
		}
	}
	if len(p.owners) == 0 {
		return revision, nil
	}
	for i := range p.owners {
		if err := p.owners[i].CreatedAt(created); err != nil {
			return 0, err
		}
	}
	if _, err := w.Apply(ctx, p.owners); err != nil {
		return 0, fmt.Errorf("all definitions are written, up to revision %d, and not whose they are: %w", revision, err)
	}
	return revision, nil
}

const (
	usualTxnKeys = 128 // that etcd takes unless it is told otherwise
	perOp        = 64  // bytes around an operation, roughly
)
