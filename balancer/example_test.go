package balancer_test

import (
	"fmt"

	"roster/balancer"
	"roster/store"
)

func Example() {
	def := &store.Director{Type: store.RoundRobin}
	members := []balancer.Member{
		{Ref: 1, Name: "web-1", Weight: 1},
		{Ref: 2, Name: "web-2", Weight: 1},
		{Ref: 3, Name: "web-3", Weight: 1},
	}
	now := make(health, len(members)) // the Members of this package's tests
	var state balancer.State
	view := state.View(def, members, now, nil, 0)

	// The second goes sick after the view was made, and is not chosen.
	now[1].sick = true
	for range 4 {
		i := view.Pick(&balancer.Query{}, now)
		fmt.Println(members[i].Name)
	}
	// Output:
	// web-1
	// web-3
	// web-1
	// web-3
}
