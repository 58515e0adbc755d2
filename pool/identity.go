package pool

import (
	"crypto/sha256"
	"strconv"
	"strings"

	"roster/store"
)

// maxIdentity is the length up to which an identity is kept as it is. Longer
// ones are replaced by their SHA-256, so that a CA bundle is not kept twice.
const maxIdentity = 96

// Identity is equal for definitions that share connections, and for no others; those with a
// PROXY header never do. It holds private keys: compare it, and show it to nobody.
func Identity(def *store.Backend, deps Deps) string { return identity(def, deps) }

// identity returns what two definitions must have in common to share
// connections, as a string that is the same for both and no others.
func identity(def *store.Backend, deps Deps) string {
	b := appendEndpoint(make([]byte, 0, maxIdentity), def, deps.Certificate)
	if def.Protocol != store.HTTP1 {
		b = appendPart(b, 'h', string(def.Protocol))
	}
	if def.ProxyHeader != 0 {
		b = appendPart(b, 'x', strconv.Itoa(def.ProxyHeader))
	}
	if def.Pool != "" {
		b = appendPart(b, 'i', def.Pool)
	}
	if deps.Via != nil && def.Via != "" {
		b = appendPart(b, 'v', string(appendEndpoint(nil, deps.Via, deps.ViaCertificate)))
		b = appendPart(b, 'a', def.Authority)
	}
	if len(b) > maxIdentity {
		sum := sha256.Sum256(b)
		return "#" + string(sum[:]) // no host begins so
	}
	return string(b)
}

// appendEndpoint adds what concerns the way to one address.
func appendEndpoint(b []byte, def *store.Backend, cert *store.Certificate) []byte {
	if def.Path != "" {
		b = appendPart(b, 'u', def.Path)
	} else {
		b = append(b, strings.ToLower(def.Host)...)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(def.Port), 10)
	}
	if len(def.Preamble) > 0 {
		b = appendPart(b, 'p', string(def.Preamble))
	}
	if t := def.TLS; t != nil {
		b = appendPart(b, 't', serverName(def))
		if t.InsecureSkipVerify {
			b = appendPart(b, 's', "")
		}
		if t.CA != "" {
			b = appendPart(b, 'c', t.CA)
		}
		for _, proto := range t.ALPN {
			b = appendPart(b, 'l', proto)
		}
		if cert != nil && t.Certificate != "" {
			b = appendPart(b, 'k', cert.Cert)
			b = appendPart(b, 'K', cert.Key)
		}
	}
	return b
}

// appendPart adds a part that cannot be taken for another: kind, length, value.
func appendPart(b []byte, kind byte, value string) []byte {
	b = append(b, ' ', kind)
	b = strconv.AppendInt(b, int64(len(value)), 10)
	b = append(b, ':')
	return append(b, value...)
}
