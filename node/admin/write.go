package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/node/presence"
	"roster/store"
)

// Store is where definitions are written: etcd, with the node's rights.
type Store interface {
	Get(ctx context.Context, key store.Key, revision int64) (store.Entry, int64, error)
	Put(ctx context.Context, key store.Key, value []byte, ifRevision int64) (int64, error)
	Delete(ctx context.Context, key store.Key, ifRevision int64) (revision int64, existed bool, err error)
}

// Written is the answer to a write.
type Written struct {
	Kind       store.Kind      `json:"kind"`
	Name       string          `json:"name"`
	Revision   int64           `json:"revision"`             // it has now; of a dry run and of a key that is not there any more, etcd's
	Definition json.RawMessage `json:"definition,omitempty"` // as it is now; none: deleted
	DryRun     bool            `json:"dry_run,omitempty"`    // nothing was written
}

// Fault is the answer to a request that cannot be done.
type Fault struct {
	Errors []string     `json:"errors"`             // all that is wrong
	Fields []FieldFault `json:"fields,omitempty"`   // the same for an invalid definition, with where it is
	Key    string       `json:"key,omitempty"`      // that is in the way, of a conflict
	Now    *int64       `json:"revision,omitempty"` // of that key, of a conflict; 0: there is none
}

// FieldFault is what is wrong with one field of a definition.
type FieldFault struct {
	Path    string `json:"path"` // as in backends[2].weight; empty: of the definition as a whole
	Message string `json:"message"`
}

// Bounds of a write.
const (
	maxBody     = store.MaxTxnBytes // more does not fit into one request of etcd
	bodyTimeout = 30 * time.Second  // for it to come, of whatever request
	maxRaces    = 10                // how often a write without a condition tries again
)

// condition is what a request wants of the value that is there. The zero value wants
// nothing.
type condition struct {
	absent, present bool
	revision        int64 // above 0: that one
}

// conditionOf reads If-Match and If-None-Match (RFC 9110, 13.1), with a revision, in
// quotes or without, or *.
func conditionOf(h http.Header) (c condition, err error) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	switch {
	case match != nil && none != nil:
		return c, errors.New("If-Match and If-None-Match do not go together")
	case len(none) == 1 && strings.TrimSpace(none[0]) == "*":
		c.absent = true
	case none != nil:
		return c, fmt.Errorf("If-None-Match is %q, want *: write only if there is nothing", strings.Join(none, ", "))
	case len(match) == 1 && strings.TrimSpace(match[0]) == "*":
		c.present = true
	case match != nil:
		tag := strings.TrimSpace(strings.Join(match, ", "))
		if n := len(tag); n >= 2 && tag[0] == '"' && tag[n-1] == '"' {
			tag = tag[1 : n-1]
		}
		rev, bad := strconv.ParseInt(tag, 10, 64)
		if bad != nil || rev < 1 {
			return c, fmt.Errorf("If-Match is %q, want a revision such as 42, or *", strings.Join(match, ", "))
		}
		c.revision = rev
	}
	return c, nil
}

// check says whether a value, nil for none, is as wanted.
func (c condition) check(key store.Key, now *store.Entry) error {
	var rev int64
	if now != nil {
		rev = now.ModRevision
	}
	switch {
	case c.absent && now != nil:
		return &store.ConflictError{Key: key, Want: 0, Found: rev}
	case c.present && now == nil:
		return &absentError{key}
	case c.revision > 0 && c.revision != rev:
		return &store.ConflictError{Key: key, Want: c.revision, Found: rev}
	}
	return nil
}

// absentError: If-Match: * and there is nothing.
type absentError struct{ key store.Key }

func (e *absentError) Error() string        { return fmt.Sprintf("%s does not exist", e.key) }
func (e *absentError) Is(target error) bool { return target == store.ErrConflict }

// takenError: the other kind of the namespace has the name.
type takenError struct{ key, other store.Key }

