package deploy_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"roster/e2e/harness"
)

// epoch is what SOURCE_DATE_EPOCH is for the packages of these tests.
const epoch = "1700000000"

// release is the binary that packages are made of, built as "make build" does.
var release = sync.OnceValues(func() (string, error) {
	path := filepath.Join(built, "roster")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "roster/cmd/roster")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return path, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// buildPackage makes a package as "make deb" does, and returns its path.
func buildPackage(t *testing.T, version string) string {
	t.Helper()
	binary, err := release()
	if err != nil {
		t.Fatal(err)
	}
	r := harness.Run(t, "", []string{"SOURCE_DATE_EPOCH=" + epoch, "DPKG_DEB_COMPRESSOR_TYPE=gzip", "DPKG_DEB_COMPRESSOR_LEVEL=1"},
		"debian/build", binary, version, t.TempDir())
	if r.Code != 0 {
		t.Fatalf("debian/build: %v", r)
	}
	return strings.TrimSpace(r.Stdout)
}

// The package has everything that a machine needs, installs it with a fitting mode, and
// what it has runs.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	harness.Require(t, "dpkg-deb", "man")
	deb := buildPackage(t, "v1.2.3-4-gabc")

	fields := harness.Run(t, "", nil, "dpkg-deb", "--field", deb, "Package", "Version", "Depends", "Installed-Size")
	if want := "Package: roster\nVersion: 1.2.3+4.gabc\nInstalled-Size: "; fields.Code != 0 || !strings.HasPrefix(fields.Stdout, want) {
		t.Errorf("%v\nwant %s", fields, want)
	}
	list := harness.Run(t, "", nil, "dpkg-deb", "--contents", deb)
	modes := make(map[string]string)
	for line := range strings.Lines(list.Stdout) {
		f := strings.Fields(line)
		modes[strings.TrimPrefix(f[5], "./")] = f[0]
		if f[1] != "root/root" || strings.Contains(f[0], "s") || f[0][8] == 'w' || f[3] > "2023-11-14" {
			t.Errorf("is not root's, is anybody's, or is newer than the source: %s", line)
		}
	}
	for path, mode := range map[string]string{
		"usr/bin/roster":                                  "-rwxr-xr-x",
		"lib/systemd/system/roster.service":               "-rw-r--r--",
		"lib/systemd/system/roster.socket":                "-rw-r--r--",
		"etc/roster/node.yaml":                            "-rw-r--r--",
		"usr/share/man/man1/roster.1.gz":                  "-rw-r--r--",
		"usr/share/man/man1/roster-node.1.gz":             "-rw-r--r--",
		"usr/share/bash-completion/completions/roster":    "-rw-r--r--",
		"usr/share/zsh/vendor-completions/_roster":        "-rw-r--r--",
		"usr/share/fish/vendor_completions.d/roster.fish": "-rw-r--r--",
		"usr/share/doc/roster/copyright":                  "-rw-r--r--",
		"usr/share/doc/roster/changelog.gz":               "-rw-r--r--",
		"usr/share/doc/roster/METRICS.md.gz":              "-rw-r--r--",
		"usr/share/doc/roster/howto/draining.md.gz":       "-rw-r--r--",
		"usr/share/doc/roster/examples/alerts.yaml":       "-rw-r--r--",
		"usr/share/doc/roster/examples/roster.json":       "-rw-r--r--",
		"usr/share/doc/roster/examples/etcd-roles.sh":     "-rwxr-xr-x",
	} {
		if modes[path] != mode {
			t.Errorf("%s has mode %q, want %q", path, modes[path], mode)
		}
	}

	root := t.TempDir()
	if r := harness.Run(t, "", nil, "dpkg-deb", "--extract", deb, root); r.Code != 0 {
		t.Fatal(r)
	}
	roster := filepath.Join(root, "usr/bin/roster")
	if r := harness.Run(t, "", nil, roster, "version"); r.Code != 0 || !strings.HasPrefix(r.Stdout, "roster ") {
		t.Errorf("roster version: %v", r)
	}
	page := harness.Run(t, "", []string{"LC_ALL=C.UTF-8"}, "man", "--local-file", filepath.Join(root, "usr/share/man/man1/roster-node.1.gz"))
	if page.Code != 0 || !strings.Contains(page.Stdout, "--drain-delay") {
		t.Errorf("man roster-node: %v", page)
	}
	for shell, file := range map[string]string{"bash": "bash-completion/completions/roster", "zsh": "zsh/vendor-completions/_roster", "fish": "fish/vendor_completions.d/roster.fish"} {
		path := filepath.Join(root, "usr/share", file)
		if got, want := read(t, path), harness.Run(t, "", nil, roster, "completion", shell).Stdout; got != want {
			t.Errorf("%s is not what roster completion %s writes", file, shell)
		}
	}
	if r := harness.Run(t, "", nil, "bash", "-n", filepath.Join(root, "usr/share/bash-completion/completions/roster")); r.Code != 0 {
		t.Errorf("the completion of bash: %v", r)
	}

	// The unit's command line and the settings that come with it start a node.
	unit := read(t, filepath.Join(root, "lib/systemd/system/roster.service"))
	const line = "ExecStart=/usr/bin/roster node --config /etc/roster/node.yaml\n"
	if !strings.Contains(unit, line) {
		t.Fatalf("the unit does not have %s", line)
	}
	admin := harness.FreeAddress(t)
	node := harness.StartProcess(t, "packaged node", roster, []string{
		"node", "--config", filepath.Join(root, "etc/roster/node.yaml"),
		"--listen", harness.FreeAddress(t), "--admin", admin,
		"--embedded-etcd-listen", harness.FreeAddress(t), "--data", filepath.Join(t.TempDir(), "data"),
	}, nil)
	harness.Until(t, "the packaged node", func() (bool, any) {
		r := harness.Run(t, "", nil, roster, "healthcheck", "--admin", admin)
		return r.Code == 0, r
	})
	if code := node.Terminate(); code != 0 {
		t.Errorf("the node ended with %d", code)
	}
}

