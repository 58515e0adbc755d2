package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
)

// buildLimit bounds a build of roster with an empty cache, on two slow cores.
const buildLimit = 10 * time.Minute

// readmeBlocks are the README's first blocks of commands, which are typed in a clone.
const readmeBlocks = 3

// The README's first commands do what it says, on other ports.
func TestReadme(t *testing.T) {
	t.Parallel()
	root := harness.Root(t)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := codeBlocks(string(readme))
	blocks = blocks[:min(len(blocks), readmeBlocks)] // TestDocs runs the others
	// The second line of the first block is what runs this test.
	if len(blocks) != readmeBlocks || !strings.HasPrefix(blocks[0], "make run ") || !strings.Contains(blocks[0], "\nmake test ") ||
		strings.Count(blocks[0], "\n") != 2 || strings.TrimSpace(blocks[1]) != "curl localhost:8080" {
		t.Fatalf("README has other commands than this test runs: %q", blocks)
	}

	listen, admin, etcd := harness.FreeAddress(t), harness.FreeAddress(t), harness.FreeAddress(t)
	origin1, origin2 := harness.FreeAddress(t), harness.FreeAddress(t)
	addresses := []string{
		"ROSTER_LISTEN=" + listen, "ROSTER_ADMIN=" + admin, "ROSTER_EMBEDDED_ETCD_LISTEN=" + etcd,
		"ROSTER_ORIGIN_1=" + origin1, "ROSTER_ORIGIN_2=" + origin2, "ROSTER_DATA=" + filepath.Join(t.TempDir(), "data"),
	}
	run := harness.StartMake(t, "run", addresses...)
	harness.Within(t, buildLimit, "make run to be ready", func() (bool, any) {
		return strings.Contains(run.Log(), "\nReady.") || !run.Running(), run.Log()
	})

	elsewhere := strings.NewReplacer("localhost:8080", listen, "9001", port(origin1), "9002", port(origin2))
	env := []string{"ETCDCTL_ENDPOINTS=" + etcd, "ROSTER_ETCD=" + etcd, "ROSTER_ADMIN=" + admin}
	shell := func(command string) harness.Result {
		return harness.Run(t, "", env, "bash", "-c", "cd '"+root+"' && "+elsewhere.Replace(command))
	}
	curl := func(command, want string) {
		t.Helper()
		harness.Until(t, "the answer "+want+" of "+command, func() (bool, any) {
			r := shell(command)
			return r.Code == 0 && strings.Contains(r.Stdout, want), r
		})
	}
	curl(blocks[1], "This is origin web-1.")
	curl(blocks[1], "This is origin web-2.")

	answers := []string{"This is origin web-2.", "This is origin web-1.", "This is origin web-1."}
	for line := range strings.Lines(blocks[2]) {
		switch line = strings.TrimSpace(line); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "curl "):
			if len(answers) == 0 {
				t.Fatalf("nothing is said about the answer of %s", line)
			}
			curl(line, answers[0])
			answers = answers[1:]
		case line == "bin/roster status":
			if r := shell(line); r.Code != 0 || !strings.Contains(r.Stdout, `prot: is not a field of a backend; did you mean "port"?`) {
				t.Errorf("%s: %v", line, r)
			}
		default:
			if r := shell(line); r.Code != 0 {
				t.Errorf("%s: %v", line, r)
			}
		}
	}
	harness.Until(t, "the end of blue", func() (bool, any) {
		resp, err := http.Get("http://" + listen + "/blue/sky")
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable, resp.Status
	})

	// A second one says at once what is in its way, and does no harm.
	second := harness.Run(t, "", addresses, "make", "-s", "-C", root, "run")
	for _, name := range []string{"ROSTER_LISTEN", "ROSTER_ADMIN", "ROSTER_EMBEDDED_ETCD_LISTEN", "ROSTER_ORIGIN_1", "ROSTER_ORIGIN_2"} {
		if second.Code == 0 || !strings.Contains(second.Stderr, "choose another with "+name) {
			t.Errorf("a second make run says nothing of %s: %v", name, second)
		}
	}
	curl(blocks[1], "This is origin web-2.")

	run.Signal(syscall.SIGTERM)
	run.Wait()
	for _, address := range []string{listen, admin, etcd, origin1, origin2} {
		if _, err := http.Get("http://" + address); err == nil {
			t.Errorf("%s is served after the end of make run", address)
		}
	}
}

// codeBlocks are the commands that a text in Markdown has.
func codeBlocks(text string) []string {
	var blocks []string
	for _, part := range strings.Split(text, "```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

func port(address string) string {
	_, port, _ := strings.Cut(address, ":")
	return port
}
