//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"roster/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// A short run of each kind of fleet, with and without a proxy of etcd's.
func TestMeasuresFleets(t *testing.T) {
	var out, progress bytes.Buffer
	o := options{nodes: "2", proxied: "1", watchers: 3, members: 3, proxies: 1, backends: 10, puts: 3, every: 50 * time.Millisecond,
		slowPuts: 2, slowEvery: 1200 * time.Millisecond, rest: 200 * time.Millisecond, etcdMembers: 1,
		roster: harness.Roster(t), etcd: harness.EtcdBinary(t), json: "-"}
	if err := run(t.Context(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var all report
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatalf("%v in\n%s", err, out.String())
	}
	if len(all.Results) != 6 {
		t.Fatalf("%d results, want 6:\n%s", len(all.Results), out.String())
	}
	for _, r := range all.Results {
		want := 3
		if r.Kind != processes {
			want = 2
		}
		if r.Puts != want || r.Served.P50 <= 0 || r.Served.Max < r.Served.P99 || r.All.Max < r.Served.Max || r.Acked.P50 <= 0 || r.EtcdMemory == 0 || (r.ProxyMemory == 0) != (r.Proxies == 0) {
			t.Errorf("%d %s, %d proxies: %+v", r.Nodes, r.Kind, r.Proxies, r)
		}
		// Processes write presence once a second, and these puts may be over before that.
		if r.Kind != processes && (r.Kind == watchers) != (r.Presence == 0) {
			t.Errorf("%d %s: %v presence writes per put", r.Nodes, r.Kind, r.Presence)
		}
	}
}

func TestQuantilesAreOfSamples(t *testing.T) {
	t.Parallel()
	var all []time.Duration
	for i := range 200 {
		all = append(all, time.Duration(200-i)*time.Millisecond)
	}
	for _, c := range []struct {
		of   []time.Duration
		want quantiles
	}{
		{nil, quantiles{}},
		{all[199:], quantiles{1, 1, 1}},
		{all[197:], quantiles{2, 3, 3}},
		{all, quantiles{100, 198, 200}},
	} {
		if got := quantilesOf(c.of); got != c.want {
			t.Errorf("of %d: %v, want %v", len(c.of), got, c.want)
		}
	}
}

func TestScenesAreThoseAskedFor(t *testing.T) {
	t.Parallel()
	good, err := parse([]string{"-nodes", "1,3", "-proxied", "3", "-watchers", "10", "-members", "0"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	got, err := good.scenes()
	want := []scene{{processes, 1, 0}, {processes, 3, 0}, {processes, 3, 1}, {watchers, 10, 0}, {watchers, 10, 1}}
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("scene %d: %v, want %v", i, got[i], want[i])
		}
	}
	for _, args := range [][]string{
		{"-nodes", "0"}, {"-nodes", "x"}, {"-proxied", "501"}, {"-watchers", "-1"}, {"-puts", "0"}, {"-every", "0s"}, {"-backends", "-1"},
		{"-nodes", "", "-proxied", "", "-watchers", "0", "-members", "0"},
	} {
		o, err := parse(args, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		if all, err := o.scenes(); err == nil {
			t.Errorf("%q: no error, but %v", args, all)
		}
	}
}
