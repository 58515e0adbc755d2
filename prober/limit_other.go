//go:build !unix

package prober

func maxDescriptors() int { return 0 }
