package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
)

// Every block of commands in README.md and docs/ is run by a test: the README's first by
// TestReadme, those of the pages in ownTests by a test of their own, all others here, as somebody types them who reads the page
// from its top: by one bash in an empty folder, with roster and etcdctl in PATH, and free
// ports in place of those written. What a page says about its blocks is in comments, which
// readers do not see:
//
//	<!-- test: exit 3 -->          the next block's commands end with this code
//	<!-- test: until -->           the next block is run until it shows what the page shows
//	<!-- test: nodes -->           each node of the next block gets ready, and ends with 0
//	<!-- test: file NAME -->       the next block is a file
//	<!-- test: needs NAME... -->   the page is skipped where these programs are not
//	<!-- test: skip: REASON -->    the next block cannot run in a test
//	<!-- test: setup               commands that readers have no use for, run where they stand
//	... -->
//
// Files below /etc/roster/ and /etc/varnish/ are in the test's folder.
//
// A ```text block after a ```sh block is what that writes, but for runs of spaces. In it
// <anything> stands for some text, and <...> on a line of its own for any lines.

// ownTests are the pages whose commands other tests run, and these tests.
var ownTests = map[string]string{
	"docs/ADMIN.md":      "TestAdminPage",
	"docs/FLEET.md":      "TestFleetPage",
	"docs/ETCD-ROLES.md": "TestRoles",
	"docs/COMPOSE.md":    "TestCompose",
}

// benchmarks are commands that take long, and a machine of their own.
var benchmarks = regexp.MustCompile(` -bench |bench-(peers|fleet)|\./bench/`)

// shownPorts are the ports on the pages, in whose place free ones are taken.
var shownPorts = regexp.MustCompile(`\b(8080|8081|8082|6082|6083|6084|2379|2380|9001|9002|9003|9004)\b|:(80|443)\b`)

// A block of a page.
type docBlock struct {
	line int
	kind string // what follows the fence, or "setup", "needs", "indented"
	mark string // the comment before it, without "test:"
	text string
}

// docBlocks finds the blocks of a page.
func docBlocks(page string) ([]docBlock, error) {
	var blocks []docBlock
	mark := ""
	lines := strings.Split(page, "\n")
	upTo := func(i *int, end string) (string, error) {
		begin := *i
		for *i++; *i < len(lines); *i++ {
			if before, found := strings.CutSuffix(lines[*i], end); found && (end != "```" || before == "") {
				return strings.Join(append(slices.Clone(lines[begin+1:*i]), before), "\n"), nil
			}
		}
		return "", fmt.Errorf("line %d: what begins here has no end %s", begin+1, end)
	}
	for i := 0; i < len(lines); i++ {
		begin := i + 1
		comment, isComment := strings.CutPrefix(lines[i], "<!-- test: ")
		kind, isFence := strings.CutPrefix(lines[i], "```")
		switch {
		case isComment && comment == "setup":
			text, err := upTo(&i, "-->")
			if err != nil {
				return nil, err
			}
			blocks = append(blocks, docBlock{begin, "setup", "", text})
		case isComment:
			m, closed := strings.CutSuffix(comment, " -->")
			if !closed {
				return nil, fmt.Errorf("line %d: want the comment's end on the same line", begin)
			}
			if strings.HasPrefix(m, "needs ") {
				blocks = append(blocks, docBlock{begin, "needs", "", strings.TrimPrefix(m, "needs ")})
			} else {
				mark = m
			}
		case isFence:
			text, err := upTo(&i, "```")
			if err != nil {
				return nil, err
			}
			blocks = append(blocks, docBlock{begin, kind, mark, text})
			mark = ""
		case strings.HasPrefix(lines[i], "    ") && i > 0 && lines[i-1] == "":
			for i++; i < len(lines) && strings.HasPrefix(lines[i], "    "); i++ {
			}
			text := strings.ReplaceAll("\n"+strings.Join(lines[begin-1:i], "\n"), "\n    ", "\n")
			blocks = append(blocks, docBlock{begin, "indented", mark, text[1:]})
			mark = ""
			i--
		case lines[i] != "" && mark != "":
			return nil, fmt.Errorf("line %d: want the block that the comment %q is about", begin, mark)
		}
	}
	return blocks, nil
}

// commands tells a block of commands by its lines.
var commands = regexp.MustCompile(`(?m)^(\$ )?(roster|etcdctl|curl|go|make|openssl|kill|docker|systemctl|sudo) `)

