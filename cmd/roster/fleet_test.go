package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"roster/store"
	"roster/store/storetest"
)

// member makes a node that etcd knows of, and nothing else. It has applied a revision.
func member(t *testing.T, s *store.Store, node string, p store.Presence, ttl time.Duration) (lease int64) {
	t.Helper()
	lease, err := s.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	p.ID = node
	if _, err := s.Announce(t.Context(), store.Instance{Node: node, ID: "i1"}, p, lease, 0); err != nil {
		t.Fatal(err)
	}
	return lease
}

var anyMilliseconds = regexp.MustCompile(`\d+ ms|"milliseconds": \d+`)

func TestFleetCommands(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint(), "ROSTER_FORCE": "true", "ROSTER_BY": "ann@desk"}
	step := func(args string, code int, out, errs string) {
		t.Helper()
		got := try(t, env, "", strings.Fields(args)...)
		got.out = anyMilliseconds.ReplaceAllString(got.out, "0 ms")
		if got.code != code || !matches(got.out, out) || !matches(got.errors, errs) {
			t.Errorf("roster %s\ngot  %+v\nwant %d, %q, %q", args, got, code, out, errs)
		}
	}
	// Revisions: 2 is the backend's.
	step("put backend web-1 host=10.0.0.1 --wait", exitDone, "put backends/web-1 at revision 2\nthe fleet has no members: nothing to wait for\n", "")
	step("apply -f testdata/fleet.yaml", exitDone, "created backends/web-2\ncreated directors/www\n2 created, 0 changed, 0 unchanged, at revision 3\n", "")
	step("health web-1 sick --reason disk", exitDone, "web-1 is sick, at revision 4\n", "")
	step("get health", exitDone, "NAME   REVISION  STATE  REASON  BY\nweb-1  4         sick   disk    ann@desk\n", "")
	step("health web-9 auto", exitDone, "web-9 is auto, at revision 5\n", "roster: there is no backend or director web-9 yet; it will be auto when there is\n")
	step("health web-1 ill", exitUsage, "", "roster: the state is \"ill\", want sick, healthy, auto, drain\n")
	step("health web-1 sick --for 10ms", exitUsage, "", "roster: --for is 10ms, want 1s or more\n")
	step("health 1 sick", exitInvalid, "", "roster: name \"1\" has a segment that does not begin with a letter\n")
	step("health web-1 sick -o yaml", exitUsage, "", "roster: --output is \"yaml\", want table, json\n")
	step("drain www", exitDone, "draining web-1, web-2, at revision 6\nroster health web-1 web-2 auto puts back what was drained\n", "")
	step("drain web-7", exitFailed, "", "roster: there is no backend or director web-7; ...")
	step("health web-1 drain --for 1h", exitDone, "web-1 is drain for 1h, at revision 7\n", "")
	e, _, err := s.Get(t.Context(), store.Key{Kind: store.HealthKind, Name: "web-1"}, 0)
	if err != nil || e.Lease == 0 {
		t.Fatalf("the override with --for is under lease %d, %v", e.Lease, err)
	}
	if granted, _, err := s.LeaseTTL(t.Context(), e.Lease); granted != time.Hour || err != nil {
		t.Errorf("which lasts %v, %v, want 1h", granted, err)
	}

	a := member(t, s, "a", store.Presence{Revision: 7, Listen: []string{":80"}, Version: "v1", Ready: true}, time.Hour) // revision 8
	step("apply -f testdata/fleet.yaml --wait", exitDone, "0 created, 0 changed, 2 unchanged, at revision 8\na: done after 0 ms\napplied by all members, 1, after 0 ms\n", "")
	step("put health web-1 auto --wait --wait-timeout 200ms", exitWaiting, "put health/web-1 at revision 9\n",
		"roster: not done after 200ms: revision 9 is written, but not in effect on all members\nroster: a: behind, at revision 7\n")
	step("delete health web-2 --wait --wait-timeout 200ms -o json", exitWaiting, `{
  "revision": 10,
  "keys": [
    "health/web-2"
  ],
  "receipt": {
    "revision": 10,
    "done": false,
    0 ms,
    "nodes": [
      {
        "node": "a",
        "instance": "i1",
        "state": "behind",
        0 ms,
        "revision": 7
      }
    ]
  }
}
`, `{"code":6,"errors":["not done after ...`)
	step("forget a", exitFailed, "", "roster: node a/i1 is present: it is running, or was until seconds ago; stop it, or use --force\n")
	step("forget nobody", exitFailed, "", "roster: there is no member nobody; roster status lists them\n")
	if err := s.Revoke(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	step("put health web-1 auto --wait --wait-timeout 200ms", exitWaiting, "put health/web-1 at revision 12\nwaiting for a: unknown, its presence has ended; roster forget a, once it is sure to be gone\n",
		"roster: not done after 200ms: revision 12 is written, but not in effect on all members\nroster: a: unknown, its presence has ended; roster forget a, once it is sure to be gone\n")
	step("drain web-1 --wait --wait-timeout 200ms", exitWaiting, "draining web-1, at revision 13\nwaiting for a: unknown, ...", "roster: not done after ...")
	step("status", exitFailed, "NODE  STATE    VERSION  REVISION  LAG  DIGEST  REJECTED  LISTEN  ADMIN\na     unknown  v1       -         -    -       -         :80     -...", "roster: node a is unknown: ...")
	step("forget a/i1", exitDone, "forgot a/i1\n", "")
	step("status", exitDone, "no node has its presence in etcd...", "")
	member(t, s, "b", store.Presence{}, time.Hour)
	step("forget b --force -o json", exitDone, "{\n  \"forgotten\": [\n    {\n      \"node\": \"b\",\n      \"instance\": \"i1\"\n    }\n  ]\n}\n", "")
	step("forget b -o json", exitFailed, "{\n  \"forgotten\": []\n}\n", "{\"code\":1,\"errors\":[\"there is no member b; roster status lists them\"]}\n")
	step("forget b -o yaml", exitUsage, "", "roster: --output is \"yaml\", want text, json\n")

	// Of a backend that was deleted, the override does not stay.
	step("put backend web-7 host=10.0.0.7", exitDone, "...", "")
	step("delete backend web-7", exitDone, "...", "")
	step("drain web-7 --wait", exitDone, "draining web-7 for 90s, at revision ...", "roster: there is no backend or director web-7: waiting for what is left of one that was deleted\n")
	step("get health web-7", exitFailed, "", "roster: there is no health web-7; ...")
	step("put backend web-1 host=10.0.0.1 --wait --prefix /nobody/ --etcd 127.0.0.1:1 --timeout 1s", exitUnavailable, "", "...")
}

