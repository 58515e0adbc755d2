package message_test

import (
	"fmt"

	"roster/message"
)

func Example() {
	r := message.Request{Fields: []message.Field{
		{Name: []byte("host"), Value: []byte("a.test"), ID: message.Lookup([]byte("host"))},
		message.New(message.Connection, []byte("keep-alive, TE")),
	}}
	for list := r.Get(message.Connection); len(list) > 0; {
		var option []byte
		option, list = message.NextToken(list)
		fmt.Printf("%s\n", option)
	}
	for _, f := range r.Fields {
		fmt.Printf("%s is %v\n", f.Name, f.ID)
	}
	// Output:
	// keep-alive
	// TE
	// host is Host
	// Connection is Connection
}
