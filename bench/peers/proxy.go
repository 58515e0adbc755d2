//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"roster/bench/internal/rig"
)

// A proxy is one of those that are compared, started for one scenario.
type proxy struct {
	name    string
	process *rig.Process
	address string       // where it listens
	origin  string       // where its origin listens
	source  *rig.Process // the origin
	feature feature      // what a roster has besides
}

// url is what a scenario asks it for.
func (p *proxy) url(s scenario) string {
	if s.tls {
		return "https://" + p.address + s.path
	}
	return "http://" + p.address + s.path
}

// kind is how to start a proxy.
type kind struct {
	name  string
	alone bool // has one backend, whatever the scenario
	start func(*lab, context.Context, *proxy, scenario) error

	feature feature
}

// Names of proxies in results.
const (
	roster  = "roster"
	haproxy = "haproxy"
	nginx   = "nginx"
	single  = "roster, one backend"
	other   = "roster, other binary"
)

var kinds = []kind{
	{name: roster, start: (*lab).startRoster},
	{name: other, start: (*lab).startRoster},
	{name: haproxy, start: (*lab).startHAProxy},
	{name: nginx, start: (*lab).startNginx},
	{name: single, alone: true, start: (*lab).startRoster},
}

// lab has what proxies are started with.
type lab struct {
	*rig.Processes
	roster  string // the binary
	other   string // another one, if any
	etcd    string // address
	origins string // tiny or nginx
	pem     string // file with certificate and key
}

// start starts the proxies of a scenario, each with an origin of its own, and returns
// when all of them serve.
func (l *lab) start(ctx context.Context, s scenario, kinds []kind) ([]*proxy, error) {
	var started []*proxy
	for _, k := range kinds {
		if k.alone && s.fleet == 0 || k.name == other && l.other == "" {
			continue
		}
		asked := s
		if k.alone {
			asked.fleet = 0
		}
		p := &proxy{name: k.name, feature: k.feature}
		var err error
		if p.address, err = rig.FreeAddress(); err != nil {
			return nil, err
		}
		if p.origin, p.source, err = l.startOrigin(ctx, asked); err != nil {
			return nil, err
		}
		if err := k.start(l, ctx, p, asked); err != nil {
			return nil, err
		}
		last := host
		if asked.fleet > 0 {
			last = fleetHost(asked.fleet)
		}
		size := map[string]int{"/1k": 1 << 10, "/64k": 64 << 10, "/1m": 1 << 20, "/post": 3}[s.path]
		if err := p.process.Wait(ctx, func() error { return ask(ctx, p.url(s), last, size) }); err != nil {
			return nil, err
		}
		started = append(started, p)
	}
	return started, nil
}

// startOrigin starts an origin and returns its address, too.
func (l *lab) startOrigin(ctx context.Context, s scenario) (address string, q *rig.Process, err error) {
	if address, err = rig.FreeAddress(); err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	if l.origins == nginx && s.fleet == 0 { // nginx would need 10,000 listeners
		q, err = l.startNginxOrigin(port)
	} else {
		q, err = l.Processes.Start(rig.OtherCore, "origin", "/proc/self/exe", serveOrigin, port)
	}
	if err != nil {
		return "", nil, err
	}
	return address, q, q.Wait(ctx, func() error { return ask(ctx, "http://"+address+"/1k", host, 1<<10) })
}

func (l *lab) startNginxOrigin(port string) (*rig.Process, error) {
	root := l.path("www")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	for name, size := range map[string]int{"1k": 1 << 10, "64k": 64 << 10, "1m": 1 << 20} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(strings.Repeat("x", size)), 0o644); err != nil {
			return nil, err
		}
	}
	return l.nginx(rig.OtherCore, "nginx-origin-"+port, fmt.Sprintf(`
  sendfile on;
  open_file_cache max=10;
  server {
    listen 127.0.0.1:%s;
    root %s;
    location = /post { return 200 "ok\n"; }
  }`, port, root))
}

