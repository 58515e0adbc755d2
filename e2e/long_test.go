package e2e_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// make e2e-long runs every test that has a long form, and docs/FLEET.md says of each what
// its forms are.
func TestEveryLongFormIsRunAndListed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{} // that a function has in its body
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "harness" {
						names[f.Name.Name] = append(names[f.Name.Name], "harness."+n.Sel.Name)
					}
				case *ast.Ident:
					names[f.Name.Name] = append(names[f.Name.Name], n.Name)
				}
				return true
			})
		}
	}
	var asks func(f string, seen map[string]bool) bool
	asks = func(f string, seen map[string]bool) bool {
		if f == "harness.Long" || seen[f] {
			return f == "harness.Long"
		}
		seen[f] = true
		return slices.ContainsFunc(names[f], func(g string) bool { return asks(g, seen) })
	}
	var want []string
	for _, f := range slices.Sorted(maps.Keys(names)) {
		if strings.HasPrefix(f, "Test") && asks(f, map[string]bool{}) {
			want = append(want, f)
		}
	}
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var run []string
	if m := regexp.MustCompile(`(?m)^LONG := (\S+)$`).FindStringSubmatch(read("../Makefile")); m != nil {
		run = slices.Sorted(slices.Values(strings.Split(m[1], "|")))
	}
	if diff := cmp.Diff(want, run); diff != "" {
		t.Errorf("LONG of the Makefile, -want +got:\n%s", diff)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(Test\\w+)` \\|").FindAllStringSubmatch(read("../docs/FLEET.md"), -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(listed)
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Errorf("the table of docs/FLEET.md, -want +got:\n%s", diff)
	}
}