// A misspelt name is not safe to kill, also where a drain of it was written before.
func TestDrainOfANameThatNeverWasDoesNotSayThatItIsSafeToKill(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	unknown := "there is no backend or director wbe-1, and none was deleted as far as etcd remembers; roster get backends lists what there is"
	s.want(1, "drain wbe-1 --wait", unknown)
	s.want(1, "get health wbe-1")
	s.want(0, "health wbe-1 drain")
	member(t, s.etcd.Store(), "a", store.Presence{Leaving: []store.Leaving{{Name: "wbe-1", Settled: true}}}, time.Hour)
	s.want(1, "drain wbe-1 --wait", unknown)
	member(t, s.etcd.Store(), "a", store.Presence{Leaving: []store.Leaving{{Name: "wbe-1", Active: 1}}}, time.Hour)
	s.want(6, "drain wbe-1 --wait --wait-timeout 100ms", "waiting for what is left of one that was deleted")

	s.want(0, "apply -f "+s.file("directors:\n  www: {type: random, backends: [wbe-2]}\n"))
	s.want(0, "delete director www")
	s.want(1, "drain www --wait", "the director www was deleted: drain the backends that it had, each by its name; roster history director www has them")

	_, now, err := s.etcd.Store().Get(t.Context(), store.Key{Kind: store.Backends, Name: "x"}, 0)
	if !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.etcd.Client().Compact(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	s.want(1, "drain web-7 --wait", fmt.Sprintf("as far as etcd remembers, which is since revision %d; ", now))
}

// What drain prints to put a director's backends back does it.
func TestADrainedDirectorIsPutBack(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "apply -f "+s.file("backends:\n  a: {host: a}\n  b: {host: b}\ndirectors:\n  www: {type: random, backends: [b, a]}\n"))
	s.want(0, "drain www", "roster health a b auto puts back what was drained\n")
	s.want(0, "health b a b auto", "a, b are auto, at revision 4\n")
	if got := s.want(0, "get health"); strings.Contains(got.out, "drain") {
		t.Errorf("drained yet: %s", got.out)
	}
	if got := s.want(0, "drain a"); strings.Contains(got.out, "auto") {
		t.Errorf("of one backend: %s", got.out)
	}
}

