package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/message"
	"roster/node/table"
	"roster/store"

	routes "roster/node/route"
)

// Explanation is what would become of a request, and why. Nothing was sent, and nothing
// moved: what directors choose by turns or at random, the next request may get.
type Explanation struct {
	Revision int64           `json:"revision"` // of the table that decided
	Request  ExplainRequest  `json:"request"`
	Routes   []ExplainRoute  `json:"routes"` // in the order in which they were considered, up to the one taken; then others by name
	LeftOut  int             `json:"routes_left_out"`
	Route    *Definition     `json:"route"`  // that is taken; null: none
	Target   string          `json:"target"` // backend or director that the request is given to, the default rule's where no route is taken
	Choices  []ExplainChoice `json:"directors"`
	Backend  *Backend        `json:"backend"` // null: there is none
	Sent     *ExplainSent    `json:"sent"`    // to the backend; null: nothing
	Answer   *ExplainAnswer  `json:"answer"`  // that the node gives by itself; null: the backend's
}

// ExplainRequest is the request as routes see it.
type ExplainRequest struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Host   string `json:"host"`
	Path   string `json:"path"`   // normalised; "" where it is not valid
	Client string `json:"client"` // after --trusted-proxies
}

// ExplainRoute is what became of one route.
type ExplainRoute struct {
	Name       string `json:"name"`
	Considered bool   `json:"considered"` // host and path are right, and no route before it was taken
	Taken      bool   `json:"taken"`
	Matches    bool   `json:"matches"`
	Field      string `json:"field,omitempty"` // the first that does not match
	Got        string `json:"got,omitempty"`   // what the request has there
	Want       string `json:"want,omitempty"`  // what would match
	Error      string `json:"error,omitempty"` // why the condition could not be computed
}

// ExplainChoice is how one director on the way chooses.
type ExplainChoice struct {
	Name    string             `json:"name"`
	Type    store.DirectorType `json:"type"`
	Why     string             `json:"why"`
	States  map[string]int     `json:"states"`  // of all members, how many
	Members []ExplainMember    `json:"members"` // the chosen one, and the first 100 of all
}

// ExplainMember is a member as the director sees it.
type ExplainMember struct {
	Name   string  `json:"name"`
	State  string  `json:"state"`
	Left   float64 `json:"ejected_seconds,omitempty"` // until an ejection ends
	Weight float64 `json:"weight"`
	Share  float64 `json:"share"` // of requests now, by weight, 0 to 1
	Chosen bool    `json:"chosen"`
}

// ExplainSent is what the backend would get. The id in it is not one of a request.
type ExplainSent struct {
	Method   string          `json:"method"`
	Target   string          `json:"target"`
	Host     string          `json:"host"`
	Fields   []ExplainField  `json:"fields"`
	Retries  int             `json:"retries"` // other members that may be tried
	Timeouts ExplainTimeouts `json:"timeouts"`
}

// ExplainTimeouts are in the syntax of definitions; "0s" is none.
type ExplainTimeouts struct {
	Connect      string `json:"connect"`
	FirstByte    string `json:"first_byte"`
	BetweenBytes string `json:"between_bytes"`
	Total        string `json:"total"`
}

// ExplainField is a line of a head.
type ExplainField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ExplainAnswer is an answer without a backend.
type ExplainAnswer struct {
	Status int            `json:"status"`
	Error  string         `json:"error,omitempty"` // what failed, as the access log has it; empty: the route answers
	Fields []ExplainField `json:"fields"`
	Body   string         `json:"body"`
}

// Bounds of an explanation, which is for people.
const (
	maxExplainRoutes  = 100
	maxExplainMembers = 100
)

var explainQuery = []parameter{
	{"url", "http://HOST/PATH or https://HOST/PATH, or /PATH with a header Host.", ""},
	{"method", "GET by default.", ""},
	{"header", "Name: value; may be given again.", []string{}},
	{"client", "Address of who connects to the node; 127.0.0.1 by default.", ""},
}

// explain says what would become of a request.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	if !known(w, r, "method", "url", "header", "client") {
		return
	}
	in, faults := readExplain(r)
	if faults != nil {
		answer(w, http.StatusBadRequest, Fault{Errors: faults})
		return
	}
	e := explainer{server: s, table: s.Node.Table(), now: time.Since(s.Start)}
	policy := s.Policy
	if policy == nil {
		policy = exchange.New(exchange.Config{})
	}
	answer(w, http.StatusOK, e.explain(policy, in))
}

