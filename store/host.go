package store

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// services are the service names that stand for a port, the same on every
// node, whatever its /etc/services says: those of IANA for HTTP.
var services = []struct {
	name string
	port uint16
}{
	{"http", 80},
	{"www", 80},
	{"www-http", 80},
	{"https", 443},
	{"http-alt", 8080},
	{"webcache", 8080},
	{"https-alt", 8443},
	{"pcsync-https", 8443},
	{"http-mgmt", 280},
	{"ipp", 631},
	{"gss-http", 488},
	{"http-rpc-epmap", 593},
	{"http-wmap", 8990},
	{"https-wmap", 8991},
}

// servicePort is the port of a service name, 0 for an unknown one.
func servicePort(name string) uint16 {
	for i := range services {
		if services[i].name == name {
			return services[i].port
		}
	}
	return 0
}

func serviceNames() string {
	names := make([]string, len(services))
	for i := range services {
		names[i] = services[i].name
	}
	return strings.Join(names, ", ")
}

// parsePort reads a port as a string has it, behind a host.
func parsePort(s string) (uint16, error) {
	if s != "" && isDigit(s[0]) {
		if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
			return uint16(n), nil
		}
		return 0, fmt.Errorf("port %s, want 1 to 65535", quote(s))
	}
	if port := servicePort(s); port != 0 {
		return port, nil
	}
	return 0, fmt.Errorf("port %s, want 1 to 65535 or one of %s", quote(s), serviceNames())
}

// port reads a number or a service name.
func (d *decoder) port() (uint16, bool) {
	const want = "a number from 1 to 65535 or a service name"
	switch c := d.peek(); {
	case c == '"':
		b, ok := d.text(want)
		if !ok {
			return 0, false
		}
		if port := servicePort(string(b)); port != 0 {
			return port, true
		}
		if n, err := strconv.ParseUint(string(b), 10, 16); err == nil && n > 0 {
			d.fail("is the string %s, want the number %d", quote(string(b)), n)
		} else {
			d.fail("is %s, want %s: %s", quote(string(b)), want, serviceNames())
		}
		return 0, false
	case c == '-' || isDigit(c):
		n, ok := d.integer(1, 65535)
		return uint16(n), ok
	}
	d.mistyped(want)
	return 0, false
}

// splitHost splits "host", "host:port", "[::1]:port" and a bare "::1" into the
// host, without brackets, and the port, 0 if there is none. What it returns
// without an error is a valid address or domain name, as written.
func splitHost(s string) (host string, port uint16, err error) {
	host = s
	bracketed := strings.HasPrefix(s, "[")
	switch {
	case bracketed:
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, fmt.Errorf("%s has no \"]\"", quote(s))
		}
		rest := s[end+1:]
		if host = s[1:end]; rest != "" {
			if rest[0] != ':' {
				return "", 0, fmt.Errorf("%s has something else than a port after \"]\"", quote(s))
			}
			port, err = parsePort(rest[1:])
		}
	case strings.Count(s, ":") == 1:
		var tail string
		host, tail, _ = strings.Cut(s, ":")
		port, err = parsePort(tail)
	}
	if err != nil {
		return "", 0, err
	}
	if strings.IndexByte(host, ':') >= 0 || bracketed {
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() {
			return "", 0, fmt.Errorf("%s is not an IPv6 address; want one such as \"[::1]:8080\"", quote(s))
		}
		return host, port, nil
	}
	return host, port, checkDomain(host)
}

// checkDomain says what is wrong with a domain name or IPv4 address.
func checkDomain(s string) error {
	if s == "" {
		return errors.New("the host is empty, want an address or a domain name")
	}
	if len(s) > 253 {
		return fmt.Errorf("%s is %d bytes long, want at most 253", quote(s), len(s))
	}
	labels := strings.TrimSuffix(s, ".")
	last := labels[strings.LastIndexByte(labels, '.')+1:]
	if isNumeric(last) {
		if _, err := netip.ParseAddr(s); err != nil {
			return fmt.Errorf("%s is neither an IPv4 address nor a domain name", quote(s))
		}
		return nil
	}
	size := 0 // of the label so far
	for i := 0; i < len(labels); i++ {
		c := labels[i]
		switch {
		case c == '.':
			if size == 0 || labels[i-1] == '-' {
				return fmt.Errorf("%s is not a domain name: a part of it is empty or ends with \"-\"", quote(s))
			}
			size = 0
			continue
		case isLetter(c), isDigit(c), c == '_':
		case c == '-' && size > 0:
		case c >= 0x80:
			return fmt.Errorf("%s is not ASCII, want its xn-- form", quote(s))
		default:
			return fmt.Errorf("%s has %s in it, want an address or a domain name", quote(s), quoteRune(labels[i:]))
		}
		if size++; size > 63 {
			return fmt.Errorf("%s has a part longer than 63 bytes", quote(s))
		}
	}
	if size == 0 || labels[len(labels)-1] == '-' {
		return fmt.Errorf("%s is not a domain name: a part of it is empty or ends with \"-\"", quote(s))
	}
	return nil
}

