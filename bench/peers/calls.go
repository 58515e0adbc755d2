//go:build linux

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// calls are system calls of a request by name.
type calls map[string]float64

// calls counts the system calls of one more round. The kernel counts them, so that the
// proxy is as quick as without: one that is slowed, as by strace, has other batches.
func (g *generator) calls(ctx context.Context, p *proxy) (calls, error) {
	one, err := g.measure(ctx, p, `exec perf stat -x, -e 'syscalls:sys_enter_*' -p "$PIDS"`)
	if err != nil {
		return nil, err
	}
	c := calls{}
	for line := range strings.Lines(one.beside) {
		f := strings.Split(line, ",")
		if len(f) < 3 {
			continue
		}
		name, found := strings.CutPrefix(f[2], "syscalls:sys_enter_")
		if n, err := strconv.ParseFloat(f[0], 64); err == nil && found && n > 0 {
			c[name] = n / float64(one.Requests)
		}
	}
	if len(c) == 0 {
		return nil, fmt.Errorf("perf stat counted nothing, which may need root:\n%s", one.beside)
	}
	return c, nil
}

// String is the sum and what is at least a hundredth, the most frequent first.
func (c calls) String() string {
	var sum float64
	for _, n := range c {
		sum += n
	}
	text := fmt.Sprintf("%.2f:", sum)
	for _, name := range slices.SortedFunc(maps.Keys(c), func(a, b string) int { return int(1e6 * (c[b] - c[a])) }) {
		if c[name] >= 0.01 {
			text += fmt.Sprintf(" %s %.2f", name, c[name])
		}
	}
	return text
}
