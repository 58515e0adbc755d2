package effect_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/effect"
	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

func definitions(t *testing.T, file string) effect.Definitions {
	t.Helper()
	all, err := manifest.Parse("f", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	var entries []store.Entry
	for _, e := range all {
		entries = append(entries, store.Entry{Key: e.Key, Value: e.Value})
	}
	return effect.Decode(append(entries, store.Entry{Key: store.Key{Kind: store.Backends, Name: "broken"}, Value: []byte("{")}))
}

const before = `
probes:
  default: {url: /up}
backends:
  web-1: {host: 10.0.0.1, labels: {app: web}}
  web-2: {host: 10.0.0.2, labels: {app: web}}
  alias: {host: 10.0.0.2, comment: the address of web-2}
  team-a/x: {host: 10.0.0.9, labels: {app: web}}
directors:
  www: {type: random, select: {app: web}}
  team-a/www: {type: random, select: {app: web}}
  fixed: {type: fallback, backends: [web-1, web-2]}
routes:
  r: {backend: www}
`

func TestOf(t *testing.T) {
	t.Parallel()
	got := effect.Of(definitions(t, before), definitions(t, `
probes:
  default: {url: /up, window: 4, threshold: 2}
backends:
  web-1: {host: 10.0.0.1, labels: {app: web}, comment: new}
  web-3: {host: 10.0.0.3, labels: {app: web}, probe: slow}
  alias: {host: 10.0.0.2, comment: the address of web-2}
  team-a/x: {host: 10.0.0.9, port: 81, labels: {app: web}}
directors:
  www: {type: random, select: {app: web}}
  team-a/www: {type: random, select: {app: web}}
  fixed: {type: fallback, backends: [web-1, web-2]}
  new: {type: random, backends: [web-1]}
routes:
  r: {backend: fixed}
`))
	none := []string{}
	want := effect.Effect{
		Backends: effect.Changed{Added: []string{"web-3"}, Changed: []string{"team-a/x", "web-1"}, Removed: []string{"web-2"}},
		Routes:   effect.Changed{Added: none, Changed: []string{"r"}, Removed: none},
		Directors: []effect.Director{
			{Name: "new", Change: "added", Gains: []string{"web-1"}, Loses: none},
			{Name: "www", Change: "members", Gains: []string{"web-3"}, Loses: []string{"web-2"}},
		},
		// web-1 and alias keep theirs: neither a comment nor a window is part of them.
		Pools:    effect.Shared{Kept: 2, New: 2, Ended: 1},
		Probers:  effect.Shared{Kept: 2, New: 1, Ended: 1},
		Dangling: []string{"backends/web-3 names probe slow", "directors/fixed names web-2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNothingChangesNothing(t *testing.T) {
	t.Parallel()
	got := effect.Of(definitions(t, before), definitions(t, before))
	none := effect.Changed{Added: []string{}, Changed: []string{}, Removed: []string{}}
	want := effect.Effect{Backends: none, Routes: none, Directors: []effect.Director{}, Pools: effect.Shared{Kept: 3}, Probers: effect.Shared{Kept: 3}, Dangling: []string{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
