//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"roster/bench/internal/rig"
)

// load is what a load generator has seen.
type load struct {
	requests int
	took     time.Duration
	p50, p99 time.Duration
	cpu      time.Duration // of the generator itself
}

// generator asks proxies the way of one scenario.
type generator struct {
	*rig.Processes
	scenario
	connections int
	seconds     int // of a round
	script      string
}

// newGenerator writes the script for wrk.
func newGenerator(p *rig.Processes, s scenario, connections, seconds int) (*generator, error) {
	g := &generator{Processes: p, scenario: s, connections: connections, seconds: seconds}
	g.script = filepath.Join(p.Dir, "wrk-"+s.Key+".lua")
	return g, os.WriteFile(g.script, []byte(g.lua()), 0o644)
}

// lua is wrk's script: what to ask, and a last line with what was seen. Only the fleet
// needs to be asked by a function, which costs wrk a little.
func (g *generator) lua() string {
	var b strings.Builder
	fmt.Fprintf(&b, "wrk.headers[\"Host\"] = %q\n", host)
	if g.close {
		b.WriteString("wrk.headers[\"Connection\"] = \"close\"\n")
	}
	if g.post > 0 {
		fmt.Fprintf(&b, "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", %d)\n", g.post)
	}
	if g.fleet > 0 {
		fmt.Fprintf(&b, `
local requests = {}
function init()
  for i = 1, %d do requests[i] = wrk.format("GET", %q, {Host = "h" .. i .. ".test"}) end
end
math.randomseed(1)
local n = 0
function request()
  if n == 0 then -- another order, once; then round and round
    for i = #requests, 2, -1 do
      local j = math.random(i)
      requests[i], requests[j] = requests[j], requests[i]
    end
  end
  n = n + 1
  return requests[n %% #requests + 1]
end
`, g.fleet, g.path)
	}
	b.WriteString(`
function done(summary, latency)
  local e = summary.errors
  print(string.format("seen %d %d %d %d errors %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write, e.status, e.timeout))
end
`)
	return b.String()
}

// run loads a proxy for a number of seconds. An answer that is no success is an error.
func (g *generator) run(ctx context.Context, p *proxy, seconds int) (load, error) {
	if g.h2 {
		return g.h2load(ctx, p, seconds)
	}
	return g.wrk(ctx, p, seconds)
}

func (g *generator) limit(seconds int) time.Duration {
	return time.Duration(seconds)*time.Second + 15*time.Second
}

func (g *generator) wrk(ctx context.Context, p *proxy, seconds int) (l load, err error) {
	out, cpu, err := g.Processes.Run(ctx, g.limit(seconds), rig.OtherCore, "wrk", "-t", "1", "-c", strconv.Itoa(g.connections),
		"-d", fmt.Sprintf("%ds", seconds), "--timeout", "30s", "--latency", "-s", g.script, p.url(g.scenario))
	if err != nil {
		return l, err
	}
	_, seen, _ := strings.Cut(out, "seen ")
	var took, p50, p99 int64
	var failed [5]int
	if _, err := fmt.Sscanf(seen, "%d %d %d %d errors %d %d %d %d %d", &l.requests, &took, &p50, &p99,
		&failed[0], &failed[1], &failed[2], &failed[3], &failed[4]); err != nil {
		return l, fmt.Errorf("wrk's output is not understood: %w\n%s", err, out)
	}
	if l.requests == 0 {
		return l, fmt.Errorf("%s answered nothing for %d s\n%s", p.name, seconds, out)
	}
	if failed != [5]int{} {
		return l, fmt.Errorf("wrk met errors at %s (connect, read, write, status, timeout): %v\n%s", p.name, failed, out)
	}
	l.cpu = cpu
	l.took, l.p50, l.p99 = time.Duration(took)*time.Microsecond, time.Duration(p50)*time.Microsecond, time.Duration(p99)*time.Microsecond
	return l, nil
}

