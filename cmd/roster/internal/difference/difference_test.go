package difference_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/cmd/roster/internal/difference"
)

func TestFields(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before, after string
		want          []string
	}{
		"equal, spelt differently": {`{"port":80, "host":"h"}`, `{"host":"h","port":80}`, nil},
		"changed, new and gone":    {`{"host":"h","port":80,"comment":"x"}`, `{"host":"h","port":81,"probe":{"url":"/"}}`, []string{"port: 80 -> 81", "+ probe.url: /", "- comment: x"}},
		"a list":                   {`{"backends":["a"]}`, `{"backends":["a",{"name":"b"}]}`, []string{`backends: [a] -> [a, {"name":"b"}]`}},
		"an empty object":          {`{"host":"h"}`, `{"host":"h","tls":{}}`, []string{"+ tls: {}"}},
		"plain text":               {`sick`, `drain`, []string{"sick -> drain"}},
		"text and an object":       {`sick`, `{"state":"sick"}`, []string{"+ state: sick", "- sick"}},
		"from nothing":             {``, `{"host":"h"}`, []string{"+ host: h"}},
		"to nothing":               {`{"host":"h"}`, ``, []string{"- host: h"}},
	} {
		if diff := cmp.Diff(test.want, difference.Fields([]byte(test.before), []byte(test.after))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestUnified(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ before, after, want string }{
		"equal":        {"a\n", "a\n", ""},
		"new":          {"", "a\nb\n", "@@ -0,0 +1,2 @@\n+a\n+b\n"},
		"gone":         {"a\n", "", "@@ -1,1 +0,0 @@\n-a\n"},
		"a line":       {"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"},
		"far apart":    {"a\n1\n2\n3\n4\n5\n6\n7\nb\n", "x\n1\n2\n3\n4\n5\n6\n7\ny\n", "@@ -1,4 +1,4 @@\n-a\n+x\n 1\n 2\n 3\n@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+y\n"},
		"near by":      {"a\n1\n2\n3\n4\n5\n6\nb\n", "x\n1\n2\n3\n4\n5\n6\ny\n", "@@ -1,8 +1,8 @@\n-a\n+x\n 1\n 2\n 3\n 4\n 5\n 6\n-b\n+y\n"},
		"put in front": {"b\n", "a\nb\n", "@@ -1,1 +1,2 @@\n+a\n b\n"},
	} {
		if diff := cmp.Diff(test.want, difference.Unified(test.before, test.after)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// What is marked ' ' or '-' is of the old text, what is marked ' ' or '+' of the new.
func TestUnifiedHasAllThatDiffers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 20)
		a, b := text.Draw(t, "before"), text.Draw(t, "after")
		join := func(lines []string) string { return strings.Join(lines, "\n") + "\n" }
		out := difference.Unified(join(a), join(b))
		if (out == "") != (join(a) == join(b)) {
			t.Fatalf("%q and %q: %q", a, b, out)
		}
		removed, added := map[string]int{}, map[string]int{}
		for line := range strings.Lines(out) {
			switch line[0] {
			case '-':
				removed[line[1:2]]++
			case '+':
				added[line[1:2]]++
			}
		}
		for _, letter := range []string{"a", "b", "c"} {
			count := func(lines []string) (n int) {
				for _, l := range lines {
					if l == letter {
						n++
					}
				}
				return n
			}
			if count(b)-count(a) != added[letter]-removed[letter] {
				t.Fatalf("%q and %q: %q", a, b, out)
			}
		}
	})
}
