package harness

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// h2specModule is how h2spec is built: the newest version that the Go module proxy has
// (later ones have a module path that does not go with their version), with what it
// needs, which its own time did not write down.
const h2specModule = `module h2spec-build

go 1.25

require (
	github.com/summerwind/h2spec v2.2.1+incompatible
	github.com/fatih/color v1.18.0
	github.com/spf13/cobra v1.10.2
	golang.org/x/net v0.62.0
)
`

// h2spec is the path of h2spec, built when first needed. Where it cannot be had the
// test is skipped, or fails if nothing may be.
func h2spec(t testing.TB) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	makeBuildDir(t)
	path := filepath.Join(builds.dir, "h2spec")
	err, ok := builds.done["h2spec"]
	if !ok {
		err = buildH2spec(path, filepath.Join(builds.dir, "h2spec.src"))
		builds.done["h2spec"] = err
	}
	if err != nil {
		Lack(t, "h2spec cannot be built: %v", err)
	}
	return path
}

func buildH2spec(path, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(h2specModule), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-mod=mod", "-o", path, "github.com/summerwind/h2spec/cmd/h2spec")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	return nil
}

// An H2Case is one case of h2spec.
type H2Case struct {
	ID   string // as h2spec takes it: "http2/6.9.1/2"
	Desc string
	Err  string // "" if it passed, else what was wrong
}

// H2spec runs h2spec, strict cases included, against a TLS listener, whose certificate
// it takes as it is. Without ids it runs all cases. timeout is how long one may wait for
// what it expects, in seconds. Skipped cases are left out.
func H2spec(t testing.TB, address string, timeout int, ids ...string) []H2Case {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	args := append([]string{"-t", "-k", "-S", "-h", host, "-p", port, "-o", strconv.Itoa(timeout), "-j", report}, ids...)
	out, _ := exec.CommandContext(t.Context(), h2spec(t), args...).CombinedOutput() // its code says whether all passed
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec has written no report: %v\n%s", err, out)
	}
	type problem struct {
		Text string `xml:",innerxml"`
	}
	var r struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Desc    string   `xml:"classname,attr"`
				Failure *problem `xml:"failure"`
				Error   *problem `xml:"error"`
				Skipped *problem `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &r); err != nil {
		t.Fatalf("h2spec's report: %v\n%s", err, b)
	}
	var cases []H2Case
	for _, s := range r.Suites {
		for i, c := range s.Cases {
			one := H2Case{ID: fmt.Sprintf("%s/%d", s.Package, i+1), Desc: c.Desc}
			switch {
			case c.Skipped != nil:
				continue
			case c.Failure != nil:
				one.Err = "failed: " + c.Failure.Text
			case c.Error != nil:
				one.Err = "failed: " + c.Error.Text
			}
			cases = append(cases, one)
		}
	}
	return cases
}
