package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What callers of a Store branch on, with errors.Is.
var (
	// ErrNotFound: there is no such key at that revision.
	ErrNotFound = errors.New("not found")

	// ErrConflict: a key is not at the revision that was asked for, and nothing
	// was written. The error is a *ConflictError, or several.
	ErrConflict = errors.New("conflict")

	// ErrCompacted: etcd no longer has the revision, or what came before it.
	ErrCompacted = errors.New("compacted away")

	// ErrFuture: etcd has not reached the revision.
	ErrFuture = errors.New("not reached yet")

	// ErrUnavailable: no etcd member answered in time, or none that is in a
	// working cluster, or there is no trust between it and us. Nothing was
	// written, unless it is ErrOutcomeUnknown too.
	ErrUnavailable = errors.New("etcd does not answer")

	// ErrTLS: etcd and we come to no connection with TLS, because one refuses the other's
	// certificate or does not speak it. It is ErrUnavailable too.
	ErrTLS = fmt.Errorf("%w with TLS", ErrUnavailable)

	// ErrOutcomeUnknown: the write was sent and no answer came, so it may have
	// been done, or may be yet. To know, read the key; to be safe, write with
	// IfRevision, which a repetition cannot do twice. It is ErrUnavailable too.
	ErrOutcomeUnknown = fmt.Errorf("%w, so it is not known whether the change was made", ErrUnavailable)

	// ErrDenied: etcd does not accept the user or its password, or does not let
	// it do that.
	ErrDenied = errors.New("etcd denies it")
)

// A ConflictError is a write refused because of one key's revision. It is
// ErrConflict.
type ConflictError struct {
	Key   Key
	Want  int64 // the mod revision asked for; 0 is no such key
	Found int64 // the mod revision found; 0 is no such key
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("%s exists already, at revision %d", e.Key, e.Found)
	case e.Found == 0:
		return fmt.Sprintf("%s does not exist, want it at revision %d", e.Key, e.Want)
	}
	return fmt.Sprintf("%s is at revision %d, want %d", e.Key, e.Found, e.Want)
}

func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// The largest transaction that a Store sends: what roster's own etcd takes. An
// etcd run otherwise may take less.
const (
	MaxTxnKeys  = 4096
	MaxTxnBytes = 1536 << 10 // etcd's default, 1.5 MiB
)

// A TooLargeError is a set that does not fit in one transaction. Nothing of it
// was written.
type TooLargeError struct {
	Keys, Bytes int // of the set; bytes are those of keys and values
	// Limit is the most that fits, of keys if OfKeys is set, else of bytes. Zero
	// means that etcd refused it and did not say what it takes.
	Limit  int
	OfKeys bool
}

func (e *TooLargeError) Error() string {
	size, limit, usual, flag := e.Bytes, "bytes and some around them", MaxTxnBytes, "--max-request-bytes"
	if e.OfKeys {
		size, limit, usual, flag = e.Keys, "keys", 128, "--max-txn-ops"
	}
	if e.Limit > 0 {
		return fmt.Sprintf("%d %s are too many for one transaction, which takes %d: split the set", size, limit, e.Limit)
	}
	return fmt.Sprintf("%d %s are too many for one transaction of this etcd, which takes %d unless it was started with %s: raise that, or split the set",
		size, limit, usual, flag)
}

// Tracked is for requests by Client: the context is one to make them with, and explain makes
// of their error one that says why no member answered, or whom it refuses, as those of a
// Store's methods do. Others it returns as they are.
func (s *Store) Tracked(ctx context.Context) (tracked context.Context, explain func(error) error) {
	c := &call{start: time.Now()}
	return context.WithValue(ctx, callKey{}, c), func(err error) error {
		c.mu.Lock()
		sent, last := c.sent, c.last
		c.mu.Unlock()
		switch denied := s.denied(err); {
		case denied != nil:
			return denied
		case last == nil || isAnswer(err):
		case !errors.Is(err, context.Canceled) || strings.Contains(last.Error(), balancerError):
			return s.unavailable(ErrUnavailable, last, sent, c.start)
		}
		return err
	}
}

func isAnswer(err error) bool {
	var answer rpctypes.EtcdError
	return errors.As(rpctypes.Error(err), &answer)
}

