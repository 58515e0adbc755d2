package store

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Config says which etcd to speak to, and as whom. Only Endpoints is required.
type Config struct {
	// Endpoints are members of one etcd cluster, as HOST, HOST:PORT or URLs
	// (http or https, not both). The port is 2379 unless given. Without a scheme
	// it is https if CA or Cert is set, else http.
	Endpoints []string

	// Prefix is what all keys begin with, "/roster/" if empty. It begins with
	// "/"; one is added to its end if there is none.
	Prefix string

	// User and its password, given as it is or in a file, of which white space
	// at the end is not part. The file is read again for each log-in.
	User, Password, PasswordFile string

	// CA is a file with the certificates that etcd's certificate is verified
	// with (PEM); empty means the system's. Cert and KeyFile are the client's
	// own. All are read again for each connection, so that they may be renewed.
	CA, Cert, KeyFile string

	// DialTimeout bounds one attempt at connecting to one member. Zero means 3s:
	// one lost SYN, sent again after 1s, is allowed for.
	DialTimeout time.Duration

	// RequestTimeout bounds each request, a page of a list for example, with the
	// wait for a connection; the context may end it sooner. Zero means 5s: a new
	// leader is elected in less.
	RequestTimeout time.Duration

	// UnreachableTimeout bounds how long a request waits while connecting to every
	// member has failed, as it does at once where nobody listens: an etcd may just
	// be starting. Zero means RequestTimeout.
	UnreachableTimeout time.Duration

	// PageSize is how many keys List reads at most at a time; where values are
	// large it reads fewer. Zero means 5000: etcd counts all keys for each page,
	// so that 100,000 take 0.2s, and 0.4s with 1000 (BenchmarkList).
	PageSize int

	// Logger gets what etcd's client says, all of it at debug: it logs every
	// attempt, and the errors come back to the caller anyway. Nil discards.
	Logger *slog.Logger
}

// DefaultPrefix is the prefix of a Config that has none.
const DefaultPrefix = "/roster/"

// Validate reports all that is wrong, as a *multierror.Error; it reads the files
// that are named. Open does it too.
func (c Config) Validate() error {
	_, err := c.normal()
	if err != nil {
		return multierror.Prefix(err, "store:")
	}
	return nil
}

// normal is the configuration with all defaults filled in and its files read
// once, or everything that is wrong with it.
func (c Config) normal() (Config, error) {
	var errs *multierror.Error
	check := func(err error) {
		if err != nil {
			errs = multierror.Append(errs, err)
		}
	}
	files := c.CA != "" || c.Cert != "" || c.KeyFile != ""
	var err error
	c.Prefix, err = normalPrefix(c.Prefix)
	check(err)
	c.Endpoints, err = normalEndpoints(c.Endpoints, files)
	check(err)
	if files {
		_, err := c.credentials().load()
		check(err)
	}
	check(c.checkLogin())
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{{"dial time-out", &c.DialTimeout, 3 * time.Second}, {"request time-out", &c.RequestTimeout, 5 * time.Second}, {"time-out of unreachable members", &c.UnreachableTimeout, math.MaxInt64}} {
		if *d.value < 0 {
			check(fmt.Errorf("%s is %v, want 0 or more", d.name, *d.value))
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	if c.PageSize < 0 {
		check(fmt.Errorf("page size is %d, want 0 or more", c.PageSize))
	}
	if c.PageSize == 0 {
		c.PageSize = 5000
	}
	return c, errs.ErrorOrNil()
}

func (c Config) credentials() *credentials {
	return &credentials{ca: c.CA, cert: c.Cert, key: c.KeyFile}
}

func (c Config) checkLogin() error {
	switch {
	case c.User == "" && (c.Password != "" || c.PasswordFile != ""):
		return errors.New("an etcd password without a user")
	case c.User == "":
		return nil
	case c.Password != "" && c.PasswordFile != "":
		return errors.New("an etcd password and a file with one, want either")
	case c.Password == "" && c.PasswordFile == "":
		return fmt.Errorf("etcd user %s without a password: --etcd-user needs an --etcd-password-file", c.User)
	}
	l := login{password: c.Password, file: c.PasswordFile}
	_, err := l.secret()
	return err
}

func normalPrefix(prefix string) (string, error) {
	switch {
	case prefix == "":
		return DefaultPrefix, nil
	case !strings.HasPrefix(prefix, "/"):
		return "", fmt.Errorf("prefix is %q, want it to begin with \"/\"", prefix)
	case strings.Trim(prefix, "/") == "":
		// Presence is kept under the prefix's name, beside it.
		return "", fmt.Errorf("prefix is %q, want a name in it, as in %q", prefix, DefaultPrefix)
	case strings.Contains(prefix, "//"):
		return "", fmt.Errorf("prefix is %q, want single \"/\" in it", prefix)
	case !strings.HasSuffix(prefix, "/"):
		prefix += "/"
	}
	return prefix, nil
}

// normalEndpoints makes URLs of endpoints, all of one scheme. Files says that
// there are some for TLS.
func normalEndpoints(endpoints []string, files bool) ([]string, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("no etcd endpoint given")
	}
	var (
		urls    []string
		schemes = make(map[string]bool)
		errs    *multierror.Error
	)
	for _, e := range endpoints {
		u, err := normalEndpoint(e, files)
		if err != nil {
			errs = multierror.Append(errs, fmt.Errorf("endpoint %q: %w", e, err))
			continue
		}
		urls = append(urls, u.String())
		schemes[u.Scheme] = true
	}
	if len(schemes) > 1 {
		errs = multierror.Append(errs, errors.New("some endpoints are https and some are not, want all or none"))
	}
	return urls, errs.ErrorOrNil()
}

func normalEndpoint(endpoint string, files bool) (*url.URL, error) {
	scheme, host, found := strings.Cut(strings.TrimSpace(endpoint), "://")
	switch {
	case !found && files:
		scheme, host = "https", scheme
	case !found:
		scheme, host = "http", scheme
	case scheme != "http" && scheme != "https":
		return nil, fmt.Errorf("scheme is %q, want http or https", scheme)
	case scheme == "http" && files:
		return nil, errors.New("it is not https, but files for TLS are given")
	}
	host = strings.TrimSuffix(host, "/")
	u, err := url.Parse("//" + host)
	const want = ", want HOST:PORT or a URL"
	switch {
	case err != nil || strings.Count(host, ":") > 1 && !strings.HasPrefix(host, "["):
		return nil, errors.New("not an address" + want)
	case u.Hostname() == "":
		return nil, errors.New("no host in it" + want)
	case u.Host != host:
		return nil, errors.New("more than an address" + want)
	case u.Port() == "":
		u.Host = net.JoinHostPort(u.Hostname(), "2379")
	default:
		if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("port is %s, want 1 to 65535", u.Port())
		}
	}
	u.Scheme = scheme
	return u, nil
}
