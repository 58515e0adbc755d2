package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"roster/e2e/harness"
)

// Every command has a man page with its description, its flags and examples, and the page
// is one that man shows without a complaint.
func TestEveryCommandHasAManPage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	got := try(t, nil, "", "man", dir)
	if got.code != exitDone {
		t.Fatalf("roster man: %+v", got)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d man pages are in %s\n", len(pages), dir); got.out != want {
		t.Errorf("roster man says %q, want %q", got.out, want)
	}
	known := make(map[string]bool)
	var walk func(cmd *cobra.Command, shown bool)
	walk = func(cmd *cobra.Command, shown bool) {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		known[filepath.Join(dir, name)] = true
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		page := strings.ReplaceAll(string(b), `\-`, "-")
		sections := []string{".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"}
		if shown {
			sections = append(sections, ".SH EXAMPLE")
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				sections = append(sections, "--"+f.Name)
			}
		})
		for _, want := range sections {
			if !strings.Contains(page, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				// The shells below completion are cobra's own.
				walk(c, shown && cmd.Name() != "completion")
			}
		}
	}
	walk(rootCommand(streams{}, nil), true)
	for _, page := range pages {
		if !known[page] {
			t.Errorf("%s is of no command", page)
		}
	}

	harness.Require(t, "man")
	for _, page := range pages {
		cmd := exec.CommandContext(t.Context(), "man", "--warnings", "--encoding=UTF-8", "--local-file", page)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
		var out, complaints strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil || complaints.Len() > 0 || !strings.Contains(out.String(), "NAME") {
			t.Errorf("man %s: %v\n%s", filepath.Base(page), err, complaints.String())
		}
	}
}

// A page's date comes from outside, so that two builds have the same pages.
func TestManPagesAreReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	dir := t.TempDir()
	if got := try(t, nil, "", "man", dir); got.code != exitDone {
		t.Fatalf("roster man: %+v", got)
	}
	b, err := os.ReadFile(filepath.Join(dir, "roster.1"))
	if err != nil {
		t.Fatal(err)
	}
	if head, _, _ := strings.Cut(string(b), ".SH"); !strings.Contains(head, "Sep 2001") {
		t.Errorf("the page begins %q", head)
	}
}

// The flags that docs/METRICS.md has exist, with the defaults it gives.
func TestMetricsPageHasTheFlagsAndDefaultsOfTheCommand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	node, _, err := rootCommand(streams{}, func(*pflag.FlagSet) error { return nil }).Find([]string{"node"})
	if err != nil {
		t.Fatal(err)
	}
	defaults := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `([^`]+)`( \\(default\\))? \\|").FindAllStringSubmatch(string(page), -1) {
		defaults[row[1]] = row[2]
	}
	for _, name := range []string{"metrics-backends", "metrics-backends-limit"} {
		if f := node.Flags().Lookup(name); f == nil || f.DefValue != defaults[name] {
			t.Errorf("--%s is %q by default on the page, and %v", name, defaults[name], f)
		}
	}
	for _, line := range regexp.MustCompile(`(?m)^    roster (put .*)$`).FindAllStringSubmatch(string(page), -1) {
		if got := try(t, nil, "", append(slices.Clone(strings.Fields(line[1])), "--dry-run")...); got.code != exitDone {
			t.Errorf("roster %s: %+v", line[1], got)
		}
	}
}
