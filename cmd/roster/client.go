package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

// etcdFlags say which etcd, and as whom.
type etcdFlags struct {
	endpoints          []string
	prefix             string
	user, passwordFile string
	ca, cert, key      string
}

func (f *etcdFlags) add(flags *pflag.FlagSet, endpoints []string, what string) {
	flags.StringSliceVar(&f.endpoints, "etcd", endpoints, what+", HOST:PORT,...")
	flags.StringVar(&f.prefix, "prefix", "/roster/", "what the keys of definitions begin with")
	flags.StringVar(&f.user, "etcd-user", "", "user name for etcd")
	flags.StringVar(&f.passwordFile, "etcd-password-file", "", "file with the password of --etcd-user")
	flags.StringVar(&f.ca, "etcd-ca", "", "file with the CA certificates that etcd's certificate is verified with; turns TLS on")
	flags.StringVar(&f.cert, "etcd-cert", "", "file with the client certificate for etcd; turns TLS on")
	flags.StringVar(&f.key, "etcd-key", "", "file with the key of --etcd-cert")
}

func (f *etcdFlags) config() store.Config {
	return store.Config{
		Endpoints: f.endpoints, Prefix: f.prefix,
		User: f.user, PasswordFile: f.passwordFile,
		CA: f.ca, Cert: f.cert, KeyFile: f.key,
	}
}

// client is what the commands that read and write definitions have in common.
type client struct {
	etcdFlags
	timeout time.Duration
	flags   *pflag.FlagSet
}

// unreachable is how long a command tries while no etcd can be reached, if it was not said
// how long etcd may take: one may just be starting.
const unreachable = time.Second

func (c *client) add(flags *pflag.FlagSet) {
	c.flags = flags
	c.etcdFlags.add(flags, []string{"127.0.0.1:2379"}, "etcd")
	flags.Var(newDuration(&c.timeout, 5*time.Second), "timeout", "how long etcd may take for one request; 0s is without limit; if it is not given, etcd that refuses connections is given up after 1s")
}

// limit is the time-out with 0, no limit, as a duration: the store's 0 is its default.
func (c *client) limit() time.Duration {
	if c.timeout == 0 {
		return math.MaxInt64
	}
	return c.timeout
}

// do opens the store and runs f with it.
func (c *client) do(ctx context.Context, f func(context.Context, *store.Store) error) error {
	cfg := c.config()
	cfg.RequestTimeout = c.limit()
	if c.flags != nil && !c.flags.Changed("timeout") {
		cfg.UnreachableTimeout = unreachable
	}
	s, err := store.Open(cfg)
	if err != nil {
		return withCode(exitUsage, err)
	}
	defer s.Close()
	err = f(ctx, s)
	if errors.Is(err, store.ErrOutcomeUnknown) {
		return withCode(exitUnavailable, fmt.Errorf("%w; read the key again before you repeat the command: roster get shows what etcd holds", err))
	}
	if errors.Is(err, store.ErrTLS) { // it is there, and what to do is said
		return withCode(exitUnavailable, err)
	}
	if errors.Is(err, store.ErrUnavailable) {
		return withCode(exitUnavailable, fmt.Errorf("%w; is etcd running at %s? roster node starts one, --etcd HOST:PORT names another",
			err, strings.Join(c.endpoints, ",")))
	}
	if errors.Is(err, store.ErrDenied) {
		return fmt.Errorf("%w; --etcd-user and --etcd-password-file, or --etcd-cert and --etcd-key, say who you are", err)
	}
	return err
}

// key reads KIND NAME.
func key(kind, name string) (store.Key, error) {
	k, ok := store.ParseKind(kind)
	if !ok {
		return store.Key{}, usage("%s", manifest.UnknownKind(kind))
	}
	return store.Key{Kind: k, Name: name}, nil
}

// prefixed puts the definition's key before each error.
func prefixed(key store.Key, err error) error {
	var all []error
	for _, err := range manifest.Each(err) {
		all = append(all, fmt.Errorf("%s: %w", key, err))
	}
	return joined(all)
}

// duration is a flag in the syntax of definitions: "500ms", "1d".
type duration time.Duration

func newDuration(p *time.Duration, value time.Duration) *duration {
	*p = value
	return (*duration)(p)
}

func (d *duration) String() string { return store.FormatDuration(time.Duration(*d)) }
func (d *duration) Type() string   { return "duration" }

func (d *duration) Set(s string) error {
	v, err := store.ParseDuration(s)
	if err == nil {
		*d = duration(v)
	}
	return err
}

// share is a flag of a percentage: "50%"; 0 is none.
type share int

func (p *share) String() string { return strconv.Itoa(int(*p)) + "%" }
func (p *share) Type() string   { return "share" }

func (p *share) Set(text string) error {
	digits, ok := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n > 100 {
		return fmt.Errorf("%q is no share, want 0%% to 100%%, such as 50%%", text)
	}
	*p = share(n)
	return nil
}

// size is a flag in the syntax of definitions: "65536", "64KiB".
type size[T int | int64] struct{ p *T }

func newSize[T int | int64](p *T, value T) size[T] {
	*p = value
	return size[T]{p}
}

func (s size[T]) String() string {
	if s.p == nil { // pflag asks a zero one
		return "0"
	}
	switch n := int64(*s.p); {
	case n > 0 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n > 0 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	default:
		return fmt.Sprint(n)
	}
}

func (s size[T]) Type() string { return "size" }

func (s size[T]) Set(text string) error {
	v, err := store.ParseSize(text)
	if err == nil && int64(T(v)) != v {
		err = fmt.Errorf("%q is too large", text)
	}
	if err == nil {
		*s.p = T(v)
	}
	return err
}

// networks is a flag with networks, "10.0.0.0/8,fd00::/8", or addresses; given again, it
// adds to them. IPv4 is IPv4, however written: addresses are compared unmapped, so
// ::ffff:10.0.0.0/104 is 10.0.0.0/8.
type networks struct{ p *[]netip.Prefix }

func (n *networks) String() string { return strings.Join(n.GetSlice(), ",") }
func (n *networks) Type() string   { return "networks" }

func (n *networks) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if err := n.Append(part); err != nil {
			return err
		}
	}
	return nil
}

// Append, Replace and GetSlice are those of a pflag.SliceValue: of a flag that takes a list.
func (n *networks) Append(text string) error {
	text = strings.TrimSpace(text)
	prefix, err := netip.ParsePrefix(text)
	if addr, single := netip.ParseAddr(text); single == nil && addr.Zone() == "" {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return fmt.Errorf("%q is no network, want one such as 10.0.0.0/8 or fd00::/8", text)
	}
	prefix = prefix.Masked()
	if a := prefix.Addr(); a.Is4In6() {
		prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96) // 96 bits of it at least, or it would have been masked
	}
	*n.p = append(*n.p, prefix)
	return nil
}

func (n *networks) Replace(all []string) error {
	*n.p = nil
	return n.Set(strings.Join(all, ","))
}

func (n *networks) GetSlice() []string {
	var all []string
	if n.p != nil { // pflag asks a zero one
		for _, prefix := range *n.p {
			all = append(all, prefix.String())
		}
	}
	return all
}
