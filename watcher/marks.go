package watcher

import (
	"slices"
)

// mark is how a key was left by the newest revision that touched it.
type mark struct {
	key    string
	mod    int64
	digest digest
	gone   bool
}

// marks are the keys touched last, oldest first: what tells the history of etcd
// that we know from another one at the same revisions. One would do against a
// restore; many also tell a history that repeats most of what ours did, say because
// a deployment ran again after the restore.
type marks []mark

// maxMarks is well below the 128 operations that etcd's default allows a transaction.
const maxMarks = 32

func (m *marks) add(e entry) {
	all := *m
	if len(all) == maxMarks && e.mod < all[0].mod {
		return
	}
	all = slices.DeleteFunc(all, func(old mark) bool { return old.key == e.key })
	if len(all) == maxMarks {
		all = slices.Delete(all, 0, 1)
	}
	at := len(all)
	for at > 0 && all[at-1].mod > e.mod {
		at--
	}
	*m = slices.Insert(all, at, mark{key: e.key, mod: e.mod, digest: digestOf(e.value), gone: e.gone})
}

// anchored says whether one of the keys is still present.
func (m marks) anchored() bool {
	return slices.ContainsFunc(m, func(m mark) bool { return !m.gone })
}

// verdict is what a read of the marks says about etcd's history.
type verdict int

const (
	// ours: a mark is as we left it, and none contradicts us.
	ours verdict = iota
	// unclear: everything marked was touched again since.
	unclear
	// alien: a mark is as it cannot be in our history.
	alien
)

// exact compares marks with how etcd had their keys at the revision of the newest.
func (m marks) exact(then []*entry) verdict {
	for i, was := range m {
		is := then[i]
		if was.gone != (is == nil) || is != nil && (is.mod != was.mod || digestOf(is.value) != was.digest) {
			return alien
		}
	}
	return ours
}

// judge compares marks with how etcd has their keys now, in the same order; nil is
// absent. Everything up to revision seen is known, so what is newer is on its way.
func (m marks) judge(now []*entry, seen int64) verdict {
	result := unclear
	for i, was := range m {
		switch is := now[i]; {
		case is == nil && was.gone:
			if result == unclear && !m.anchored() {
				result = ours // there is nothing better to go by
			}
		case is == nil:
			// The deletion is on its way, or never was in this history.
		case is.mod > seen:
		case was.gone || is.mod != was.mod || digestOf(is.value) != was.digest:
			return alien
		default:
			result = ours
		}
	}
	return result
}
