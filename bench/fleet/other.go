//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "fleet: Linux is needed: CPU times and memory come from its /proc")
	os.Exit(1)
}
