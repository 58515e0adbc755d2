package prober

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"roster/http1"
	"roster/http2"
	"roster/message"
)

// maxMessage bounds the answer to a gRPC health check, in bytes: it is 7 long.
const maxMessage = 4 << 10

// http2 sends a GET and judges the answer by its head.
func (p *probe) http2() {
	r := message.Request{
		Method: methodGET, Target: []byte(p.url()), Authority: []byte(p.def.HostHeader),
	}
	p.exchange(&r, nil, func(_ *http2.Stream, head *message.Response) {
		p.received()
		p.status(head.Status, fmt.Sprintf("HTTP/2 %d", head.Status))
	})
}

// exchange sends a request and calls judge with the final head of its answer.
func (p *probe) exchange(r *message.Request, body []byte, judge func(*http2.Stream, *message.Response)) {
	c := http2.NewClient(p.rw, http2.Config{})
	ended := make(chan error, 1)
	go func() { ended <- c.Run() }()
	defer func() {
		c.Close()
		<-ended
	}()
	if !c.Reserve() {
		p.notSent(errors.New("the connection takes no request"))
		return
	}
	scheme := "http"
	if p.def.TLS != nil {
		scheme = "https"
	}
	s, _, err := c.Open(r, scheme, body, true)
	if err != nil {
		p.notSent(err)
		return
	}
	p.saw |= sawSent
	var head message.Response
	for head.Status < 200 {
		if err := s.Head(&head); err != nil {
			p.noAnswer(err)
			return
		}
	}
	judge(s, &head)
}

// noAnswer notes why there is none, or no whole one.
func (p *probe) noAnswer(err error) {
	var bad *http1.Error
	switch {
	case p.over():
		p.saw |= sawReceiveFailed
		p.fail(Receive, "no answer within %v", p.Timeout())
	case isClosed(err):
		p.gentle = true
		p.fail(Receive, "closed without an answer")
	case errors.As(err, &bad):
		p.saw |= sawReceiveFailed
		p.fail(Answer, "%v", bad)
	default:
		p.saw |= sawReceiveFailed
		p.fail(Receive, "%v", bare(err))
	}
}

// grpc calls grpc.health.v1.Health/Check.
func (p *probe) grpc() {
	r := message.Request{
		Method: []byte("POST"), Target: []byte("/grpc.health.v1.Health/Check"), Authority: []byte(p.def.HostHeader),
		Fields: []message.Field{
			message.New(message.ContentType, []byte("application/grpc")),
			message.New(message.TE, []byte("trailers")),
		},
		Length: message.Unknown,
	}
	p.exchange(&r, healthRequest(p.probe.Service), func(s *http2.Stream, head *message.Response) {
		status := grpcStatus(head.Fields) // there, if the answer has no message
		body := make([]byte, 0, 64)
		for {
			n, err := s.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			if err == io.EOF {
				break
			}
			if err != nil {
				p.noAnswer(err)
				return
			}
			if len(body) > maxMessage {
				p.fail(Answer, "more than %d bytes, want a grpc.health.v1 answer", maxMessage)
				return
			}
			if len(body) == cap(body) {
				body = append(body, 0)[:len(body)]
			}
		}
		p.received()
		if trailer := grpcStatus(s.Trailers()); trailer != "" {
			status = trailer
		}
		p.judgeHealth(head.Status, status, body)
	})
}

// judgeHealth judges the answer to a health check: HTTP's status, gRPC's, and the
// message with its prefix.
func (p *probe) judgeHealth(http int, status string, body []byte) {
	switch {
	case http != 200:
		p.fail(Status, "HTTP/2 %d, want 200", http)
	case status == "":
		p.fail(Answer, "no grpc-status, want a grpc.health.v1 answer")
	case status != "0":
		p.fail(Status, "grpc-status %s, want 0", grpcName(status))
	default:
		serving, ok := healthAnswer(body)
		switch {
		case !ok:
			p.fail(Answer, "the message is not a grpc.health.v1 answer")
		case serving != 1:
			p.fail(Status, "%s, want SERVING", servingName(serving))
		default:
			p.good("SERVING")
		}
	}
}

func grpcStatus(fields []message.Field) string {
	for i := range fields {
		if message.EqualFold(fields[i].Name, "grpc-status") {
			return firstLine(fields[i].Value)
		}
	}
	return ""
}

// grpcNames are those codes that a health check may well come back with.
var grpcNames = map[string]string{
	"5": "NOT_FOUND", "7": "PERMISSION_DENIED", "12": "UNIMPLEMENTED", "13": "INTERNAL", "14": "UNAVAILABLE", "16": "UNAUTHENTICATED",
}

func grpcName(code string) string {
	if name := grpcNames[code]; name != "" {
		return code + " (" + name + ")"
	}
	return code
}

func servingName(n uint32) string {
	switch n {
	case 0:
		return "UNKNOWN"
	case 2:
		return "NOT_SERVING"
	case 3:
		return "SERVICE_UNKNOWN"
	}
	return "status " + strconv.FormatUint(uint64(n), 10)
}

// healthRequest is a HealthCheckRequest, whose field 1 is the service, behind
// gRPC's prefix: not compressed, length.
func healthRequest(service string) []byte {
	var m []byte
	if service != "" {
		m = append(m, 1<<3|2)
		m = binary.AppendUvarint(m, uint64(len(service)))
		m = append(m, service...)
	}
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m)))
	return append(b, m...)
}

// healthAnswer reads a HealthCheckResponse behind gRPC's prefix: one message,
// whose field 1 is the serving status. Other fields are skipped, as protobuf
// wants it.
func healthAnswer(b []byte) (serving uint32, ok bool) {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return 0, false
	}
	b = b[5:]
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return 0, false
		}
		b = b[n:]
		var skip uint64
		switch tag & 7 {
		case 0:
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, false
			}
			if tag>>3 == 1 {
				serving = uint32(v)
			}
			skip = uint64(n)
		case 1:
			skip = 8
		case 2:
			length, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, false
			}
			b, skip = b[n:], length
		case 5:
			skip = 4
		default:
			return 0, false
		}
		if skip > uint64(len(b)) {
			return 0, false
		}
		b = b[skip:]
	}
	return serving, true
}
