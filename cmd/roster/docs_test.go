package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"roster/store"
)

// The fields that docs/PROBES.md has are those of a probe, with their defaults, and its
// commands are what roster takes.
func TestProbesPageHasTheFieldsAndDefaults(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/PROBES.md")
	if err != nil {
		t.Fatal(err)
	}
	key := store.Key{Kind: store.Probes, Name: "p"}
	fields := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:`([^`]+)`)? *\\|").FindAllSubmatch(page, -1)
	if len(fields) < 12 {
		t.Fatalf("%d fields, want 12 or more", len(fields))
	}
	for _, field := range fields {
		name, value := string(field[1]), string(field[2])
		if strings.HasPrefix(name, "roster_") {
			continue
		}
		definition := `{"` + name + `": ` + value + `}`
		switch {
		case name == "port":
			definition = `{"port": 1}` // the backend's, if it is not given
		case name == "request":
			definition = `{"request": ["GET / HTTP/1.1"]}`
		case name == "service":
			definition = `{"type": "grpc", "service": ""}`
		}
		def, _, err := store.Decode(key, []byte(definition), store.Reject)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(store.Encode(def)); value != "" && name != "service" && got != "{}" {
			t.Errorf("%s is not the default of %s: with it a probe is %s", value, name, got)
		}
	}
	for _, command := range regexp.MustCompile(`(?m)^roster (put .*)$`).FindAllSubmatch(page, -1) {
		line, _, _ := strings.Cut(string(command[1]), "  ")
		args := regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1)
		for i := range args {
			args[i] = strings.Trim(args[i], "'")
		}
		if got := try(t, nil, "", append(args, "--dry-run")...); got.code != exitDone {
			t.Errorf("roster %s: %+v", line, got)
		}
	}
}

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
