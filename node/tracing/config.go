package tracing

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"github.com/hashicorp/go-multierror"
)

// Config says whether and how a node takes part in traces. The zero value: not at all.
type Config struct {
	// On has a traceparent in each request that is sent to a backend, without anything
	// being exported. It need not be set where Endpoint is.
	On bool
	// Endpoint is where spans are exported to: the URL of a collector that takes OTLP in
	// protocol buffers over HTTP. Without a path it gets /v1/traces. Empty: nowhere.
	Endpoint string
	// Sample is the share of requests that are sampled, 0 to 1, of those for which no
	// trusted proxy has decided.
	Sample float64

	// Node and Version are of what serves: service.instance.id and service.version.
	Node, Version string
	// Logger is told of spans that get lost, once a minute at most. Nil discards.
	Logger *slog.Logger
}

// Enabled says whether the node takes part at all.
func (c Config) Enabled() bool { return c.On || c.Endpoint != "" }

// Validate reports all values that cannot be meant, by the names of their flags.
func (c Config) Validate() error {
	var errs *multierror.Error
	if !(c.Sample >= 0 && c.Sample <= 1) { // so that NaN is none
		errs = multierror.Append(errs, fmt.Errorf("tracing-sample is %v, want 0 (none) to 1 (all)", c.Sample))
	}
	if _, err := endpoint(c.Endpoint); c.Endpoint != "" && err != nil {
		errs = multierror.Append(errs, fmt.Errorf("otlp-endpoint: %w", err))
	}
	return errs.ErrorOrNil()
}

// endpoint completes a collector's URL. Its errors have no part of the URL, in which there
// may be a password.
func endpoint(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", errors.New("want a URL such as http://127.0.0.1:4318")
	case u.User != nil:
		return "", errors.New("the URL has a user or password, want them in OTEL_EXPORTER_OTLP_HEADERS")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the URL has a query or fragment, want none; keys belong in OTEL_EXPORTER_OTLP_HEADERS")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	return u.String(), nil
}
