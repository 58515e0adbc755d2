// Package nearest finds what somebody who misspelt a word may have meant.
package nearest

import "strings"

// Word is the one of words that somebody may have meant by a word: at most a third
// of its letters changed, left out, added or swapped with the next. It is empty if
// there is none.
func Word(word string, words []string) string {
	best, limit := "", (max(len(word), 2)+1)/3
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d <= limit {
			best, limit = w, d-1
		}
	}
	return best
}

// distance counts the edits between two words, a swap of neighbours being one.
func distance(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
