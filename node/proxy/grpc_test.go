package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoService has a method of each kind of gRPC.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "One",
		Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			md, _ := metadata.FromIncomingContext(ctx)
			grpc.SetTrailer(ctx, metadata.Pairs("x-asked", strings.Join(md["x-ask"], ",")))
			if in.Value == "fail" {
				return nil, grpcstatus.Error(codes.FailedPrecondition, "as asked: naïve %")
			}
			return wrapperspb.String(in.Value + "!"), nil
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName:    "Both",
		ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(wrapperspb.String(in.Value + "!")); err != nil {
					return err
				}
			}
		},
	}},
}

// TestGRPC: calls of all kinds pass from end to end: messages one by one in both
// directions, metadata, statuses in trailers, deadlines and cancellations.
func TestGRPC(t *testing.T) {
	t.Parallel()
	server := grpc.NewServer()
	server.RegisterService(&echoService, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	r := newRig(t, Config{}, definitions{"backends/a": fmt.Sprintf(`{"host": %q, "protocol": "h2c"}`, ln.Addr())})
	for name, dial := range map[string]struct {
		addr  string
		creds credentials.TransportCredentials
	}{
		"h2c": {r.addr, insecure.NewCredentials()},
		"h2":  {r.listen(Listener{TLS: serverTLS()}), credentials.NewClientTLSFromCert(localhost().pool, "localhost")},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient(dial.addr, grpc.WithTransportCredentials(dial.creds))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			ctx = metadata.AppendToOutgoingContext(ctx, "x-ask", "why")

			out := new(wrapperspb.StringValue)
			var trailer metadata.MD
			if err := conn.Invoke(ctx, "/test.Echo/One", wrapperspb.String("hello"), out, grpc.Trailer(&trailer)); err != nil || out.Value != "hello!" {
				t.Errorf("unary: %q, %v", out.Value, err)
			}
			if got := trailer.Get("x-asked"); len(got) != 1 || got[0] != "why" {
				t.Errorf("trailer %q", got)
			}
			big := strings.Repeat("x", 3<<20)
			if err := conn.Invoke(ctx, "/test.Echo/One", wrapperspb.String(big), out); err != nil || len(out.Value) != len(big)+1 {
				t.Errorf("large: %d bytes, %v", len(out.Value), err)
			}
			err = conn.Invoke(ctx, "/test.Echo/One", wrapperspb.String("fail"), out)
			if s := grpcstatus.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "as asked: naïve %" {
				t.Errorf("failure: %v", err)
			}
			if err := conn.Invoke(ctx, "/test.Echo/None", wrapperspb.String(""), out); grpcstatus.Code(err) != codes.Unimplemented {
				t.Errorf("unknown method: %v", err)
			}

			both := &echoService.Streams[0]
			s, err := conn.NewStream(ctx, both, "/test.Echo/Both")
			if err != nil {
				t.Fatal(err)
			}
			for i := range 20 { // each answered before the next is sent
				if err := s.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
				if err := s.RecvMsg(out); err != nil || out.Value != fmt.Sprint(i, "!") {
					t.Fatalf("message %d: %q, %v", i, out.Value, err)
				}
			}
			s.CloseSend()
			if err := s.RecvMsg(out); !errors.Is(err, io.EOF) {
				t.Errorf("end: %v", err)
			}

			brief, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			defer stop()
			s, err = conn.NewStream(brief, both, "/test.Echo/Both")
			if err == nil {
				err = s.RecvMsg(out)
			}
			if grpcstatus.Code(err) != codes.DeadlineExceeded {
				t.Errorf("deadline: %v", err)
			}
		})
	}
	eventually(t, func() bool { return r.applier.Current().Lookup("a").Backend.Runtime.Active() == 0 })
}
