package vcl_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/vcl"
)

// varnishd says whether Varnish compiles a file, and if not, why. What is not used is no
// error, as files of declarations alone use nothing.
func varnishd(t *testing.T, file string) (complaint string) {
	t.Helper()
	beside, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	parameters := []string{"-p", "vcc_feature=-err_unref", "-p", "vcc_feature=+allow_inline_c"}
	if out, _ := exec.Command("varnishd", "-x", "parameter").CombinedOutput(); !bytes.Contains(out, []byte("vcc_feature")) {
		parameters = []string{"-p", "vcc_err_unref=off", "-p", "vcc_allow_inline_c=on"} // as in 7.1
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"-j", "none", "-C", "-n", t.TempDir(), "-p", "vcl_path=" + beside}, parameters...)
	out, err := exec.CommandContext(ctx, "varnishd", append(args, "-f", filepath.Join(beside, filepath.Base(file)))...).CombinedOutput()
	if err == nil {
		return ""
	}
	return string(out)
}

// lacks matches what a Varnish says that is older than what a file uses, or has not the
// modules that it uses.
var lacks = regexp.MustCompile(`Unknown field: '(via|authority|wait_limit|wait_timeout|expect_close|preamble)'|Could not find VMOD|could not be resolved to an IP address|Must be an absolute path`)

// What Parse takes Varnish takes, too, but for what the files say themselves; and it
// takes what Write writes of them.
func TestVarnishTakesWhatIsReadAndWritten(t *testing.T) {
	t.Parallel()
	harness.Require(t, "varnishd")
	compared, written := 0, 0
	for _, file := range files(t) {
		result, err := parse(t, file)
		if err != nil {
			if complaint := varnishd(t, file); complaint == "" {
				t.Errorf("%s: Varnish takes it, and not we: %v", file, err)
			}
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		complaint := varnishd(t, file)
		switch refuses := bytes.HasPrefix(data, []byte("# Varnish refuses")); {
		case lacks.MatchString(complaint):
			t.Logf("%s: this Varnish lacks something: %s", file, lacks.FindString(complaint))
		case refuses != (complaint != ""):
			t.Errorf("%s: Varnish refuses it: %v, want %v: %s", file, complaint != "", refuses, complaint)
		default:
			compared++
		}

		out := filepath.Join(t.TempDir(), "written.vcl")
		var b bytes.Buffer
		if _, err := vcl.Write(&b, result.Definitions); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(out, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		switch complaint := varnishd(t, out); {
		case lacks.MatchString(complaint):
			t.Logf("%s as written: this Varnish lacks something: %s", file, lacks.FindString(complaint))
		case complaint != "":
			t.Errorf("%s as written: %s\n%s", file, complaint, &b)
		default:
			written++
		}
	}
	if compared < 10 || written < 10 {
		t.Errorf("only %d files were compared, and %d as written", compared, written)
	}
}
