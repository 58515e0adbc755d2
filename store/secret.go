package store

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
)

// SecretKind is the kind of SecretKey alone. It is none of Kinds: nobody lists,
// exports or edits it.
const SecretKind Kind = "secret"

// SecretKey names what the fleet signs cookies with: secretBytes bytes as they are, made
// once by CreateSecret, so that every node reads every node's cookies. Who puts another
// value there ends all sessions.
var SecretKey = Key{Kind: SecretKind}

const secretBytes = 32

// Secret is the value of SecretKey. It does not give its bytes away: formatted, logged or
// marshalled it says that it is hidden.
type Secret struct {
	key [secretBytes]byte
}

// Kind is SecretKind.
func (*Secret) Kind() Kind { return SecretKind }

// Sign returns the HMAC-SHA-256 of a message.
func (s *Secret) Sign(message []byte) (mac [sha256.Size]byte) {
	h := hmac.New(sha256.New, s.key[:])
	h.Write(message)
	h.Sum(mac[:0])
	return mac
}

// Format writes that it is hidden, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { f.Write([]byte(redacted)) }

// MarshalText returns that it is hidden.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func readSecret(value []byte) (*Secret, error) {
	if len(value) != secretBytes {
		return nil, &FieldError{"", fmt.Sprintf("the secret has %d bytes, want %d random ones; delete the key and a node makes a new one", len(value), secretBytes)}
	}
	return &Secret{[secretBytes]byte(value)}, nil
}

// CreateSecret makes the fleet's secret unless there is one. Errors are Put's, but for
// the conflict: somebody else's is as good.
func (s *Store) CreateSecret(ctx context.Context) error {
	value := make([]byte, secretBytes)
	rand.Read(value) // never fails
	_, err := s.Put(ctx, SecretKey, value, 0)
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		return nil
	}
	return err
}