var (
	h2Requests = regexp.MustCompile(`requests: \d+ total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2Status   = regexp.MustCompile(`status codes: \d+ 2xx, 0 3xx, 0 4xx, 0 5xx`)
	h2Cipher   = regexp.MustCompile(`Cipher: TLS_AES_128_GCM_SHA256\nServer Temp Key: X25519 `)
	h2Protocol = regexp.MustCompile(`Application protocol: h2\n`)
)

// h2Streams is how many requests are under way on each HTTP/2 connection.
const h2Streams = 4

func (g *generator) h2load(ctx context.Context, p *proxy, seconds int) (l load, err error) {
	log := filepath.Join(g.Dir, "h2load.log")
	os.Remove(log)
	out, cpu, err := g.Processes.Run(ctx, g.limit(seconds), rig.OtherCore, "h2load", "-t", "1",
		"-c", strconv.Itoa(max(g.connections/h2Streams, 1)), "-m", strconv.Itoa(h2Streams),
		"-D", fmt.Sprintf("%ds", seconds), "--log-file", log, "-H", ":authority: "+host, p.url(g.scenario))
	if err != nil {
		return l, err
	}
	if l.requests, err = h2Seen(out); err != nil {
		return l, fmt.Errorf("%s: %w:\n%s", p.name, err, out)
	}
	l.cpu = cpu
	l.took = time.Duration(seconds) * time.Second
	times, err := readTimes(log)
	if err != nil || len(times) == 0 || l.requests == 0 {
		return l, fmt.Errorf("h2load's log: %d times, %w\n%s", len(times), err, out)
	}
	l.p50, l.p99 = times[len(times)/2], times[len(times)*99/100]
	return l, nil
}

// h2Seen is how many requests were answered by h2load's output.
func h2Seen(out string) (int, error) {
	m := h2Requests.FindStringSubmatch(out)
	if m == nil || m[2] != "0" || m[3] != "0" || m[4] != "0" || !h2Status.MatchString(out) {
		return 0, errors.New("h2load met errors")
	}
	if !h2Cipher.MatchString(out) || !h2Protocol.MatchString(out) {
		return 0, errors.New("not TLS_AES_128_GCM_SHA256, X25519 and h2")
	}
	return strconv.Atoi(m[1])
}

// readTimes reads the times of requests from h2load's log, in ascending order: lines of
// start, status and time, in microseconds.
func readTimes(path string) ([]time.Duration, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var times []time.Duration
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue
		}
		us, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, err
		}
		times = append(times, time.Duration(us)*time.Microsecond)
	}
	slices.Sort(times)
	return times, lines.Err()
}

// ask sends one request and is nil if the answer is as it should be.
func ask(ctx context.Context, url, host string, size int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Host, request.Close = host, true
	t := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host},
		DialContext:     (&net.Dialer{}).DialContext,
	}
	defer t.CloseIdleConnections()
	answer, err := t.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && (answer.StatusCode != http.StatusOK || len(body) != size) {
		err = fmt.Errorf("%s: %s, %d bytes", url, answer.Status, len(body))
	}
	return err
}

// openIdle makes connections that have had one answer each and then do nothing. The
// caller ends them by closing.
func openIdle(ctx context.Context, address string, n int) (closing func(), err error) {
	var mu sync.Mutex
	var conns []net.Conn
	closing = func() {
		for _, c := range conns {
			c.(*net.TCPConn).SetLinger(0) // no port is kept from use for a minute
			c.Close()
		}
	}
	var group sync.WaitGroup
	const workers = 8
	for w := range workers {
		group.Go(func() {
			for range n/workers + min(1, max(0, n%workers-w)) {
				c, one := openOne(ctx, address)
				mu.Lock()
				if one != nil {
					err = one
				} else {
					conns = append(conns, c)
				}
				failed := err != nil
				mu.Unlock()
				if failed {
					return
				}
			}
		})
	}
	group.Wait()
	if err != nil {
		closing()
		return nil, fmt.Errorf("idle connections, after %d: %w", len(conns), err)
	}
	return closing, nil
}

func openOne(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /1k HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		c.Close()
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_, err = io.Copy(io.Discard, answer.Body)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}
