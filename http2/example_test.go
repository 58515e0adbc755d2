package http2_test

import (
	"fmt"
	"io"
	"net"

	"roster/http2"
	"roster/message"
)

func Example() {
	near, far := net.Pipe()

	server := http2.NewServer(far, http2.Config{})
	served := make(chan error)
	go func() {
		served <- server.Serve(func(s *http2.Stream) {
			var r message.Request
			if err := s.Request(&r); err != nil {
				s.Send(&message.Response{Status: 400}, nil, true, nil)
				return
			}
			body, err := io.ReadAll(s)
			if err != nil {
				return // the stream is reset
			}
			text := fmt.Sprintf("%s %s of %s: %s", r.Method, r.Target, r.Authority, body)
			s.Send(&message.Response{Status: 200, Length: int64(len(text))}, []byte(text), true, nil)
		})
	}()

	client := http2.NewClient(near, http2.Config{})
	go client.Run()
	if !client.Reserve() {
		panic("no place for a stream")
	}
	r := message.Request{Method: []byte("PUT"), Target: []byte("/x"), Authority: []byte("a.test"), Length: 4}
	s, sent, err := client.Open(&r, "https", []byte("data"), true)
	if err != nil || sent < 4 {
		panic("this body fits any window")
	}
	var head message.Response
	if err := s.Head(&head); err != nil {
		panic(err)
	}
	body, err := io.ReadAll(s)
	fmt.Println(head.Status, head.Length, string(body), err)

	client.GoAway()
	<-client.Done()
	fmt.Println(<-served)
	// Output:
	// 200 22 PUT /x of a.test: data <nil>
	// <nil>
}
