package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// Etcd's own client says nothing after etcd was restored from a backup, until it has come to
// the revision that was seen last; and never what is different below. Watch says it all.
func TestWatchGoesOnWithAnEtcdThatWasRestored(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	put := func(name string, port int) int64 {
		t.Helper()
		return etcd.Put(backendsPrefix+name, fmt.Sprintf(`{"host": "h", "port": %d}`, port))
	}
	put("stays", 1)
	begun := put("web", 80)
	watch := func(args ...string) *harness.Process {
		args = append(append([]string{"watch"}, args...), "--since", fmt.Sprint(begun), "--etcd", etcd.Endpoints())
		return harness.StartProcess(t, strings.Join(args, " "), harness.Roster(t), args, nil)
	}
	all, one := watch(), watch("backend", "web")
	says := func(p *harness.Process, what ...string) {
		t.Helper()
		harness.Until(t, "the change", func() (bool, any) {
			log := p.Log()
			for _, text := range what {
				at := strings.Index(log, text)
				if at < 0 {
					return false, fmt.Sprintf("no %q in what follows of %s", text, p.Log())
				}
				log = log[at+len(text):]
			}
			return true, nil
		})
	}
	both := func(what ...string) {
		t.Helper()
		says(all, what...)
		says(one, what...)
	}
	both(fmt.Sprintf("%d create backends/web: ", begun))

	// Away and back as it was: there is nothing to say of that but what is new.
	old := etcd.Backup()
	changed := put("web", 81)
	both(fmt.Sprintf("%d change backends/web: port: 80 -> 81\n", changed))
	for _, p := range []*harness.Process{all, one} {
		if strings.Contains(p.Log(), "restored") {
			t.Errorf("it says what is not so:\n%s", p.Log())
		}
	}

	// Gone back: the last change is undone, and those after it come although their revisions
	// were there before.
	last := put("gone", 1)
	says(all, fmt.Sprintf("%d create backends/gone", last))
	etcd.Kill() // in an orderly end it would wait for watch
	etcd.Restore(old)
	const restored = "it was restored from a backup, or is another one; what follows is the difference\n"
	undone := fmt.Sprintf("%d change backends/web: port: 81 -> 80\n", begun)
	both(restored, undone)
	says(all, restored, fmt.Sprintf("%d delete backends/gone\n", begun))
	if again := put("web", 82); again != changed {
		t.Fatalf("revision %d, want %d again", again, changed)
	}
	both(restored, undone, fmt.Sprintf("%d change backends/web: port: 80 -> 82\n", changed))

	// Gone back, and on by as many revisions, before it is asked: another value at the same
	// revision. Stopped, watch has no chance to look between.
	all.Signal(syscall.SIGSTOP)
	one.Signal(syscall.SIGSTOP)
	etcd.Kill() // in an orderly end it would wait for watch
	etcd.Restore(old)
	if again := put("web", 83); again != changed {
		t.Fatalf("revision %d, want %d again", again, changed)
	}
	all.Signal(syscall.SIGCONT)
	one.Signal(syscall.SIGCONT)
	both(restored, undone, restored, fmt.Sprintf("%d change backends/web: port: 82 -> 83\n", changed))
	if n := strings.Count(all.Log(), "backends/stays"); n != 0 {
		t.Errorf("what did not change is shown %d times:\n%s", n, all.Log())
	}
	for _, p := range []*harness.Process{all, one} {
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
