package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"roster/e2e/harness"
)

// prometheus is a real one that scrapes a node, with the alerts that come with roster.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, node *harness.Node, flags ...string) *prometheus {
	t.Helper()
	harness.Require(t, "prometheus")
	dir, address := t.TempDir(), harness.FreeAddress(t)
	config := fmt.Sprintf(`
global: {scrape_interval: 100ms, evaluation_interval: 100ms}
rule_files: [%q]
scrape_configs:
  - job_name: roster
    static_configs: [{targets: [%q]}]
`, filepath.Join(harness.Root(t), "deploy", "prometheus", "alerts.yaml"), node.AdminAddress())
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.StartProcess(t, "prometheus", "prometheus", append([]string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address,
	}, flags...), nil)
	return &prometheus{t, "http://" + address}
}

// until waits until a query has a result.
func (p *prometheus) until(query string) {
	p.t.Helper()
	harness.Until(p.t, query, func() (bool, any) {
		resp, err := http.Get(p.url + "/api/v1/query?" + url.Values{"query": {query}}.Encode())
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		var answer struct {
			Error string
			Data  struct{ Result []any }
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return false, err
		}
		if answer.Error != "" {
			p.t.Fatalf("%s: %s", query, answer.Error)
		}
		return len(answer.Data.Result) > 0, answer
	})
}

// Prometheus takes what a node exports, by classic and by native histograms, and its alerts.
func TestPrometheusScrapesANode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flags []string
		query string
	}{
		"classic": {nil, `histogram_quantile(0.5, roster_request_duration_seconds_bucket{job="roster"}) > 0`},
		"native":  {[]string{"--enable-feature=native-histograms"}, `histogram_quantile(0.5, roster_request_duration_seconds{job="roster"}) > 0 and histogram_count(roster_request_duration_seconds) == 20`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := harness.StartNode(t, harness.NodeConfig{})
			web := harness.StartOrigin(t, "web-1")
			node.WaitRevision(node.Put("/roster/backends/web-1", web.Definition()))
			p := startPrometheus(t, node, test.flags...)
			for range 20 {
				node.Get("/")
			}
			p.until(`roster_requests_total{class="2xx"} == 20`)
			p.until(test.query)

			node.Put("/roster/backends/web-2", `{"hots": "10.0.0.7"}`)
			p.until(`ALERTS{alertname="RosterDefinitionsRejected", instance="` + node.AdminAddress() + `", alertstate="pending"}`)
		})
	}
}