// denied is ErrDenied if etcd's answer is that, else nil.
func (s *Store) denied(err error) error {
	var answer rpctypes.EtcdError
	if !errors.As(rpctypes.Error(err), &answer) {
		return nil
	}
	switch answer {
	case rpctypes.ErrUserEmpty:
		return fmt.Errorf("%w: it wants a user and a password, or a client certificate", ErrDenied)
	case rpctypes.ErrAuthFailed:
		return fmt.Errorf("%w: %w (%s)", ErrDenied, answer, &s.login)
	case rpctypes.ErrPermissionDenied, rpctypes.ErrPermissionNotGranted, rpctypes.ErrInvalidAuthToken, rpctypes.ErrUserNotFound:
		return fmt.Errorf("%w: %w%s", ErrDenied, answer, s.who())
	}
	return nil
}

// who says whom etcd takes us for, in brackets.
func (s *Store) who() string {
	if s.login.user != "" {
		return fmt.Sprintf(" (user %s)", s.login.user)
	}
	if s.tls == nil || s.tls.cert == "" {
		return ""
	}
	cfg, err := s.tls.load()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (user %s, by the client certificate %s)", cfg.Certificates[0].Leaf.Subject.CommonName, s.tls.cert)
}

// fault makes an error of a request that failed what the package promises. It
// is nil if err is.
func (s *Store) fault(ctx context.Context, c *call, err error, write bool) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	sent, last, gaveUp := c.sent, c.last, c.gaveUp
	c.mu.Unlock()

	var answer rpctypes.EtcdError
	if errors.Is(err, ErrDenied) { // by ourselves: there is no password
		return err
	} else if denied := s.denied(err); denied != nil {
		return denied
	} else if errors.As(rpctypes.Error(err), &answer) {
		switch answer {
		case rpctypes.ErrCompacted:
			return ErrCompacted
		case rpctypes.ErrFutureRev:
			return ErrFuture
		}
		if answer.Code() != codes.Unavailable {
			return answer // a plain no: nothing was done
		}
		if answer == rpctypes.ErrNoLeader { // and this one is said before anything is done
			return fmt.Errorf("%w: %w", ErrUnavailable, answer)
		}
	} else if own := ctx.Err(); errors.Is(own, context.Canceled) && !gaveUp {
		if write && sent {
			return fmt.Errorf("%w: %w", ErrOutcomeUnknown, own)
		}
		return own
	} else {
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		default:
			return err
		}
	}

	sentinel := ErrUnavailable
	if write && sent {
		sentinel = ErrOutcomeUnknown
	}
	if last == nil {
		last = err
	}
	return s.unavailable(sentinel, last, sent, c.start)
}

// unavailable tells a network's story in few words; gRPC wraps it in many.
func (s *Store) unavailable(sentinel, cause error, sent bool, began time.Time) error {
	st, ok := status.FromError(cause)
	if !ok {
		return fmt.Errorf("%w: %w", sentinel, cause)
	}
	text := strings.TrimPrefix(st.Message(), balancerError)
	if before, quoted, found := strings.Cut(text, `desc = "`); found && strings.HasPrefix(before, "connection error") {
		if q, err := strconv.QuotedPrefix(`"` + quoted); err == nil {
			text, _ = strconv.Unquote(q)
		}
	}
	preface := false
	for _, wrapping := range []string{"transport: ", "authentication handshake failed: ", "Error while dialing: ",
		"failed to write client preface: ", "error reading server preface: "} {
		var found bool
		text, found = strings.CutPrefix(text, wrapping)
		preface = preface || found && strings.Contains(wrapping, "preface")
	}
	switch {
	case st.Code() != codes.DeadlineExceeded && st.Code() != codes.Canceled || strings.HasPrefix(st.Message(), balancerError):
	case sent:
		text = fmt.Sprintf("no answer in %v", time.Since(began).Round(100*time.Millisecond))
	default:
		text = fmt.Sprintf("no connection in %v", time.Since(began).Round(100*time.Millisecond))
	}
	e := &unavailable{text: text, is: []error{sentinel, cause}}
	switch {
	case s.tls == nil && preface && (text == "EOF" || strings.HasSuffix(text, "connection reset by peer") || strings.HasSuffix(text, "broken pipe")):
		// What else may listen there says something, or waits.
		e.text = fmt.Sprintf("the connection to %s ends at once: %s; if that etcd wants TLS, --etcd-ca or https:// turn it on", strings.Join(s.client.Endpoints(), ","), text)
		e.is = append(e.is, ErrTLS)
	case s.tls != nil:
		if failed := s.tls.failed.Load(); failed != nil && *failed == text {
			e.is = append(e.is, ErrTLS)
		}
	}
	return e
}

type unavailable struct {
	text string
	is   []error // the first of them is said
}

func (e *unavailable) Unwrap() []error { return e.is }
func (e *unavailable) Error() string   { return fmt.Sprintf("%v: %s", e.is[0], e.text) }
