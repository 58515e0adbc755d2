package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Presence is what a process of a node says of itself in etcd, under a lease. It is
// bounded in size: lists are cut, and say by how much.
type Presence struct {
	ID      string    `json:"id"`
	Version string    `json:"version"`
	Level   int       `json:"level"` // the Level of its release
	Listen  []string  `json:"listen"`
	Admin   string    `json:"admin,omitempty"`
	Peer    string    `json:"peer,omitempty"`
	Started time.Time `json:"started"` // by the node's own clock: for people

	// Revision is the newest revision that touched the prefix and is applied, 0 before
	// the first. It is never one merely seen: presence is written with it, and every
	// write makes a new revision that all nodes see.
	Revision int64 `json:"revision"`
	// Listed is the revision of the newest list of the prefix that is applied. Of what
	// was deleted last, a list shows nothing, so a node that lists may never learn the
	// revision that its peers have; but it is past all up to Listed. It moves only when
	// a node lists, which writes by others do not bring about.
	Listed int64  `json:"listed"`
	Digest string `json:"digest"`

	// Held are removed backends that the node's guard keeps; nil: none.
	Held *Held `json:"held,omitempty"`

	Rejected     []string `json:"rejected,omitempty"`      // keys whose newest value is not in effect, the first of them
	MoreRejected int      `json:"more_rejected,omitempty"` // how many more there are

	Ready    bool `json:"ready"`
	Draining bool `json:"draining"` // the node ends

	Leaving     []Leaving `json:"leaving,omitempty"`      // backends that are drained or deleted, the first of them
	MoreLeaving int       `json:"more_leaving,omitempty"` // how many more there are
}

// Held are backends that a node serves although they were removed, too many at once, or
// although all of etcd is empty and should not be.
type Held struct {
	Backends int   `json:"backends"`        // how many
	Revision int64 `json:"revision"`        // whose acknowledgement releases them all
	Empty    bool  `json:"empty,omitempty"` // etcd is empty
}

// MaxLeaving is how many backends a presence says that of: those drained last, and then
// those deleted.
const MaxLeaving = 100

// Leaving is what a node still has with a backend that is drained, or deleted.
type Leaving struct {
	Name        string `json:"name"`
	Active      int    `json:"active"`      // requests in progress
	Queued      int    `json:"queued"`      // and waiting for a slot
	Connections int    `json:"connections"` // to its address: those of other backends there count, too
	// Settled: so long ago that no request is left which chose the backend before and has
	// not come to it yet.
	Settled bool `json:"settled"`
}

// Quiet says that the node has nothing with the backend any more, and will not have.
func (l Leaving) Quiet() bool {
	return l.Settled && l.Active == 0 && l.Queued == 0 && l.Connections == 0
}

// Applied says that a node with this presence serves by all that was written up to a
// revision that touched the prefix.
func (p *Presence) Applied(revision int64) bool { return max(p.Revision, p.Listed) >= revision }

// Instance is one process of a node, and so a member of the fleet: a node that is
// started again is another one.
type Instance struct {
	Node string // its id
	ID   string // of the process: random
}

// String is how people name a member: edge-1/4f1c.
func (m Instance) String() string { return m.Node + "/" + m.ID }

// ValidateNodeID says what is wrong with a node's id, or nil.
func ValidateNodeID(id string) error {
	switch {
	case id == "":
		return errors.New("the node's id is empty")
	case len(id) > MaxName:
		return fmt.Errorf("the node's id is %d bytes long, want at most %d", len(id), MaxName)
	}
	if strings.ContainsFunc(id, func(r rune) bool { return r == ' ' || r == utf8.RuneError || unicode.IsControl(r) }) {
		return fmt.Errorf("the node's id %q has a space or a control character in it", id)
	}
	return nil
}

// The names of what is kept of members, each beside the prefix and outside of it.
const (
	presences = "-nodes/"   // under a lease
	members   = "-members/" // until an orderly end, or Forget
)

// side is the prefix of the keys of members: "/roster-nodes/".
func (s *Store) side(suffix string) string { return strings.TrimSuffix(s.prefix, "/") + suffix }

