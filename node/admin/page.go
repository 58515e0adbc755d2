package admin

import (
	"net/http"

	"roster/node/admin/dashboard"
)

// pages are the routes of what is for browsers, and of what only the dashboard needs. The
// page itself has nothing of the node in it, and may be fetched without a token: it asks
// for one.
func (s *Server) pages() []route {
	all := []route{
		{method: "GET", path: "/v1/fleet", summary: "The nodes that are known by their presence in etcd, the worst first",
			answers: append(ok(Fleet{}), content{status: 503, is: Fault{}}), handle: http.HandlerFunc(s.fleet)},
		{method: "GET", path: "/v1/traffic", summary: "Counters of what went through the node, and how long it took",
			answers: ok(Traffic{}), handle: http.HandlerFunc(s.traffic)},
	}
	for _, f := range dashboard.Files() {
		all = append(all, route{method: "GET", path: f.Path, summary: "The dashboard: " + f.Name, open: true,
			answers: []content{text(200, f.Media)}, handle: f})
	}
	return append(all, s.searches()...)
}
