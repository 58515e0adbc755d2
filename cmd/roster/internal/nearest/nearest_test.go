package nearest_test

import (
	"testing"

	"roster/cmd/roster/internal/nearest"
)

func TestWord(t *testing.T) {
	t.Parallel()
	words := []string{"backend", "backends", "listen", "etcd"}
	for word, want := range map[string]string{
		"bakend": "backend", "Backends": "backends", "lisetn": "listen", "etdc": "etcd", "etc": "etcd",
		"x": "", "route": "", "": "",
	} {
		if got := nearest.Word(word, words); got != want {
			t.Errorf("Word(%q) = %q, want %q", word, got, want)
		}
	}
}
