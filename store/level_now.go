//go:build !roster_next

package store

// upcoming is how many levels there are above the release's: none.
const upcoming = 0
