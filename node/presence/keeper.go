package presence

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"roster/store"
)

// Config says what to write and how often. Store, Node and State are required.
type Config struct {
	Store *store.Store
	// Node is the node's id.
	Node string
	// State is the presence as it should be now. It is called often, by one goroutine.
	State func() store.Presence

	// TTL is how long after the last sign of life the node counts as unknown. Zero means
	// 15s: the lease is kept alive three times in that time, so the node may be cut off for
	// 10s, in which etcd has a new leader. Shorter ones cost etcd more, and wake the node.
	TTL time.Duration
	// Interval is the least time between two writes. Zero means 1s.
	Interval time.Duration
	// RetryMin and RetryMax bound the pause before another attempt; it doubles from one
	// to the other, and half of it is random. Zero means 200ms and 5s. What etcd
	// refuses to write is tried again after RetryMax.
	RetryMin, RetryMax time.Duration

	// Logger gets a line when presence cannot be written any more, and when it can
	// again. Nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	fill := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	fill(&c.TTL, 15*time.Second)
	fill(&c.Interval, time.Second)
	fill(&c.RetryMin, 200*time.Millisecond)
	fill(&c.RetryMax, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// calm is how many Intervals pass between two looks at a State of whose changes Changed is
// told.
const calm = 30

// farewell is how long the end of a node may wait for etcd to delete its keys.
const farewell = 2 * time.Second

// Keeper keeps one node's presence in etcd. Use New.
type Keeper struct {
	config   Config
	instance store.Instance
	changed  chan struct{}
	tried    chan struct{} // closed after the first attempt

	// What follows is owned by Run.

	lease    int64
	said     store.Presence // the last that was written
	revision int64          // of that
	written  bool           // the keys are there, perhaps
	unsure   bool           // the last write has failed, perhaps only its answer

	mu     sync.Mutex
	status Status
}

// Status is how a node stands with its presence.
type Status struct {
	Instance string `json:"instance"`        // of this process
	Present  bool   `json:"present"`         // the lease lives, as far as is known
	Error    string `json:"error,omitempty"` // why it is not
}

// New returns a Keeper for a new instance. It starts nothing.
func New(c Config) *Keeper {
	var id [8]byte
	rand.Read(id[:]) // never fails
	k := &Keeper{
		config: c.withDefaults(), instance: store.Instance{Node: c.Node, ID: hex.EncodeToString(id[:])},
		changed: make(chan struct{}, 1), tried: make(chan struct{}),
	}
	k.status.Instance = k.instance.ID
	return k
}

// Changed says that State may have. It never blocks. Without it, State is looked at
// once an Interval while a node starts, or loses backends, and else each thirtieth, so that
// a node at rest sleeps.
func (k *Keeper) Changed() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Tried is closed once the first attempt to write has ended, well or not. A node that
// reads the definitions after it is sure to have all that was written before its
// membership, and so nobody has to wait for it who has not seen that.
func (k *Keeper) Tried() <-chan struct{} { return k.tried }

// Status is how it stands now. Any goroutine may ask.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Run keeps the presence until ctx ends, and deletes it then, for which it takes at most
// two seconds. It returns nil: no failure of etcd ends it. Call it once.
//
//	grant a lease -> write -> keep alive, and write what changes
//	      ^            | refused, no answer        | lease lost
//	      '------------'-----------<---------------' after a pause
func (k *Keeper) Run(ctx context.Context) error {
	first := sync.OnceFunc(func() { close(k.tried) })
	defer first()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		announced, err := k.session(ctx, first)
		if ctx.Err() != nil {
			break
		}
		k.note(err)
		if announced {
			attempt = 0
		}
		pause := backoff(k.config.RetryMin, k.config.RetryMax, attempt)
		if errors.Is(err, store.ErrDenied) {
			pause = backoff(k.config.RetryMax, k.config.RetryMax, 0)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	if k.written {
		k.withdraw(ctx)
	}
	k.mu.Lock()
	k.status.Present, k.status.Error = false, "stopped"
	k.mu.Unlock()
	return nil
}

// session is the life of one lease. It calls first when the first write has ended, and
// says whether that went well.
func (k *Keeper) session(parent context.Context, first func()) (announced bool, err error) {
	ctx, cancel := context.WithCancel(parent) // of the lease
	defer cancel()
	lease, err := k.config.Store.Grant(ctx, k.config.TTL)
	if err != nil {
		first()
		return false, err
	}
	k.lease = lease
	alive := k.config.Store.KeepAlive(ctx, lease)
	last, err := k.write(ctx, nil, lease)
	first()
	if err == nil {
		announced = true
		k.note(nil)
		err = k.keep(ctx, lease, alive, last)
	}
	cancel()
	if parent.Err() != nil {
		return announced, err // withdraw follows
	}
	// It is of no use any more. If etcd is not there, it ends by itself.
	ctx, cancel = context.WithTimeout(parent, k.config.RetryMin)
	defer cancel()
	_ = k.config.Store.Revoke(ctx, lease)
	return announced, err
}

// write writes the state, unless it is as it was, and returns it as it is written now.
func (k *Keeper) write(ctx context.Context, last []byte, lease int64) ([]byte, error) {
	p := k.config.State()
	value, err := json.Marshal(p)
	if err != nil || bytes.Equal(value, last) {
		return last, err
	}
	revision, err := k.config.Store.Announce(ctx, k.instance, p, lease, k.revision)
	if errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrNoLease) {
		return last, err
	}
	k.written, k.unsure = true, err != nil
	if err != nil {
		return last, err
	}
	k.said, k.revision = p, revision
	return value, nil
}

// urgent says that a node became ready, or that it ends: that happens once, and others
// wait for it.
func (k *Keeper) urgent() bool {
	p := k.config.State()
	return p.Ready != k.said.Ready || p.Draining != k.said.Draining
}

// keep writes what changes until the lease or ctx ends.
func (k *Keeper) keep(ctx context.Context, lease int64, alive <-chan struct{}, last []byte) error {
	var next time.Time // when it may write again; at once, as nothing was worth saying before
	timer := time.NewTimer(k.config.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-alive:
			return store.ErrNoLease
		case <-k.changed:
			if wait := time.Until(next); wait > 0 && !k.urgent() {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		value, err := k.write(ctx, last, lease)
		switch {
		case errors.Is(err, store.ErrNoLease), errors.Is(err, store.ErrDenied):
			return err
		case err != nil:
			k.config.Logger.Debug("presence is out of date", "error", err) // the lease decides whether it is lost
			last = nil                                                     // either that, or what was to be written, is there
			next = time.Now().Add(k.config.Interval)
		case !bytes.Equal(value, last):
			last, next = value, time.Now().Add(k.config.Interval)
		}
		if k.said.Ready && len(k.said.Leaving) == 0 && k.said.Held == nil && err == nil {
			timer.Reset(calm * k.config.Interval)
		} else {
			timer.Reset(k.config.Interval)
		}
	}
}

// withdraw deletes the keys at the end of Run.
func (k *Keeper) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	s := k.config.Store
	err := s.Withdraw(ctx, k.instance)
	if err == nil {
		if revoked := s.Revoke(ctx, k.lease); k.unsure && revoked == nil {
			// Without the lease, a write whose answer has not come is done by now or never.
			err = s.Withdraw(ctx, k.instance)
		}
	}
	if err != nil {
		k.config.Logger.Warn("presence cannot be taken back: the fleet waits for this node until roster forget", "instance", k.instance.String(), "error", err)
	}
}

// note keeps how it stands, and logs it when it changes.
func (k *Keeper) note(err error) {
	k.mu.Lock()
	was := k.status
	k.status.Present, k.status.Error = err == nil, ""
	if err != nil {
		k.status.Error = err.Error()
	}
	k.mu.Unlock()
	log := k.config.Logger
	switch {
	case err != nil && (was.Error == "" || was.Present):
		log.Warn("presence cannot be written: the fleet does not know how far this node is", "instance", k.instance.String(), "error", err)
	case err == nil && was.Error != "":
		log.Info("presence is written again", "instance", k.instance.String())
	}
}

// backoff is the pause before another attempt: it doubles from least to most, and half
// of it is random, so that a fleet does not come back in step.
func backoff(least, most time.Duration, attempt int) time.Duration {
	d := most
	if attempt < 20 && least<<attempt < most {
		d = least << attempt
	}
	return d/2 + mathrand.N(d/2+1)
}
