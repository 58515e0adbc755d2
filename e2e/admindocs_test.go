package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// The commands of docs/ADMIN.md are answered as it says, and its table is what there is.
func TestAdminPage(t *testing.T) {
	t.Parallel()
	harness.Require(t, "curl")
	page, err := os.ReadFile(filepath.Join(harness.Root(t), "docs", "ADMIN.md"))
	if err != nil {
		t.Fatal(err)
	}
	const token = "0123456789abcdef-of-docs"
	dir := t.TempDir()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "node.example").Write(t, dir, "admin")
	for name, text := range map[string]string{"tokens": token + "\n", "ca.pem": ca.PEM} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	node := harness.StartNode(t, harness.NodeConfig{})
	_, port, _ := strings.Cut(harness.FreeAddress(t), ":")
	guarded := harness.NewNode(t, harness.NodeConfig{Args: []string{
		"--admin", ":" + port, "--admin-token-file", filepath.Join(dir, "tokens"), "--admin-tls-cert", cert, "--admin-tls-key", key,
	}})
	guarded.Start()
	ask := func(command string) harness.Result {
		command = strings.NewReplacer("http://127.0.0.1:6082", node.AdminURL(), "https://node.example:6082", "https://node.example:"+port).Replace(command)
		command += " -s -o /dev/null -w '%{http_code}' --resolve node.example:" + port + ":127.0.0.1"
		return harness.Run(t, "", []string{"TOKEN=" + token}, "/bin/sh", "-c", "cd "+dir+" && "+command)
	}
	harness.Until(t, "readiness with TLS", func() (bool, any) {
		r := ask("curl --cacert ca.pem https://node.example:6082/readyz")
		return r.Stdout == "200", r
	})
	commands := 0
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(page, -1) {
		for line := range strings.Lines(string(block[1])) {
			commands++
			command, want, given := strings.Cut(strings.TrimSpace(line), "   # ")
			if !given {
				want = "200"
			}
			if r := ask(command); r.Stdout != want {
				t.Errorf("%s: %v, want %s", command, r, want)
			}
		}
	}
	if commands < 12 {
		t.Errorf("%d commands were found: this tests little", commands)
	}

	var description struct {
		Paths map[string]map[string]any `json:"paths"`
	}
	a := node.AdminGet("/openapi.json")
	if err := json.Unmarshal([]byte(a.Body), &description); a.Status != http.StatusOK || err != nil {
		t.Fatalf("%v: %v", err, a)
	}
	var served, listed []string
	for path := range description.Paths {
		if path != "/" && !strings.HasPrefix(path, "/dashboard/") && !strings.Contains(path, "{") && !strings.HasPrefix(path, "/debug/pprof/") || path == "/debug/pprof/" {
			served = append(served, path)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `GET (\\S+)` \\|").FindAllSubmatch(page, -1) {
		listed = append(listed, string(row[1]))
	}
	slices.Sort(served)
	slices.Sort(listed)
	if !slices.Equal(served, listed) {
		t.Errorf("the page lists\n%q\nand there is\n%q", listed, served)
	}
}
