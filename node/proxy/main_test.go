package proxy

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// testLoops is how many loops serve the plain listeners of rigs; 0: goroutines do. Tests run
// with either, see both; ROSTER_TEST_LOOPS has them run with that many alone.
var testLoops, onlyOne = func() (int, bool) {
	if n, err := strconv.Atoi(os.Getenv("ROSTER_TEST_LOOPS")); err == nil {
		return n, true
	}
	if runtime.GOOS != "linux" {
		return 0, true
	}
	return 2, false
}()

func TestMain(m *testing.M) { goleak.VerifyTestMain(both{m}) }

// both runs the tests with loops, and at the same time in another process with goroutines.
type both struct{ *testing.M }

func (b both) Run() int {
	flag.Parse()
	args, tests := argsOfOther()
	if onlyOne || !tests {
		return b.M.Run()
	}
	output, err := os.CreateTemp("", "roster-proxy-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.Remove(output.Name())
	defer output.Close()
	other := exec.Command(os.Args[0], args...)
	other.Env = append(os.Environ(), "ROSTER_TEST_LOOPS=0")
	other.Stdout, other.Stderr = output, output
	if err := other.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := b.M.Run()
	err = other.Wait()
	if err != nil || testing.Verbose() {
		text, _ := os.ReadFile(output.Name())
		fmt.Printf("with goroutines instead of loops (ROSTER_TEST_LOOPS=0):\n%s", text)
	}
	if err != nil {
		fmt.Println("with goroutines instead of loops:", err)
		code = max(code, 1)
	}
	return code
}

// argsOfOther are the arguments for the other process: those that say which tests run and
// how, not those that name files, which are this one's. tests is false where it has nothing
// to do.
func argsOfOther() (args []string, tests bool) {
	tests = true
	flag.Visit(func(f *flag.Flag) {
		switch name := strings.TrimPrefix(f.Name, "test."); name {
		case "bench", "fuzz", "fuzzworker", "list":
			tests = tests && (f.Value.String() == "" || f.Value.String() == "false")
		case "run", "skip", "short", "timeout", "count", "parallel", "cpu", "failfast", "shuffle":
			args = append(args, "-"+f.Name+"="+f.Value.String())
		case "v":
			args = append(args, fmt.Sprintf("-test.v=%t", testing.Verbose()))
		}
	})
	return args, tests
}
