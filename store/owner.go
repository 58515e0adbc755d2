package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// OwnerKind is the kind of the keys that note which definitions a set of files has
// written: "/roster-owners/<name>", beside the prefix that nodes watch. It is none of
// Kinds.
const OwnerKind Kind = "owners"

const owners = "-owners/"

// An Owner is what a set of files owns: the definitions that it wrote last, each with the
// revision that created its key. A key that was made anew by somebody else is another
// one, and not owned.
type Owner struct {
	Name string
	Keys map[Key]int64
	// Revision is the mod revision of the note; 0: there is none.
	Revision int64
}

// Owns says whether an entry is the owner's.
func (o *Owner) Owns(e Entry) bool {
	created, ok := o.Keys[e.Key]
	return ok && created == e.CreateRevision
}

// ownerNote is the value of an owner's key. A key whose revision is 0 was created by
// the transaction that wrote the note.
type ownerNote struct {
	Keys map[string]int64 `json:"keys"`
}

// OwnerOp is the write of an owner's note, unless somebody has written it since it was
// read. A key with the revision 0 is one that the transaction itself creates.
func OwnerOp(o Owner) Op {
	note := ownerNote{make(map[string]int64, len(o.Keys))}
	for key, created := range o.Keys {
		note.Keys[key.String()] = created
	}
	value, err := json.Marshal(note)
	if err != nil {
		panic(err) // names and numbers have always a JSON form
	}
	return Op{Key: Key{OwnerKind, o.Name}, Value: value, IfRevision: o.Revision}
}

// GetOwner reads what an owner owns: nothing, if there is no note.
func (s *Store) GetOwner(ctx context.Context, name string) (Owner, error) {
	key := Key{OwnerKind, name}
	e, _, err := s.Get(ctx, key, 0)
	if errors.Is(err, ErrNotFound) {
		return Owner{Name: name, Keys: map[Key]int64{}}, nil
	}
	if err != nil {
		return Owner{}, err
	}
	return readOwner(e)
}

// Owners reads all owners, in the order of their names.
func (s *Store) Owners(ctx context.Context) ([]Owner, error) {
	from := s.side(owners)
	r, err := s.get(ctx, from, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("store: list owners: %w", err)
	}
	var all []Owner
	for _, kv := range r.Kvs {
		o, err := readOwner(entry(Key{OwnerKind, strings.TrimPrefix(string(kv.Key), from)}, kv))
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, nil
}

func readOwner(e Entry) (Owner, error) {
	var note ownerNote
	if err := json.Unmarshal(e.Value, &note); err != nil {
		return Owner{}, fmt.Errorf("store: %s: is not what roster apply --owner writes: %w", e.Key, err)
	}
	o := Owner{Name: e.Key.Name, Keys: make(map[Key]int64, len(note.Keys)), Revision: e.ModRevision}
	for _, name := range slices.Sorted(maps.Keys(note.Keys)) {
		key, ok := ParseKey(name)
		if !ok || key == SecretKey {
			return Owner{}, fmt.Errorf("store: %s: %q is no definition", e.Key, name)
		}
		created := note.Keys[name]
		if created == 0 {
			created = e.ModRevision
		}
		o.Keys[key] = created
	}
	return o, nil
}

// CreatedAt fills in the revisions of an owner's note, where the keys were created by
// transactions before it.
func (op *Op) CreatedAt(created map[Key]int64) error {
	var note ownerNote
	if err := json.Unmarshal(op.Value, &note); err != nil {
		return fmt.Errorf("store: %s: %w", op.Key, err)
	}
	for name, rev := range note.Keys {
		if key, ok := ParseKey(name); ok && rev == 0 {
			note.Keys[name] = created[key]
		}
	}
	value, err := json.Marshal(note)
	op.Value = value
	return err
}
