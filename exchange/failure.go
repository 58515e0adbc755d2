package exchange

import "time"

// Kind is what went wrong. It decides whether there is another try, and what the
// client is told.
type Kind uint8

// The kinds, in the order in which a request can meet them.
const (
	None           Kind = iota
	BadRequest          // the head is not acceptable
	BadBody             // the body's framing is broken
	ClientTimeout       // the client took too long with head or body
	ClientGone          // nobody is there to be answered
	Loop                // the request has passed this proxy already
	Stale               // the revision asked for did not come in time
	Internal            // this proxy's own fault
	NoBackend           // none, none healthy, or a dangling reference
	Busy                // no slot, and no place in the queue or no turn in time
	Sick                // went sick or was deleted while the request waited
	Refused             // nobody listens there
	Unroutable          // no way to the backend's network or host
	Unresolved          // its name has no known address
	Prohibited          // it is where no backend may be
	Handshake           // TLS, or what comes before requests, failed
	Local               // a fault of this machine: ports, descriptors
	ConnectTimeout      // no connection in time
	Closed              // the connection ended before any byte of the answer
	Incomplete          // it ended within the answer's head
	WriteTimeout        // the backend did not take the request in time
	FirstByte           // nothing of the answer in time
	BetweenBytes        // a pause too long, in the answer's head
	Late                // the route's time for the whole request is over
	BadAnswer           // what came is no acceptable answer
	Truncated           // the answer's body ended too soon, or its framing is broken

	kinds
)

// Kinds is the number of kinds, for arrays of counters.
const Kinds = int(kinds)

// kindInfo is what a kind means to the client unless the Failure says otherwise.
var kindInfo = [kinds]struct {
	name, typ, text string
	status          int
	backend         bool // the backend's failure, which --error-status varnish makes a 503
}{
	None:           {"none", "", "", 0, false},
	BadRequest:     {"bad_request", "http_request_error", "the request is not valid", 400, false},
	BadBody:        {"bad_body", "http_request_error", "the request's body is not valid", 400, false},
	ClientTimeout:  {"client_timeout", "http_request_error", "the request took too long", 408, false},
	ClientGone:     {"client_gone", "", "", 0, false},
	Loop:           {"loop", "proxy_loop_detected", "the request has passed this proxy already", 508, false},
	Stale:          {"stale", "proxy_configuration_error", "the revision asked for is not here yet", 503, false},
	Internal:       {"internal", "proxy_internal_error", "the proxy failed", 500, false},
	NoBackend:      {"no_backend", "destination_unavailable", "no healthy backend", 503, true},
	Busy:           {"busy", "connection_limit_reached", "the backend is busy", 503, true},
	Sick:           {"sick", "destination_unavailable", "the backend went away while the request waited", 503, true},
	Refused:        {"refused", "connection_refused", "no connection to the backend", 502, true},
	Unroutable:     {"unroutable", "destination_ip_unroutable", "no way to the backend", 502, true},
	Unresolved:     {"unresolved", "dns_error", "the backend's name is not known", 502, true},
	Prohibited:     {"prohibited", "destination_ip_prohibited", "the backend's address is not allowed", 502, true},
	Handshake:      {"handshake", "tls_protocol_error", "no secure connection to the backend", 502, true},
	Local:          {"local", "proxy_internal_error", "the proxy cannot connect", 502, true},
	ConnectTimeout: {"connect_timeout", "connection_timeout", "no connection to the backend in time", 504, true},
	Closed:         {"closed", "connection_terminated", "the backend closed the connection", 502, true},
	Incomplete:     {"incomplete", "http_response_incomplete", "the backend's answer is incomplete", 502, true},
	WriteTimeout:   {"write_timeout", "connection_write_timeout", "the backend did not take the request in time", 504, true},
	FirstByte:      {"first_byte_timeout", "http_response_timeout", "the backend did not answer in time", 504, true},
	BetweenBytes:   {"between_bytes_timeout", "http_response_timeout", "the backend's answer stalled", 504, true},
	Late:           {"late", "http_response_timeout", "no answer in the time allowed", 504, true},
	BadAnswer:      {"bad_answer", "http_protocol_error", "the backend's answer is not valid", 502, true},
	Truncated:      {"truncated", "http_response_incomplete", "the backend's answer is incomplete", 502, true},
}

// String returns the kind as a word for logs and metrics.
func (k Kind) String() string { return kindInfo[k].name }

// Backend says whether it is the fault of the backend that was asked, rather
// than that of the client, of the proxy, or nobody's.
func (k Kind) Backend() bool { return kindInfo[k].backend && k > Sick && k != Local }

