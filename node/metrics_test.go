package node

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"roster/e2e/harness"
	"roster/node/accesslog"
	"roster/node/certs"
	"roster/node/certs/certstest"
	"roster/node/proxy"
	"roster/node/table"
	"roster/store"
	"roster/store/storetest"
)

// full starts a node that has everything that metrics are about, and has served a request.
func full(t *testing.T) *running {
	t.Helper()
	etcd := storetest.Etcd(t)
	cert, key := certstest.NewCA(t).Issue(t, "www.example").Write(t, t.TempDir(), "www")
	n := run(t, etcd, func(c *Config) {
		c.Listen = append(c.Listen, "tls://127.0.0.1:0")
		c.Certificates.Files = []certs.Pair{{Cert: cert, Key: key}}
		c.AccessLog = accesslog.Config{Format: accesslog.JSON, File: filepath.Join(t.TempDir(), "access.log")}
		c.Tracing.Endpoint = "http://127.0.0.1:4318" // nothing is sampled
		c.Version = "1.2.3"
		c.Snapshot = filepath.Join(t.TempDir(), "snapshot")
	})
	o := newChecked(t, 200)
	w := writer{t, etcd.Client(), []*running{n}}
	w.put("backends/a", o.definition(once), "directors/default", `{"type":"round_robin","backends":["a","gone"]}`)
	until(t, "the first probe and the first proof", func() bool { return n.healthy("a") && n.Status().Etcd.FreshMS != nil && n.Status().Snapshot.Writes > 0 })
	if code := n.get("/"); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	until(t, "the request's end", func() bool { return n.proxy.Stats().Requests[2] == 1 })
	return n
}

// gathered are a node's own metrics by name.
func gathered(t testing.TB, n *Node) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := n.registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "roster_") {
			all[f.GetName()] = f
		}
	}
	return all
}

