package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/settings"
)

type values struct {
	Listen []string
	Admin  string
	Delay  time.Duration
	Quiet  bool
}

func flagSet(v *values) *pflag.FlagSet {
	f := pflag.NewFlagSet("node", pflag.ContinueOnError)
	f.StringSliceVar(&v.Listen, "listen", []string{":8080"}, "")
	f.StringVar(&v.Admin, "admin", "127.0.0.1:6082", "")
	f.DurationVar(&v.Delay, "drain-delay", time.Second, "")
	f.BoolVar(&v.Quiet, "quiet", false, "")
	f.String("config", "", "")
	return f
}

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

func TestCommandLineThenEnvironmentThenFile(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		env  map[string]string
		file string
		want values
	}{
		"defaults":    {want: values{[]string{":8080"}, "127.0.0.1:6082", time.Second, false}},
		"file":        {file: "listen: [\":1\", \":2\"]\nadmin: a:1\ndrain-delay: 2s\nquiet: true\n", want: values{[]string{":1", ":2"}, "a:1", 2 * time.Second, true}},
		"environment": {env: map[string]string{"ROSTER_LISTEN": ":3,:4", "ROSTER_DRAIN_DELAY": "3s", "ROSTER_ADMIN": ""}, file: "listen: [\":1\"]\ndrain-delay: 2s\n", want: values{[]string{":3", ":4"}, "127.0.0.1:6082", 3 * time.Second, false}},
		"command line": {
			args: []string{"--listen", ":5", "--drain-delay=0s"}, env: map[string]string{"ROSTER_LISTEN": ":3", "ROSTER_DRAIN_DELAY": "3s"},
			file: "listen: [\":1\"]\nquiet: true\n", want: values{[]string{":5"}, "127.0.0.1:6082", 0, true},
		},
		"one value where many may be": {file: "listen: \":1\"\n", want: values{[]string{":1"}, "127.0.0.1:6082", time.Second, false}},
		"empty file":                  {file: "# nothing\n", want: values{[]string{":8080"}, "127.0.0.1:6082", time.Second, false}},
		"a service of that name":      {env: map[string]string{"ROSTER_PORT": "tcp://10.0.0.1:80", "ROSTER_HELP": "x"}, want: values{[]string{":8080"}, "127.0.0.1:6082", time.Second, false}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got values
			flags := flagSet(&got)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			if err := settings.FromEnv(flags, lookup(test.env)); err != nil {
				t.Fatal(err)
			}
			if err := settings.FromFile(flags, write(t, test.file)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAllFaultsAreReported(t *testing.T) {
	t.Parallel()
	var v values
	flags := flagSet(&v)
	env := settings.FromEnv(flags, lookup(map[string]string{"ROSTER_DRAIN_DELAY": "soon", "ROSTER_QUIET": "perhaps", "ROSTER_ADMIN": "x"}), "admin")
	file := write(t, "lisen: x\nfoo: 1\nconfig: y\ndrain-delay: soon\nadmin: [a, b]\nquiet:\nlisten: {a: b}\nquiet: true\n")
	fromFile := settings.FromFile(flags, file)
	got := append(manifest.Each(env), manifest.Each(fromFile)...)
	want := []string{
		`ROSTER_DRAIN_DELAY is "soon": time: invalid duration`,
		`ROSTER_QUIET is "perhaps": `,
		file + ": lisen: is not a setting, did you mean listen?",
		file + ": foo: is not a setting; roster node --help lists them",
		file + ": config: is not a setting",
		file + `: drain-delay: is "soon": time: invalid duration`,
		file + ": admin: is a list, want one value",
		file + ": quiet: has no value",
		file + ": listen: is a map, want a value",
		file + ": quiet: is given twice",
	}
	for i, err := range got {
		if i >= len(want) || !strings.HasPrefix(err.Error(), want[i]) {
			t.Errorf("error %d: %v", i, err)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d errors, want %d", len(got), len(want))
	}
	if v.Admin != "127.0.0.1:6082" {
		t.Errorf("a flag that is skipped was set: %q", v.Admin)
	}
}

// Values are taken as they are written, whatever they are to YAML.
func TestValuesOfAFileAreTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"off", "on", "yes", "n", "0644", "1:30", "1e3", "0x10", "1_000", "2026-11-21", ".inf", "12345678901234567890", "ü", "\"off\"", "'a: b'"} {
		for _, form := range []string{"admin: %s\n", "admin: [%s]\n"} {
			var v values
			if err := settings.FromFile(flagSet(&v), write(t, fmt.Sprintf(form, text))); err != nil {
				t.Errorf("%s: %v", text, err)
			} else if want := strings.Trim(text, `"'`); v.Admin != want {
				t.Errorf("%s became %q", text, v.Admin)
			}
		}
	}
	for text, want := range map[string]bool{"yes": true, "on": true, "true": true, "1": true, "off": false} {
		v := values{Quiet: !want}
		if err := settings.FromFile(flagSet(&v), write(t, "quiet: "+text+"\n")); err != nil || v.Quiet != want {
			t.Errorf("quiet: %s became %v, %v", text, v.Quiet, err)
		}
	}
	for _, content := range []string{"listen: [[a]]\n", "listen: [a, {b: c}]\n", "listen: [a, ~]\n"} {
		var v values
		if err := settings.FromFile(flagSet(&v), write(t, content)); err == nil || !strings.Contains(err.Error(), "listen: is a list of other things than values") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

func TestFileThatIsNone(t *testing.T) {
	t.Parallel()
	var v values
	for _, file := range []string{write(t, "- a\n"), write(t, "a: [\n"), write(t, "quiet: true\n---\nquiet: false\n"), filepath.Join(t.TempDir(), "none.yaml")} {
		if err := settings.FromFile(flagSet(&v), file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want an error that names the file", file, err)
		}
	}
}
