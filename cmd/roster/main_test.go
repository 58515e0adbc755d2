package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/node/certs/certstest"
	"roster/store"
	"roster/store/storetest"
)

// result is how a command line ended.
type result struct {
	code        int
	out, errors string
}

func try(t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var out, errs strings.Builder
	code := run(t.Context(), args, streams{strings.NewReader(stdin), &out, &errs}, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
	return result{code, out.String(), errs.String()}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"frob":                               `roster: "frob" is not a command of roster; roster --help lists them`,
		"nod":                                `roster: "nod" is not a command of roster, did you mean node?`,
		"--frob":                             "roster: unknown flag: --frob; roster --help lists the flags",
		"get":                                "roster: roster get takes a kind and perhaps a name; roster get --help has examples",
		"get bakends":                        `roster: "bakends" is not a kind of definition, did you mean backends?`,
		"get backends -o xml":                `roster: --output is "xml", want table, json, yaml`,
		"get routes -v":                      "roster: -v is for backends, not for routes",
		"get backends -v --revision 3":       "roster: -v shows what a node has now, and no --revision",
		"get backends -v -o yaml":            "roster: -v goes with -o table or json, not with yaml",
		"get backends --timeout 5":           `roster: invalid argument "5" for "--timeout" flag: "5" has no unit`,
		"get backends --prefix x":            `roster: store: prefix is "x", want it to begin with "/"`,
		"put backend web-1":                  "roster: backends/web-1 has no definition: give fields such as host=10.0.0.7, JSON, or -f FILE",
		"put backend web-1 host=h -f x":      "roster: the definition is given twice, by -f and as host=h",
		"delete backend a b --if-revision 1": "roster: --if-revision is for one name, and 2 are given",
		"apply":                              "roster: no file is given: name one with -f FILE, or - for stdin",
		"version x":                          "roster: roster version takes no arguments",
		"node --listen :x --drain-timeout 1": `roster: invalid argument "1" for "--drain-timeout" flag`,
		"node --listen :x":                   `roster: listen is ":x": `,
		"node --unknown-fields x":            `roster: --unknown-fields is "x", want reject, warn`,
		"node --error-status x":              `roster: --error-status is "x", want varnish or nothing`,
		"node --config testdata/none.yaml":   "roster: open testdata/none.yaml: ",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			got := try(t, nil, "", strings.Fields(args)...)
			if got.code != exitUsage || !strings.HasPrefix(got.errors, want) || got.out != "" {
				t.Errorf("got %+v, want code 2 and %s", got, want)
			}
		})
	}
}

func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	for _, cmd := range rootCommand(streams{}, nil).Commands() {
		if !strings.Contains(cmd.Example, "roster "+cmd.Name()) || cmd.Long == "" && cmd.Name() != "version" {
			t.Errorf("%s has no examples or no description", cmd.Name())
		}
		if got := try(t, nil, "", cmd.Name(), "--help"); got.code != exitDone || !strings.Contains(got.out, "Examples:") {
			t.Errorf("%s --help: %+v", cmd.Name(), got)
		}
	}
}

