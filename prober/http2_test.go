package prober

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"roster/http2"
	"roster/message"
	"roster/pool"
	"roster/store"
)

// serves2 is a backend that speaks HTTP/2 and has each request handled.
func serves2(handle func(s *http2.Stream, r *message.Request)) func(net.Conn) {
	return func(c net.Conn) {
		http2.NewServer(c, http2.Config{}).Serve(func(s *http2.Stream) {
			var r message.Request
			if s.Request(&r) == nil {
				handle(s, &r)
			}
		})
	}
}

// answer2 is an answer with status, fields (name, value, ...) and a body; trailers
// come after it.
func answer2(status int, fields []string, body string, trailers ...string) func(net.Conn) {
	list := func(f []string) (all []message.Field) {
		for i := 0; i < len(f); i += 2 {
			all = append(all, message.Field{Name: []byte(f[i]), Value: []byte(f[i+1]), ID: message.Lookup([]byte(f[i]))})
		}
		return all
	}
	return serves2(func(s *http2.Stream, r *message.Request) {
		io.Copy(io.Discard, s)
		s.Send(&message.Response{Status: status, Fields: list(fields), Length: message.Unknown}, []byte(body), true, list(trailers))
	})
}

func TestProbeOverHTTP2OnTheWire(t *testing.T) {
	t.Parallel()
	const plain, serving = `{"timeout": "2s"}`, "\x00\x00\x00\x00\x02\x08\x01"
	const rpc = `{"type": "grpc", "timeout": "2s"}`
	kind := []string{"content-type", "application/grpc"}
	health := func(message string, trailers ...string) func(net.Conn) {
		return answer2(200, kind, message, trailers...)
	}
	hang := serves2(func(s *http2.Stream, r *message.Request) { io.Copy(io.Discard, s); time.Sleep(time.Minute) })
	for _, row := range []struct {
		name  string
		probe string
		serve func(net.Conn)

		stage Stage
		saw   string
		text  string // a part of it
		after time.Duration
	}{
		{"good", plain, answer2(200, nil, "hi"), "", "4XRH", "HTTP/2 200", 0},
		{"without a body", plain, answer2(200, nil, ""), "", "4XRH", "HTTP/2 200", 0},
		{"wrong status", plain, answer2(503, nil, ""), Status, "4XR", "HTTP/2 503, want 200", 0},
		{"another status expected", `{"expected_response": 204}`, answer2(204, nil, ""), "", "4XRH", "HTTP/2 204", 0},
		{"interim answers first", plain, serves2(func(s *http2.Stream, r *message.Request) {
			s.Send(&message.Response{Status: 103, Bodiless: true}, nil, false, nil)
			s.Send(&message.Response{Status: 200}, nil, true, nil)
		}), "", "4XRH", "HTTP/2 200", 0},
		{"reset", plain, serves2(func(s *http2.Stream, r *message.Request) { s.Reset(http2.RefusedStream) }), Receive, "4Xr", "", 0},
		{"never answers", plain, hang, Receive, "4Xr", "no answer within 2s", 2 * time.Second},
		{"speaks HTTP/1.1", plain, says(okay), Receive, "4Xr", "", 0},
		{"closes", plain, func(c net.Conn) { c.Read(make([]byte, 10000)) }, Receive, "4X", "closed without an answer", 0},
		{"never reads", plain, deaf, Send, "4x", "not taken within 2s", 2 * time.Second},
		{"takes and is silent", plain, silence, Receive, "4Xr", "no answer within 2s", 2 * time.Second},

		{"grpc: serving", rpc, health(serving, "grpc-status", "0"), "", "4XRH", "SERVING", 0},
		{"grpc: not serving", rpc, health("\x00\x00\x00\x00\x02\x08\x02", "grpc-status", "0"), Status, "4XR", "NOT_SERVING, want SERVING", 0},
		{"grpc: unknown", rpc, health("\x00\x00\x00\x00\x00", "grpc-status", "0"), Status, "4XR", "UNKNOWN, want SERVING", 0},
		{"grpc: service unknown", rpc, health("\x00\x00\x00\x00\x02\x08\x03", "grpc-status", "0"), Status, "4XR", "SERVICE_UNKNOWN, want SERVING", 0},
		{"grpc: error in trailers", rpc, health("", "grpc-status", "5"), Status, "4XR", "grpc-status 5 (NOT_FOUND)", 0},
		{"grpc: error in the head", rpc, answer2(200, append(kind, "grpc-status", "12"), ""), Status, "4XR", "grpc-status 12 (UNIMPLEMENTED)", 0},
		{"grpc: serving, but an error", rpc, health(serving, "grpc-status", "99"), Status, "4XR", "grpc-status 99, want 0", 0},
		{"grpc: no status", rpc, health(serving), Answer, "4XR", "no grpc-status", 0},
		{"grpc: not gRPC at all", rpc, answer2(404, nil, "nothing here"), Status, "4XR", "HTTP/2 404, want 200", 0},
		{"grpc: garbage", rpc, health("hello", "grpc-status", "0"), Answer, "4XR", "not a grpc.health.v1 answer", 0},
		{"grpc: compressed", rpc, health("\x01\x00\x00\x00\x02\x08\x01", "grpc-status", "0"), Answer, "4XR", "not a grpc.health.v1 answer", 0},
		{"grpc: a message and more", rpc, health(serving+"x", "grpc-status", "0"), Answer, "4XR", "not a grpc.health.v1 answer", 0},
		{"grpc: too long", rpc, health(strings.Repeat("x", 100_000), "grpc-status", "0"), Answer, "4X", "more than 4096 bytes", 0},
		{"grpc: never answers", rpc, hang, Receive, "4Xr", "no answer within 2s", 2 * time.Second},
		{"grpc: half an answer", rpc, serves2(func(s *http2.Stream, r *message.Request) {
			s.Send(&message.Response{Status: 200, Length: message.Unknown}, []byte(serving), false, nil)
			time.Sleep(time.Minute)
		}), Receive, "4Xr", "no answer within 2s", 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.at("10.0.0.7:80").does(row.serve)
				def := decode[*store.Backend](t, store.Backends, `{"host": "10.0.0.7", "protocol": "h2c"}`)
				c := CheckOf(def, probeOf(t, row.probe), pool.Deps{})
				p, err := n.pools().Acquire(c.def, c.deps)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.Timeout())
				defer cancel()
				o := c.run(ctx, p, nil)
				if o.stage != row.stage || letters(&o) != row.saw || !strings.Contains(o.text, row.text) {
					t.Errorf("stage %q, saw %q, %q; want %q, %q, %q", o.stage, letters(&o), o.text, row.stage, row.saw, row.text)
				}
				if got := time.Since(start); got < row.after || got > row.after+2*time.Second {
					t.Errorf("it took %v, want %v", got, row.after)
				}
			})
		})
	}
}

