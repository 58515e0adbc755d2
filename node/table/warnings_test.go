package table

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarningsNameWhatDoesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const noMembers = "it has neither backends nor select, so it answers as none does"
	vain := func(field, protocol string) string {
		return fmt.Sprintf("its probe's %s does not apply to the protocol %q, and does nothing", field, protocol)
	}
	f.put("probes/asks", `{"request":["GET / HTTP/1.1","Host: a"],"expect_close":false}`, "probes/plain", `{"url":"/health"}`, "probes/grpc", `{"type":"grpc"}`)
	f.put("backends/both", `{"host":"127.0.0.1","protocol":"h2c","probe":"asks"}`, "backends/inline", `{"host":"127.0.0.1","protocol":"h2","tls":{},"probe":{"expect_close":false}}`,
		"backends/plain", `{"host":"127.0.0.1","protocol":"h2c","probe":"plain"}`, "backends/grpc", `{"host":"127.0.0.1","protocol":"h2c","probe":"grpc"}`,
		"backends/http1", `{"host":"127.0.0.1","probe":"asks"}`, "backends/missing", `{"host":"127.0.0.1","protocol":"h2c","probe":"missing"}`, "backends/none", `{"none":true}`)
	f.put("directors/empty", `{"type":"random"}`, "directors/emptied", `{"type":"random","backends":[]}`,
		"directors/members", `{"type":"random","backends":["gone"]}`, "directors/selects", `{"type":"random","select":{"app":"none"}}`)
	want := map[string][]string{
		"backends/both": {vain("request", "h2c"), vain("expect_close", "h2c")}, "backends/inline": {vain("expect_close", "h2")},
		"directors/empty": {noMembers}, "directors/emptied": {noMembers},
	}
	check := func(tab *Table) {
		t.Helper()
		got := map[string][]string{}
		for key, warnings := range tab.Warnings() {
			got[key] = warnings
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	check(f.Current())

	delete(want, "backends/both") // the probe is another for all who name it
	delete(want, "directors/empty")
	check(f.put("probes/asks", `{}`, "directors/empty", ""))
}
