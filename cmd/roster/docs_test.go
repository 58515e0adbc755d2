package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The flags that docs/LISTENERS.md names exist, and have the defaults it gives.
func TestListenersPageHasTheFlagsAndDefaultsOfTheCommand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/LISTENERS.md")
	if err != nil {
		t.Fatal(err)
	}
	node, _, err := rootCommand(streams{}, func(*pflag.FlagSet) error { return nil }).Find([]string{"node"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`--([a-z][a-z-]+)`).FindAllSubmatch(page, -1) {
		if name := string(name[1]); name != "help" && node.Flags().Lookup(name) == nil {
			t.Errorf("--%s is no flag of roster node", name)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| `([^`]+)` \\|").FindAllSubmatch(page, -1)
	if len(rows) != 9 {
		t.Errorf("%d flags with defaults, want 9", len(rows))
	}
	for _, row := range rows {
		name, want := string(row[1]), string(row[2])
		if f := node.Flags().Lookup(name); f != nil && f.DefValue != want {
			t.Errorf("the page says that --%s is %s by default, which is %s", name, want, f.DefValue)
		}
	}
	help := node.Flags().FlagUsages()
	for _, name := range []string{"listen", "tls-cert", "tls-client-ca", "accept-proxy", "access-log", "access-log-file"} {
		if !strings.Contains(help, "--"+name) || !strings.Contains(string(page), "--"+name) {
			t.Errorf("--%s is not in both the help and the page", name)
		}
	}
}
