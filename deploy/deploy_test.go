// Package deploy_test checks what is deployed beside the program: the dashboard, the rules
// for alerts and the Debian package.
package deploy_test

import (
	"encoding/json"
	"log"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"roster/e2e/harness"
)

// built is a folder for what is built once, and removed in the end.
var built string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "roster-deploy-")
	if err != nil {
		log.Fatal(err)
	}
	built = dir
	code := harness.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// metrics are the names of series that docs/METRICS.md lists, which a test of package node
// holds to what is exported.
func metrics(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(roster_[a-z0-9_]+)` \\| ([a-z]+) ").FindAllStringSubmatch(read(t, "../docs/METRICS.md"), -1) {
		all[row[1]] = true
		if row[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				all[row[1]+suffix] = true
			}
		}
	}
	if len(all) < 50 {
		t.Fatalf("%d metrics on the page", len(all))
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// exist checks that all metrics which an expression names are there.
func exist(t *testing.T, where, text string, all map[string]bool) {
	t.Helper()
	for _, name := range regexp.MustCompile(`roster_[a-z0-9_]+`).FindAllString(text, -1) {
		if !all[name] {
			t.Errorf("%s names %s, which is not exported", where, name)
		}
	}
}

type rule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "prometheus/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// Every alert says what is wrong and what to do, and has a case where it fires and one
// where it does not.
func TestEachAlertIsTestedBothWays(t *testing.T) {
	t.Parallel()
	var cases struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/alerts_test.yaml")), &cases); err != nil {
		t.Fatal(err)
	}
	fires, quiet := make(map[string]bool), make(map[string]bool)
	for _, c := range cases.Tests {
		for _, a := range c.AlertRuleTest {
			if len(a.ExpAlerts) > 0 {
				fires[a.Alertname] = true
			} else {
				quiet[a.Alertname] = true
			}
		}
	}
	known, all := make(map[string]bool), metrics(t)
	for _, r := range rules(t) {
		if known[r.Alert] = true; !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s has a case where it fires: %t, and one where it does not: %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has severity %q and the annotations %q", r.Alert, s, r.Annotations)
		}
		exist(t, r.Alert, r.Expr, all)
	}
	for _, tested := range []map[string]bool{fires, quiet} {
		for name := range tested {
			if !known[name] { // which promtool takes for one that does not fire
				t.Errorf("there is no alert %s", name)
			}
		}
	}
	if len(known) < 10 {
		t.Errorf("%d alerts", len(known))
	}
}

func TestAlertsHoldTheirCases(t *testing.T) {
	t.Parallel()
	harness.Require(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "prometheus/alerts.yaml"}, {"test", "rules", "prometheus/alerts_test.yaml"}} {
		if r := harness.Run(t, "", nil, "promtool", args...); r.Code != 0 || !strings.Contains(r.Stdout, "SUCCESS") {
			t.Errorf("promtool %s: %v", strings.Join(args, " "), r)
		}
	}
}

// panel is what the test looks at of a panel of the dashboard.
type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, RefID string }
}

func dashboard(t *testing.T) (panels []panel) {
	t.Helper()
	var d struct {
		UID, Title string
		Panels     []panel
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/roster.json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" {
		t.Errorf("the dashboard has the uid %q and the title %q", d.UID, d.Title)
	}
	return d.Panels
}

// The dashboard shows each part, names only metrics that are exported, and no panel lies
// on another.
func TestDashboardShowsWhatIsExported(t *testing.T) {
	t.Parallel()
	all, ids, rows := metrics(t), make(map[int]bool), make(map[string]bool)
	taken := make(map[[2]int]string)
	for _, p := range dashboard(t) {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s has the id %d, as another has", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies on %q, or beside the page", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			rows[p.Title] = true
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s has %d queries and the description %q", p.Title, len(p.Targets), p.Description)
		}
		for _, target := range p.Targets {
			exist(t, p.Title, target.Expr, all)
		}
	}
	for _, want := range []string{"Fleet", "Requests", "Latency", "Clients", "Directors", "Backends", "Probes", "The machine"} {
		if !rows[want] {
			t.Errorf("there is no row %s in %v", want, slices.Sorted(maps.Keys(rows)))
		}
	}
}

// Prometheus understands each query of the dashboard.
func TestQueriesOfTheDashboardAreValid(t *testing.T) {
	t.Parallel()
	harness.Require(t, "promtool")
	type record struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var records []record
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", "roster", "$instance", ".*")
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			records = append(records, record{"dashboard:query", variables.Replace(target.Expr)})
		}
	}
	type group struct {
		Name  string   `yaml:"name"`
		Rules []record `yaml:"rules"`
	}
	b, err := yaml.Marshal(map[string][]group{"groups": {{"dashboard", records}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := harness.Run(t, "", nil, "promtool", "check", "rules", "--lint=none", file); r.Code != 0 || strings.Contains(string(b), "$") {
		t.Errorf("promtool check rules: %v", r)
	}
}
