package watcher

import (
	"fmt"
	"testing"
)

func TestMarksAreTheKeysTouchedLast(t *testing.T) {
	t.Parallel()
	var m marks
	for i := range 2 * maxMarks {
		m.add(entry{key: fmt.Sprint("k", i%(maxMarks+3)), mod: int64(100 - i)})
	}
	m.add(entry{key: "k3", mod: 101, gone: true})
	if len(m) != maxMarks {
		t.Fatalf("%d marks, want %d", len(m), maxMarks)
	}
	for i := range m[1:] {
		if m[i].mod > m[i+1].mod {
			t.Errorf("marks %v are not in order", m)
		}
	}
	if last := m[len(m)-1]; last.key != "k3" || !last.gone {
		t.Errorf("last mark is %v, want the deletion of k3", last)
	}
	if m[len(m)-2].key != "k0" {
		t.Errorf("marks are %v, want k0 before the last", m)
	}
}

func TestMarksTellAnotherHistory(t *testing.T) {
	t.Parallel()
	put := func(key string, mod int64, value string) *entry {
		return &entry{key: key, create: mod, mod: mod, value: []byte(value)}
	}
	var known marks // seen up to 20
	known.add(*put("a", 5, "1"))
	known.add(*put("b", 9, "2"))
	known.add(entry{key: "c", mod: 10, gone: true})
	for _, tt := range []struct {
		name    string
		a, b, c *entry
		want    verdict
	}{
		{"as left", put("a", 5, "1"), put("b", 9, "2"), nil, ours},
		{"one touched since", put("a", 5, "1"), put("b", 21, "3"), nil, ours},
		{"one deleted since", put("a", 5, "1"), nil, nil, ours},
		{"all touched since", put("a", 22, "3"), put("b", 21, "3"), put("c", 23, "3"), unclear},
		{"all deleted", nil, nil, nil, unclear},
		{"older version", put("a", 5, "1"), put("b", 7, "2"), nil, alien},
		{"other value at the same revision", put("a", 5, "1"), put("b", 9, "3"), nil, alien},
		{"touched where nothing happened", put("a", 5, "1"), put("b", 15, "3"), nil, alien},
		{"deletion undone", put("a", 5, "1"), put("b", 9, "2"), put("c", 4, "0"), alien},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := known.judge([]*entry{tt.a, tt.b, tt.c}, 20); got != tt.want {
				t.Errorf("verdict = %d, want %d", got, tt.want)
			}
		})
	}
	if got := known.exact([]*entry{put("a", 5, "1"), put("b", 9, "2"), nil}); got != ours {
		t.Errorf("verdict on what was known = %d, want ours", got)
	}
	if got := known.exact([]*entry{put("a", 5, "1"), nil, nil}); got != alien {
		t.Errorf("verdict on a version that is not there = %d, want alien", got)
	}
}