func TestCommandsOnEtcd(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint(), "ROSTER_FILE": "never", "ROSTER_DRY_RUN": "true", "ROSTER_REVISION": "7"}
	site := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(site, []byte("backends:\n  web-2: {host: 10.0.0.8}\nroutes:\n  r: {backend: web-2}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		args  string
		stdin string
		code  int
		out   string // all of it, or its beginning if it ends in ...
		errs  string
	}{
		{args: "put backend web-1 host=10.0.0.7 port=8080 labels.app=web", out: "put backends/web-1 at revision 2\n"},
		{args: "get backends", out: "NAME   REVISION  ADDRESS        PROTOCOL  PROBE      LABELS\nweb-1  2         10.0.0.7:8080  http/1.1  (default)  app=web\n"},
		{args: "get backend web-1 -o json", out: "{\n  \"kind\": \"backends\",\n  \"name\": \"web-1\",\n  \"revision\": 2,..."},
		{args: "get backends -o json", out: "{\n  \"revision\": 2,\n  \"items\": [..."},
		{args: "get backend web-9", code: exitFailed, errs: "roster: there is no backend web-9; roster get backends lists what there is\n"},
		{args: "put backend web-1 host=h prot=1 port=0", code: exitInvalid, errs: "roster: backends/web-1: prot: is not a field of a backend; did you mean \"port\"?\nroster: backends/web-1: port: is 0, want 1 to 65535\n"},
		{args: "put backend web-1 host=h --dry-run -o json", out: "{\n  \"revision\": 0,\n  \"keys\": [\n    \"backends/web-1\"\n  ]\n}\n"},
		{args: "put backend web-1 -f - --dry-run", stdin: "{\"host\":\"h\"}", out: "backends/web-1 is valid\n"},
		{args: "put backend web-1 {\"host\":\"10.0.0.9\"} --if-revision 1", code: exitConflict, errs: "roster: store: put: backends/web-1 is at revision 2, want 1\n"},
		{args: "put backend web-1 {\"host\":\"10.0.0.9\"} --if-revision 2", out: "put backends/web-1 at revision 3\n"},
		{args: "get backend web-1 --revision 2 -o yaml", out: "backends:\n  web-1:\n    host: \"10.0.0.7\"\n    port: 8080\n    labels:\n      app: web\n"},
		{args: "put director web-1 type=random backends=web-2", code: exitConflict, errs: "roster: directors/web-1: backends/web-1 has that name, ..."},
		{args: "get backend web-1 --revision 1", code: exitFailed, errs: "roster: there was no backend web-1 at revision 1; roster history backend web-1 shows when there was one\n"},
		{args: "put health web-1 drain", out: "put health/web-1 at revision 4\n"},
		{args: "put health web-1 dran", code: exitInvalid, errs: "roster: health/web-1: the value is \"dran\"..."},
		{args: "apply --dry-run -f " + site, out: "would create backends/web-2\nwould create routes/r\n2 to create, 0 to change, 0 unchanged; nothing was written\na node would:\n  backends: 1 added, 0 changed, 0 removed\n..."},
		{args: "apply -f " + site + " -", stdin: "backends: {web-1: {host: 10.0.0.9}}\n", out: "created backends/web-2\ncreated routes/r\n2 created, 0 changed, 1 unchanged, at revision 5\n"},
		{args: "apply -f " + site, out: "0 created, 0 changed, 2 unchanged, at revision 5\n"},
		{args: "apply -f -", stdin: "backends: {a: {hst: x}}\nrouts: {}\n", code: exitInvalid, errs: "roster: stdin:1:16: backends/a: hst: is not a field of a backend; did you mean \"host\"?\nroster: stdin:1:15: backends/a: host: is missing..."},
		{args: "validate -f " + site, out: "2 definitions are valid\n"},
		{args: "validate -o json -f " + site, out: "{\n  \"valid\": 2\n}\n"},
		{args: "validate -o json -f -", stdin: "backends: {web-2: {hots: x, host: y}}", code: exitInvalid,
			errs: "{\"code\":3,\"errors\":[\"stdin:1:20: backends/web-2: hots: is not a field of a backend; did you mean \\\"host\\\"?\"]}\n"},
		{args: "validate " + site + " -", stdin: "backends: {web-2: {host: x}}", code: exitInvalid, errs: "roster: stdin:1:12: backends/web-2: is defined twice, before in " + site + ":2\n"},
		{args: "delete backends web-1 web-9", code: exitFailed, errs: "roster: there is no backend web-9; ..."},
		{args: "delete backends web-1 web-2", out: "deleted backends/web-1 at revision 6\ndeleted backends/web-2 at revision 6\n"},
		{args: "delete route r --if-revision 2", code: exitConflict, errs: "roster: store: apply 1 keys: routes/r..."},
		{args: "get backends", out: "NAME  REVISION  ADDRESS  PROTOCOL  PROBE  LABELS\n"},
		{args: "get backends --revision 99", code: exitFailed, errs: "roster: store: list backends: ..."},
		{args: "apply -f testdata/none.yaml", code: exitFailed, errs: "roster: open testdata/none.yaml: ..."},
		{args: "get backends --etcd 127.0.0.1:1 --timeout 1s", code: exitUnavailable, errs: "roster: store: list backends: etcd does not answer: ..."},
	}
	for _, step := range steps {
		got := try(t, env, step.stdin, strings.Fields(step.args)...)
		if got.code != step.code || !matches(got.out, step.out) || !matches(got.errors, step.errs) {
			t.Fatalf("roster %s\ngot  %+v\nwant %+v", step.args, got, step)
		}
	}
}

func matches(got, want string) bool {
	if start, ok := strings.CutSuffix(want, "..."); ok {
		return strings.HasPrefix(got, start)
	}
	return got == want
}

