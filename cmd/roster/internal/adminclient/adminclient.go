// Package adminclient asks nodes' admin APIs, with a token and over TLS where they want
// that.
package adminclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// Client says as whom to ask. The zero value is for loopback.
type Client struct {
	TokenFile string // its first token is sent; empty: none
	CA        string // file with CA certificates that nodes' are verified with; empty: the system's
}

// Add adds the flags of a command that asks nodes.
func (c *Client) Add(flags *pflag.FlagSet) {
	flags.StringVar(&c.TokenFile, "admin-token-file", "", "file with a token for nodes' admin APIs")
	flags.StringVar(&c.CA, "admin-ca", "", "file with the CA certificates that the admin APIs' are verified with")
}

// maxAnswer bounds what is read of an answer: a page of 1000 backends is well below.
const maxAnswer = 64 << 20

// URL is the root of the admin API at an address: HOST:PORT, or a URL of http or https.
// Without a host, or with one that stands for all, it is on this machine. HOST:PORT is
// http on loopback, and https for a client with a token or a CA elsewhere.
func (c Client) URL(admin string) (*url.URL, error) {
	scheme, address, given := strings.Cut(admin, "://")
	if !given {
		scheme, address = "", admin
	}
	address = strings.TrimSuffix(address, "/")
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil || given && scheme != "http" && scheme != "https" || strings.ContainsAny(address, "/@?#"):
		return nil, fmt.Errorf("%q is no address of an admin API, want HOST:PORT or https://HOST:PORT", admin)
	case host == "":
		host = "127.0.0.1"
	}
	ip, _ := netip.ParseAddr(host)
	if ip.IsUnspecified() {
		ip = netip.MustParseAddr("127.0.0.1")
		host = ip.String()
	}
	here := host == "localhost" || ip.IsLoopback()
	switch {
	case scheme == "" && !here && c != Client{}, scheme == "" && c.CA != "":
		scheme = "https"
	case scheme == "":
		scheme = "http"
	case scheme == "http" && !here && c.TokenFile != "":
		return nil, fmt.Errorf("%s: a token is not sent without TLS but on this machine, want https", admin)
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, nil
}

// Get asks for a path, which may have a query, and returns the status and the body without
// white space around it.
func (c Client) Get(ctx context.Context, admin, path string) (code int, body string, err error) {
	resp, err := c.Do(ctx, admin, http.MethodGet, path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, strings.TrimSpace(string(b)), err
}

// Do asks for a path. The answer's body has to be closed; with it the connection is.
func (c Client) Do(ctx context.Context, admin, method, path string) (*http.Response, error) {
	root, err := c.URL(admin)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, root.String()+path, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy of the environment
	if c.TokenFile != "" {
		token, err := c.token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.CA != "" {
		roots, err := c.roots()
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	return transport.RoundTrip(req)
}

// token reads the first token of the file, which may be the node's own.
func (c Client) token() (string, error) {
	raw, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("admin-token-file: %w", err)
	}
	for line := range bytes.Lines(raw) {
		if token := string(bytes.TrimSpace(line)); token != "" && token[0] != '#' {
			if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				return "", fmt.Errorf("admin-token-file: %s has a token with white space or other than ASCII in it", c.TokenFile)
			}
			return token, nil
		}
	}
	return "", fmt.Errorf("admin-token-file: %s has no token in it", c.TokenFile)
}

func (c Client) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("admin-ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("admin-ca: %s has no certificate in it, want PEM", c.CA)
	}
	return roots, nil
}
