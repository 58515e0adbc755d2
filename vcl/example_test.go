package vcl_test

import (
	"fmt"
	"os"

	"roster/store"
	"roster/vcl"
)

func Example() {
	result, err := vcl.Parse("shop.vcl", `vcl 4.1;
import directors;
backend a { .host = "10.0.0.1"; }
backend b { .host = "10.0.0.2"; .port = "8080"; .probe = { .url = "/health"; } }
sub vcl_init {
    new shop = directors.round_robin();
    shop.add_backend(a);
    shop.add_backend(b);
}
sub vcl_recv {
    set req.backend_hint = shop.backend();
}
`, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range result.Definitions {
		fmt.Printf("%s %s\n", d.Key, store.Encode(d.Definition))
	}
	for _, n := range result.Notes {
		fmt.Println(n)
	}
	// Output:
	// backends/a {"host":"10.0.0.1"}
	// backends/b {"host":"10.0.0.2","port":8080,"host_header":"10.0.0.2","probe":{"url":"/health"}}
	// directors/shop {"type":"round_robin","backends":["a","b"]}
	// routes/default {"priority":-1000,"backend":"a"}
	// shop.vcl:3:9: the first backend is VCL's default: the route default, last of all, sends to a what no other route matches
	// shop.vcl:11:5: set req.backend_hint = shop.backend() is not imported (sub vcl_recv); a route with backend=shop sends requests there
}

func ExampleWrite() {
	key := store.Key{Kind: store.Backends, Name: "a"}
	def, _, err := store.Decode(key, []byte(`{"host": "10.0.0.1", "first_byte_timeout": "1m30s", "labels": {"app": "shop"}}`), store.Reject)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := vcl.Write(os.Stdout, []vcl.Definition{{Key: key, Definition: def}}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// vcl 4.1;
	//
	// backend a {
	//     .host = "10.0.0.1";
	//     .first_byte_timeout = 90s;
	//     # not in VCL: labels {"app":"shop"}
	// }
}