// isNumeric says that a last label is no top-level domain but a number, in
// decimal or 0x form, so that the whole must be an IPv4 address (WHATWG URL,
// "ends in a number").
func isNumeric(label string) bool {
	if len(label) > 1 && label[0] == '0' && label[1]|0x20 == 'x' {
		return true
	}
	for i := 0; i < len(label); i++ {
		if !isDigit(label[i]) {
			return false
		}
	}
	return label != ""
}

// isAddress says that a valid host is an IP address and not a name.
func isAddress(host string) bool {
	if host == "" || !isDigit(host[0]) && strings.IndexByte(host, ':') < 0 {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// authority joins a host and a port for a Host field; 0 is no port.
func authority(host string, port uint16) string {
	if strings.IndexByte(host, ':') >= 0 {
		host, _, _ = strings.Cut(host, "%") // a zone is this machine's business
		host = "[" + host + "]"
	}
	if port == 0 {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}

// checkHostField says what is wrong with a value of the Host field: a host of
// RFC 3986 3.2.2 and an optional port. Names that DNS would refuse are fine.
func checkHostField(s string) error {
	if s == "" {
		return errors.New("is empty, want a host")
	}
	if len(s) > 255 {
		return fmt.Errorf("is %d bytes long, want at most 255", len(s))
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isLetter(c) && !isDigit(c) && strings.IndexByte("-._~!$&'()*+,;=%:[]", c) < 0 {
			return fmt.Errorf("is %s with %s in it, want a host and perhaps a port", quote(s), quoteRune(s[i:]))
		}
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("is %s with the port %s, want 1 to 65535", quote(s), quote(port))
		}
	}
	if strings.ContainsAny(host, ":[]") {
		if n := len(host); n < 2 || host[0] != '[' || host[n-1] != ']' {
			return fmt.Errorf("is %s, want an IPv6 address in brackets", quote(s))
		}
		if a, err := netip.ParseAddr(host[1 : len(host)-1]); err != nil || !a.Is6() || a.Zone() != "" {
			return fmt.Errorf("is %s, want an IPv6 address in brackets", quote(s))
		}
	} else if host == "" {
		return fmt.Errorf("is %s, want a host before the port", quote(s))
	}
	return nil
}

// matchHost reads a host that requests are compared with: exact, or "*." and a
// domain for what is below it. It is kept in lower case, without a port.
func matchHost(s string) (string, error) {
	under, wild := strings.CutPrefix(s, "*.")
	if strings.Contains(under, "*") || strings.Contains(under, "/") { // a pattern or a URL
		return "", fmt.Errorf("is %s, want a host such as \"foo.com\", or \"*.foo.com\" for all below it", quote(s))
	}
	host, _, err := splitHost(under)
	if err != nil {
		return "", err
	}
	if strings.IndexByte(host, ':') >= 0 {
		addr := netip.MustParseAddr(host).WithZone("")
		host = "[" + addr.String() + "]"
	}
	if wild && (host[0] == '[' || isAddress(host)) {
		return "", fmt.Errorf("is %s, want a domain name after \"*.\"", quote(s))
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if wild {
		return "*." + host, nil
	}
	return host, nil
}

// isToken says that s is a token of RFC 9110 5.6.2: a field's name, a method.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !isLetter(c) && !isDigit(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// checkFieldValue says what is wrong with the value of a header field
// (RFC 9110 5.5): control characters, or white space around it.
func checkFieldValue(s string) error {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("has %s in it, want no control characters", quoteRune(s[i:]))
		}
	}
	if strings.Trim(s, " \t") != s {
		return fmt.Errorf("is %s, want no white space around it", quote(s))
	}
	return nil
}

// checkTarget says what is wrong with a path and perhaps a query, as sent.
func checkTarget(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("is %s, want a path that begins with \"/\"", quote(s))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return fmt.Errorf("has %s in it, want it percent-encoded", quoteRune(s[i:]))
		}
	}
	return nil
}
