package exchange

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Config is what is the same for every request of a node.
type Config struct {
	// ProxyName is what Via and Proxy-Status call this proxy; empty means
	// "roster". Proxies in front of others may have the same name: what tells a
	// loop (508) from two tiers is in Via's comment, see the package's doc.
	ProxyName string
	// TrustedProxies are the peers whose X-Forwarded-*, Forwarded and
	// X-Request-Id are believed, and traceparent's word on sampling. None by default.
	TrustedProxies []netip.Prefix
	// VarnishErrors turns every failure of a backend into 503, as Varnish does.
	VarnishErrors bool
	// RevisionHeader names the revision that routed a request in each answer.
	RevisionHeader bool
	// MinRevisionWait is how long a request with X-Min-Revision waits for its
	// revision. Zero: the field means nothing.
	MinRevisionWait time.Duration
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	for _, r := range c.ProxyName {
		if r < ' ' || r > '~' {
			errs = multierror.Append(errs, fmt.Errorf("proxy name is %q, want printable ASCII", c.ProxyName))
			break
		}
	}
	for _, p := range c.TrustedProxies {
		if !p.IsValid() {
			errs = multierror.Append(errs, fmt.Errorf("trusted proxy %v is no prefix", p))
		}
	}
	if c.MinRevisionWait < 0 {
		errs = multierror.Append(errs, fmt.Errorf("wait for a minimum revision is %v, want 0 (off) or more", c.MinRevisionWait))
	}
	return errs.ErrorOrNil()
}

// Policy is a Config made ready for use.
type Policy struct {
	config   Config
	pseudo   []byte    // received-by in Via
	comment  []byte    // in a request's Via: this process
	via      [3][]byte // of answers, by received version: 1.0, 1.1, 2
	onward   [3][]byte // of requests
	status   []byte    // "roster; error=", what Proxy-Status begins with
	ids      ids
	dateMemo atomic.Pointer[date]
}

// New returns the policy for a config that is valid.
func New(c Config) *Policy {
	if c.ProxyName == "" {
		c.ProxyName = "roster"
	}
	p := &Policy{config: c, ids: newIDs()}
	p.pseudo = pseudonym(c.ProxyName)
	p.comment = []byte("(" + string(p.ids.process[:8]) + ")")
	for i, version := range []string{"1.0 ", "1.1 ", "2 "} {
		p.via[i] = append([]byte(version), p.pseudo...)
		p.onward[i] = slices.Concat(p.via[i], []byte(" "), p.comment)
	}
	p.status = append(structured(c.ProxyName), "; error="...)
	return p
}

// Config returns what the policy was made of, defaults filled in.
func (p *Policy) Config() Config { return p.config }

// pseudonym makes a name a token, as Via wants it (RFC 9110 7.6.3).
func pseudonym(name string) []byte {
	b := []byte(name)
	for i, c := range b {
		if !isToken(c) {
			b[i] = '_'
		}
	}
	return b
}

// structured writes a name as a structured field's item: a token where it is
// one, else a string (RFC 9651 3.3.3, 3.3.4).
func structured(name string) []byte {
	token := isLetter(name[0]) || name[0] == '*'
	for i := range len(name) {
		token = token && (isToken(name[i]) || name[i] == ':' || name[i] == '/')
	}
	if token {
		return []byte(name)
	}
	return []byte(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// isToken says whether c may be in a token (RFC 9110 5.6.2).
func isToken(c byte) bool {
	return isLetter(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// trusts says whether an address is a trusted proxy's.
func (p *Policy) trusts(a netip.Addr) bool {
	for _, t := range p.config.TrustedProxies {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// date is the field's value for one second.
type date struct {
	second int64
	text   []byte
}

// date returns the value of Date now. It is formatted once a second.
func (p *Policy) date() []byte {
	now := time.Now()
	if d := p.dateMemo.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{now.Unix(), now.UTC().AppendFormat(nil, "Mon, 02 Jan 2006 15:04:05 GMT")}
	p.dateMemo.Store(d)
	return d.text
}
