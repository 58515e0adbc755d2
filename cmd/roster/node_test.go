package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A wrong flag of a node is a usage error, said before anything starts, one fault a line.
func TestNodeUsageErrors(t *testing.T) {
	t.Parallel()
	for args, want := range map[string][]string{
		"--prefix bad":                                                    {`store: prefix is "bad", want it to begin with "/"`},
		"--etcd ftp://x":                                                  {`store: endpoint "ftp://x": scheme is "ftp", want http or https`},
		"--etcd x --etcd-user u":                                          {"store: etcd user u without a password"},
		"--etcd x --data y":                                               {"--data is for the node's own etcd, and --etcd is that of a fleet: give either"},
		"--etcd-user u":                                                   {"store: etcd user u without a password"},
		"--embedded-etcd-listen 0.0.0.0:2379":                             {"embedded etcd: listening on 0.0.0.0:2379, which is not loopback"},
		"--admin 127.0.0.1:99999":                                         {`admin is "127.0.0.1:99999": `},
		"--listen tls://:443 --tls-cert a":                                {"--tls-cert is given 1 times and --tls-key 0 times, want a key for each"},
		"--tls-client-ca nowhere":                                         {"client CA: stat nowhere: ", `tls-client-ca is "nowhere", and no listener has TLS`},
		"--idle-timeout 0s --max-header-fields 0":                         {"--idle-timeout is 0s, want more than 0; the default is 1m", "--max-header-fields is 0, want more than 0; the default is 128"},
		"--max-header-size 8GiB --max-target-size 17MiB":                  {"max-header-size is 8589934592 bytes, want 1024 to 16777216", "max-target-size is 17825792 bytes, want 1 to 16777216"},
		"--max-connections -1 --access-log apache":                        {"max-connections is -1, want 0 (any number) or more", `access-log is "apache", want off, json or combined`},
		"--loops -5 --max-connections -1":                                 {"loops is -5, want -1 (as many as processors) or 0 (goroutines serve all) to 250", "max-connections is -1, want 0"},
		"--loops x --metrics-backends 1 --tracing-sample half":            {`invalid argument "x" for "--loops" flag: want a whole number`, `invalid argument "half" for "--tracing-sample" flag: want a number`},
		"--loops 100000000000000000000":                                   {`invalid argument "100000000000000000000" for "--loops" flag: is too large or too small`},
		"--loops 100000":                                                  {"loops is 100000, want -1"},
		"--min-body-rate fast":                                            {`invalid argument "fast" for "--min-body-rate" flag: "fast" is not a size`},
		"--otlp-endpoint :4318 --tracing-sample 2":                        {"tracing-sample is 2, want 0 (none) to 1 (all)", "otlp-endpoint: want a URL such as http://127.0.0.1:4318"},
		"--prefix bad --listen :x --error-status apache --log-level loud": {`--log-level is "loud", want debug, info, warn, error`, "--error-status is", `listen is ":x": `, `store: prefix is "bad"`},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			got := try(t, map[string]string{"ROSTER_DATA": data}, "", append([]string{"node"}, strings.Fields(args)...)...)
			lines := strings.Split(strings.TrimSuffix(got.errors, "\n"), "\n")
			ok := got.code == exitUsage && len(lines) == len(want)
			for i := 0; ok && i < len(want); i++ {
				ok = strings.HasPrefix(lines[i], "roster: "+want[i])
			}
			if !ok {
				t.Errorf("code %d, want %d and %q:\n%s", got.code, exitUsage, want, got.errors)
			}
			if _, err := os.Stat(data); !os.IsNotExist(err) {
				t.Errorf("the data directory: %v", err)
			}
		})
	}
}

func TestNetworksOfIPv4AreIPv4HoweverWritten(t *testing.T) {
	t.Parallel()
	var all []netip.Prefix
	flag := &networks{&all}
	for _, s := range []string{"10.0.0.0/8", "::ffff:10.0.0.0/104, ::ffff:0:0/96", "::ffff:192.0.2.7/128,fd00::/8", "::/0", "192.0.2.7", "10.1.2.3/8", "::ffff:192.0.2.7"} {
		if err := flag.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"10.0.0.0/8", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "fd00::/8", "::/0", "192.0.2.7/32", "10.0.0.0/8", "192.0.2.7/32"}
	if diff := cmp.Diff(want, flag.GetSlice()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !all[1].Contains(netip.MustParseAddr("10.1.2.3")) {
		t.Error("10.1.2.3 is not in it")
	}
	for _, s := range []string{"", "10.0.0.0/33", "example.com", "10.0.0.0/8,", "fe80::1%eth0"} {
		if err := flag.Set(s); err == nil {
			t.Errorf("%q is a network", s)
		}
	}
}

// What can be given several times is a list in the file of --config.
func TestNodeSettingsMayBeLists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "node.yaml")
	err := os.WriteFile(file, []byte("listen: [\":80\", \"tls://:443\"]\ntls-cert: [a, b]\ntls-key: [a]\naccept-proxy: [10.0.0.0/8, 192.0.2.7]\n"+
		"trusted-proxies: [10.0.0.0/8]\nbackend-deny: [10.0.0.0/8, nonsense]\nmax-header-size: 32KiB\nmin-body-rate: 1000\naccess-log: json\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	got := try(t, nil, "", "node", "--config", file, "--data", filepath.Join(dir, "data"))
	if want := `backend-deny: is "nonsense": "nonsense" is no network`; got.code != exitUsage || !strings.Contains(got.errors, want) || strings.Count(got.errors, "\n") != 1 {
		t.Errorf("code %d, want %d and one line with %q:\n%s", got.code, exitUsage, want, got.errors)
	}
}

// What is wrong on the command line, in the environment and in the file is said at once.
func TestNodeSettingsOfAllSources(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, []byte("loops: 1.5\nadmn: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"ROSTER_MAX_CONNECTIONS": "many", "ROSTER_CONFIG": file}
	var lines []string
	for _, line := range []string{
		`invalid argument "soon" for "--drain-timeout" flag: "soon" is not a duration, want a number and a unit (ms, s, m, h, d, w) such as "1.4s"; roster node --help lists the flags`,
		`ROSTER_MAX_CONNECTIONS is "many": want a whole number`,
		file + `: loops: is "1.5": want a whole number`,
		file + ": admn: is not a setting, did you mean admin?",
	} {
		lines = append(lines, "roster: "+line+"\n")
	}
	got := try(t, env, "", "node", "--drain-timeout", "soon")
	if want := strings.Join(lines, ""); got.code != exitUsage || got.errors != want {
		t.Errorf("code %d, want %d and\n%s\ngot\n%s", got.code, exitUsage, want, got.errors)
	}
	got = try(t, env, "", "node")
	if want := strings.Join(lines[1:], ""); got.code != exitUsage || got.errors != want {
		t.Errorf("code %d, want %d and\n%s\ngot\n%s", got.code, exitUsage, want, got.errors)
	}
}

// TestWithProcessors: loops leave a processor to all else. It is not parallel, for what it
// sets is the process's.
func TestWithProcessors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no loops but on Linux")
	}
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	for _, c := range []struct{ loops, want, processors int }{
		{0, 0, 4}, {3, 3, 4}, {4, 4, 5}, {9, 9, 10}, {-1, 4, 5},
	} {
		runtime.GOMAXPROCS(4)
		if got := withProcessors(c.loops); got != c.want || runtime.GOMAXPROCS(0) != c.processors {
			t.Errorf("%d loops: %d with %d processors, want %d with %d", c.loops, got, runtime.GOMAXPROCS(0), c.want, c.processors)
		}
	}
}