// Failure is one thing that went wrong. Status and Type are given where the kind
// leaves them open; zero means the kind's own.
type Failure struct {
	Kind   Kind
	Status int    // of the answer
	Type   string // RFC 9209 2.3
	Text   string // a few words for the client
	// Unprocessed: the backend surely did nothing with the request, so that it may
	// be sent again whatever its method, if all of it is still there (RFC 9113 8.7:
	// REFUSED_STREAM, or GOAWAY with an earlier stream).
	Unprocessed bool
}

// Failures of the search for a route. The client is not told what a condition is
// about.
var (
	BadPath      = Failure{Kind: BadRequest, Text: "the path is not valid"}
	BadCondition = Failure{Kind: Internal, Text: "the route's condition cannot be computed"}
)

// maxRefusals is how many times a request goes to the same backend again because
// it was not processed: once for a connection that was just closing, once more
// for bad luck. A backend that goes on refusing has enough to do.
const maxRefusals = 2

// Failed reports a failure at whatever stage. The connection to the backend, if
// there is one, is of no more use; the slot is still held if the next step is
// Connect, and given back otherwise.
//
// The steps it may return: Connect (again, with Fresh), Pick (another one),
// Reply, or Cut.
func (x *Exchange) Failed(f Failure) Step {
	x.failure = f.Kind
	switch {
	case x.sentHead || f.Kind == ClientGone:
		return x.cut()
	case x.again(f):
		x.failure = None
		x.fresh = true
		x.repeats++
		return Connect
	case x.another(f):
		x.failure = None
		x.fresh = false
		x.retries++
		return Pick
	}
	return x.error(f)
}

// again says whether the same backend is asked once more: it said that it did not
// look at the request; or a reused connection may have been closed at the very
// moment it was taken, which is nobody's fault.
func (x *Exchange) again(f Failure) bool {
	if f.Unprocessed && x.refusals < maxRefusals && !x.bodyGone && !x.interim {
		x.refusals++
		return true
	}
	return f.Kind == Closed && x.reused && !x.fresh && x.repeatable()
}

// another says whether another backend is asked. Where nothing was sent yet, or
// nothing was looked at, any request may be sent elsewhere.
func (x *Exchange) another(f Failure) bool {
	if x.route == nil || x.retries >= x.route.Retries || x.interim || x.bodyGone {
		return false
	}
	switch f.Kind {
	case Busy, Sick, Refused, Unroutable, Unresolved, Prohibited, Handshake, Local, ConnectTimeout:
	case Closed, Incomplete, WriteTimeout, FirstByte, BetweenBytes, BadAnswer:
		if !x.idempotent && !f.Unprocessed {
			return false
		}
	default:
		if !f.Unprocessed {
			return false
		}
	}
	return x.afford()
}

// afford takes from the budget what one more try costs.
func (x *Exchange) afford() bool { return x.budget == nil || x.budget.Take() }

// repeatable says whether the request may be sent a second time: doing so means
// no more than sending it once (RFC 9110 9.2.2), and all of it is still there.
func (x *Exchange) repeatable() bool { return x.idempotent && !x.bodyGone && !x.interim }

// cut ends an exchange that cannot be answered any more.
func (x *Exchange) cut() Step {
	x.Response.Close = !x.stream
	return Cut
}

// error makes the answer for a failure.
func (x *Exchange) error(f Failure) Step {
	info := &kindInfo[f.Kind]
	if f.Status == 0 {
		f.Status = info.status
	}
	if f.Type == "" {
		f.Type = info.typ
	}
	if f.Text == "" {
		f.Text = info.text
	}
	if info.backend && x.policy.config.VarnishErrors {
		f.Status = 503
	}
	start := len(x.scratch)
	x.scratch = appendInt(x.scratch, f.Status)
	x.scratch = append(append(append(append(append(x.scratch, ' '), reason(f.Status)...), ": "...), f.Text...), '\n')
	body := x.scratch[start:len(x.scratch):len(x.scratch)]

	start = len(x.scratch)
	x.scratch = append(append(x.scratch, x.policy.status...), f.Type...)
	status := x.scratch[start:len(x.scratch):len(x.scratch)]

	x.begin(f.Status)
	x.field(contentType, plainText)
	x.field(proxyStatus, status)
	x.field(xRequestID, x.requestID)
	x.Response.Fields = x.appendRevision(x.Response.Fields)
	if f.Kind == Stale || f.Kind == Busy {
		x.field(retryAfter, one)
	}
	x.body(body)
	if !x.stream && (f.Kind == BadRequest || f.Kind == BadBody || f.Kind == ClientTimeout) {
		x.Response.Close = true // where the next request begins is not known
	}
	return Reply
}

// Timeouts are those of one try. Zero means no limit.
type Timeouts struct {
	Connect, FirstByte, BetweenBytes, Tunnel time.Duration
	// Total is for the whole request, from its head on, all tries together.
	Total time.Duration
}
