package balancer_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"roster/store"
)

func decoded(t *testing.T, value string) *store.Director {
	t.Helper()
	def, _, err := store.Decode(store.Key{Kind: store.Directors, Name: "d"}, []byte(value), store.Reject)
	if err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return def.(*store.Director)
}

// Each definition and default on docs/DIRECTORS.md is what store takes, and each type is
// there with an example.
func TestDirectorsPageHasDefinitionsThatAreTaken(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/DIRECTORS.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	examples := map[store.DirectorType]bool{}
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(page, -1) {
		examples[decoded(t, block[1]).Type] = true
	}
	kinds := []store.DirectorType{store.RoundRobin, store.Fallback, store.Random, store.Hash, store.Shard, store.LeastConnections, store.P2C}
	for _, kind := range kinds {
		if !examples[kind] || !strings.Contains(page, "\n| `"+string(kind)+"` | ") {
			t.Errorf("no example of %s, or no line about it", kind)
		}
	}
	fields := 0
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|(?: `(.*?)`)? \\| (all|`.*?`) \\|").FindAllStringSubmatch(page, -1) {
		field, value, of := row[1], row[2], row[3]
		fields++
		if value == "" {
			continue
		}
		for _, kind := range kinds {
			plain := `{"type":"` + string(kind) + `","backends":["a"]`
			def, _, err := store.Decode(store.Key{Kind: store.Directors, Name: "d"}, []byte(plain+`,"`+field+`":`+value+`}`), store.Reject)
			if goes := of == "all" || strings.Contains(of, "`"+string(kind)+"`"); goes != (err == nil) {
				t.Errorf("%s of a %s: %v, the page says it is of %s", field, kind, err, of)
			} else if goes && string(store.Encode(def)) != string(store.Encode(decoded(t, plain+"}"))) {
				t.Errorf("%s is not the default of %s: with it a %s is %s", value, field, kind, store.Encode(def))
			}
		}
	}
	if fields != 14 {
		t.Errorf("%d fields in the table, want all 14", fields)
	}
}
