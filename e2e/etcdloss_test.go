package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/store/storetest"
)

// convergeLimit is how long after the end of a fault the right table may take.
const convergeLimit = 10 * time.Second

const (
	backendsPrefix = "/roster/backends/"
	directorKey    = "/roster/directors/default"
	// Its members that are not defined are skipped.
	directorValue = `{"type": "round_robin", "backends": ["web-a", "web-b", "web-c", "web-d"]}`
)

// scene is one etcd, one node that reaches it through a proxy, and clients of the node.
type scene struct {
	t       *testing.T
	etcd    *harness.Etcd
	network *storetest.Proxy
	node    *harness.Node
	traffic *traffic
	witness *witness
	port    int // of the origin
}

// newScene starts all that, with the backends web-a and web-b, answered by "seed" and
// their own names, in the director default.
func newScene(t *testing.T) *scene {
	t.Helper()
	t.Parallel()
	s := &scene{t: t, etcd: harness.StartEtcd(t), port: echo(t)}
	s.put("web-a", "seed-a")
	s.put("web-b", "seed-b")
	rev := s.etcd.Put(directorKey, directorValue)
	s.network = storetest.NewProxy(t, s.etcd.Address(0))
	s.node = harness.StartNode(t, harness.NodeConfig{Etcd: s.network.Address(), ID: t.Name()})
	s.node.WaitRevision(rev)
	s.traffic = startTraffic(t, s.node.Address(), 4, "seed-a", "seed-b")
	s.witness = startWitness(t, s.node)
	s.traffic.more(50)
	return s
}

// put defines a backend whose answers are answer.
func (s *scene) put(name, answer string) int64 {
	s.t.Helper()
	return s.etcd.Put(backendsPrefix+name, echoBackend(s.port, answer))
}

// A served backend, as /v1/backends and etcd have it.
type served struct {
	Revision int64
	Answer   string
}

// inEtcd is every backend in etcd, and etcd's revision.
func (s *scene) inEtcd() (map[string]served, int64) {
	s.t.Helper()
	var answer struct {
		Header struct{ Revision int64 }
		KVs    []struct {
			Key, Value []byte
			Mod        int64 `json:"mod_revision"`
		}
	}
	out := s.etcd.Ctl("get", "--prefix", backendsPrefix, "-w=json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		s.t.Fatalf("etcdctl get: %v in %s", err, out)
	}
	all := map[string]served{}
	for _, kv := range answer.KVs {
		var def struct {
			Answer string `json:"host_header"`
		}
		if err := json.Unmarshal(kv.Value, &def); err != nil {
			s.t.Fatal(err)
		}
		all[strings.TrimPrefix(string(kv.Key), backendsPrefix)] = served{kv.Mod, def.Answer}
	}
	return all, answer.Header.Revision
}

// onNode is every backend of the node.
func (s *scene) onNode() (map[string]served, error) {
	var list struct {
		Items []struct {
			Name       string
			Revision   int64
			Definition struct {
				Answer string `json:"host_header"`
			}
		}
	}
	if err := json.Unmarshal([]byte(s.node.AdminGet("/v1/backends").Body), &list); err != nil {
		return nil, err
	}
	all := map[string]served{}
	for _, b := range list.Items {
		all[b.Name] = served{b.Revision, b.Definition.Answer}
	}
	return all, nil
}

// answers asks for as many answers as show every backend of the round.
func (s *scene) answers() (map[string]bool, error) {
	c, err := dial(s.node.Address())
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	got := map[string]bool{}
	for range 16 {
		status, body, err := c.get()
		switch {
		case err != nil:
			return got, err
		case status == http.StatusOK:
			got[body] = true
		default:
			got[fmt.Sprint(status)] = true
		}
	}
	return got, nil
}

// recovered is serves after a fault that ended at since: the node must also have
// proven since then that it misses nothing.
func (s *scene) recovered(what string, since time.Time, want map[string]string) {
	s.t.Helper()
	s.converged(what, since, since, want)
}

// serves waits until the node has and serves exactly what etcd has, which must be
// want (name to answer), at most convergeLimit after since: by its status, by its list
// of backends, by requests, and by the digest of a node that starts now.
func (s *scene) serves(what string, since time.Time, want map[string]string) {
	s.t.Helper()
	s.converged(what, since, time.Time{}, want)
}