// docs/METRICS.md has each metric that a node exports with its type and labels, and no other.
func TestMetricsPageListsWhatIsExported(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(roster_[a-z0-9_]+)` \\| ([a-z]+) \\|([^|]*)\\|([^|]*)\\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		labels := regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(row[4], -1)
		var names []string
		for _, l := range labels {
			names = append(names, l[1])
		}
		slices.Sort(names)
		if documented[row[1]] != "" {
			t.Errorf("the page has %s twice", row[1])
		}
		documented[row[1]] = row[2] + " " + strings.Join(names, ",")
		if strings.TrimSpace(row[5]) == "" {
			t.Errorf("the page does not say what %s says", row[1])
		}
		if unit := strings.TrimSpace(row[3]); strings.HasSuffix(row[1], "_seconds") != (unit == "seconds" || unit == "Unix time") {
			t.Errorf("the page gives %s the unit %q", row[1], unit)
		}
	}
	exported := make(map[string]string)
	for name, f := range gathered(t, full(t).Node) {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		exported[name] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ",")
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if documented[name] != exported[name] {
			t.Errorf("%s is a %s, and on the page %q", name, exported[name], documented[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if exported[name] == "" {
			t.Errorf("the page has %s, which is not exported", name)
		}
	}
}

// Prometheus's own check of names and types has nothing to say.
func TestPromtoolFindsNothingInTheMetrics(t *testing.T) {
	t.Parallel()
	harness.Require(t, "promtool")
	n := full(t)
	resp, err := http.Get("http://" + n.admin.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = resp.Body
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// Who asks for protocol buffers gets native histograms, everybody else classic buckets.
func TestRequestDurationIsANativeHistogramAndAClassicOne(t *testing.T) {
	t.Parallel()
	n := full(t)
	for _, name := range []string{"roster_request_duration_seconds", "roster_apply_duration_seconds"} {
		h := gathered(t, n.Node)[name].GetMetric()[0].GetHistogram()
		if h.GetSampleCount() == 0 || len(h.GetBucket()) < 20 || h.GetSchema() < 3 || len(h.GetPositiveSpan()) == 0 {
			t.Errorf("%s: %v", name, h)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.admin.String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	const protobuf = "application/vnd.google.protobuf"
	req.Header.Set("Accept", protobuf+";proto=io.prometheus.client.MetricFamily;encoding=delimited")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, protobuf) {
		t.Errorf("Content-Type is %q", got)
	}
}

// A native bucket holds the middle of each of the proxy's buckets that it counts, and no
// two of them; so a quantile is off by an eighth at most.
func TestNativeBucketsAreAsFineAsTheProxys(t *testing.T) {
	t.Parallel()
	var l proxy.Latency
	taken := make(map[int]int)
	for i := 1; i < len(l.Buckets); i++ {
		low, high := l.Bound(i-1).Seconds(), l.Bound(i).Seconds()
		k := nativeBucket((low + high) / 2)
		if before, ok := taken[k]; ok {
			t.Errorf("buckets %d and %d of the proxy are both in bucket %d", before, i, k)
		}
		taken[k] = i
		if end := math.Exp2(float64(k) / 8); i >= 4 && (end < (low+high)/2 || math.Exp2(float64(k-1)/8) > (low+high)/2) {
			t.Errorf("bucket %d ends at %v, and the middle of the proxy's bucket %d is %v", k, end, i, (low+high)/2)
		}
		l.Buckets[i] = uint64(i)
	}
	l.Buckets[0] = 7
	var m dto.Metric
	if err := histogram(duration, l, time.Unix(1, 0)).Write(&m); err != nil {
		t.Fatal(err)
	}
	h := m.GetHistogram()
	var count, total int64
	for _, d := range h.GetPositiveDelta() {
		count += d
		total += count
	}
	want := int64(len(l.Buckets) * (len(l.Buckets) - 1) / 2)
	if total != want || h.GetZeroCount() != 7 || h.GetSampleCount() != uint64(want)+7 {
		t.Errorf("%d in native buckets, %d at zero, %d in all, want %d, 7 and their sum", total, h.GetZeroCount(), h.GetSampleCount(), want)
	}
	last := h.GetBucket()[len(h.GetBucket())-1]
	if last.GetCumulativeCount() != h.GetSampleCount() {
		t.Errorf("%d in classic buckets, want %d", last.GetCumulativeCount(), h.GetSampleCount())
	}
}

// The series of backends are bounded whatever their number, and those asked for by a label come first.
func TestSeriesOfBackendsAreBounded(t *testing.T) {
	t.Parallel()
	slot := func(name string, requests uint64, label string) *table.Slot {
		s := &table.Slot{Name: name, Backend: &table.Backend{Name: name, Def: &store.Backend{}, Runtime: new(table.Runtime)}}
		s.Backend.Runtime.Requests.Add(requests)
		if label != "" {
			s.Backend.Def.Labels = store.Labels{{Name: SeriesLabel, Value: label}}
		}
		return s
	}
	for _, test := range []struct {
		series Series
		limit  int
		want   string
	}{
		{TopSeries, 1000, "a b c d e f g h"},
		{TopSeries, 4, "b d e h"}, // e and h are labelled, b and d the busiest
		{TopSeries, 3, "d e h"},
		{TopSeries, 1, "e"},
		{TopSeries, 6, "a b c d e h"}, // of those without a request the first by name
		{LabelledSeries, 1000, "e h"},
		{LabelledSeries, 1, "e"}, // the busier one
		{AllSeries, 1, "a b c d e f g h"},
		{NoSeries, 1000, ""},
	} {
		t.Run(fmt.Sprint(test.series, " ", test.limit), func(t *testing.T) {
			t.Parallel()
			c := choice{MetricsConfig: MetricsConfig{Backends: test.series, Limit: test.limit}}
			for _, s := range []*table.Slot{
				slot("a", 0, ""), slot("b", 5, ""), slot("c", 1, ""), slot("d", 9, ""),
				slot("e", 2, "on"), slot("f", 0, "off"), slot("g", 0, ""), slot("h", 0, "on"),
			} {
				c.offer(s)
			}
			var got []string
			for _, kept := range c.slots() {
				got = append(got, kept.slot.Name)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("series for %v, want %s", got, test.want)
			}
		})
	}
}

// The number of series that a scrape has does not grow with the fleet.
func TestAScrapeHasNoMoreSeriesThanItsLimitAllows(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd, func(c *Config) { c.Metrics.Limit = 5 })
	w := writer{t, etcd.Client(), []*running{n}}
	series := func() (all, own int) {
		for _, f := range gathered(t, n.Node) {
			all += len(f.GetMetric())
		}
		if f := gathered(t, n.Node)["roster_backend_available"]; f != nil {
			own = len(f.GetMetric())
		}
		return all, own
	}
	var sizes []int
	for batch := range 3 {
		var pairs []string
		for i := range 40 {
			pairs = append(pairs, fmt.Sprintf("backends/b-%d-%d", batch, i), `{"host":"127.0.0.1"}`)
		}
		w.put(pairs...)
		all, own := series()
		if own != 5 {
			t.Errorf("%d backends have series, want 5", own)
		}
		if got := gathered(t, n.Node)["roster_backends_without_series"].GetMetric()[0].GetGauge().GetValue(); got != float64(40*(batch+1)-5) {
			t.Errorf("%v backends without series", got)
		}
		sizes = append(sizes, all)
	}
	if sizes[0] != sizes[1] || sizes[1] != sizes[2] {
		t.Errorf("a scrape has %v series as the fleet grows", sizes)
	}
}

// Nodes at one revision have one digest, and a change changes it.
func TestDigestIsComparable(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	nodes := []*running{run(t, etcd), run(t, etcd)}
	w := writer{t, etcd.Client(), nodes}
	value := func(n *running, name string) float64 {
		return gathered(t, n.Node)[name].GetMetric()[0].GetGauge().GetValue()
	}
	seen := map[float64]bool{}
	for i := range 3 {
		revision := w.put("backends/a", fmt.Sprintf(`{"host":"127.0.0.%d"}`, i+1))
		a, b := value(nodes[0], "roster_table_digest"), value(nodes[1], "roster_table_digest")
		if a != b || a == 0 || seen[a] || a != math.Trunc(a) {
			t.Errorf("digests %v and %v", a, b)
		}
		seen[a] = true
		if got := value(nodes[0], "roster_applied_revision"); got != float64(revision) {
			t.Errorf("applied revision %v, want %d", got, revision)
		}
	}
}

// References are counted anew when the table has changed, and not in between.
func TestDanglingReferencesAreCounted(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	n := run(t, etcd)
	w := writer{t, etcd.Client(), []*running{n}}
	registry := n.registry()
	count := func() float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "roster_references_dangling" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	w.put("directors/d", `{"type":"random","backends":["x","y"]}`)
	if a, b := count(), count(); a != 2 || b != 2 {
		t.Errorf("%v and %v, want 2", a, b)
	}
	w.put("backends/x", `{"host":"127.0.0.1"}`)
	if got := count(); got != 1 {
		t.Errorf("%v, want 1", got)
	}
}

func TestMetricsConfigIsChecked(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]MetricsConfig{
		`metrics-backends is "some", want top, labelled, all or none`: {Backends: "some"},
		"metrics-backends-limit is -1, want 1 or more":                {Limit: -1},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := (MetricsConfig{}).Validate(); err != nil {
		t.Error(err)
	}
}