// What a probe asks for over HTTP/2.
func TestProbeOverHTTP2Sends(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ probe, method, target, body string }{
		{`{"url": "/health?x"}`, "GET", "/health?x", ""},
		{`{"request": ["OPTIONS * HTTP/1.1"]}`, "GET", "/", ""},
		{`{"type": "grpc"}`, "POST", "/grpc.health.v1.Health/Check", "\x00\x00\x00\x00\x00"},
		{`{"type": "grpc", "service": "db"}`, "POST", "/grpc.health.v1.Health/Check", "\x00\x00\x00\x00\x04\x0a\x02db"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			asked := make(chan string, 1)
			n.at("10.0.0.7:80").does(serves2(func(s *http2.Stream, r *message.Request) {
				body, _ := io.ReadAll(s)
				te := ""
				for _, f := range r.Fields {
					te += string(f.Name) + "=" + string(f.Value) + ";"
				}
				asked <- strings.Join([]string{string(r.Method), string(r.Target), string(r.Authority), string(r.Scheme), string(body), te}, "|")
				s.Send(&message.Response{Status: 200}, nil, true, nil)
			}))
			def := decode[*store.Backend](t, store.Backends, `{"host": "10.0.0.7", "protocol": "h2c", "host_header": "foo.com"}`)
			r, err := Once(t.Context(), n.pools(), CheckOf(def, probeOf(t, row.probe), pool.Deps{}))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Join([]string{row.method, row.target, "foo.com", "http", row.body, ""}, "|")
			if row.body != "" {
				want += "content-type=application/grpc;te=trailers;"
			}
			if got := <-asked; got != want {
				t.Errorf("%s asked for %q, want %q", row.probe, got, want)
			}
			if !bytes.HasPrefix(r.Sent, []byte("PRI * HTTP/2.0")) || len(r.Received) == 0 || r.FirstByte < 0 {
				t.Errorf("%s: the report has %q sent and %q received", row.probe, r.Sent, r.Received)
			}
		})
	}
}

