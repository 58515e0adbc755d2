package condition_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"roster/condition"
)

// FuzzCompile: any text is a condition or has faults with a place in it that can
// be shown; a condition can be computed, of much and of nothing.
func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`req.method == 'GET'`, `req.header['user-agent'].matches('(?i)mobile')`, `backend.healthy('a') && client.ip != ""`, `req.header.exists(h, h in req.query)`,
		`[1, 2].map(x, x * 2) == [2u]`, "req.foo ||\n  'a'", `{'a': req.cookie.b}['a'] == ''`, `duration('1s') > timestamp(0)`, `"abc`, `a.b.c(`, `has(req.header.x) ? true : size('ü') == 1`,
		`'a, b'.split(',').exists_one(x, x.trim().lowerAscii() == b'')`, `req{}`, `backend.healthy(req)`, `dyn([]) == {}`, `optional.none()`, `google.protobuf.Int32Value{value: 1} == 1`,
	} {
		f.Add(text)
	}
	full, empty := input(), &condition.Input{Request: input().Request}
	empty.Request.Fields = nil
	f.Fuzz(func(t *testing.T, text string) {
		c, err := condition.Compile(text)
		if err != nil {
			var all condition.Errors
			if c != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("%v, %v", c, err)
			}
			lines := strings.Split(text, "\n")
			for _, one := range all {
				if one.Line < 1 || one.Line > len(lines)+1 || one.Column < 1 || one.Column > utf8.RuneCountInString(text)+2 || one.Msg == "" || len(one.Msg) > 1500 || !utf8.ValidString(one.Msg) {
					t.Errorf("%q: %+v", text, one)
				}
			}
			return
		}
		for _, in := range []*condition.Input{full, empty} {
			if holds, err := c.Eval(in); err != nil && holds {
				t.Errorf("%q holds, and fails: %v", text, err)
			}
		}
	})
}