// Two builds of one source are one file, bit for bit.
func TestDebianPackageIsReproducible(t *testing.T) {
	t.Parallel()
	harness.Require(t, "dpkg-deb")
	a, b := buildPackage(t, "v1.0.0"), buildPackage(t, "v1.0.0")
	if !bytes.Equal([]byte(read(t, a)), []byte(read(t, b))) {
		t.Error("two builds differ")
	}
	if filepath.Base(a) != filepath.Base(b) || !strings.HasPrefix(filepath.Base(a), "roster_1.0.0_") {
		t.Errorf("the packages are %s and %s", filepath.Base(a), filepath.Base(b))
	}
}

// A commit without a tag is older than any release, and every version is one of Debian's.
func TestDebianVersions(t *testing.T) {
	t.Parallel()
	harness.Require(t, "dpkg-deb", "dpkg")
	version := func(v string) string {
		name := strings.Split(filepath.Base(buildPackage(t, v)), "_")
		return name[1]
	}
	if v := version(""); v != "0~20231114221320" {
		t.Errorf("a source without its history is %s", v)
	}
	ascending := []string{version("1234abc-dirty"), version("v0.1.0"), version("v0.1.0-3-gabc"), version("v0.1.1")}
	if ascending[0] != "0~20231114221320.1234abc.dirty" {
		t.Errorf("a commit without a tag is %s", ascending[0])
	}
	for i, v := range ascending {
		if r := harness.Run(t, "", nil, "dpkg", "--validate-version", v); r.Code != 0 {
			t.Errorf("%s: %v", v, r)
		}
		if i > 0 && harness.Run(t, "", nil, "dpkg", "--compare-versions", ascending[i-1], "lt", v).Code != 0 {
			t.Errorf("%s is not before %s", ascending[i-1], v)
		}
	}
}

// Debian's own check of packages has no error and no warning.
func TestLintianFindsNothing(t *testing.T) {
	t.Parallel()
	harness.Require(t, "dpkg-deb", "lintian")
	// It reads all of the program, several times, which takes longer than a Run may.
	out, err := exec.CommandContext(t.Context(), "lintian", "--fail-on", "error,warning", buildPackage(t, "v1.0.0")).Output()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// make deb builds what these tests look at.
func TestMakeDebRunsTheScript(t *testing.T) {
	t.Parallel()
	harness.Require(t, "make")
	cmd := exec.CommandContext(t.Context(), "make", "-n", "deb", "VERSION=v9.8.7")
	cmd.Dir, cmd.Env = harness.Root(t), append(os.Environ(), "MAKEFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `deploy/debian/build bin/roster "v9.8.7" bin`) {
		t.Errorf("make -n deb: %v\n%s", err, out)
	}
}
