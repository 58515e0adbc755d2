package main

import (
	"context"
	"errors"
	"fmt"

	"roster/pool"
	"roster/store"
)

// subject is a backend with all that its check depends on, as etcd had it at one
// revision.
type subject struct {
	name     string
	revision int64 // of the backend's value
	def      *store.Backend
	deps     pool.Deps

	probe         *store.Probe
	probeName     string // "" for one in the backend itself
	probeRevision int64  // of the named one's value

	override *store.Health // nil: none
}

// reader reads definitions as they were at one revision. An error stays.
type reader struct {
	ctx context.Context
	st  *store.Store
	at  int64 // 0 before the first read
	err error
}

// readDefinition gives the definition under a key; the zero D if there is none. One that nodes
// reject is an error.
func readDefinition[D store.Definition](r *reader, kind store.Kind, name string) (def D, revision int64) {
	if r.err != nil {
		return
	}
	k := store.Key{Kind: kind, Name: name}
	e, newest, err := r.st.Get(r.ctx, k, r.at)
	if r.at == 0 {
		r.at = newest
	}
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	if err != nil {
		r.err = err
		return
	}
	d, _, err := store.Decode(k, e.Value, store.Reject)
	if err != nil {
		r.err = invalid(prefixed(k, err))
		return
	}
	return d.(D), e.ModRevision
}

// readSubject reads a backend and what it refers to. A backend without a check is an
// error that says why.
func readSubject(ctx context.Context, st *store.Store, name string) (*subject, error) {
	r := &reader{ctx: ctx, st: st}
	s := &subject{name: name}
	s.def, s.revision = readDefinition[*store.Backend](r, store.Backends, name)
	if r.err != nil {
		return nil, r.err
	}
	if s.def == nil {
		return nil, fmt.Errorf("there is no backend %s; roster get backends lists what there is", name)
	}
	if err := s.readProbe(r); err != nil {
		return nil, err
	}
	s.deps.Certificate = r.certificate(s.def)
	if s.def.Via != "" {
		if s.deps.Via, _ = readDefinition[*store.Backend](r, store.Backends, s.def.Via); s.deps.Via != nil {
			s.deps.ViaCertificate = r.certificate(s.deps.Via)
		}
	}
	s.override, _ = readDefinition[*store.Health](r, store.HealthKind, name)
	return s, r.err
}

// readProbe finds the probe that is in effect for the backend.
func (s *subject) readProbe(r *reader) error {
	ref := s.def.Probe
	switch {
	case s.def.None:
		return fmt.Errorf("backend %s is none: it is never healthy, and there is nothing to probe", s.name)
	case ref.None:
		return fmt.Errorf(`backend %s has "probe": "none": it is not probed, and counts as healthy`, s.name)
	case ref.Inline != nil:
		s.probe = ref.Inline
		return nil
	}
	s.probeName = ref.Name
	if s.probeName == "" {
		s.probeName = "default"
	}
	s.probe, s.probeRevision = readDefinition[*store.Probe](r, store.Probes, s.probeName)
	switch {
	case r.err != nil:
		return r.err
	case s.probe == nil && ref.Name == "":
		return fmt.Errorf("backend %s names no probe, and there is no probe default: it is not probed, and counts as healthy", s.name)
	case s.probe == nil:
		return fmt.Errorf("backend %s names the probe %s, which is not defined: it is not probed, and counts as healthy", s.name, ref.Name)
	}
	return nil
}

// certificate is the one that a definition names, nil if there is none.
func (r *reader) certificate(def *store.Backend) *store.Certificate {
	if def.TLS == nil || def.TLS.Certificate == "" {
		return nil
	}
	c, _ := readDefinition[*store.Certificate](r, store.Certificates, def.TLS.Certificate)
	return c
}