// nginx starts an nginx with what is in its http block.
func (l *lab) nginx(core int, name, http string) (*rig.Process, error) {
	dir := l.path(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	workers := "auto"
	if l.Pinned {
		workers = "1"
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	conf := filepath.Join(dir, "nginx.conf")
	err := os.WriteFile(conf, []byte(fmt.Sprintf(`%[3]s
daemon off;
worker_processes %[2]s;
worker_rlimit_nofile %[5]d;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections %[5]d; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
%[4]s
}
`, dir, workers, user, http, descriptors)), 0o644)
	if err != nil {
		return nil, err
	}
	return l.Processes.Start(core, name, nginx, "-c", conf, "-p", dir, "-e", filepath.Join(dir, "error.log"))
}

// descriptors is how many files a proxy may have open: 10,000 backends need a few more
// than that.
const descriptors = 16000

func (l *lab) startNginx(_ context.Context, p *proxy, s scenario) (err error) {
	var b strings.Builder
	b.WriteString(`
  server_names_hash_max_size 65536;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_connect_timeout 4s;
  proxy_read_timeout 60s;
  proxy_send_timeout 60s;
  proxy_max_temp_file_size 0;
`)
	listen := p.address
	if s.tls {
		listen = p.address + " ssl http2"
		fmt.Fprintf(&b, `
  ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
  ssl_ecdh_curve X25519;
  ssl_certificate %[1]s;
  ssl_certificate_key %[1]s;
  http2_max_concurrent_streams 128;
`, l.pem)
	}
	_, port, _ := net.SplitHostPort(p.origin)
	backend := func(name, host, address string, kept int) {
		fmt.Fprintf(&b, `
  upstream %[1]s { server %[3]s; keepalive %[4]d; keepalive_requests 1000000000; }
  server {
    listen %[5]s;
    server_name %[2]s;
    location / { proxy_pass http://%[1]s; }
  }`, name, host, address, kept, listen)
	}
	if s.fleet == 0 {
		backend("origin", "_", p.origin, 512)
	}
	for i := range s.fleet {
		backend(fmt.Sprintf("b%d", i+1), fleetHost(i+1), net.JoinHostPort(s.fleetAddress(i+1), port), 4)
	}
	p.process, err = l.nginx(rig.ProxyCore, "nginx-proxy-"+s.Key, b.String())
	return err
}

func (l *lab) startHAProxy(_ context.Context, p *proxy, s scenario) (err error) {
	splice, listen := "", p.address
	if s.splice {
		splice = "option splice-response"
	}
	if s.tls {
		listen = fmt.Sprintf("%s ssl crt %s curves X25519 alpn h2,http/1.1", p.address, l.pem)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `
global
  nbthread 1
  maxconn 7500
  maxpipes 256
  fd-hard-limit %d
  tune.pool-high-fd-ratio 90
  tune.pool-low-fd-ratio 80
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 4s
  timeout client 300s
  timeout server 60s
  timeout http-request 15s
  timeout http-keep-alive 300s
  option forwardfor
  http-reuse always
  default-server pool-purge-delay 60s
  %s
frontend f
  bind %s
`, descriptors, splice, listen)
	_, port, _ := net.SplitHostPort(p.origin)
	if s.fleet == 0 {
		fmt.Fprintf(&b, "  default_backend origin\nbackend origin\n  server s %s\n", p.origin)
	} else {
		hosts := l.path("haproxy-" + s.Key + ".map")
		fmt.Fprintf(&b, "  use_backend %%[req.hdr(host),field(1,:),lower,map(%s)]\n", hosts)
		var m strings.Builder
		for i := range s.fleet {
			fmt.Fprintf(&m, "%s b%d\n", fleetHost(i+1), i+1)
			fmt.Fprintf(&b, "backend b%d\n  server s %s:%s\n", i+1, s.fleetAddress(i+1), port)
		}
		if err := os.WriteFile(hosts, []byte(m.String()), 0o644); err != nil {
			return err
		}
	}
	conf := l.path("haproxy-" + s.Key + ".cfg")
	if err := os.WriteFile(conf, []byte(b.String()), 0o644); err != nil {
		return err
	}
	p.process, err = l.Processes.Start(rig.ProxyCore, "haproxy", haproxy, "-db", "-f", conf)
	return err
}

func (l *lab) path(name string) string { return filepath.Join(l.Dir, name) }
