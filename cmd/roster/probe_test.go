package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"roster/store/storetest"
)

// steady makes what differs from run to run the same.
func steady(out, address string) string {
	out = strings.ReplaceAll(out, address, "ORIGIN")
	return regexp.MustCompile(`[0-9.]+ms\b`).ReplaceAllString(out, "TIME")
}

func TestProbeShowsWhatWasSentAndReceivedAndTheVerdict(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				switch {
				case strings.Contains(line, "/good"):
					fmt.Fprint(c, "HTTP/1.1 200 OK\r\nX-Odd: 1\r\n\r\nfine\x01\xff")
				case strings.Contains(line, "/garbage"):
					fmt.Fprint(c, "SSH-2.0-x\r\n")
				default:
					fmt.Fprint(c, "HTTP/1.1 503 No\r\n\r\n")
				}
			}()
		}
	}()
	address := l.Addr().String()
	host := `host=` + address
	dead := httptest.NewServer(http.NotFoundHandler())
	refused := dead.Listener.Addr().String()
	dead.Close()

	etcd := storetest.Etcd(t)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint(), "ROSTER_BACKEND": "never"}
	put := func(args ...string) {
		t.Helper()
		if got := try(t, env, "", append([]string{"put"}, args...)...); got.code != exitDone {
			t.Fatalf("put %q: %+v", args, got)
		}
	}
	put("backend", "unprobed", host)                                                                           // 2
	put("backend", "inline", host, "probe.url=/good")                                                          // 3
	put("probe", "light", "url=/bad", "expect_close=false", "window=64")                                       // 4
	put("backend", "named", host, "probe=light")                                                               // 5
	put("backend", "dangling", host, "probe=nothing")                                                          // 6
	put("backend", "off", host, "probe=none")                                                                  // 7
	put("backend", "none", "none=true")                                                                        // 8
	put("backend", "odd", host, `probe.request=GET /garbage HTTP/1.1`)                                         // 9
	put("backend", "refused", "host="+refused, "probe.url=/")                                                  // 10
	put("backend", "lost-via", host, "probe.url=/good", "via=nowhere")                                         // 11
	put("backend", "tcp", host, "probe.type=tcp", "proxy_header=2")                                            // 12
	put("health", "inline", "sick")                                                                            // 13
	if _, err := etcd.Client().Put(t.Context(), "/roster/backends/wrong", `{"host":1,"prot":2}`); err != nil { // 14
		t.Fatal(err)
	}
	if got := try(t, env, "", "probe", "unprobed"); got.code != exitFailed || got.errors != "roster: backend unprobed names no probe, and there is no probe default: it is not probed, and counts as healthy\n" {
		t.Errorf("no default: %+v", got)
	}
	put("probe", "default", "url=/good", "interval=1m") // 15

	for _, test := range []struct {
		name, args string
		code       int
		out, errs  string
	}{
		{"the probe default", "unprobed", exitDone, `backend unprobed at revision 2 with the probe default at revision 15
GET /good at ORIGIN, the backend to close the connection, all within 2s
connected to ORIGIN after TIME
> GET /good HTTP/1.1
> Host: ORIGIN
> Connection: close
> 
first byte after TIME
< HTTP/1.1 200 OK
< X-Odd: 1
< 
< fine\x01\xff
good after TIME: HTTP/1.1 200 OK
a node probes every 1m, and needs 3 good ones of the last 8
`, ""},
		{"a probe of its own, overridden", "--backend inline", exitDone, `backend inline at revision 3 with a probe of its own
GET /good at ORIGIN, ...`, ""},
		{"a wrong status", "named", exitFailed, `backend named at revision 5 with the probe light at revision 4
GET /bad at ORIGIN, all within 2s
connected to ORIGIN after TIME
> GET /bad HTTP/1.1
> Host: ORIGIN
> Connection: close
> 
first byte after TIME
< HTTP/1.1 503 No
< 
bad after TIME: status: HTTP/1.1 503 No, want 200
a node probes every 5s, and needs 3 good ones of the last 64
`, "roster: the check of named was bad: status: HTTP/1.1 503 No, want 200\n"},
		{"no HTTP", "odd", exitFailed, `backend odd at revision 9 with a probe of its own
GET /garbage HTTP/1.1 at ORIGIN, ...`, "roster: the check of odd was bad: answer: ..."},
		{"nobody listens", "refused", exitFailed, "backend refused at revision 10 ...", "roster: the check of refused was bad: connect: ..."},
		{"tcp", "tcp", exitDone, `backend tcp at revision 12 with a probe of its own
connect to ORIGIN, all within 2s
connected to ORIGIN after TIME
> 
> 
> \x00
> QUIT
>  \x00\x00\x00
good after TIME: ...`, ""},
		{"a probe that is missing", "dangling", exitFailed, "", "roster: backend dangling names the probe nothing, which is not defined: it is not probed, and counts as healthy\n"},
		{"none", "off", exitFailed, "", "roster: backend off has \"probe\": \"none\": it is not probed, and counts as healthy\n"},
		{"the backend that always fails", "none", exitFailed, "", "roster: backend none is none: it is never healthy, and there is nothing to probe\n"},
		{"a via that is missing", "lost-via", exitFailed, "", "roster: backend lost-via: pool: via nowhere: dangling reference\n"},
		{"no such backend", "web-9", exitFailed, "", "roster: there is no backend web-9; roster get backends lists what there is\n"},
		{"an invalid definition", "wrong", exitInvalid, "", "roster: backends/wrong: host: ..."},
		{"no name", "", exitUsage, "", "roster: no backend is named; roster probe --help has examples\n"},
		{"two names", "a --backend b", exitUsage, "", "roster: the backend is given twice, as a and by --backend\n"},
		{"no etcd", "a --etcd 127.0.0.1:1 --timeout 1s", exitUnavailable, "", "roster: store: get backends/a: etcd does not answer: ..."},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := try(t, env, "", append([]string{"probe"}, strings.Fields(test.args)...)...)
			if out := steady(got.out, address); got.code != test.code || !matches(out, test.out) || !matches(got.errors, test.errs) {
				t.Errorf("code %d, want %d; stdout\n%s\nstderr\n%s", got.code, test.code, out, got.errors)
			}
		})
	}
	t.Run("the override is told", func(t *testing.T) {
		t.Parallel()
		got := try(t, env, "", "probe", "inline")
		if !strings.HasSuffix(got.out, "an operator's override says sick, which is above all probes\n") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("JSON has all of it", func(t *testing.T) {
		t.Parallel()
		got := try(t, env, "", "probe", "named", "-o", "json")
		var run probeRun
		if err := json.Unmarshal([]byte(got.out), &run); err != nil {
			t.Fatal(err)
		}
		if got.code != exitFailed || run.Good || run.Stage != "status" || run.Probe != "light" || run.ProbeRevision != 4 ||
			run.Address != address || run.Remote != address || run.TimeoutMS != 2000 || run.TLS ||
			string(run.Sent) != "GET /bad HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n" ||
			string(run.Received) != "HTTP/1.1 503 No\r\n\r\n" || run.ReceivedTotal != 19 ||
			run.ConnectedMS == nil || run.FirstByteMS == nil || run.EndedMS == nil {
			t.Errorf("code %d\n%s", got.code, got.out)
		}
	})
	t.Run("what was not reached is null", func(t *testing.T) {
		t.Parallel()
		got := try(t, env, "", "probe", "refused", "-o", "json")
		var run probeRun
		if err := json.Unmarshal([]byte(got.out), &run); err != nil {
			t.Fatal(err)
		}
		if run.Stage != "connect" || run.ConnectedMS != nil || run.FirstByteMS != nil || run.AnsweredMS != nil || run.EndedMS == nil {
			t.Errorf("%s", got.out)
		}
	})
}
