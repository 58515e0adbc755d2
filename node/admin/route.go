package admin

import (
	"net/http"
	"net/http/pprof"
	"strings"

	"roster/store"
)

// A route is one thing that can be asked for: how it is served, and how /openapi.json
// describes it.
type route struct {
	method  string
	path    string // as in OpenAPI: {name} may have slashes in it
	summary string
	query   []parameter
	header  []parameter
	body    *content // nil: none
	answers []content
	open    bool // without a token
	handle  http.Handler
}

// pattern is the path as http.ServeMux has it.
func (r route) pattern() string {
	if strings.HasSuffix(r.path, "/{name}") {
		return strings.TrimSuffix(r.path, "}") + "...}"
	}
	if strings.HasSuffix(r.path, "/") {
		return r.path + "{$}"
	}
	return r.path
}

// parameter is one of a query or of a head.
type parameter struct {
	name, about string
	is          any // a value of its type
}

// content is a body.
type content struct {
	status int    // of an answer
	about  string // "" is what the status says
	media  string // "" is JSON
	is     any    // a value of its type, or a schema; nil is text
}

// Parameters that several routes have.
var (
	under   = parameter{"under", "Only names that begin with this.", ""}
	limit   = parameter{"limit", "At most so many items, 1 to 10000; 1000 by default.", 0}
	after   = parameter{"after", "The items after this one: next of the page before.", ""}
	dryRun  = parameter{"dry_run", "Say what would come of it, and write nothing.", false}
	force   = parameter{"force", "Write also what nodes of an older release do not take.", false}
	match   = parameter{"If-Match", "Write only if the value has this revision, or if there is one: *.", ""}
	absent  = parameter{"If-None-Match", "*: write only if there is none.", ""}
	resume  = parameter{"Last-Event-ID", "Id of the event that the client had last; those after it are sent first.", ""}
	verbose = parameter{"verbose", "With the history of each probe.", false}
)

// text is a body that is not JSON.
func text(status int, media string) content { return content{status: status, media: media} }

func ok(is any) []content { return []content{{status: http.StatusOK, is: is}} }