func (s *scene) converged(what string, since, proven time.Time, want map[string]string) {
	s.t.Helper()
	inEtcd, revision := s.inEtcd()
	wantAnswers := map[string]bool{}
	for name, answer := range want {
		if inEtcd[name].Answer != answer {
			s.t.Fatalf("%s: etcd has %v, want %v", what, inEtcd, want)
		}
		wantAnswers[answer] = true
	}
	if len(want) != len(inEtcd) {
		s.t.Fatalf("%s: etcd has %v, want %v", what, inEtcd, want)
	}
	if len(want) == 0 {
		wantAnswers["503"] = true
	}
	var status harness.Status
	harness.Within(s.t, convergeLimit-time.Since(since), what+": the node to be as etcd is", func() (bool, any) {
		var fresh time.Time
		var err error
		if status, fresh, err = s.witness.status(); err != nil {
			return false, err
		}
		if !status.Etcd.Connected || status.HeldList != "" || status.Seen < revision || !fresh.After(proven) { // nodes write, too
			return false, fmt.Sprintf("status %+v, fresh %v after the end of the fault, want revision %d", status, fresh.Sub(since), revision)
		}
		if got, err := s.onNode(); err != nil || !maps.Equal(got, inEtcd) {
			return false, fmt.Sprintf("backends %v (%v), want %v", got, err, inEtcd)
		}
		if got, err := s.answers(); err != nil || !maps.Equal(got, wantAnswers) {
			return false, fmt.Sprintf("answers %v (%v), want %v", got, err, wantAnswers)
		}
		return true, nil
	})
	took := time.Since(since)
	if !s.traffic.ended() {
		s.traffic.allow(slices.Collect(maps.Keys(wantAnswers))...)
		s.traffic.more(50)
	}
	if status.Revision > revision {
		s.t.Errorf("%s: revision is %d, but etcd's is %d", what, status.Revision, revision)
	}
	other := harness.StartNode(s.t, harness.NodeConfig{Etcd: s.etcd.Endpoints(), ID: s.t.Name() + "-fresh"})
	if got := other.WaitRevision(revision); got.Digest != status.Digest || !maps.Equal(got.Counts, status.Counts) {
		s.t.Errorf("%s: digest %s and counts %v, but a node that starts has %s and %v", what, status.Digest, status.Counts, got.Digest, got.Counts)
	}
	other.Kill()
	s.t.Logf("%s: converged after %v (%d relists so far)", what, took.Round(time.Millisecond), status.Etcd.Relists)
}

// away waits until the node says that it has no etcd.
func (s *scene) away() {
	s.t.Helper()
	s.node.WaitStatus("etcd.connected false", func(st harness.Status) bool { return !st.Etcd.Connected && st.Etcd.Error != "" })
}

// relisted is true of a status after one more list than now: what a node must have done
// that knows etcd after another history took the place of the one it knew.
func (s *scene) relisted() func(harness.Status) bool {
	s.t.Helper()
	before := s.node.Status().Etcd.Relists
	return func(st harness.Status) bool { return st.Etcd.Relists > before }
}

// outage is how long etcd is stopped: 30 s in a long run.
func outage() time.Duration {
	switch {
	case harness.RequireAll() || harness.Long():
		return 30 * time.Second
	case testing.Short():
		return 2 * time.Second
	}
	return 6 * time.Second
}

// TestEtcdStoppedUnderTraffic stops etcd for a while: no request fails, the status says
// so and since when, and what is put after etcd's return arrives.
func TestEtcdStoppedUnderTraffic(t *testing.T) {
	s := newScene(t)
	before := s.node.Status()
	s.etcd.Stop()
	s.witness.blind()
	stopped := time.Now()
	s.away()
	t.Logf("connected false %v after the stop", time.Since(stopped).Round(time.Millisecond))
	for _, part := range []time.Duration{outage() / 3, 2 * outage() / 3, outage()} {
		harness.Within(t, outage()+harness.WaitLimit, fmt.Sprintf("%v without etcd", part), func() (bool, any) {
			return time.Since(stopped) >= part, time.Since(stopped)
		})
		status, fresh, err := s.witness.status()
		if err != nil {
			t.Fatal(err)
		}
		// A proof was due every 5 s, give or take a fifth, and had 2 s.
		if age := time.Since(fresh); age < part || age > time.Since(stopped)+8*time.Second {
			t.Errorf("fresh %v ago, %v after the stop", age, part)
		}
		if status.Etcd.Connected || !status.Ready || status.Digest != before.Digest || status.Revision != before.Revision {
			t.Errorf("%v after the stop: status = %+v, want not connected, ready and the table of %+v", part, status, before)
		}
		s.traffic.check()
	}
	s.traffic.more(50)
	s.witness.anything()

	s.traffic.allow("seed-a", "seed-b", "after-a", "after-c")
	s.etcd.Start()
	back := time.Now()
	s.put("web-a", "after-a")
	s.etcd.Delete(backendsPrefix + "web-b")
	rev := s.put("web-c", "after-c")
	s.witness.knows("the changes after etcd's return", func(st harness.Status) bool { return st.Seen >= rev })
	s.recovered("etcd is back", back, map[string]string{"web-a": "after-a", "web-c": "after-c"})
}

