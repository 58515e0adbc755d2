//go:build !unix

package pool

// alive cannot be told here; a request on a dead connection fails, and is sent
// again if that may be done.
func alive(int) bool { return true }
