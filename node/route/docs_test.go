package route

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"roster/condition"
	"roster/store"
)

func routesPage(t *testing.T) string {
	page, err := os.ReadFile("../../docs/ROUTES.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// rows are the cells of the table that has this head.
func rows(t *testing.T, page, head string) [][]string {
	t.Helper()
	_, rest, found := strings.Cut(page, head+"\n")
	if !found {
		t.Fatalf("no table %q", head)
	}
	var all [][]string
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "| ---") {
			continue
		}
		line = strings.ReplaceAll(strings.Trim(line, "| \n"), `\|`, "\x00")
		var cells []string
		for cell := range strings.SplitSeq(line, "|") {
			cells = append(cells, strings.ReplaceAll(strings.Trim(cell, " `"), "\x00", "|"))
		}
		all = append(all, cells)
	}
	if len(all) < 3 {
		t.Fatalf("table %q has %d rows", head, len(all))
	}
	return all
}

// Each definition, default and condition on docs/ROUTES.md is what store takes.
func TestRoutesPageHasDefinitionsThatAreTaken(t *testing.T) {
	t.Parallel()
	page := routesPage(t)
	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(blocks) < 5 {
		t.Errorf("%d definitions, want 5 or more", len(blocks))
	}
	for _, block := range blocks {
		decoded(t, block[1])
	}
	plain := string(store.Encode(decoded(t, `{"backend":"a"}`)))
	for _, row := range rows(t, page, "| field | default | |") {
		if name, value := row[0], row[1]; value != "" && value != `""` {
			definition := `{"backend":"a","` + name + `":` + value + `}`
			if name == "on_error" {
				definition = `{"backend":"a","when":"true","on_error":` + value + `}`
				if got := string(store.Encode(decoded(t, definition))); strings.Contains(got, name) {
					t.Errorf("%s is not the default of %s", value, name)
				}
			} else if got := string(store.Encode(decoded(t, definition))); got != plain {
				t.Errorf("%s is not the default of %s: with it a route is %s", value, name, got)
			}
		}
	}
	for _, row := range rows(t, page, "| condition | holds for |") {
		if _, err := condition.Compile(row[0]); err != nil {
			t.Errorf("%s: %v", row[0], err)
		}
	}
	for _, row := range rows(t, page, "| variable | |") {
		text := strings.Replace(row[0], "(name)", "('a')", 1)
		if _, err := condition.Compile("type(" + text + ") == string || type(" + text + ") == bool"); err != nil {
			if _, err := condition.Compile(text + "['a'] == ''"); err != nil {
				t.Errorf("%s: %v", row[0], err)
			}
		}
	}
}

// The page's table of the order is the order, and its spellings are compared as it
// says.
func TestRoutesPageHasTheOrderAndTheSpellings(t *testing.T) {
	t.Parallel()
	page := routesPage(t)
	var ix Index
	e := ix.Edit()
	all := rows(t, page, "| name | `priority` | `host` | `path` |")
	for _, row := range all {
		for len(row) < 4 {
			row = append(row, "")
		}
		value := `{"respond":{},"priority":` + row[1] + `,"match":{`
		var fields []string
		if row[2] != "" {
			fields = append(fields, `"host":"`+row[2]+`"`)
		}
		if row[3] != "" {
			fields = append(fields, `"path":"`+row[3]+`"`)
		}
		e.Add(New(row[0], decoded(t, value+strings.Join(fields, ",")+"}}"), 1, 1, 1))
	}
	ix = e.Commit()
	q := ask(request("GET", "/cart/pay", "www.shop.example"))
	for _, row := range all {
		got, err := ix.Match(q)
		if nameOf(got) != row[0] || err != nil {
			t.Fatalf("%s is taken, %v, want %s", nameOf(got), err, row[0])
		}
		e := ix.Edit()
		e.Remove(got)
		ix = e.Commit()
	}
	for _, row := range rows(t, page, "| sent | compared |") {
		if got, err := Normalize(nil, []byte(row[0])); err != nil || string(got) != row[1] {
			t.Errorf("%s is compared as %s, %v, the page says %s", row[0], got, err, row[1])
		}
	}
}
