//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
)

// The test's binary is also the origin that the tool starts from its own.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && (os.Args[1] == serveOrigin || os.Args[1] == pacedLoad) {
		main()
		os.Exit(0)
	}
	os.Exit(harness.Main(m))
}

// One short round of one scenario, with all that is started for it.
func TestComparesProxies(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+morePath)
	harness.Require(t, haproxy, nginx, "wrk")
	var out, progress bytes.Buffer
	o := options{scenarios: "i", rounds: 1, seconds: 1, connections: 8, idle: 10, fleet: 20, origin: "tiny",
		unpinned: true, roster: harness.Roster(t), json: "-"}
	if err := run(t.Context(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var all report
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if len(all.Results) != 1 {
		t.Fatalf("results of %d scenarios, want 1", len(all.Results))
	}
	var seen []string
	for _, s := range all.Results[0].Series {
		seen = append(seen, s.Proxy)
		if len(s.Rounds) != 1 || s.Rounds[0].Requests == 0 || s.Rounds[0].Resident == 0 || s.Rounds[0].P99 < s.Rounds[0].P50 {
			t.Errorf("%s: rounds %+v", s.Proxy, s.Rounds)
		}
	}
	if want := []string{roster, haproxy, nginx, single}; !slices.Equal(seen, want) {
		t.Errorf("results of %q, want %q", seen, want)
	}
}

func TestSpreadAndRatiosAreByRound(t *testing.T) {
	t.Parallel()
	r := result{Against: haproxy, Series: []series{
		{Proxy: roster, Rounds: []round{{CPU: 10, Rate: 3}, {CPU: 40, Rate: 1}, {CPU: 30, Rate: 2}}},
		{Proxy: haproxy, Rounds: []round{{CPU: 20, Rate: 1}, {CPU: 20, Rate: 1}, {CPU: 20, Rate: 1}}},
	}}
	r.compare()
	got := r.Series[0].spread(func(r round) float64 { return r.RatioCPU })
	if want := (spread{1.5, 0.5, 2}); got != want {
		t.Errorf("ratio %v, want %v", got, want)
	}
	even := series{Rounds: []round{{CPU: 4}, {CPU: 1}, {CPU: 2}, {CPU: 3}}}
	if got := even.spread(func(r round) float64 { return r.CPU }); got != (spread{2.5, 1, 4}) {
		t.Errorf("spread of 1, 2, 3, 4: %v", got)
	}
}

func TestChooseNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	all := scenarios(1, 1)
	got, err := choose(all, "c,a")
	if err != nil || len(got) != 2 || got[0].Key != "c" || got[1].Key != "a" {
		t.Errorf("c,a: %v, %v", got, err)
	}
	for _, keys := range []string{"az", ""} {
		if _, err := choose(all, keys); err == nil {
			t.Errorf("%q: no error", keys)
		}
	}
}

func TestOriginAnswers(t *testing.T) {
	t.Parallel()
	port := harness.FreePort(t)
	o, err := newOrigin(port)
	if err != nil {
		t.Fatal(err)
	}
	go o.serve() // until the process ends: it has no other end
	url := "http://" + net.JoinHostPort("127.1.2.3", strconv.Itoa(port))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: false}}
	t.Cleanup(client.CloseIdleConnections)
	for path, size := range map[string]int{"/1k": 1 << 10, "/64k": 64 << 10, "/1m": 1 << 20, "/other": 3} {
		if err := ask(t.Context(), url+path, host, size); err != nil {
			t.Error(err)
		}
	}
	for range 3 { // on one connection
		answer, err := client.Post(url+"/post", "text/plain", strings.NewReader(strings.Repeat("x", 100<<10)))
		if err != nil || answer.ContentLength != 3 {
			t.Fatalf("POST: %v, %v", answer, err)
		}
		answer.Body.Close()
	}
}

func TestReadsWhatH2loadPrints(t *testing.T) {
	t.Parallel()
	const good = `TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2

finished in 2.00s, 28122.00 req/s, 27.38MB/s
requests: 56244 total, 56308 started, 56244 done, 56240 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 56244 2xx, 0 3xx, 0 4xx, 0 5xx
`
	if n, err := h2Seen(good); n != 56240 || err != nil {
		t.Errorf("%d requests, %v; want 56240", n, err)
	}
	for name, bad := range map[string]string{
		"an error":       strings.Replace(good, "0 errored", "1 errored", 1),
		"a status":       strings.Replace(good, "0 5xx", "1 5xx", 1),
		"another cipher": strings.Replace(good, "AES_128", "AES_256", 1),
		"another curve":  strings.Replace(good, "X25519", "ECDH P-256", 1),
		"HTTP/1.1":       strings.Replace(good, "protocol: h2", "protocol: http/1.1", 1),
		"nothing":        "",
	} {
		if _, err := h2Seen(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
