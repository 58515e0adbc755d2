package e2e_test

import "strconv"

// driver is what serves plain HTTP/1.1 in a node: loops, or goroutines if there are none.
// What is said of requests and answers is said of both.
type driver struct {
	name  string
	loops int
}

var drivers = []driver{{"loops", 2}, {"goroutines", 0}}

// args are further arguments of a node that has the driver.
func (d driver) args(more ...string) []string {
	return append([]string{"--loops", strconv.Itoa(d.loops)}, more...)
}