// TestCompactionWhileCutOff compacts away what a node has missed. A deletion is among it,
// which no watch tells of any more.
func TestCompactionWhileCutOff(t *testing.T) {
	for _, cut := range []struct {
		name string
		off  func(*storetest.Proxy)
	}{
		{"connections are reset", (*storetest.Proxy).Cut},
		{"nothing passes", (*storetest.Proxy).Blackhole},
	} {
		t.Run(cut.name, func(t *testing.T) {
			s := newScene(t)
			cut.off(s.network)
			s.witness.blind()
			s.away()
			s.put("web-a", "new-a")
			s.put("web-b", "never-served")
			s.etcd.Delete(backendsPrefix + "web-b")
			rev := s.put("web-c", "new-c")
			s.etcd.Ctl("compaction", fmt.Sprint(rev), "--physical")
			s.traffic.more(50)
			relisted := s.relisted()
			s.traffic.allow("seed-a", "seed-b", "new-a", "new-c")
			s.witness.knows("the compaction", func(st harness.Status) bool { return st.Seen >= rev && relisted(st) })
			s.network.Heal()
			s.recovered("compacted", time.Now(), map[string]string{"web-a": "new-a", "web-c": "new-c"})
		})
	}
}

// TestRestoredWithOtherValuesAtTheSameRevisions takes etcd back to a backup and writes
// on from there: fewer, as many and more revisions than the node knows of the history
// that is gone, with other values at the same mod revisions.
func TestRestoredWithOtherValuesAtTheSameRevisions(t *testing.T) {
	s := newScene(t)
	backup := s.etcd.Backup()
	// write is four revisions from the backup's on.
	write := func(answer string) {
		t.Helper()
		s.put("web-a", answer+"-a1")
		s.put("web-b", answer+"-b")
		s.put("web-a", answer+"-a2")
		s.put("web-c", answer+"-c")
	}
	is := func(answer string) map[string]string {
		return map[string]string{"web-a": answer + "-a2", "web-b": answer + "-b", "web-c": answer + "-c"}
	}
	s.traffic.allow("seed-a", "seed-b", "old-a1", "old-a2", "old-b", "old-c")
	begun := time.Now()
	write("old")
	write("old") // it knows eight of them
	s.serves("before the restore", begun, is("old"))

	for _, round := range []struct {
		name    string
		cut     bool // the node is cut off until all is written
		writes  int
		compact bool
	}{
		{"fewer revisions", true, 1, false},
		{"as many revisions", true, 1, false},
		{"more revisions", true, 2, false},
		{"under the node's eyes", false, 1, false},
		{"more revisions, compacted", true, 2, true},
	} {
		answer := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(round.name)
		old := *s.traffic.allowed.Load()
		s.traffic.allow(append(slices.Collect(maps.Keys(old)), "seed-a", "seed-b",
			answer+"-a1", answer+"-a2", answer+"-b", answer+"-c")...)
		before := s.node.Status()
		if round.cut {
			s.network.Cut()
		}
		s.etcd.Kill() // in an orderly end it would wait for the node to go, for seconds
		s.witness.blind()
		s.away()
		relisted := s.relisted()
		s.witness.knows("the restore", relisted)
		s.etcd.Restore(backup)
		restored := time.Now()
		for range round.writes {
			write(answer)
		}
		if round.compact {
			s.etcd.Ctl("compaction", fmt.Sprint(s.etcdRevision()), "--physical")
		}
		if round.cut {
			s.network.Heal()
			restored = time.Now()
		}
		s.recovered(round.name, restored, is(answer))
		t.Logf("%s: seen %d before, %d now", round.name, before.Seen, s.node.Status().Seen)
	}
}

func (s *scene) etcdRevision() int64 {
	s.t.Helper()
	_, revision := s.inEtcd()
	return revision
}