func TestDocs(t *testing.T) {
	t.Parallel()
	harness.Require(t, "bash", "curl")
	root := harness.Root(t)
	pages := []string{"README.md"}
	err := fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, test := range ownTests {
		if !slices.Contains(pages, page) {
			t.Errorf("%s, which %s tests, is not there", page, test)
		}
		if !isTest(t, root, test) {
			t.Errorf("%s has the test %s, which is not there", page, test)
		}
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		if ownTests[page] != "" {
			continue
		}
		blocks, err := docBlocks(string(text))
		if err != nil {
			t.Errorf("%s: %v", page, err)
			continue
		}
		if page == "README.md" {
			for first := 0; first < readmeBlocks && len(blocks) > 0; blocks = blocks[1:] {
				if blocks[0].kind == "sh" {
					first++
				}
			}
		}
		run := false
		for i, b := range blocks {
			where := fmt.Sprintf("%s:%d", page, b.line)
			reason, skipped := strings.CutPrefix(b.mark, "skip: ")
			switch {
			case skipped && reason != "":
				t.Logf("%s is not run: %s", where, reason)
			case b.kind == "indented" && benchmarks.MatchString(b.text):
				t.Logf("%s is not run: benchmarks take long, and a machine of their own", where)
			case b.kind == "sh" || b.kind == "setup":
				run = true
			case b.kind == "text" && (i == 0 || blocks[i-1].kind != "sh"):
				t.Errorf("%s: what is shown here follows no commands", where)
			case b.kind != "text" && b.kind != "needs" && !strings.HasPrefix(b.mark, "file ") && commands.MatchString(b.text):
				t.Errorf("%s: commands that no test runs: make it a ```sh block, or say in a comment why it cannot run", where)
			}
		}
		if run {
			t.Run(strings.TrimSuffix(strings.TrimPrefix(page, "docs/"), ".md"), func(t *testing.T) {
				t.Parallel()
				etcd := slices.ContainsFunc(blocks, func(b docBlock) bool { return strings.Contains("\n"+b.text, "\netcd ") })
				newDocShell(t, root, etcd).page(page, blocks)
			})
		}
	}
}

var links = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// The index has every page, and no link leads to a file that is not there.
func TestPagesAreLinked(t *testing.T) {
	t.Parallel()
	root := harness.Root(t)
	indexed := map[string]bool{"docs/README.md": true}
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			target := filepath.ToSlash(filepath.Join(filepath.Dir(page), link[1]))
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which is not there", page, link[1])
			}
			if page == "docs/README.md" {
				indexed[target] = true
			}
		}
	}
	for _, page := range pages {
		if strings.HasPrefix(page, "docs/") && !indexed[page] {
			t.Errorf("docs/README.md does not list %s", page)
		}
	}
}

// isTest reports whether a test of that name is in e2e or cmd/roster.
func isTest(t *testing.T, root, name string) bool {
	t.Helper()
	for _, dir := range []string{"e2e", "cmd/roster"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if regexp.MustCompile(`(?m)^func ` + name + `\w*\(t \*testing\.T\)`).Match(text) {
				return true
			}
		}
	}
	return false
}

// A docShell is the bash that a page's commands are typed into.
type docShell struct {
	t       *testing.T
	dir     string
	in      io.Writer
	lines   chan string
	ports   map[string]string // those written, and those taken
	written *strings.Replacer // the other way round
	blocks  int
}

// endOfBlock is what the shell writes after each block, with an exit code.
const endOfBlock = "---- end of block, exit code"

