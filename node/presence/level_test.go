package presence

import (
	"context"
	"errors"
	"strings"
	"testing"

	"roster/store"
)

// fixed is a Source that has, or lacks, some members.
type fixed struct {
	events []store.MemberEvent
	err    error
}

func (f fixed) Members(context.Context) ([]store.MemberEvent, int64, error) {
	return f.events, 7, f.err
}

func present(node string, live bool, p store.Presence) store.MemberEvent {
	return store.MemberEvent{Member: store.Instance{Node: node, ID: "i"}, Live: live, Presence: &p}
}

func TestMembersBelowALevelAreNamed(t *testing.T) {
	t.Parallel()
	var all Members
	all.Take([]store.MemberEvent{
		present("old", true, store.Presence{Version: "1.0", Level: 1}), present("old", false, store.Presence{Version: "1.0", Level: 1}),
		present("new", true, store.Presence{Version: "2.0", Level: 2}),
		present("gone", false, store.Presence{Version: "1.1", Level: 1}),
		present("odd", true, store.Presence{}), // cannot be read
	})
	for level, want := range map[int]string{
		1: "",
		2: "gone (unknown, roster 1.1, level 1); odd (roster of unknown version, level 1); old (roster 1.0, level 1)",
		3: "gone (unknown, roster 1.1, level 1); new (roster 2.0, level 2); odd (roster of unknown version, level 1); old (roster 1.0, level 1)",
	} {
		if got := strings.Join(all.below(level), "; "); got != want {
			t.Errorf("below %d: %s, want %s", level, got, want)
		}
	}
}

func TestLevelErrors(t *testing.T) {
	t.Parallel()
	key := store.Key{Kind: store.Directors, Name: "www"}
	e := LevelError{Key: key, Need: store.Need{Path: "type", What: `the value "next"`, Level: 2}}
	for members, want := range map[string]string{
		"":          `directors/www: type: is the value "next" of definition level 2, and etcd does not let you see whether all nodes have that`,
		"a (1)":     `directors/www: type: is the value "next" of definition level 2, more than a (1) has`,
		"a,b,c,d,e": `directors/www: type: is the value "next" of definition level 2, more than a, b, c and 2 more have`,
	} {
		e.Members = nil
		if members != "" {
			e.Members = strings.Split(members, ",")
		}
		if got := e.Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// What all releases take is written whoever the members are, and without a look at them.
	err := CheckLevels(t.Context(), fixed{err: errors.New("not to be asked")}, map[store.Key][]byte{key: []byte(`{"type": "random", "backends": ["a"]}`)})
	if err != nil {
		t.Errorf("error %v of a definition of level 1", err)
	}
}