// A drain with an end is not waited for any longer, and that it ends is said before.
func TestADrainThatEndsBeforeItsWaitSaysSo(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "put backend web-1 host=h")
	member(t, s.etcd.Store(), "a", store.Presence{}, time.Hour)
	s.want(6, "drain web-1 --for 1s --wait --wait-timeout 0s", "roster: the drain ends after 1s, and with it the wait: --for is shorter than --wait-timeout",
		"not done after 1s: revision 4 is written, and its drain has expired\nroster: a: behind, ")
	if got := s.want(6, "drain web-1 --for 1h --wait --wait-timeout 100ms"); strings.Contains(got.errors, "expired") || strings.Contains(got.errors, "the drain ends") {
		t.Errorf("of one that lasts longer: %+v", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestAnInterruptedWaitNamesWhoIsMissing(t *testing.T) {
	t.Parallel()
	st := storetest.Etcd(t).Store()
	if err := st.Revoke(t.Context(), member(t, st, "a", store.Presence{}, time.Hour)); err != nil {
		t.Fatal(err)
	}
	rev, err := st.Put(t.Context(), store.Key{Kind: store.Probes, Name: "p"}, []byte("{}"), store.AnyRevision)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out strings.Builder
	s := streams{out: writerFunc(func(b []byte) (int, error) {
		out.Write(b)
		if strings.HasSuffix(out.String(), "\n") { // it has named the member
			cancel()
		}
		return len(b), nil
	}), err: io.Discard}
	w := waiting{on: true, format: "table"}
	var errs strings.Builder
	code := report(&errs, w.finish(ctx, s, st, change{began: time.Now(), revision: rev}))
	unknown := "a: unknown, its presence has ended; roster forget a, once it is sure to be gone\n"
	want := fmt.Sprintf("roster: revision %d is written; its wait was interrupted: context canceled\nroster: %s", rev, unknown)
	if code != exitFailed || out.String() != "waiting for "+unknown || errs.String() != want {
		t.Errorf("code %d\n%s%s\nwant\n%s", code, out.String(), errs.String(), want)
	}
}

// Of a backend that others connect through, no node counts the connections as its own, and a
// drain does not end them.
func TestDrainOfABackendThatOthersConnectThroughIsRefused(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.want(0, "apply -f "+s.file("backends:\n  relay: {host: r}\n  far/web-1: {host: a, via: relay}\n  far/web-2: {host: b, via: relay}\n  near: {host: c}\n"+
		"directors:\n  all: {type: random, backends: [near, relay]}\n"))
	for _, name := range []string{"relay --wait", "all --wait", "relay"} {
		s.want(1, "drain "+name, "relay is the via of far/web-1, far/web-2: drain what connects through it, or give that another via, first")
	}
	s.want(0, "get health", "NAME")
	s.want(0, "drain near", "draining near, at revision")
	s.want(0, "apply -f "+s.file("directors:\n  all: {type: random, backends: [near, relay, far/web-1, far/web-2]}\n"))
	s.want(0, "drain all", "draining far/web-1, far/web-2, near, relay, at revision")
	s.want(0, "drain relay", "draining relay") // the others are drained already
}

// A node tells etcd of no more at once: the end of the others would never be seen.
func TestDrainOfMoreThanCanBeWaitedForIsRefused(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	var file strings.Builder
	file.WriteString("directors:\n  all: {type: random, select: {app: web}}\nbackends:\n")
	for i := range store.MaxLeaving + 1 {
		fmt.Fprintf(&file, "  web-%d: {host: a, labels: {app: web}}\n", i)
	}
	s.want(0, "apply -f "+s.file(file.String()))
	s.want(1, "drain all --wait", "nothing is drained: these are 101 backends, and --wait can follow 100; drain them in parts, or without --wait")
	s.want(0, "get health", "NAME")
	s.want(0, "drain all", "draining web-0, web-1, web-10")
}

func TestStatusAsYAMLIsAsJSON(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	member(t, etcd.Store(), "a", store.Presence{Ready: true, Digest: "d"}, time.Hour)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint()}
	got := try(t, env, "", "status", "-o", "yaml")
	if got.code != exitDone || !strings.Contains(got.out, "members:\n- node: a\n  instance: i1\n  state: ready\n") {
		t.Errorf("yaml: %+v", got)
	}
	got = try(t, env, "", "status", "-o", "json")
	var f struct {
		Members []struct {
			Node     string
			Presence store.Presence
		}
	}
	if err := json.Unmarshal([]byte(got.out), &f); err != nil || len(f.Members) != 1 || f.Members[0].Presence.Digest != "d" {
		t.Errorf("json: %v, %+v", err, got)
	}
}

// What scripts go through is a list, also where there is nothing in it, or nothing is known.
func TestListsOfStatusAreNeverNull(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	for _, endpoint := range []string{etcd.Endpoint(), "127.0.0.1:1"} {
		got := try(t, map[string]string{"ROSTER_ETCD": endpoint}, "", "status", "-o", "json")
		for _, list := range []string{"members", "differences", "nodes"} {
			if !strings.Contains(got.out, "\""+list+"\": []") {
				t.Errorf("with etcd at %s, %s is no list: %+v", endpoint, list, got)
			}
		}
	}
}

func TestNamesAreCompletedFromEtcd(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	member(t, s, "edge-1", store.Presence{}, time.Hour)
	for _, k := range []store.Key{{Kind: store.Backends, Name: "web-1"}, {Kind: store.Directors, Name: "www"}, {Kind: store.Backends, Name: "api"}} {
		value := `{"host":"h"}`
		if k.Kind == store.Directors {
			value = `{"type":"random","backends":["web-1"]}`
		}
		if _, err := s.Put(t.Context(), k, []byte(value), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"drain w": "web-1\nwww\n", "health ": "api\nweb-1\nwww\n", "forget e": "edge-1\n", "health web-1 ": "sick\nhealthy\nauto\ndrain\n", "drain web-1 ": "",
	} {
		words := strings.Split(args, " ")
		all := append([]string{"__complete", words[0], "--etcd", etcd.Endpoint()}, words[1:]...)
		if got := try(t, nil, "", all...); got.code != exitDone || got.out != fmt.Sprintf("%s:4\n", want) {
			t.Errorf("roster %s<TAB>: %q, want %q", args, got.out, want)
		}
	}
	if got := try(t, nil, "", "__complete", "drain", "--etcd", "127.0.0.1:1", ""); got.out != ":4\n" {
		t.Errorf("without etcd: %+v", got)
	}
}

// The commands of docs/FLEET.md are roster's, with flags that they have, and the presence
// that it shows is one.
func TestFleetPageHasTheCommandsAndFieldsThatThereAre(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/FLEET.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^(?:\$ )?roster (.*)$`).FindAllSubmatch(page, -1)
	if len(lines) < 4 {
		t.Fatalf("%d commands, want 4 or more", len(lines))
	}
	for _, line := range lines {
		words, _, _ := strings.Cut(string(line[1]), " -- ")
		cmd, rest, err := rootCommand(streams{}, func(*pflag.FlagSet) error { return nil }).Find(strings.Fields(words))
		if err != nil {
			t.Errorf("roster %s: %v", words, err)
			continue
		}
		for _, word := range rest {
			if name, ok := strings.CutPrefix(word, "--"); ok && cmd.Flags().Lookup(name) == nil {
				t.Errorf("roster %s: there is no flag %s", words, word)
			}
		}
	}
	_, after, _ := strings.Cut(string(page), "```json\n")
	value, _, _ := strings.Cut(after, "```")
	dec := json.NewDecoder(strings.NewReader(value))
	dec.DisallowUnknownFields()
	var p store.Presence
	if err := dec.Decode(&p); err != nil || p.Revision == 0 || len(p.Leaving) != 1 || !p.Leaving[0].Settled {
		t.Errorf("the presence it shows: %v, %+v", err, p)
	}
}