// newDocShell starts a shell for a page. etcd is for those that start one.
func newDocShell(t *testing.T, root string, etcd bool) *docShell {
	t.Helper()
	s := &docShell{t: t, dir: t.TempDir(), lines: make(chan string, 1<<16), ports: map[string]string{}}
	var back []string
	for _, port := range []string{"8080", "8081", "8082", "6082", "6083", "6084", "2379", "2380", "9001", "9002", "9003", "9004", "80", "443"} {
		s.ports[port] = strconv.Itoa(harness.FreePort(t))
		back = append(back, s.ports[port], port)
	}
	s.written = strings.NewReplacer(append(back, s.dir+"/etc/", "/etc/")...)
	for _, dir := range []string{"etc/roster", "etc/varnish"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bin := t.TempDir()
	// What a program takes by default is not free here, perhaps. Of what it is told on the
	// command line, ports are replaced in the text.
	programs := map[string]string{
		"roster": `case $1 in
node) export ROSTER_LISTEN=${ROSTER_LISTEN-:8080} ROSTER_ADMIN=${ROSTER_ADMIN-127.0.0.1:6082} ROSTER_EMBEDDED_ETCD_LISTEN=${ROSTER_EMBEDDED_ETCD_LISTEN-127.0.0.1:2379} ;;
*) export ROSTER_ETCD=${ROSTER_ETCD-127.0.0.1:2379} ROSTER_ADMIN=${ROSTER_ADMIN-127.0.0.1:6082} ;;
esac
exec ` + harness.Roster(t) + ` "$@"`,
		"etcdctl": `case " $* " in *" --endpoints"*) ;; *) export ETCDCTL_ENDPOINTS=${ETCDCTL_ENDPOINTS-127.0.0.1:2379} ;; esac
exec ` + harness.Etcdctl(t) + ` "$@"`,
	}
	if etcd {
		programs["etcd"] = "exec " + harness.EtcdBinary(t) + ` "$@"`
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/bash\n"+s.elsewhere(text)+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "deploy"), filepath.Join(s.dir, "deploy")); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = s.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "ROSTER_") && !strings.HasPrefix(v, "ETCDCTL_") && !strings.HasPrefix(v, "PATH=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+s.dir, "TZ=UTC")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.in = in
	go func() {
		defer close(s.lines)
		defer out.Close()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		in.Close() // the shell ends, its trap ends what it has started, and waits for that
		stop := time.AfterFunc(harness.WaitLimit, func() { cmd.Process.Kill() })
		defer stop.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("what the page has started did not end in good order: %v", err)
		}
		s.checkLogs()
	})
	fmt.Fprintln(in, `trap 'trap - EXIT; p=$(jobs -p); [ -z "$p" ] || kill $p 2>/dev/null; wait; exit 0' EXIT`)
	return s
}

// checkLogs looks for data races in what the page's nodes have logged, and shows that if the
// test failed.
func (s *docShell) checkLogs() {
	logs, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		s.t.Error(err)
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			s.t.Error(err)
		}
		if strings.Contains(string(text), "WARNING: DATA RACE") {
			s.t.Errorf("%s has a data race", log)
		}
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", filepath.Base(log), text)
		}
	}
}

// folders are those that pages write about, in whose place some in the test's folder are taken.
var folders = regexp.MustCompile(`/etc/(roster|varnish)/`)

// etcds are those of the fleets on the pages.
var etcds = regexp.MustCompile(`10\.0\.0\.\d+:2379`)

// elsewhere is a text with the ports and folders taken in place of those written.
func (s *docShell) elsewhere(text string) string {
	text = folders.ReplaceAllString(text, s.dir+"$0")
	text = etcds.ReplaceAllString(text, "127.0.0.1:2379")
	return shownPorts.ReplaceAllStringFunc(text, func(port string) string {
		if number, found := strings.CutPrefix(port, ":"); found {
			return ":" + s.ports[number]
		}
		return s.ports[port]
	})
}

// page runs the blocks of a page.
func (s *docShell) page(name string, blocks []docBlock) {
	for i, b := range blocks {
		where := fmt.Sprintf("%s:%d", name, b.line)
		file, isFile := strings.CutPrefix(b.mark, "file ")
		switch {
		case strings.HasPrefix(b.mark, "skip: ") || b.kind == "text":
		case b.kind == "needs":
			harness.Require(s.t, strings.Fields(b.text)...)
		case isFile:
			if err := os.WriteFile(filepath.Join(s.dir, file), []byte(s.elsewhere(b.text)), 0o644); err != nil {
				s.t.Fatal(err)
			}
		case b.kind == "sh" || b.kind == "setup":
			text := b.text
			if b.mark == "nodes" {
				text = nodes(text)
			}
			want, check := "", false
			if i+1 < len(blocks) && blocks[i+1].kind == "text" && !strings.HasPrefix(blocks[i+1].mark, "skip: ") {
				want, check = blocks[i+1].text, true
			}
			s.block(where, text, b.mark, want, check)
		}
	}
}

// block runs one block and compares what it writes.
func (s *docShell) block(where, text, mark, want string, check bool) {
	s.t.Helper()
	wantCode := "0"
	if code, found := strings.CutPrefix(mark, "exit "); found {
		wantCode = code
	} else if mark != "" && mark != "until" && mark != "nodes" {
		s.t.Fatalf("%s: %q is nothing that can be said of a block", where, mark)
	}
	pattern := shownAs(want)
	once := func() (bool, any) {
		got, code := s.run(text)
		return code == wantCode && (!check || pattern.MatchString(plain(got))), fmt.Sprintf("exit code %s, and\n%s", code, got)
	}
	if mark == "until" {
		harness.Until(s.t, fmt.Sprintf("%s to show\n%s", where, want), once)
		return
	}
	if ok, got := once(); !ok {
		s.t.Fatalf("%s: the commands\n%s\nend with %s\nwant exit code %s and\n%s", where, text, got, wantCode, want)
	}
}