func (e *takenError) Error() string {
	return fmt.Sprintf("%s: %s has that name, and backends and directors share one namespace: choose another name, or delete %s first",
		e.key, e.other, e.other)
}
func (e *takenError) Is(target error) bool { return target == store.ErrConflict }

// put writes a definition.
func (s *Server) put(kind store.Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !known(w, r, "dry_run", "force") {
			return
		}
		key := store.Key{Kind: kind, Name: r.PathValue("name")}
		value, ok := body(w, r, kind)
		if !ok {
			return
		}
		def, _, err := store.Decode(key, value, store.Reject)
		if err != nil {
			invalid(w, err)
			return
		}
		if !s.levels(w, r, key, value) {
			return
		}
		s.write(w, r, key, value, def)
	}
}

// levels refuses a value that the release of a member does not take, unless it is forced.
// If it is false, it has answered.
func (s *Server) levels(w http.ResponseWriter, r *http.Request, key store.Key, value []byte) bool {
	force, err := flag(r, "force")
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return false
	}
	if force || s.Members == nil {
		return true
	}
	err = presence.CheckLevels(r.Context(), s.Members, map[store.Key][]byte{key: value})
	var level *presence.LevelError
	switch {
	case err == nil:
		return true
	case !errors.As(err, &level):
		s.refuse(w, key, err)
		return false
	}
	errs := apart(err)
	for i, one := range errs {
		if errors.As(one, &level) {
			errs[i] = level.FieldError()
		}
	}
	invalid(w, &multierror.Error{Errors: errs})
	return false
}

// delete deletes a definition.
func (s *Server) delete(kind store.Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !known(w, r, "dry_run") {
			return
		}
		key := store.Key{Kind: kind, Name: r.PathValue("name")}
		if err := store.ValidateName(key.Name); err != nil { // else its ".." might be another key
			fail(w, http.StatusNotFound, "%v", err)
			return
		}
		s.write(w, r, key, nil, nil)
	}
}

// body reads the value of a definition: JSON, and of an override also text, which may be
// JSON's, too. If it is not ok, it has answered.
func body(w http.ResponseWriter, r *http.Request, kind store.Kind) (value []byte, ok bool) {
	given := r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(given)
	plain := kind == store.HealthKind && media == "text/plain"
	if err != nil || media != "application/json" && !plain {
		want := "application/json"
		if kind == store.HealthKind {
			want += " or text/plain"
		}
		fail(w, http.StatusUnsupportedMediaType, "Content-Type is %q, want %s", given, want)
		return nil, false
	}
	value, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		fail(w, http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", large.Limit)
		return nil, false
	case err != nil:
		fail(w, http.StatusBadRequest, "the body could not be read: %v", err)
		return nil, false
	}
	value = bytes.TrimSpace(value)
	var state string
	if kind == store.HealthKind && !plain && json.Unmarshal(value, &state) == nil {
		value = []byte(state)
	}
	return value, true
}

// write puts a value, or deletes the key if it is nil, and answers.
func (s *Server) write(w http.ResponseWriter, r *http.Request, key store.Key, value []byte, def store.Definition) {
	want, err := conditionOf(r.Header)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	dry, err := flag(r, "dry_run")
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	rev, created, err := s.commit(r.Context(), key, value, want, dry)
	if err != nil {
		s.refuse(w, key, err)
		return
	}
	out := Written{Kind: key.Kind, Name: key.Name, Revision: rev, DryRun: dry}
	status := http.StatusOK
	if def != nil {
		out.Definition = shown(key, def)
	}
	what := "deleted"
	if value != nil {
		what = "put"
	}
	if !dry {
		revision(w, rev)
		if value == nil {
			w.Header().Del("ETag")
		}
		if created {
			status = http.StatusCreated
		}
		s.log().Info("definition "+what+" by the admin API", "key", key, "revision", rev, "from", r.RemoteAddr)
	}
	answer(w, status, out)
}

