//go:build !unix

package pool

// alive cannot be told here; a request on a dead connection fails, and is sent
// again if that may be done.
func alive(int) bool { return true }

func closedOrMore(int) (closed, more bool) { return false, false }

func duplicate(uintptr) (int, error) { return -1, errNoDescriptor }

func readNow(int, []byte) (int, error) { return 0, quiet{} }
