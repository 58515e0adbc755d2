//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A feature is what a roster has besides what it has by default. The zero feature is nothing.
type feature struct {
	name    string
	flags   string // of roster node; LOG is a file
	backend string // more fields of the backend's definition
	target  string // of the route; empty is the backend
	routes  int    // that do not match, with conditions, on the same host
	keys    [][2]string
}

// features are those that -features compares.
var features = []feature{
	{name: "access log, json", flags: "--access-log json --access-log-file LOG"},
	{name: "tracing", flags: "--tracing"},
	{name: "tracing, all sampled", flags: "--tracing --tracing-sample 1"},
	{name: "--revision-header", flags: "--revision-header"},
	{name: "--trusted-proxies", flags: "--trusted-proxies 127.0.0.0/8"},
	{name: "--guard 50%", flags: "--guard 50%"},
	{name: "goroutines: --loops 0", flags: "--loops 0"},
	{name: "proxy_header 2", backend: `,"proxy_header":2`},
	{name: "a probe each second", backend: `,"probe":{"url":"/1k","interval":"1s","expect_close":false}`},
	{name: "director, p2c", target: `"director":"d"`, keys: [][2]string{{"directors/d", `{"type":"p2c","backends":["origin"]}`}}},
	{name: "director, round_robin", target: `"director":"d"`, keys: [][2]string{{"directors/d", `{"type":"round_robin","backends":["origin"]}`}}},
	{name: "a route with retries", target: `"backend":"origin","retries":1`},
	{name: "a route with a condition", target: `"when":"req.method == 'GET'","backend":"origin"`},
	{name: "1,000 routes with conditions, on other paths", routes: 1000},
}

// withFeatures are a roster without and those with a feature each.
func withFeatures() []kind {
	all := []kind{{name: roster, start: (*lab).startRoster}}
	for _, f := range features {
		all = append(all, kind{name: f.name, start: (*lab).startRoster, feature: f})
	}
	return all
}

// args are more arguments of roster node.
func (f feature) args(l *lab, p *proxy) []string {
	log := filepath.Join(l.Dir, "access-"+strings.ReplaceAll(p.address, ":", "-")+".log")
	return strings.Fields(strings.ReplaceAll(f.flags, "LOG", log))
}

// to is where the route leads.
func (f feature) to() string {
	if f.target == "" {
		return `"backend":"origin"`
	}
	return f.target
}

// more are definitions besides the backend and its routes.
func (f feature) more(prefix string) (kvs [][2]string) {
	for _, kv := range f.keys {
		kvs = append(kvs, [2]string{prefix + kv[0], kv[1]})
	}
	for i := range f.routes {
		kvs = append(kvs, [2]string{fmt.Sprintf("%sroutes/other%d", prefix, i),
			fmt.Sprintf(`{"match":{"host":%q,"path":"/other%d/*"},"when":"req.method == 'GET'","backend":"origin"}`, host, i)})
	}
	return kvs
}
