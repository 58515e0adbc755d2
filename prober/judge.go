package prober

import (
	"math/bits"

	"roster/store"
)

// Judge is how a backend judges the history of its check. It is not part of the
// check: backends that differ in it alone are probed together.
type Judge struct {
	// Window is how many of the last probes count, 1 to 64; of them at least
	// Threshold, 1 to Window, have to be good. Initial of those before the first,
	// 0 to Threshold, count as good.
	Window, Threshold, Initial uint8
}

// JudgeOf returns the judge that a probe's definition asks for.
func JudgeOf(p *store.Probe) Judge {
	return Judge{uint8(p.Window), uint8(p.Threshold), uint8(p.Initial)}
}

// Happy returns a register of good probes with those before the first of n filled
// in, as Varnish shows it.
func (j Judge) Happy(register, n uint64) uint64 {
	if n >= 64 {
		return register
	}
	return register | (1<<j.Initial-1)<<n
}

// Good counts the good ones in the window.
func (j Judge) Good(register, n uint64) int {
	window := uint64(1)<<j.Window - 1 // all ones for 64: the shift gives 0
	return bits.OnesCount64(j.Happy(register, n) & window)
}

// Healthy is the verdict over a register of good probes, newest in bit 0, in
// which there have been n.
func (j Judge) Healthy(register, n uint64) bool {
	return j.Good(register, n) >= int(j.Threshold)
}

// Verdict is what a backend's health was before there was anything to judge by.
type Verdict uint8

const (
	Unjudged Verdict = iota // a new backend: Judge.Initial decides
	Healthy
	Sick
)

// VerdictOf returns Healthy or Sick.
func VerdictOf(healthy bool) Verdict {
	if healthy {
		return Healthy
	}
	return Sick
}
