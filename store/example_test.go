package store_test

import (
	"errors"
	"fmt"

	multierror "github.com/hashicorp/go-multierror"

	"roster/store"
)

func Example() {
	key, _ := store.ParseKey("backends/team-a/web-1")
	def, _, err := store.Decode(key, []byte(`{"host": "10.0.0.7", "port": 8080, "first_byte_timeout": "1m"}`), store.Reject)
	if err != nil {
		fmt.Println(err)
		return
	}
	backend := def.(*store.Backend)
	fmt.Println(backend.Host, backend.Port, backend.HostHeader, backend.ConnectTimeout)
	fmt.Println(string(store.Encode(backend)))
	// Output:
	// 10.0.0.7 8080 10.0.0.7:8080 3.5s
	// {"host":"10.0.0.7","port":8080}
}

// Everything that is wrong with a value is said at once.
func ExampleDecode_errors() {
	key := store.Key{Kind: store.Directors, Name: "www"}
	_, _, err := store.Decode(key, []byte(`{
		"type": "roundrobin",
		"backends": ["web-1", {"name": "web-2", "wieght": 2}],
		"panic": 50
	}`), store.Reject)
	var faults *multierror.Error
	if errors.As(err, &faults) {
		for _, fault := range faults.Errors {
			fmt.Println(fault)
		}
	}
	// Output:
	// type: is "roundrobin", want "round_robin", "fallback", "random", "hash", "shard", "least_connections" or "p2c"
	// backends[1].wieght: is not a field of a member; did you mean "weight"?
	// panic: is 50, want 0 to 1
}