func (s *Store) memberKeys(m Instance) (presence, member string) {
	return s.side(presences) + m.String(), s.side(members) + m.String()
}

// parseMember reads what a member's key has after its prefix. A node's id may have
// slashes, an instance has none. What no node calls itself is no member: it would be shown
// to people.
func parseMember(rel string) (Instance, bool) {
	i := strings.LastIndexByte(rel, '/')
	if i <= 0 || i == len(rel)-1 {
		return Instance{}, false
	}
	m := Instance{rel[:i], rel[i+1:]}
	return m, ValidateNodeID(m.Node) == nil && ValidateNodeID(m.ID) == nil
}

// Announce writes a member's presence, to end with a lease, and its key of membership
// if that is not there. after is the revision that the last call for this member has
// returned, 0 if there was none: so a write without an answer, which etcd may carry out
// much later, does not undo this one. It returns the revision of this write. The error is
// ErrNoLease if the lease has ended, or what all methods may return.
func (s *Store) Announce(ctx context.Context, m Instance, p Presence, lease, after int64) (int64, error) {
	value, err := json.Marshal(p)
	if err != nil {
		return 0, fmt.Errorf("store: presence: %w", err)
	}
	static, err := json.Marshal(Presence{ID: p.ID, Version: p.Version, Level: p.Level, Listen: p.Listen, Admin: p.Admin, Peer: p.Peer, Started: p.Started})
	if err != nil {
		return 0, fmt.Errorf("store: presence: %w", err)
	}
	presence, member := s.memberKeys(m)
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	known := after > 0
	for {
		here := clientv3.Compare(clientv3.ModRevision(presence), "=", after)
		puts := []clientv3.Op{clientv3.OpPut(presence, string(value), clientv3.WithLease(clientv3.LeaseID(lease)))}
		is := clientv3.Compare(clientv3.CreateRevision(member), ">", 0)
		if !known {
			puts = append(puts, clientv3.OpPut(member, string(static)))
			is = clientv3.Compare(clientv3.CreateRevision(member), "=", 0)
		}
		r, err := s.client.Txn(ctx).If(here, is).Then(puts...).
			Else(clientv3.OpGet(presence, clientv3.WithKeysOnly()), clientv3.OpGet(member, clientv3.WithCountOnly())).
			Commit()
		if err := s.leaseFault(ctx, c, err, true); err != nil {
			return 0, fmt.Errorf("store: presence of %s: %w", m, err)
		}
		if r.Succeeded {
			return r.Header.Revision, nil
		}
		// Nobody else writes these keys, so what is there is an earlier write of ours.
		after = 0
		for _, kv := range r.Responses[0].GetResponseRange().Kvs {
			after = kv.ModRevision
		}
		known = r.Responses[1].GetResponseRange().Count > 0
	}
}

// Withdraw deletes both keys of a member, in one revision: nobody sees it as unknown.
func (s *Store) Withdraw(ctx context.Context, m Instance) error {
	presence, member := s.memberKeys(m)
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	_, err := s.client.Txn(ctx).Then(clientv3.OpDelete(presence), clientv3.OpDelete(member)).Commit()
	if err := s.fault(ctx, c, err, true); err != nil {
		return fmt.Errorf("store: withdraw %s: %w", m, err)
	}
	return nil
}

// Forget deletes a member whose presence is gone. It is false, and nothing is deleted,
// where there is a presence.
func (s *Store) Forget(ctx context.Context, m Instance) (bool, error) {
	presence, member := s.memberKeys(m)
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(presence), "=", 0)).
		Then(clientv3.OpDelete(member)).
		Commit()
	if err := s.fault(ctx, c, err, true); err != nil {
		return false, fmt.Errorf("store: forget %s: %w", m, err)
	}
	return r.Succeeded, nil
}

// MemberEvent is what became of one of a member's two keys.
type MemberEvent struct {
	Member   Instance
	Revision int64
	// Live says which of the keys it is: the presence, else the membership.
	Live bool
	// Presence is the key's value; nil if the key was deleted. Of a membership it has
	// what does not change. A value that cannot be read is one with an ID alone.
	Presence *Presence
}