// explainInput is a request to be explained.
type explainInput struct {
	head   message.Request
	url    string
	tls    bool
	client netip.Addr
}

// readExplain reads the parameters, or says all that is wrong with them.
func readExplain(r *http.Request) (in *explainInput, faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	q := r.URL.Query()
	in = &explainInput{client: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	method := "GET"
	if q.Has("method") {
		if method = q.Get("method"); !isToken(method) {
			fault("method is %q, want one such as GET", method)
		}
	}
	if v := q.Get("client"); v != "" {
		var err error
		if in.client, err = netip.ParseAddr(v); err != nil {
			fault("client is %q, want an address such as 192.0.2.1", v)
		}
	}
	head := ""
	host, hosts := "", 0
	for _, line := range q["header"] {
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		switch {
		case !ok || !isToken(name):
			fault("header is %q, want \"Name: value\"", line)
		case strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }):
			fault("header is %q, want no control character in it", line)
		case strings.EqualFold(name, "host"):
			host = value
			hosts++
		default:
			head += name + ": " + value + "\r\n"
		}
	}
	if hosts > 1 {
		fault("header Host is given %d times, want it once", hosts)
	}
	in.url = q.Get("url")
	authority, target, err := in.split()
	switch {
	case err != nil:
		fault("url is %q, %v", in.url, err)
	case hosts == 0 && authority == "":
		fault("url is %q, want one with a host, as http://www.example.com/, or a header Host", in.url)
	}
	if hosts == 0 {
		host = authority
	}
	if faults != nil {
		return nil, faults
	}
	raw := []byte(method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + head + "\r\n")
	var parser http1.Parser
	n, err := parser.Request(raw, &in.head)
	var bad *http1.Error
	switch {
	case errors.As(err, &bad):
		return nil, []string{fmt.Sprintf("a node would answer this request %d: %s", bad.Status, bad.Msg)}
	case err != nil:
		return nil, []string{err.Error()}
	case n != len(raw):
		return nil, []string{"the request does not end where it should"} // no parameter can make it so
	}
	return in, nil
}

// split takes the URL apart, without changing a byte of it: spelling matters to routes.
func (in *explainInput) split() (authority, target string, err error) {
	rest := in.url
	if i := strings.IndexFunc(rest, func(c rune) bool { return c <= ' ' || c == 0x7f }); i >= 0 {
		return "", "", errors.New("want no white space or control character in it; %20 is a space")
	}
	rest, _, _ = strings.Cut(rest, "#") // no client sends it
	scheme, after, found := strings.Cut(rest, "://")
	switch {
	case found && strings.EqualFold(scheme, "http"):
	case found && strings.EqualFold(scheme, "https"):
		in.tls = true
	case strings.HasPrefix(rest, "/") || rest == "*":
		return "", rest, nil
	default:
		return "", "", errors.New("want http://HOST/PATH, https://HOST/PATH or /PATH")
	}
	end := len(after)
	if i := strings.IndexAny(after, "/?"); i >= 0 {
		end = i
	}
	authority, target = after[:end], after[end:]
	if strings.Contains(authority, "@") {
		return "", "", errors.New("want no user in it")
	}
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	return authority, target, nil
}

// isToken says whether s is a token (RFC 9110 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
	})
}

// explainer goes the way of a request, by the exchange that real ones go by.
type explainer struct {
	server *Server
	table  *table.Table
	now    time.Duration
	x      exchange.Exchange
	ask    table.Ask
	out    Explanation

	retries int
}

func (e *explainer) explain(policy *exchange.Policy, in *explainInput) Explanation {
	peer := policy.Peer(in.client, in.tls)
	head := &in.head
	e.out = Explanation{
		Revision: e.table.Revision(),
		Request:  ExplainRequest{Method: string(head.Method), URL: in.url, Host: string(head.Authority)},
		Routes:   []ExplainRoute{}, Choices: []ExplainChoice{},
	}
	var ref table.Ref
	step := e.x.Begin(policy, &peer, head)
	e.out.Request.Client = addressOf(e.x.Client())
	for {
		switch step {
		case exchange.Revision:
			step = e.x.Waited()
		case exchange.Route:
			ref, step = e.route(head)
		case exchange.Pick:
			step = e.pick(ref)
		case exchange.Connect:
			step = e.x.Connected(false)
		case exchange.Send:
			e.sent()
			return e.out
		default:
			e.answer()
			return e.out
		}
	}
}

func addressOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (e *explainer) route(head *message.Request) (table.Ref, exchange.Step) {
	e.ask.Begin(head, e.x.Client(), e.now)
	taken, ref, err := e.table.Match(&e.ask)
	e.out.Request.Path = string(e.ask.Path())
	e.x.SetPath(e.ask.Path())
	for _, v := range e.table.ExplainMatch(&e.ask, maxExplainRoutes) {
		one := ExplainRoute{Name: v.Route.Name, Considered: v.Considered, Taken: v.Taken(), Matches: v.Matches,
			Field: v.Field, Got: v.Got, Want: v.Want}
		if v.Err != nil {
			one.Error = v.Err.Error()
		}
		e.out.Routes = append(e.out.Routes, one)
	}
	if err == nil || taken != nil {
		e.out.LeftOut = e.table.Counts().Routes - len(e.out.Routes)
	}
	var def *store.Route
	if taken != nil {
		def = taken.Def
		e.retries = def.Retries
		e.out.Route = &Definition{Name: taken.Name, Revision: taken.ModRevision, Definition: shown(store.Key{Kind: store.Routes, Name: taken.Name}, def)}
	}
	var failed *routes.ConditionError
	switch {
	case errors.As(err, &failed):
		return 0, e.x.Failed(exchange.BadCondition)
	case err != nil:
		return 0, e.x.Failed(exchange.BadPath)
	}
	if s := e.table.Slot(ref); s != nil {
		e.out.Target = s.Name
	}
	return ref, e.x.Routed(def, e.table.Revision())
}

func (e *explainer) pick(ref table.Ref) exchange.Step {
	choices, b, err := e.table.ExplainPick(ref, &e.ask)
	for _, c := range choices {
		e.out.Choices = append(e.out.Choices, choiceOf(c))
	}
	slot := e.table.Slot(ref) // a backend that may not be asked is shown, too
	if err == nil {
		slot = e.table.Lookup(b.Name)
	}
	if slot != nil && slot.Backend != nil {
		shown := e.server.backendOf(slot, false)
		e.out.Backend = &shown
	}
	if err != nil {
		return e.x.Failed(exchange.Failure{Kind: exchange.NoBackend})
	}
	return e.x.Picked(b.Def)
}

func choiceOf(c table.Choice) ExplainChoice {
	out := ExplainChoice{Name: c.Director, Type: c.Type, Why: c.Why, States: map[string]int{}, Members: []ExplainMember{}}
	for i, m := range c.Members {
		out.States[string(m.State)]++
		if m.Chosen || i < maxExplainMembers {
			out.Members = append(out.Members, ExplainMember{
				Name: m.Name, State: string(m.State), Left: m.Left.Seconds(), Weight: m.Weight, Share: m.Share, Chosen: m.Chosen,
			})
		}
	}
	return out
}

// sent describes the request that the exchange has made.
func (e *explainer) sent() {
	r, t := &e.x.Request, e.x.Timeouts()
	e.out.Sent = &ExplainSent{
		Method: string(r.Method), Target: string(r.Target), Host: string(r.Authority), Fields: fieldsOf(r.Fields), Retries: e.retries,
		Timeouts: ExplainTimeouts{
			Connect: store.FormatDuration(t.Connect), FirstByte: store.FormatDuration(t.FirstByte),
			BetweenBytes: store.FormatDuration(t.BetweenBytes), Total: store.FormatDuration(t.Total),
		},
	}
}

// answer describes the answer that the exchange has made.
func (e *explainer) answer() {
	out := &ExplainAnswer{Status: e.x.Response.Status, Fields: fieldsOf(e.x.Response.Fields), Body: string(e.x.Body)}
	if f := e.x.Failure(); f != exchange.None {
		out.Error = f.String()
	}
	e.out.Answer = out
}

func fieldsOf(fields []message.Field) []ExplainField {
	out := make([]ExplainField, 0, len(fields))
	for _, f := range fields {
		out = append(out, ExplainField{string(f.Name), string(f.Value)})
	}
	return slices.Clip(out)
}
