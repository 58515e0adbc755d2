package manifest_test

import (
	"fmt"

	"roster/cmd/roster/internal/manifest"
)

func Example() {
	entries, err := manifest.Parse("site.yaml", []byte(`
backends:
  web-1: {host: 10.0.0.7, port: 8080}
health:
  web-1: drain
`))
	if err != nil {
		fmt.Println(err)
	}
	for _, e := range entries {
		fmt.Printf("%s %s\n", e.Key, e.Value)
	}
	_, err = manifest.Parse("site.yaml", []byte("backends:\n  web-1:\n    host: 10.0.0.7\n    prot: 80\n"))
	for _, err := range manifest.Each(err) {
		fmt.Println(err)
	}
	// Output:
	// backends/web-1 {"host":"10.0.0.7","port":8080}
	// health/web-1 drain
	// site.yaml:4:5: backends/web-1: prot: is not a field of a backend; did you mean "port"?
}