// Members reads the keys of all members, as of one revision, which it returns.
func (s *Store) Members(ctx context.Context) ([]MemberEvent, int64, error) {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.Txn(ctx).Then(
		clientv3.OpGet(s.side(members), clientv3.WithPrefix()),
		clientv3.OpGet(s.side(presences), clientv3.WithPrefix()),
	).Commit()
	if err := s.fault(ctx, c, err, false); err != nil {
		return nil, 0, fmt.Errorf("store: members: %w", err)
	}
	var all []MemberEvent
	for i, live := range []bool{false, true} {
		for _, kv := range r.Responses[i].GetResponseRange().GetKvs() {
			if e, ok := s.memberEvent(kv, live, false); ok {
				all = append(all, e)
			}
		}
	}
	return all, r.Header.Revision, nil
}

func (s *Store) memberEvent(kv *mvccpb.KeyValue, live, deleted bool) (MemberEvent, bool) {
	suffix := members
	if live {
		suffix = presences
	}
	m, ok := parseMember(strings.TrimPrefix(string(kv.Key), s.side(suffix)))
	if !ok {
		return MemberEvent{}, false
	}
	e := MemberEvent{Member: m, Revision: kv.ModRevision, Live: live}
	if deleted {
		return e, true
	}
	var p Presence
	if json.Unmarshal(kv.Value, &p) != nil {
		p = Presence{ID: m.Node}
	}
	if max(p.Revision, p.Listed) >= kv.ModRevision {
		// It says to know what is later than itself: it is of another history of etcd,
		// from before that was restored.
		p.Revision, p.Listed = 0, 0
	}
	p.plain()
	e.Presence = &p
	return e, true
}

// plain takes what could move a terminal's cursor out of all texts: they come from another
// node, and are shown to people.
func (p *Presence) plain() {
	texts := []*string{&p.ID, &p.Version, &p.Admin, &p.Peer, &p.Digest}
	for i := range p.Listen {
		texts = append(texts, &p.Listen[i])
	}
	for i := range p.Rejected {
		texts = append(texts, &p.Rejected[i])
	}
	for i := range p.Leaving {
		texts = append(texts, &p.Leaving[i].Name)
	}
	for _, s := range texts {
		*s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, *s)
	}
}

// WatchMembers calls f with what becomes of members' keys from a revision on, and with
// the events of each key in their order; those of the two keys of a member may come in
// any. It returns f's error, or why it could not go on: ErrCompacted if etcd has not
// got the revision any more, and etcd's own words.
func (s *Store) WatchMembers(ctx context.Context, from int64, f func([]MemberEvent) error) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel() // ends the watches
	watch := func(suffix string) clientv3.WatchChan {
		return s.client.Watch(ctx, s.side(suffix), clientv3.WithPrefix(), clientv3.WithRev(from))
	}
	live, static := watch(presences), watch(members)
	for {
		var r clientv3.WatchResponse
		var ok, ofLive bool
		select {
		case r, ok = <-live:
			ofLive = true
		case r, ok = <-static:
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case ok && r.CompactRevision > 0:
			return fmt.Errorf("store: watch members: %w", ErrCompacted)
		case ok && errors.Is(r.Err(), rpctypes.ErrPermissionDenied):
			return fmt.Errorf("store: watch members: %w: %w", ErrDenied, r.Err())
		case ok && r.Err() != nil:
			return fmt.Errorf("store: watch members: %w: %w", ErrUnavailable, r.Err())
		case !ok:
			return fmt.Errorf("store: watch members: %w", ErrUnavailable)
		}
		var events []MemberEvent
		for _, ev := range r.Events {
			if e, ok := s.memberEvent(ev.Kv, ofLive, ev.Type == clientv3.EventTypeDelete); ok {
				events = append(events, e)
			}
		}
		if len(events) > 0 {
			if err := f(events); err != nil {
				return err
			}
		}
	}
}
