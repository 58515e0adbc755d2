package store_test

import (
	"fmt"
	"testing"

	"roster/store"
)

// A route is plain if, but for what it matches, its backend is all that is written of it.
func TestPlainRoute(t *testing.T) {
	t.Parallel()
	seen := map[bool]int{}
	for field, values := range samples["routes"] {
		for i := range values {
			n := 0
			value := fmt.Sprintf(`{"backend":"a",%q:%s}`, field, table.ReplaceAllStringFunc(values[i], func(inner string) string {
				return compose(inner[1:], func(most int) int { n++; return n % most })
			}))
			def, _, err := store.Decode(store.Key{Kind: store.Routes, Name: "r"}, []byte(value), store.Reject)
			if err != nil {
				continue // a second backend, say
			}
			r := *def.(*store.Route)
			plain := r.Plain()
			seen[plain]++
			r.Match, r.When, r.Condition, r.OnError, r.Priority = store.Match{}, "", nil, store.FailRequest, 0
			if written := string(store.Encode(&r)); plain != (written == `{"backend":"a"}`) {
				t.Errorf("%s: plain = %t, written without its match %s", value, plain, written)
			}
		}
	}
	if seen[true] < 5 || seen[false] < 8 {
		t.Errorf("%d routes were plain and %d not", seen[true], seen[false])
	}
}
