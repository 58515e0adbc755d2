package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// A step is one command of a recorded session, and what it shows.
type step struct {
	line    int
	command string
	until   bool // it is typed again until it shows that
	want    []string
	code    string
}

// steps reads a session.
func steps(t *testing.T, text string) (all []*step) {
	t.Helper()
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		mark, rest, _ := strings.Cut(line, " ")
		var last *step
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		switch {
		case mark == "#":
		case mark == "$", mark == "$~":
			all = append(all, &step{line: i + 1, command: rest, until: mark == "$~", code: "0"})
		case last == nil && line == "":
		case last == nil:
			t.Fatalf("line %d comes before the first command", i+1)
		case mark == ">":
			last.command += "\n" + rest
		case regexp.MustCompile(`^\[\d+\]$`).MatchString(line):
			last.code = strings.Trim(line, "[]")
		default:
			last.want = append(last.want, line)
		}
	}
	return all
}

var named = regexp.MustCompile(`<(\w+|\.\.\.)>`)

// pattern makes an expression of what a step shows. names are what is known already.
func pattern(lines []string, known map[string]string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`^`)
	seen := map[string]bool{}
	for _, line := range lines {
		if line == "<...>" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		at := 0
		for _, m := range named.FindAllStringSubmatchIndex(line, -1) {
			b.WriteString(spaced(line[at:m[0]]))
			name := line[m[2]:m[3]]
			at = m[1]
			switch value, ok := known[name]; {
			case ok:
				b.WriteString(regexp.QuoteMeta(value))
			case seen[name]:
				b.WriteString(`.*?`)
			default:
				seen[name] = true
				fmt.Fprintf(&b, `(?P<%s>.*?)`, name)
			}
		}
		b.WriteString(spaced(line[at:]) + ` *\n`)
	}
	b.WriteString(`$`)
	return regexp.MustCompile(b.String())
}

// spaced is text as it is, but for how many spaces there are between words: columns are as
// wide as what is in them.
func spaced(text string) string {
	return regexp.MustCompile(` +`).ReplaceAllString(regexp.QuoteMeta(text), ` +`)
}

// From nothing to a fleet of two with health checks, a canary, a drain and a rollback, with
// every step's output checked.
func TestSession(t *testing.T) {
	t.Parallel()
	harness.Require(t, "curl")
	text, err := os.ReadFile(filepath.Join("testdata", "session.txt"))
	if err != nil {
		t.Fatal(err)
	}
	dir, bin := t.TempDir(), t.TempDir()
	for name, path := range map[string]string{"roster": harness.Roster(t), "etcdctl": harness.Etcdctl(t)} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	var ports []string
	free := map[string]string{}
	for _, port := range []string{"8080", "8081", "6082", "6083", "2379", "9001", "9002", "9003"} {
		_, own, _ := strings.Cut(harness.FreeAddress(t), ":")
		ports, free[port] = append(ports, port, own), own
	}
	moved := strings.NewReplacer(ports...)
	node := []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
	// In place of the ports that the commands take by themselves.
	env := append([]string{"ROSTER_ETCD=127.0.0.1:" + free["2379"], "ROSTER_ADMIN=127.0.0.1:" + free["6082"], "ETCDCTL_ENDPOINTS=127.0.0.1:" + free["2379"], "NO_PROXY=*"}, node...)
	known := map[string]string{}
	var running []*harness.Process
	for _, s := range steps(t, moved.Replace(string(text))) {
		if command, ok := strings.CutSuffix(s.command, " &"); ok {
			p := harness.StartProcess(t, command, "bash", []string{"-c", "cd '" + dir + "' && exec " + command}, node)
			running = append(running, p)
			continue
		}
		vars := env
		for name, value := range known {
			vars = append(vars, name+"="+value)
		}
		want := s.want
		for len(want) > 0 && want[len(want)-1] == "" {
			want = want[:len(want)-1] // between steps
		}
		expression := pattern(want, known)
		check := func() (bool, any) {
			r := harness.Run(t, "", vars, "bash", "-c", "cd '"+dir+"'\n"+s.command)
			shown := r.Stdout + r.Stderr
			m := expression.FindStringSubmatch(shown)
			if m == nil || fmt.Sprint(r.Code) != s.code {
				return false, fmt.Sprintf("%v\nwant exit code %s and\n%s", r, s.code, strings.Join(want, "\n"))
			}
			for i, name := range expression.SubexpNames() {
				if name != "" {
					known[name] = strings.TrimSpace(m[i])
				}
			}
			return true, nil
		}
		what := fmt.Sprintf("line %d of the session: %s", s.line, s.command)
		if s.until {
			harness.Until(t, what, check)
		} else if ok, state := check(); !ok {
			t.Fatalf("%s\n%v", what, state)
		}
	}
	for i := len(running) - 1; i >= 0; i-- { // the node with the etcd after the other
		running[i].Signal(syscall.SIGTERM)
		if code := running[i].Wait(); code != 0 {
			t.Errorf("process %d ended with %d", i, code)
		}
	}
}