// routes are all there are.
func (s *Server) routes() []route {
	plain := "text/plain"
	all := []route{
		{method: "GET", path: "/healthz", summary: "Whether the process lives", open: true,
			answers: []content{text(200, plain)}, handle: http.HandlerFunc(s.healthz)},
		{method: "GET", path: "/readyz", summary: "Whether clients should be sent to the node", open: true,
			answers: []content{text(200, plain), text(503, plain)}, handle: http.HandlerFunc(s.readyz)},
		{method: "GET", path: "/metrics", summary: "Metrics for Prometheus",
			answers: []content{text(200, plain)}, handle: s.Metrics},
		{method: "GET", path: "/openapi.json", summary: "This description",
			answers: ok(map[string]any{}), handle: http.HandlerFunc(s.openAPI)},
		{method: "GET", path: "/v1/status", summary: "How the node is",
			answers: ok(Status{}), handle: http.HandlerFunc(s.status)},
		{method: "GET", path: "/v1/explain", summary: "What would become of a request, and why; nothing is sent", query: explainQuery,
			answers: ok(Explanation{}), handle: http.HandlerFunc(s.explain)},
		{method: "GET", path: "/v1/events", summary: "Changes of health and definitions, as server-sent events", header: []parameter{resume},
			answers: []content{text(200, "text/event-stream"), {status: 503, is: Fault{}}}, handle: http.HandlerFunc(s.events)},

		{method: "GET", path: "/v1/backends", summary: "Backends in effect, with health, requests and connections", query: []parameter{under, limit, after, verbose},
			answers: ok(List[Backend]{}), handle: http.HandlerFunc(s.backends)},
		s.getOne(store.Backends, Backend{}, s.backend),
		s.getList(store.Directors, List[Director]{}, list(s, store.Directors, directorOf)),
		s.getOne(store.Directors, Director{}, one(s, store.Directors, directorOf)),
		s.getList(store.Routes, List[Definition]{}, list(s, store.Routes, definitionOf)),
		s.getOne(store.Routes, Definition{}, one(s, store.Routes, definitionOf)),
		s.getList(store.Certificates, List[Certificate]{}, list(s, store.Certificates, certificateOf)),
		s.getOne(store.Certificates, Certificate{}, one(s, store.Certificates, certificateOf)),
		s.getList(store.HealthKind, List[Override]{}, list(s, store.HealthKind, overrideOf)),
		s.getOne(store.HealthKind, Override{}, one(s, store.HealthKind, overrideOf)),
		{method: "GET", path: "/v1/probes", summary: "The checks that the node makes, with their history; by named the probes that are defined",
			query:   []parameter{under, limit, after, {"named", "The probes that are defined, by name, instead of the checks.", false}},
			answers: []content{{status: 200, is: either{List[Probe]{}, List[Definition]{}}}}, handle: http.HandlerFunc(s.probeList)},
		s.getOne(store.Probes, Definition{}, one(s, store.Probes, definitionOf)),
	}
	all = append(all, s.pages()...)
	for _, kind := range store.Kinds() {
		all = append(all, s.writes(kind)...)
	}
	for path, handle := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace, "{profile}": pprof.Index,
	} {
		all = append(all, route{method: "GET", path: "/debug/pprof/" + path, summary: "For go tool pprof: where time and memory go",
			answers: []content{text(200, "application/octet-stream")}, handle: handle})
	}
	for i := range all {
		if strings.HasPrefix(all[i].path, "/v1/") || all[i].path == "/openapi.json" {
			all[i].answers = append(all[i].answers, content{status: 400, is: Fault{}})
		}
		if !all[i].open {
			all[i].answers = append(all[i].answers, content{status: 401, is: Fault{}})
		}
		all[i].answers = append(all[i].answers, content{status: 403, is: Fault{}}, content{status: 421, is: Fault{}})
	}
	return all
}

// getList and getOne are what all kinds have.
func (s *Server) getList(kind store.Kind, is any, handle http.HandlerFunc) route {
	return route{method: "GET", path: "/v1/" + string(kind), summary: "Definitions in effect: " + string(kind),
		query: []parameter{under, limit, after}, answers: ok(is), handle: handle}
}

func (s *Server) getOne(kind store.Kind, is any, handle http.HandlerFunc) route {
	return route{method: "GET", path: "/v1/" + string(kind) + "/{name}", summary: "One definition in effect: " + kind.Singular(),
		answers: append(ok(is), content{status: 404, is: Fault{}}), handle: handle}
}

// writes are PUT and DELETE of a kind.
func (s *Server) writes(kind store.Kind) []route {
	path, fault := "/v1/"+string(kind)+"/{name}", func(status int, about string) content {
		return content{status: status, about: about, is: Fault{}}
	}
	refusals := []content{
		fault(409, "The value has another revision, or backends and directors would share the name; the answer has the revision"),
		fault(500, "etcd refused it"), fault(503, "etcd does not answer, and nothing was written"),
		fault(504, "etcd did not answer, and it is not known whether it was written"),
	}
	return []route{
		{method: "PUT", path: path, summary: "Write a definition to etcd: " + kind.Singular(), query: []parameter{dryRun, force}, header: []parameter{match, absent},
			body: &content{is: kind},
			answers: append([]content{{status: 200, is: Written{}}, {status: 201, is: Written{}}, fault(413, ""), fault(415, ""),
				fault(422, "The definition is invalid; all that is wrong with it")}, refusals...),
			handle: s.put(kind)},
		{method: "DELETE", path: path, summary: "Delete a definition from etcd: " + kind.Singular(), query: []parameter{dryRun}, header: []parameter{match},
			answers: append([]content{{status: 200, is: Written{}}, fault(404, "")}, refusals...),
			handle:  s.delete(kind)},
	}
}