// commit does what write is asked for. Every write has the condition that the value is the
// one that was looked at, so that what was decided by it holds; one that lost a race it
// was not asked to win tries again.
func (s *Server) commit(ctx context.Context, key store.Key, value []byte, want condition, dry bool) (rev int64, created bool, err error) {
	for races := 0; ; races++ {
		var now *store.Entry
		entry, at, err := s.Store.Get(ctx, key, 0)
		switch {
		case err == nil:
			now = &entry
		case !errors.Is(err, store.ErrNotFound):
			return 0, false, err
		}
		if err := want.check(key, now); err != nil {
			return 0, false, err
		}
		var had int64
		switch {
		case now != nil:
			had = now.ModRevision
		case value == nil:
			return 0, false, err // store.ErrNotFound
		default:
			if err := s.free(ctx, key); err != nil {
				return 0, false, err
			}
		}
		switch {
		case dry:
			return at, now == nil, nil
		case value == nil:
			rev, _, err = s.Store.Delete(ctx, key, had)
		default:
			rev, err = s.Store.Put(ctx, key, value, had)
		}
		if err == nil || !errors.Is(err, store.ErrConflict) || races == maxRaces {
			return rev, now == nil, err
		}
	}
}

// free is an error if the other kind of the namespace has the name. Where etcd does not
// let us look, nodes find out: they reject the newer.
func (s *Server) free(ctx context.Context, key store.Key) error {
	other := key
	switch key.Kind {
	case store.Backends:
		other.Kind = store.Directors
	case store.Directors:
		other.Kind = store.Backends
	default:
		return nil
	}
	switch _, _, err := s.Store.Get(ctx, other, 0); {
	case err == nil:
		return &takenError{key, other}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrDenied):
		return nil
	default:
		return err
	}
}

// refuse answers with what came of a write that was not done.
func (s *Server) refuse(w http.ResponseWriter, key store.Key, err error) {
	fault := Fault{Errors: []string{err.Error()}}
	var conflict *store.ConflictError
	var taken *takenError
	var large *store.TooLargeError
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, store.ErrNotFound):
		fault.Errors[0] = fmt.Sprintf("%s does not exist", key)
		status = http.StatusNotFound
	case errors.As(err, &taken):
		fault.Key = taken.other.String()
		status = http.StatusConflict
	case errors.As(err, &conflict):
		fault.Errors[0], fault.Key, fault.Now = conflict.Error(), conflict.Key.String(), &conflict.Found
		if conflict.Found > 0 {
			revision(w, conflict.Found)
		}
		status = http.StatusConflict
	case errors.Is(err, store.ErrConflict):
		fault.Key, fault.Now = key.String(), new(int64)
		status = http.StatusConflict
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, store.ErrDenied):
		fault.Errors[0] = fmt.Sprintf("etcd does not let this node change %s: %v; the role of its --etcd-user or --etcd-cert has to have readwrite there", key, err)
		status = http.StatusForbidden
	case errors.Is(err, store.ErrOutcomeUnknown):
		fault.Errors[0] += "; read the definition again before you repeat the request"
		status = http.StatusGatewayTimeout
	case errors.Is(err, store.ErrUnavailable):
		fault.Errors[0] += "; nothing was written, and this node serves on"
		w.Header().Set("Retry-After", "1")
		status = http.StatusServiceUnavailable
	}
	if status >= http.StatusInternalServerError {
		s.log().Warn("admin API could not write", "key", key, "error", err)
	}
	answer(w, status, fault)
}

// invalid answers with all that is wrong with a definition.
func invalid(w http.ResponseWriter, err error) {
	fault := Fault{Errors: []string{}}
	for _, one := range apart(err) {
		fault.Errors = append(fault.Errors, one.Error())
		var field *store.FieldError
		if errors.As(one, &field) {
			fault.Fields = append(fault.Fields, FieldFault{field.Path, field.Msg})
		}
	}
	answer(w, http.StatusUnprocessableEntity, fault)
}
