package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"roster/e2e/harness"
)

// CPU time that a proxy needs for one request: GET of 1 KiB, kept-alive connections on
// both sides, roster and HAProxy in turn, each on core 0 alone, what asks (wrk) and
// answers (nginx) on core 1. Skipped where one of the programs is missing.
//
// It counts CPU time, not requests per second, for those are limited by whichever core
// is full first.
func BenchmarkProxyCPU(b *testing.B) {
	needProc(b)
	for _, tool := range []string{"taskset", "wrk", "nginx", "haproxy"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("%s is needed: %v", tool, err)
		}
	}
	const (
		proxyCore, loadCore = "0", "1"
		rounds              = 5
	)
	origin := startNginx(b, loadCore)
	host, port, _ := net.SplitHostPort(origin)

	etcd := startEtcd(b)
	etcd.Put("/roster/backends/origin", fmt.Sprintf(`{"host":%q,"port":%s}`, host, port))
	node := startPinned(b, proxyCore, etcd)
	haproxy, haproxyAddress := startHAProxy(b, proxyCore, origin)

	for _, connections := range []int{1, 64} {
		b.Run(fmt.Sprintf("connections=%d", connections), func(b *testing.B) {
			proxies := []struct {
				name    string
				process *harness.Process
				address string
				us, qps []float64
			}{
				{name: "roster", process: node.Process, address: node.Address()},
				{name: "haproxy", process: haproxy, address: haproxyAddress},
			}
			for b.Loop() {
				for round := range rounds + 1 {
					for i := range proxies {
						p := &proxies[i]
						before := cpu(b, p.process.Pid())
						requests, took := wrk(b, loadCore, connections, "http://"+p.address+"/1k")
						used := cpu(b, p.process.Pid()) - before
						if round == 0 {
							continue // connections are made, caches are warm
						}
						p.us = append(p.us, float64(used.Microseconds())/float64(requests))
						p.qps = append(p.qps, float64(requests)/took.Seconds())
					}
				}
			}
			for i := range proxies {
				p := &proxies[i]
				slices.Sort(p.us)
				slices.Sort(p.qps)
				b.ReportMetric(p.us[len(p.us)/2], p.name+"-cpu-us/req")
				b.ReportMetric(p.us[0], p.name+"-least-cpu-us/req")
				b.ReportMetric(p.us[len(p.us)-1], p.name+"-most-cpu-us/req")
				b.ReportMetric(p.qps[len(p.qps)/2], p.name+"-req/s")
			}
		})
	}
}

// startPinned starts a node on one core.
func startPinned(b testing.TB, core string, etcd *harness.Etcd) *harness.Node {
	b.Helper()
	node := harness.StartNode(b, harness.NodeConfig{Etcd: etcd.Endpoints(), Env: []string{"GOMAXPROCS=1"}})
	pin(b, node.Pid(), core)
	return node
}

// startNginx starts an origin that answers /1k with 1 KiB, and gives its address.
func startNginx(b testing.TB, core string) string {
	b.Helper()
	dir, address := b.TempDir(), harness.FreeAddress(b)
	// nginx as root gives up its rights, and must still be able to read the file.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	write(b, filepath.Join(dir, "1k"), string(bytes.Repeat([]byte("x"), 1024)))
	conf := write(b, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  open_file_cache max=10;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  server { listen %[2]s; root %[1]s; }
}`, dir, address))
	harness.StartProcess(b, "nginx", "taskset", []string{"-c", core, "nginx", "-c", conf, "-p", dir}, nil)
	waitFor(b, address)
	return address
}

// startHAProxy starts HAProxy with one thread and reuse of connections, as roster has
// it, before an origin.
func startHAProxy(b testing.TB, core, origin string) (*harness.Process, string) {
	b.Helper()
	address := harness.FreeAddress(b)
	conf := write(b, filepath.Join(b.TempDir(), "haproxy.cfg"), fmt.Sprintf(`
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 4s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend f
  bind %s
  default_backend o
backend o
  server s %s
`, address, origin))
	p := harness.StartProcess(b, "haproxy", "taskset", []string{"-c", core, "haproxy", "-db", "-f", conf}, nil)
	waitFor(b, address)
	return p, address
}

func write(b testing.TB, path, text string) string {
	b.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	return path
}

func waitFor(b testing.TB, address string) {
	b.Helper()
	harness.Until(b, address, func() (bool, any) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return false, err
		}
		c.Close()
		return true, nil
	})
}

var (
	wrkTotal  = regexp.MustCompile(`(\d+) requests in ([0-9.]+)s`)
	wrkErrors = regexp.MustCompile(`Socket errors.*|Non-2xx.*`)
)

// wrk asks for two seconds and returns how many
// requests were answered in what time. An error among them fails the benchmark.
func wrk(b testing.TB, core string, connections int, url string) (int, time.Duration) {
	b.Helper()
	r := harness.Run(b, "", nil, "taskset", "-c", core, "wrk", "-t", "1", "-c", strconv.Itoa(connections),
		"-d", "2s", url)
	m := wrkTotal.FindStringSubmatch(r.Stdout)
	if r.Code != 0 || m == nil || wrkErrors.MatchString(r.Stdout) {
		b.Fatalf("wrk: %v", r)
	}
	requests, _ := strconv.Atoi(m[1])
	took, _ := time.ParseDuration(m[2] + "s")
	return requests, took
}