func TestHealthcheckOfNobodyFails(t *testing.T) {
	t.Parallel()
	if got := try(t, nil, "", "healthcheck", "--admin", "127.0.0.1:1"); got.code != exitFailed || !strings.HasPrefix(got.errors, "roster: the node at 127.0.0.1:1 does not answer: ") {
		t.Errorf("got %+v", got)
	}
	if got := try(t, nil, "", "healthcheck", "--admin", "127.0.0.1:1", "-o", "json"); got.code != exitFailed || !strings.Contains(got.out, `"ready": false`) || !strings.Contains(got.out, `"error": "`) {
		t.Errorf("got %+v", got)
	}
}

func TestDemoOriginEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	code := run(ctx, []string{"demo-origin", "--listen", "127.0.0.1:0"}, streams{nil, &out, &errs}, os.LookupEnv)
	if code != exitDone || !strings.HasPrefix(errs.String(), "origin 127.0.0.1:") {
		t.Errorf("code %d, %s", code, errs.String())
	}
}

// A key that is given where none belongs is not repeated, not even to who gave it: the
// message may end in somebody's log.
func TestAPrivateKeyIsNotRepeated(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN EC PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END EC PRIVATE KEY-----\n"
	for _, args := range [][]string{
		{"put", "certificate", "a", key}, {"put", "backend", "a", `"` + key + `"`}, {"put", "backend", "a", "host=" + key}, {"get", "backends", "-o", key}, {key},
		{"put", "backend", "a", `"-----BEGIN EC PRIVATE KEY-----\nMIGHAgEAMBMG`},
	} {
		if got := try(t, nil, "", args...); got.code == exitDone || strings.Contains(got.errors+got.out, "MIGH") {
			t.Errorf("%.20q: %+v", args, got)
		}
	}
}

// A private key in etcd, where it belongs and where it does not, is in no command's output.
func TestNoCommandShowsAPrivateKey(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	pair := certstest.NewCA(t).Issue(t, "www.test")
	line := strings.Split(strings.TrimSpace(pair.Key), "\n")[1]
	quoted, err := json.Marshal(pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := json.Marshal(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	good := fmt.Sprintf(`{"cert":%s,"key":%s}`, cert, quoted)
	values := []string{
		good, pair.Key, fmt.Sprintf(`{"cert":%s,"key":%[1]s}`, quoted), fmt.Sprintf(`{%s:1}`, quoted), fmt.Sprintf(`{"host":%s}`, quoted),
		fmt.Sprintf(`{"host":"h","comment":%s}`, quoted), fmt.Sprintf(`{"state":"sick","reason":%s}`, quoted), fmt.Sprintf(`{"cert":%s,"key":%s,"hosts":[%[2]s]}`, cert, quoted), good,
	}
	for _, value := range values { // of each kind, one over the other, for the history
		for _, kind := range store.Kinds() {
			if _, err := s.etcd.Client().Put(t.Context(), "/roster/"+string(kind)+"/a", value); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := s.file("certificates:\n  a: {cert: x}\n  b:\n    cert: " + string(cert) + "\n    key: " + string(quoted) + "\n")
	g := filepath.Join(s.dir, "g.yaml")
	if err := os.WriteFile(g, []byte("certificates:\n  a:\n    cert: "+string(cert)+"\n    key: "+string(quoted)+"\n    hosts: [other.test]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, command := range []string{
		"export", "export -o json", "history", "history -o json", "history -o yaml", "status", "status -o json", "status -o yaml", "rollback --revision 3 --dry-run", "rollback --revision 3 --dry-run -o json",
		"validate -f " + f, "apply -f " + f, "diff -f " + f, "diff -f " + g, "diff -f " + g + " -o json", "apply --dry-run -f " + g, "apply --dry-run -o json -f " + g, "apply -f " + g,
		"put certificate a -f " + f, "import-vcl " + f, "rollback --revision 3 certificates", "drain a", "health a sick", "explain GET http://www.test/", "probe a",
	} {
		all := []string{command}
		if command == "history" {
			for _, kind := range store.Kinds() {
				for _, format := range []string{"table", "json", "yaml", "wide"} {
					all = append(all, fmt.Sprintf("get %s -o %s", kind, format), fmt.Sprintf("get %s a -o %s", kind, format), fmt.Sprintf("get %s a -o %s --revision 9", kind, format), "history "+string(kind)+" a")
				}
			}
		}
		for _, command := range all {
			ran++
			got := s.run(strings.Fields(command)...)
			if said := strings.ReplaceAll(got.out+got.errors, `\n`, "\n"); strings.Contains(said, line) || strings.Contains(said, line[:20]) {
				t.Errorf("roster %s shows the key: %.300s", command, said)
			}
		}
	}
	if ran < 100 {
		t.Errorf("%d commands: this tests little", ran)
	}
}
