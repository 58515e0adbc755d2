package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v2"

	"roster/cmd/roster/internal/settings"
	"roster/store"
)

// docs/REFERENCE.md is what the schemas and flags say. go test -run Reference -update ./cmd/roster
// writes it.
func TestReferencePageIsWhatThereIs(t *testing.T) {
	t.Parallel()
	const file = "../../docs/REFERENCE.md"
	page := reference(t)
	if *update {
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, page) {
		t.Errorf("%s is not what there is: run go test -run Reference -update ./cmd/roster\n%s", file, firstDifference(string(written), string(page)))
	}
	// It has all there is: each property of each schema and each flag.
	for _, kind := range store.Kinds() {
		for _, name := range propertyNames(t, store.JSONSchema(kind)) {
			if !strings.Contains(string(page), "| `"+name+"` |") && !strings.Contains(string(page), "."+name+"` |") {
				t.Errorf("%s: the page has no field %s", kind, name)
			}
		}
	}
}

// propertyNames are the names of all fields of a schema, at any depth.
func propertyNames(t *testing.T, schema []byte) []string {
	t.Helper()
	var names []string
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name := range mapOf(v["properties"]) {
				names = append(names, name)
			}
			for _, inner := range v {
				visit(inner)
			}
		case []any:
			for _, inner := range v {
				visit(inner)
			}
		}
	}
	var v any
	if err := json.Unmarshal(schema, &v); err != nil {
		t.Fatal(err)
	}
	visit(v)
	if len(names) < 3 {
		t.Fatalf("%d fields in %s", len(names), schema)
	}
	return names
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d is\n%s\nwant\n%s", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

// reference is the page.
func reference(t *testing.T) []byte {
	t.Helper()
	var w bytes.Buffer
	w.WriteString(`# Reference

Made from the program by ` + "`go test -run Reference -update ./cmd/roster`" + `, and compared with it by
every run of the tests. The fields of definitions are those of ` + "`roster schema KIND`" + `, for editors
and programs. What they are for is on the pages that [README.md](README.md) lists.

A duration is a string such as ` + "`\"1.4s\"`, `\"500ms\"`, `\"2m\"`, `\"1h\"` or `\"1d\"`" + `. A name is
one or more segments joined by ` + "`/`" + `, each a letter followed by letters, digits, ` + "`_`, `.` and `-`" + `; at
most 255 bytes in all. In the tables ` + "`x.y`" + ` is the field ` + "`y`" + ` of the object ` + "`x`, and `x[].y`" + ` that of
each object in the list ` + "`x`" + `.

`)
	for _, kind := range store.Kinds() {
		// YAML has JSON's syntax, and keeps the order of fields.
		var schema yaml.MapSlice
		if err := yaml.Unmarshal(store.JSONSchema(kind), &schema); err != nil {
			t.Fatal(err)
		}
		object := schema
		fmt.Fprintf(&w, "## %s\n\n", kind)
		word := ""
		if kind == store.HealthKind {
			word = " The value is a word, " + strings.TrimSuffix(text(of(anyOf(schema)[0], "description")), ".") + ", or an object:"
			object = anyOf(schema)[1]
		}
		fmt.Fprintf(&w, "Keys: `/roster/%s/NAME`. %s%s\n\n| field | type | default | |\n| --- | --- | --- | --- |\n", kind, text(of(object, "description")), word)
		fields(&w, "", object)
		w.WriteByte('\n')
	}

	root := rootCommand(streams{}, func(*pflag.FlagSet) error { return nil })
	node, _, err := root.Find([]string{"node"})
	if err != nil {
		t.Fatal(err)
	}
	w.WriteString("## roster node\n\nOf a flag, its name in the environment, and in the file of `--config`, the command line wins over the\nenvironment, and that over the file.\n\n| flag | environment | default | |\n| --- | --- | --- | --- |\n")
	flags(&w, node, func(*pflag.Flag) bool { return true })

	w.WriteString("\n## Commands\n\n| command | |\n| --- | --- |\n")
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			fmt.Fprintf(&w, "| `roster %s` | %s |\n", cell(strings.TrimSuffix(cmd.Use, " [flags]")), cell(cmd.Short))
		}
	}
	for _, cmd := range root.Commands() {
		if !cmd.IsAvailableCommand() || cmd == node || cmd.Name() == "completion" || cmd.Name() == "help" {
			continue
		}
		own := 0
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !connection[f.Name] {
				own++
			}
		})
		if own > 0 {
			fmt.Fprintf(&w, "\n### roster %s\n\n| flag | default | |\n| --- | --- | --- |\n", cmd.Name())
			plainFlags(&w, cmd)
		}
	}

	w.WriteString("\n### Where etcd and nodes are\n\nThe commands that ask them have these, which are also taken from the environment, as those of `roster node`.\n\n| flag | environment | default | |\n| --- | --- | --- | --- |\n")
	seen := map[string]bool{}
	for _, cmd := range root.Commands() {
		if cmd != node && cmd.IsAvailableCommand() {
			flags(&w, cmd, func(f *pflag.Flag) bool {
				is := connection[f.Name] && !seen[f.Name]
				seen[f.Name] = seen[f.Name] || connection[f.Name]
				return is
			})
		}
	}

	fmt.Fprintf(&w, `
## Exit codes

| code | |
| --- | --- |
| %d | done |
| %d | failed |
| %d | the command line is wrong |
| %d | a definition is invalid |
| %d | conflict: somebody else changed it, or the name is taken |
| %d | etcd cannot be reached |
| %d | `+"`--wait`"+` timed out; the change is written |

`+"`roster register` ends with its command's code, 128 + N if signal N ended that.\n", exitDone, exitFailed, exitUsage, exitInvalid, exitConflict, exitUnavailable, exitWaiting)
	return w.Bytes()
}