// TestNewClusterBehindTheSameAddress replaces etcd by a new cluster whose keys have the
// same revisions as those of the old one, and other values.
func TestNewClusterBehindTheSameAddress(t *testing.T) {
	s := newScene(t)
	for _, round := range []struct {
		name string
		cut  bool
	}{
		{"cut off meanwhile", true},
		{"under the node's eyes", false},
	} {
		a, b := "new-a-"+fmt.Sprint(round.cut), "new-b-"+fmt.Sprint(round.cut)
		old := *s.traffic.allowed.Load()
		s.traffic.allow(append(slices.Collect(maps.Keys(old)), a, b)...)
		if round.cut {
			s.network.Cut()
		}
		s.etcd.Kill()
		s.witness.blind()
		s.away()
		s.witness.knows("the new cluster", s.relisted())
		s.etcd.Reset()
		back := time.Now()
		s.put("web-a", a)
		s.put("web-b", b)
		s.etcd.Put(directorKey, directorValue)
		if round.cut {
			s.network.Heal()
			back = time.Now()
		}
		s.recovered(round.name, back, map[string]string{"web-a": a, "web-b": b})
	}
}

// TestEmptyStoreBehindTheSameAddress takes all data away from etcd. The node serves on
// with what it has and says that it does, until a key appears or the loss is acknowledged.
func TestEmptyStoreBehindTheSameAddress(t *testing.T) {
	s := newScene(t)
	held := func(what string, empty func()) {
		t.Helper()
		before := s.node.Status()
		s.etcd.Kill()
		s.witness.blind()
		empty()
		status := s.node.WaitStatus("a held list", func(st harness.Status) bool { return st.HeldList != "" })
		harness.Until(t, "status of the fleet", func() (bool, any) {
			r := harness.CLI(t, "status", "--etcd", s.etcd.Endpoints())
			return r.Code == 1 && strings.Contains(r.Stderr, "does not believe that etcd is empty"), r
		})
		s.node.Signal(syscall.SIGUSR2) // a new process would serve nothing
		s.traffic.more(400)            // a second of it
		now := s.node.Status()
		if !strings.Contains(s.node.Log(), notReplaced) {
			t.Errorf("%s: nothing is said of SIGUSR2", what)
		}
		if status.Etcd.Connected || now.Digest != before.Digest || now.HeldList == "" || !now.Ready {
			t.Errorf("%s: status = %+v, want held and the table of %+v", what, now, before)
		}
		s.witness.anything()
		t.Logf("%s: %s", what, now.HeldList)
	}

	held("a new cluster", s.etcd.Reset)
	s.traffic.allow("seed-a", "seed-b", "first")
	s.witness.knows("the first key", s.relisted())
	begun := time.Now()
	s.put("web-z", "first") // with no director, the oldest backend serves
	s.recovered("a key appeared", begun, map[string]string{"web-z": "first"})

	held("the same cluster without its data", s.etcd.Wipe)
	s.traffic.allow("first", "second")
	s.witness.knows("the first key", s.relisted())
	begun = time.Now()
	s.put("web-y", "second")
	s.recovered("a key appeared again", begun, map[string]string{"web-y": "second"})

	held("emptied once more", s.etcd.Wipe)
	s.traffic.end()
	s.witness.knows("the acknowledgement", s.relisted())
	begun = time.Now()
	s.etcd.Put("/roster/ack", fmt.Sprint(s.etcdRevision()))
	s.recovered("acknowledged", begun, nil)
}

// TestDeletedWhileCutOff deletes everything, as one may, while the node does not see it.
func TestDeletedWhileCutOff(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%t", compacted), func(t *testing.T) {
			s := newScene(t)
			s.network.Cut()
			s.witness.blind()
			s.away()
			rev := harness.Delete(t, s.etcd.Endpoints(), "/roster/", "--prefix")
			if compacted {
				rev = s.etcd.Put("/elsewhere", "x")
				s.etcd.Ctl("compaction", fmt.Sprint(rev), "--physical")
			}
			s.traffic.more(50)
			s.traffic.end() // what comes now is 503
			s.witness.knows("the deletion", func(st harness.Status) bool { return st.Seen >= rev && st.Counts["backends"] == 0 })
			s.network.Heal()
			s.recovered("deleted", time.Now(), nil)

			s.witness.anything()
			begun := time.Now()
			s.put("web-a", "again")
			s.serves("put again", begun, map[string]string{"web-a": "again"})
		})
	}
}