// selfSigned is a certificate for 127.0.0.1, and its PEM.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Probes of servers that others wrote, over real sockets: Go's net/http with
// HTTP/1.1, h2c and h2, with TLS and without, and gRPC's own health service.
func TestProbesOfRealServers(t *testing.T) {
	t.Parallel()
	cert, ca := selfSigned(t)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(404)
		}
		io.WriteString(w, r.Proto)
	})
	serve := func(protocols func(*http.Protocols), secure bool) string {
		l := listen()
		s := &http.Server{
			Handler: handler, Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		}
		protocols(s.Protocols)
		t.Cleanup(func() { s.Close() })
		if secure {
			go s.ServeTLS(l, "", "")
		} else {
			go s.Serve(l)
		}
		return l.Addr().String()
	}
	one := serve(func(p *http.Protocols) { p.SetHTTP1(true) }, false)
	two := serve(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }, false)
	secure := serve(func(p *http.Protocols) { p.SetHTTP1(true); p.SetHTTP2(true) }, true)

	rpc := func(options ...grpc.ServerOption) string {
		l := listen()
		s := grpc.NewServer(options...)
		h := health.NewServer()
		h.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		grpc_health_v1.RegisterHealthServer(s, h)
		t.Cleanup(s.Stop)
		go s.Serve(l)
		return l.Addr().String()
	}
	plainRPC := rpc()
	secureRPC := rpc(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))

	m := pool.New(pool.Config{Logger: silent})
	type object = map[string]any
	trusted := object{"ca": ca}
	for _, row := range []struct {
		name    string
		backend object
		probe   string
		stage   Stage
		text    string
	}{
		{"http/1.1", object{"host": one}, `{}`, "", "HTTP/1.1 200 OK"},
		{"http/1.1, wrong status", object{"host": one}, `{"url": "/x"}`, Status, "404"},
		{"http/1.1 with TLS", object{"host": secure, "tls": trusted}, `{}`, "", "HTTP/1.1 200 OK"},
		{"not trusted", object{"host": secure, "tls": object{}}, `{}`, Handshake, "x509"},
		{"h2c", object{"host": two, "protocol": "h2c"}, `{}`, "", "HTTP/2 200"},
		{"h2c, wrong status", object{"host": two, "protocol": "h2c"}, `{"url": "/x"}`, Status, "HTTP/2 404"},
		{"h2", object{"host": secure, "protocol": "h2", "tls": trusted}, `{}`, "", "HTTP/2 200"},
		{"h2c of one that does not speak it", object{"host": one, "protocol": "h2c"}, `{}`, Receive, ""},
		{"tcp", object{"host": one}, `{"type": "tcp"}`, "", "connected"},
		{"tcp with TLS", object{"host": secure, "tls": trusted}, `{"type": "tcp"}`, "", "connected"},
		{"grpc", object{"host": plainRPC, "protocol": "h2c"}, `{"type": "grpc"}`, "", "SERVING"},
		{"grpc of an http/1.1 backend", object{"host": plainRPC}, `{"type": "grpc"}`, "", "SERVING"},
		{"grpc of a service", object{"host": plainRPC}, `{"type": "grpc", "service": "db"}`, Status, "NOT_SERVING"},
		{"grpc of no service", object{"host": plainRPC}, `{"type": "grpc", "service": "x"}`, Status, "NOT_FOUND"},
		{"grpc with TLS", object{"host": secureRPC, "protocol": "h2", "tls": trusted}, `{"type": "grpc"}`, "", "SERVING"},
		{"grpc with TLS of an http/1.1 backend", object{"host": secureRPC, "tls": trusted}, `{"type": "grpc"}`, "", "SERVING"},
		{"grpc of what has none", object{"host": two, "protocol": "h2c"}, `{"type": "grpc"}`, Status, "HTTP/2 404"},
	} {
		value, err := json.Marshal(row.backend)
		if err != nil {
			t.Fatal(err)
		}
		def := decode[*store.Backend](t, store.Backends, string(value))
		r, err := Once(t.Context(), m, CheckOf(def, probeOf(t, row.probe), pool.Deps{}))
		if err != nil {
			t.Fatal(err)
		}
		if r.Stage != row.stage || r.Good != (row.stage == "") || !strings.Contains(r.Text, row.text) {
			t.Errorf("%s: good %v, stage %q, %q; want stage %q, %q", row.name, r.Good, r.Stage, r.Text, row.stage, row.text)
		}
	}
}

// An answer is read as protobuf's own reader does, but for groups, which proto3
// does not have.
func FuzzHealthAnswer(f *testing.F) {
	f.Add([]byte("\x08\x01"), "db")
	f.Add([]byte("\x12\x03abc\x1d\x00\x00\x00\x00\x08\x01"), "")
	f.Add([]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x08"), "a\x00")
	f.Fuzz(func(t *testing.T, b []byte, service string) {
		got, ok := healthAnswer(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
		healthAnswer(b)
		want := new(grpc_health_v1.HealthCheckResponse)
		valid := proto.Unmarshal(b, want) == nil
		if ok && valid && uint32(want.Status) != got {
			t.Errorf("%q is %d, want %d", b, got, want.Status)
		}
		if !ok && valid && !groups(b) {
			t.Errorf("%q is refused", b)
		}
		request := new(grpc_health_v1.HealthCheckRequest)
		if err := proto.Unmarshal(healthRequest(service)[5:], request); err == nil && request.Service != service {
			t.Errorf("the request for %q is for %q", service, request.Service)
		}
	})
}

func groups(b []byte) bool {
	for len(b) > 0 {
		_, kind, n := protowire.ConsumeField(b)
		if n < 0 || kind == protowire.StartGroupType {
			return true
		}
		b = b[n:]
	}
	return false
}