// run types in some lines, and returns what they write and the code of the last one that
// failed, or 0.
func (s *docShell) run(text string) (string, string) {
	s.t.Helper()
	s.blocks++
	file := filepath.Join(s.t.TempDir(), "block.sh")
	if err := os.WriteFile(file, []byte(s.elsewhere(text)+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(s.in, "failed=0; trap 'failed=$?' ERR; . %s < /dev/null; trap - ERR; printf '\\n%s %%d\\n' $failed\n", file, endOfBlock)
	var out []string
	limit := time.After(harness.WaitLimit)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("the shell has ended after\n%s\nwhich wrote\n%s", text, strings.Join(out, "\n"))
			}
			if code, end := strings.CutPrefix(line, endOfBlock+" "); end {
				return s.written.Replace(strings.Join(out, "\n")), code
			}
			out = append(out, line)
		case <-limit:
			s.t.Fatalf("these commands have not ended after %v:\n%s\nand wrote\n%s", harness.WaitLimit, text, strings.Join(out, "\n"))
		}
	}
}

// nodes makes of each node that a block starts one that ends when it is ready. Nodes that
// the page has started before go on: what is not said is elsewhere.
func nodes(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "roster node") {
			out.WriteString(line)
			continue
		}
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
		fmt.Fprintf(&out, `(
export ROSTER_LISTEN=:8082 ROSTER_ADMIN=127.0.0.1:6084 ROSTER_EMBEDDED_ETCD_LISTEN=127.0.0.1:2380 ROSTER_DATA=$(mktemp -d -p .)
%s >> nodes.log 2>&1 & node=$!
until roster healthcheck > not-ready 2>&1; do kill -0 $node || exit; sleep 0.1; done
kill $node; wait $node
)
`, line)
	}
	return out.String()
}

var spaces = regexp.MustCompile(`[ \t]+`)

// plain is a text without what its layout is: the ports' lengths move columns.
func plain(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(spaces.ReplaceAllString(line, " ")))
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n") + "\n"
}

var wild = regexp.MustCompile(`<[^<>\n]*>`)

// shownAs is the pattern of what a page shows.
func shownAs(text string) *regexp.Regexp {
	var pattern strings.Builder
	for line := range strings.Lines(plain(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "<...>" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		rest := line
		for _, at := range wild.FindAllStringIndex(line, -1) {
			done := len(line) - len(rest)
			pattern.WriteString(regexp.QuoteMeta(line[done:at[0]]) + `\S(?:.*\S)?`)
			rest = line[at[1]:]
		}
		pattern.WriteString(regexp.QuoteMeta(rest) + `\n`)
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`)
}

// What a page shows is compared line by line, and wildcards stand for something.
func TestShownOutputIsCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		shown, written string
		same           bool
	}{
		{"a  b\nc", "a b\n\tc\n\n", true},
		{"a\nb", "a\nc", false},
		{"a", "a\nb", false},
		{"b", "a\nb", false},
		{"in <9> ms", "in 12 ms", true},
		{"in <9> ms", "in  ms", false},
		{"a <time> b <time>", "a 1 2 b 3", true},
		{"a.c", "abc", false},
		{"a\n<...>\nz", "a\nb\nc\nz", true},
		{"a\n<...>\nz", "a\nz", true},
		{"a\n<...>", "a\nb\nc", true},
		{"<...>\nz", "b\nc", false},
	} {
		if got := shownAs(c.shown).MatchString(plain(c.written)); got != c.same {
			t.Errorf("%q is shown and %q written: same %t, want %t", c.shown, c.written, got, c.same)
		}
	}
}

// A page's comments say how its blocks are run.
func TestBlocksOfAPage(t *testing.T) {
	t.Parallel()
	got, err := docBlocks("x\n\n<!-- test: setup\ntrue\n-->\n\n<!-- test: exit 3 -->\n\n```sh\nfalse\n```\n\n```text\n```\n")
	want := []docBlock{{3, "setup", "", "true\n"}, {9, "sh", "exit 3", "false\n"}, {13, "text", "", ""}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	got, err = docBlocks("x\n\n    roster node\n    roster status\n\n- a\n    b\n")
	if want := []docBlock{{3, "indented", "", "roster node\nroster status"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, page := range []string{"```sh\nfalse\n", "<!-- test: setup\n", "<!-- test: exit 3\n-->\n", "<!-- test: exit 3 -->\ntext\n"} {
		if got, err := docBlocks(page); err == nil {
			t.Errorf("%q: %+v, want an error", page, got)
		}
	}
}