// connection are the flags that say where etcd and nodes are: the same for all commands.
var connection = map[string]bool{
	"etcd": true, "etcd-user": true, "etcd-password-file": true, "etcd-ca": true, "etcd-cert": true, "etcd-key": true, "prefix": true,
	"admin": true, "admin-token-file": true, "admin-ca": true,
}

// flags writes a row for each flag of a command that is wanted.
func flags(w *bytes.Buffer, cmd *cobra.Command, wanted func(*pflag.Flag) bool) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden && wanted(f) {
			fmt.Fprintf(w, "| `--%s` | `%s` | %s | %s |\n", f.Name, settings.Env(f.Name), flagDefault(f), cell(about(f)))
		}
	})
}

func plainFlags(w *bytes.Buffer, cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden && !connection[f.Name] {
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			fmt.Fprintf(w, "| `%s` | %s | %s |\n", name, flagDefault(f), cell(about(f)))
		}
	})
}

// about is what a flag is for, without the marks around its value's name.
func about(f *pflag.Flag) string {
	_, usage := pflag.UnquoteUsage(f)
	return usage
}

func flagDefault(f *pflag.Flag) string {
	if f.DefValue == "" || f.DefValue == "[]" || f.Value.Type() == "bool" && f.DefValue == "false" {
		return ""
	}
	return "`" + strings.Trim(f.DefValue, "[]") + "`"
}

// fields writes a row for each field of an object, and those of objects in it.
func fields(w *bytes.Buffer, prefix string, object yaml.MapSlice) {
	required := list(of(object, "required"))
	for _, p := range mapSlice(of(object, "properties")) {
		name, is := p.Key.(string), mapSlice(p.Value)
		value := ""
		if v := of(is, "default"); v != nil {
			b, err := json.Marshal(v)
			if err != nil {
				panic(err) // of a scalar
			}
			value = "`" + string(b) + "`"
		}
		if slices.Contains(required, any(name)) {
			value = "required"
		}
		what := text(of(is, "description"))
		fmt.Fprintf(w, "| `%s%s` | %s | %s | %s |\n", prefix, name, cell(typeOf(is)), value, cell(what))
		inner(w, prefix+name, is)
	}
}

// inner writes the rows of the objects that a field may have.
func inner(w *bytes.Buffer, path string, is yaml.MapSlice) {
	switch {
	case of(is, "properties") != nil:
		if path != "probe" { // one of the kind probes
			fields(w, path+".", is)
		}
	case of(is, "items") != nil:
		inner(w, path+"[]", mapSlice(of(is, "items")))
	default:
		for _, one := range anyOf(is) {
			inner(w, path, one)
		}
	}
}

// typeOf says what a value may be.
func typeOf(is yaml.MapSlice) string {
	if words := list(of(is, "enum")); words != nil {
		if len(words) > 10 {
			return "a service's name"
		}
		var quoted []string
		for _, word := range words {
			b, err := json.Marshal(word)
			if err != nil {
				panic(err) // of a scalar
			}
			quoted = append(quoted, "`"+string(b)+"`")
		}
		return strings.Join(quoted, ", ")
	}
	if c := of(is, "const"); c != nil {
		return fmt.Sprintf("`%q`", c)
	}
	if several := anyOf(is); several != nil {
		var types []string
		for _, one := range several {
			if kind := typeOf(one); !slices.Contains(types, kind) {
				types = append(types, kind)
			}
		}
		if len(types) == 2 && types[0] == "duration" {
			return "duration or 0"
		}
		return strings.Join(types, ", or ")
	}
	pattern := text(of(is, "pattern"))
	switch kind := text(of(is, "type")); {
	case strings.Contains(pattern, "ns|us|"):
		if of(is, "allOf") != nil {
			return "duration above 0"
		}
		return "duration"
	case kind == "array":
		return "list of " + typeOf(mapSlice(of(is, "items")))
	case kind == "object" && of(is, "properties") == nil:
		if values := mapSlice(of(is, "additionalProperties")); values != nil {
			return "object of " + typeOf(values)
		}
		return kind
	case kind == "string" && strings.HasPrefix(pattern, "^[A-Za-z][A-Za-z0-9_.-]*"):
		return "name"
	case kind == "integer" || kind == "number":
		least, most := of(is, "minimum"), of(is, "maximum")
		switch {
		case least != nil && most != nil:
			return fmt.Sprintf("%s, %s to %s", kind, number(least), number(most))
		case least != nil:
			return fmt.Sprintf("%s, %s or more", kind, number(least))
		}
		return kind
	case of(is, "contentEncoding") != nil:
		return "string in " + text(of(is, "contentEncoding"))
	default:
		return kind
	}
}

// number is one without an exponent.
func number(v any) string {
	if f, ok := v.(float64); ok {
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.6f", f), "0"), ".")
	}
	return fmt.Sprint(v)
}

func of(object yaml.MapSlice, name string) any {
	for _, item := range object {
		if item.Key == name {
			return item.Value
		}
	}
	return nil
}

func anyOf(is yaml.MapSlice) []yaml.MapSlice {
	var several []yaml.MapSlice
	for _, one := range list(of(is, "anyOf")) {
		several = append(several, mapSlice(one))
	}
	return several
}

func mapSlice(v any) yaml.MapSlice {
	m, _ := v.(yaml.MapSlice)
	return m
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// cell is a text as a table's cell has it.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
