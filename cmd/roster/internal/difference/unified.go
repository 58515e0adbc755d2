package difference

import (
	"fmt"
	"strings"
)

// context is how many equal lines are shown around those that differ, as diff -u does.
const context = 3

// maxCells bounds the table that finds what is common: beyond, all of the middle counts as
// changed, which is true, if not short.
const maxCells = 4 << 20

// Unified gives the difference of two texts as diff -u does, without its two lines of
// names; "" where they are equal.
func Unified(before, after string) string {
	if before == after {
		return ""
	}
	edits := compare(lines(before), lines(after))
	var b strings.Builder
	for i := 0; i < len(edits); {
		if edits[i].mark == ' ' {
			i++
			continue
		}
		from := max(i-context, 0)
		to, equal := i, 0 // to is after the last that differs
		for j := i; j < len(edits) && equal <= 2*context; j++ {
			if equal++; edits[j].mark != ' ' {
				to, equal = j+1, 0
			}
		}
		end := min(to+context, len(edits))
		hunk(&b, edits[:from], edits[from:end])
		i = end
	}
	return b.String()
}

type edit struct {
	mark byte // ' ', '-' or '+'
	line string
}

func hunk(b *strings.Builder, before, edits []edit) {
	start, length := [2]int{1, 1}, [2]int{}
	count := func(n *[2]int, all []edit) {
		for _, e := range all {
			if e.mark != '+' {
				n[0]++
			}
			if e.mark != '-' {
				n[1]++
			}
		}
	}
	count(&start, before)
	count(&length, edits)
	for i := range start {
		if length[i] == 0 {
			start[i]-- // as diff: the line before
		}
	}
	fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n", start[0], length[0], start[1], length[1])
	for _, e := range edits {
		b.WriteByte(e.mark)
		b.WriteString(e.line)
		b.WriteByte('\n')
	}
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// compare finds a longest common part of two texts, and gives the edits between them.
func compare(a, b []string) (edits []edit) {
	add := func(mark byte, all []string) {
		for _, line := range all {
			edits = append(edits, edit{mark, line})
		}
	}
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	add(' ', a[:start])
	tail := a[len(a)-end:]
	a, b = a[start:len(a)-end], b[start:len(b)-end]
	if len(a)*len(b) > maxCells {
		add('-', a)
		add('+', b)
		add(' ', tail)
		return edits
	}
	// common[i][j] is the length of what a[i:] and b[j:] have in common.
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			add(' ', a[i:i+1])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			add('-', a[i:i+1])
			i++
		default:
			add('+', b[j:j+1])
			j++
		}
	}
	add(' ', tail)
	return edits
}
