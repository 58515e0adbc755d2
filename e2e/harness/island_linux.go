package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An Island is a network namespace with two links to the rest of the machine: one that
// leads to etcd, and can be cut, and one to origins. A node on it is asked by Node's
// methods as any other, because those connect within the namespace.
type Island struct {
	t          testing.TB
	name       string
	descriptor int // of the namespace
	etcd       link
	origins    link
	// EtcdHost and OriginHost are where etcd and origins have to listen so that all
	// islands made together reach them.
	EtcdHost, OriginHost string
}

// A link has two ends: an interface here and one on the island.
type link struct{ here, there, hereAddr, thereAddr string }

// NewIslands makes n islands. They are removed with the test. It takes root and ip(8):
// without them the test is skipped.
func NewIslands(t testing.TB, n int) []*Island {
	t.Helper()
	Require(t, "ip")
	if os.Geteuid() != 0 {
		Lack(t, "a network namespace is made by root only")
	}
	var all []*Island
	for range n {
		i := newIsland(t)
		if len(all) > 0 {
			i.EtcdHost, i.OriginHost = all[0].EtcdHost, all[0].OriginHost
			i.ip("route", "add", i.EtcdHost, "via", i.etcd.hereAddr)
			i.ip("route", "add", i.OriginHost, "via", i.origins.hereAddr)
		}
		all = append(all, i)
	}
	return all
}

func newIsland(t testing.TB) *Island {
	t.Helper()
	slot := islandSlot(t)
	// 198.18.0.0/15 is for tests of networks (RFC 2544).
	address := func(last int) string { return fmt.Sprintf("198.18.%d.%d", slot/32, slot%32*8+last) }
	i := &Island{t: t, name: fmt.Sprintf("roster-e2e-%d", slot), EtcdHost: address(1), OriginHost: address(5)}
	i.etcd = link{fmt.Sprintf("roster%de", slot), "etcd", address(1), address(2)}
	i.origins = link{fmt.Sprintf("roster%do", slot), "origins", address(5), address(6)}

	i.remove() // what a test left that was killed
	t.Cleanup(i.remove)
	command(t, "ip", "netns", "add", i.name)
	i.ip("link", "set", "lo", "up")
	for _, l := range []link{i.etcd, i.origins} {
		command(t, "ip", "link", "add", l.here, "type", "veth", "peer", "name", l.there, "netns", i.name)
		command(t, "ip", "address", "add", l.hereAddr+"/30", "dev", l.here)
		i.ip("address", "add", l.thereAddr+"/30", "dev", l.there)
		command(t, "ip", "link", "set", l.here, "up")
		i.ip("link", "set", l.there, "up")
	}
	descriptor, err := unix.Open("/var/run/netns/"+i.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	i.descriptor = descriptor
	t.Cleanup(func() { unix.Close(descriptor) })
	return i
}

// islandSlot is a number that no other test has, in this process or another: the name
// of an abstract socket is a lock that the kernel ends with the process.
func islandSlot(t testing.TB) int {
	t.Helper()
	for slot := range 8192 {
		if lock, err := net.Listen("unix", fmt.Sprintf("@roster-e2e-island-%d", slot)); err == nil {
			t.Cleanup(func() { lock.Close() })
			return slot
		}
	}
	t.Fatal("8192 islands are in use")
	return 0
}

func (i *Island) remove() {
	for _, l := range []link{i.etcd, i.origins} {
		exec.Command("ip", "link", "del", l.here).Run() // at once, and not some time after the namespace
	}
	exec.Command("ip", "netns", "del", i.name).Run()
}

// Cut makes each end of the link to etcd send to a hardware address that nobody has:
// every packet is lost, nobody is told, and no connection ends.
func (i *Island) Cut() {
	i.t.Helper()
	const nobody = "02:00:00:00:00:01"
	command(i.t, "ip", "neighbour", "replace", i.etcd.thereAddr, "lladdr", nobody, "nud", "permanent", "dev", i.etcd.here)
	i.ip("neighbour", "replace", i.etcd.hereAddr, "lladdr", nobody, "nud", "permanent", "dev", i.etcd.there)
}

// Heal ends a Cut.
func (i *Island) Heal() {
	i.t.Helper()
	command(i.t, "ip", "neighbour", "del", i.etcd.thereAddr, "dev", i.etcd.here)
	i.ip("neighbour", "del", i.etcd.hereAddr, "dev", i.etcd.there)
}

func (i *Island) ip(args ...string) {
	i.t.Helper()
	command(i.t, "ip", append([]string{"-netns", i.name}, args...)...)
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// wrap is the command that runs a program on the island: it becomes the program.
func (i *Island) wrap(path string, args []string) (string, []string) {
	return "ip", append([]string{"netns", "exec", i.name, path}, args...)
}

// dial connects as a program on the island would. A socket stays where it was made.
func (i *Island) dial(ctx context.Context, network, address string) (net.Conn, error) {
	runtime.LockOSThread()
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(here)
	if err := unix.Setns(i.descriptor, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter %s: %w", i.name, err)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if unix.Setns(here, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	} // else the thread, which is lost, ends with its goroutine
	return c, err
}
