package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"roster/cmd/roster/internal/fleet"
	"roster/node/presence"
	"roster/store"
)

// Fifty members have a line each, a sum, and no lines with all their names.
func TestStatusOfFiftyMembers(t *testing.T) {
	t.Parallel()
	var f fleet.Fleet
	names := []string{}
	for i := range 50 {
		name := fmt.Sprintf("edge-%d.example:8080", i+1)
		names = append(names, name)
		m := presence.FleetMember{Node: name, Name: name, Instance: "i", State: presence.IsReady, Presence: &store.Presence{ID: name, Version: "v1.2.0", Level: 1,
			Listen: []string{"[::]:8080", "[::]:8443"}, Admin: "127.0.0.1:6082", Started: time.Unix(1e9, 0), Revision: 4711, Digest: "5ab3c1d2e3f40516", Ready: true, Rejected: []string{"backends/typo"}}}
		switch i {
		case 7:
			m.State, m.Presence.Rejected, m.Presence.Level = presence.IsUnknown, nil, 0
		case 11, 12:
			m.State, m.Presence.Ready = presence.IsStarting, false
		case 20:
			m.State, m.Presence.Draining = presence.IsDraining, true
		case 30:
			m.Lag, m.Presence.Revision, m.Presence.Digest = 12, 4699, "0000000000000001"
		case 31, 32:
			m.Presence.Digest = "0123456789abcdef"
		}
		f.Members = append(f.Members, m)
	}
	f.Differences = []presence.Difference{{Revision: 4711, Digests: map[string][]string{"5ab3c1d2e3f40516": names[:31], "0123456789abcdef": names[31:33]}}}
	f.NotAsked = "nobody"
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"\n50 members: 1 unknown, 2 starting, 1 draining, 46 ready; 1 lag behind, by at most 12 revisions\n",
		"\nrejected by edge-1.example:8080, edge-2.example:8080, edge-3.example:8080, edge-4.example:8080, edge-5.example:8080, edge-6.example:8080, " +
			"edge-7.example:8080, edge-9.example:8080, edge-10.example:8080, edge-11.example:8080 and 39 more: backends/typo\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if lines := strings.Count(text, "\nedge-"); lines != 50 {
		t.Errorf("%d members are shown, want 50:\n%s", lines, text)
	}
	fault := fmt.Sprint(f.Fault())
	for _, want := range []string{"0123456789abcdef (edge-32.example:8080, edge-33.example:8080)", "edge-10.example:8080 and 21 more)"} {
		if !strings.Contains(fault, want) {
			t.Errorf("%q is not in\n%s", want, fault)
		}
	}
	f.Members = f.Members[:10]
	out.Reset()
	if err := f.Write(&out); err != nil || strings.Contains(out.String(), "members:") {
		t.Errorf("%v, a sum of what is seen at a glance:\n%s", err, out.String())
	}
}
