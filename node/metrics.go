package node

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"roster/exchange"
	"roster/node/table"
	"roster/prober"
	"roster/store"
)

// perCertificate is up to how many definitions of certificates each has a series of its own.
const perCertificate = 1000

// newApplySeconds counts how long changes take: from 1 us to 8 s by doublings, and in
// native buckets a tenth wide.
func newApplySeconds() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "roster_apply_duration_seconds",
		Help:    "From a change's receipt to its table being in effect.",
		Buckets: prometheus.ExponentialBuckets(1e-6, 2, 24),

		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	})
}

// metrics serves the node's metrics. They are read from the runtime objects at
// the scrape, so that requests pay for an atomic add and no more.
func (n *Node) metrics() http.Handler {
	return promhttp.HandlerFor(n.registry(), promhttp.HandlerOpts{})
}

func (n *Node) registry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), n.applySeconds,
		&collector{node: n, build: readBuild(n.config.Version), begun: time.Now()})
	return registry
}

// A collector reads a node. Scrapes may be under way at the same time.
type collector struct {
	node  *Node
	build []string  // labels of buildInfo
	begun time.Time // of the counters

	mu       sync.Mutex
	counted  weak.Pointer[table.Table] // the last one whose
	dangling int                       // references were counted
}

// readBuild are the version, the revision it was built from, Go's version, and the level
// of definitions.
func readBuild(version string) []string {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return []string{version, revision, runtime.Version(), strconv.Itoa(store.Level)}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("roster_"+name, help, labels, nil)
}

var (
	buildInfo = desc("build_info", "Always 1; what this program was built from is in the labels.", "version", "revision", "goversion", "level")
	ready     = desc("ready", "1 if the node is ready for clients.")
	draining  = desc("draining", "1 once the node has been told to end.")

	appliedRevision = desc("applied_revision", "Newest etcd revision that touched the prefix and is applied.")
	seenRevision    = desc("seen_revision", "Newest etcd revision that the node has seen.")
	digest          = desc("table_digest", "The first 48 bits of the digest of what is in effect, as a number: nodes at one applied revision have the same.")
	connected       = desc("etcd_connected", "1 while a watch is open on the expected history of etcd.")
	staleness       = desc("etcd_staleness_seconds", "Time since it was last proven that no change was missed.")
	relists         = desc("etcd_relists_total", "Complete lists of the prefix after the first.")
	listHeld        = desc("etcd_list_held", "1 while an empty list of etcd is not believed.")
	heldBackends    = desc("backends_held", "Backends that etcd has not any more and that are served until their removal is acknowledged.")
	snapshotInUse   = desc("snapshot_in_use", "1 while the node serves what its snapshot had, for etcd has given nothing since the start.")
	snapshotWritten = desc("snapshot_written_timestamp_seconds", "When the snapshot was written, as a Unix time.")
	snapshotWrites  = desc("snapshot_writes_total", "Attempts at writing the snapshot.", "result")
	definitions     = desc("definitions", "Definitions in effect.", "kind")
	rejected        = desc("definitions_rejected", "Keys whose newest value is not in effect.")
	dangling        = desc("references_dangling", "References of definitions to names that nobody defines.")
	ignored         = desc("keys_ignored", "Keys under the prefix that are no definitions.")
	leaving         = desc("backends_leaving", "Removed backends that still have requests in progress.")
	pools           = desc("pools", "Connection pools, by distinct address.")
	localFaults     = desc("local_faults_total", "Connections not made for want of ports or descriptors.")

	requests     = desc("requests_total", "Requests by class of the answer; none where the client got no answer.", "class")
	failures     = desc("request_failures_total", "Requests that failed, by what went wrong.", "kind")
	retries      = desc("request_retries_total", "Requests sent once more, to the same or another backend.")
	refused      = desc("request_retries_refused_total", "Requests not sent once more because the retry budget of the director or backend was used up.")
	conditions   = desc("route_condition_errors_total", "Requests answered 500 because the condition of their route could not be computed.")
	skipped      = desc("route_conditions_skipped_total", "Conditions of routes that could not be computed and were taken for false, as on_error says.")
	ejections    = desc("director_ejections_total", "Members that directors ejected for failing requests (outlier).")
	panics       = desc("director_panic_picks_total", "Choices that a director made among all members because too few were available (panic).")
	lostSessions = desc("director_sessions_lost_total", "Requests whose session cookie led to no member that could be chosen, or to none at all.")
	duration     = desc("request_duration_seconds", "From a request's head received to its answer's last byte sent.")
	clients      = desc("client_connections", "Open connections of clients.")
	accepted     = desc("client_connections_total", "Connections accepted from clients.")
	received     = desc("client_received_bytes_total", "Bytes received from clients.")
	sent         = desc("client_sent_bytes_total", "Bytes sent to clients.")
	http2        = desc("client_connections_http2_total", "Connections of clients that spoke HTTP/2.")
	crowded      = desc("listener_full_total", "Times a listener had as many connections as it may have.")
	noHeader     = desc("proxy_header_refusals_total", "Connections refused for want of a PROXY header.")
	handshakes   = desc("tls_handshakes_total", "TLS handshakes of clients.", "result")
	certEnd      = desc("certificate_expiry_timestamp_seconds", "End of a certificate of the listeners, as a Unix time: of files by path, of definitions by name. Above 1000 definitions, of the one that ends first.", "source", "certificate")
	certReloads  = desc("certificate_reloads_total", "Changed certificate files that took effect.")
	certFailures = desc("certificate_reload_failures_total", "Changed certificate files that could not be used.")
	certStale    = desc("certificate_files_stale", "Certificate files that hold something that cannot be used; what was loaded before is in effect.")
	logged       = desc("access_log_lines_total", "Lines written to the access log.")
	tracedSpans  = desc("tracing_spans_total", "Spans of sampled requests: exported; failed, the collector did not take them; dropped, too many were waiting for it.", "result")
	selfDropped  = desc("log_dropped_total", "Lines of the node's own log that were dropped because the standard error did not keep up.")
	logDropped   = desc("access_log_dropped_total", "Lines of the access log that were dropped because its output did not keep up.")
	allActive    = desc("backends_requests_active", "Requests in progress, over all backends.")
	allQueued    = desc("backends_requests_queued", "Requests waiting for a slot, over all backends.")
	backendCount = desc("backend_requests_total", "Requests given to a backend.", "backend")
	seriesless   = desc("backends_without_series", "Backends that have no series of their own.")
	backendFails = desc("backend_failures_total", "Requests that got no whole answer from a backend.", "backend")
	active       = desc("backend_requests_active", "Requests in progress.", "backend")
	queued       = desc("backend_requests_queued", "Requests waiting for a slot.", "backend")
	healthy      = desc("backend_available", "1 if new requests may be sent to the backend.", "backend")
	probers      = desc("probers", "Distinct checks of backends that are probed.")
	probes       = desc("probes_total", "Probes by result: good, bad, local (failed for a fault of this machine, which says nothing of a backend), cancelled.", "result")
	seeded       = desc("probers_seeded", "Distinct checks that began with what another node knew of them when this one started.")
	probing      = desc("probes_running", "Probes under way.")
	probesQueued = desc("probes_waiting", "Probes that are due and wait for a place.")
	lateness     = desc("probe_lateness_seconds", "How long after their time probes were started.")
	sick         = desc("backends_sick", "Backends that get no new requests: sick by their probe or an override, drained, or at fault.")
	overridden   = desc("overrides", "Words of operators on the health of backends and directors that are in effect.")
	transitions  = desc("health_transitions_total", "Verdicts of probes that changed.", "to")
	probeAge     = desc("backend_probe_last_run_age_seconds", "Since the backend's last probe ended; there is none before the first.", "backend")
	probeGood    = desc("backend_probe_good", "Good probes in the backend's window.", "backend")
	probeAverage = desc("backend_probe_response_seconds", "Average response time of good probes.", "backend")
	connections  = desc("backend_connections", "Connections of a backend's pool, which others at its address share.", "backend", "state")
)

// Describe sends nothing: which series there are depends on the table.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	n := c.node
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	flag := func(d *prometheus.Desc, v bool, labels ...string) {
		if v {
			gauge(d, 1, labels...)
		} else {
			gauge(d, 0, labels...)
		}
	}
	gauge(buildInfo, 1, c.build...)
	flag(ready, n.Ready())
	flag(draining, n.draining.Load())

	t, w := n.Table(), n.watcher.Status()
	gauge(appliedRevision, float64(t.Revision()))
	gauge(seenRevision, float64(n.seen()))
	gauge(digest, float64(t.Digest()[0]>>16)) // what a float64 holds exactly, with room
	flag(connected, w.Connected)
	flag(listHeld, w.Held != "")
	gauge(heldBackends, float64(n.guard.Held().Count))
	if !w.Fresh.IsZero() {
		gauge(staleness, time.Since(w.Fresh).Seconds())
	}
	count(relists, uint64(w.Relists))
	if s := n.snapshotStatus(w); s != nil {
		flag(snapshotInUse, s.InUse)
		if s.Written != nil {
			gauge(snapshotWritten, float64(s.Written.UnixMilli())/1000)
		}
		count(snapshotWrites, s.Writes, "ok")
		count(snapshotWrites, s.Failures, "failed")
	}
	counts := t.Counts()
	gauge(definitions, float64(counts.Backends), "backends")
	gauge(definitions, float64(counts.Directors), "directors")
	gauge(definitions, float64(counts.Routes), "routes")
	gauge(definitions, float64(counts.Probes), "probes")
	gauge(definitions, float64(counts.Certificates), "certificates")
	gauge(rejected, float64(counts.Rejected))
	gauge(dangling, float64(c.countDangling(t)))
	gauge(ignored, float64(w.Ignored))
	gauge(leaving, float64(n.applier.Leaving()))
	gauge(pools, float64(n.pools.Pools()))
	count(localFaults, n.pools.LocalFaults())

	c.collectProbes(out)
	s := n.proxy.Stats()
	for class, v := range s.Requests {
		count(requests, v, [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}[class])
	}
	for kind, v := range s.Failures {
		if exchange.Kind(kind) != exchange.None {
			count(failures, v, exchange.Kind(kind).String())
		}
	}
	count(retries, s.Retries)
	count(refused, s.RetriesRefused)
	count(conditions, s.Conditions)
	count(skipped, s.Skipped)
	d := n.applier.Stats()
	count(ejections, d.Ejections)
	count(panics, d.PanicPicks)
	count(lostSessions, d.LostSessions)
	out <- histogram(duration, s.Latency, c.begun)
	gauge(clients, float64(s.Connections))
	count(accepted, s.Accepted)
	count(received, s.Received)
	count(sent, s.Sent)
	count(http2, s.HTTP2)
	count(crowded, s.Crowded)
	count(noHeader, s.NoHeader)
	count(handshakes, s.Handshakes, "ok")
	count(handshakes, s.BadTLS, "failed")
	if n.certs != nil {
		st := n.certs.Stats(perCertificate)
		for _, c := range st.Files {
			gauge(certEnd, float64(c.NotAfter.Unix()), "file", strings.ToValidUTF8(c.Name, "?"))
		}
		for _, c := range st.Defined {
			gauge(certEnd, float64(c.NotAfter.Unix()), "definition", c.Name)
		}
		count(certReloads, st.Reloads)
		count(certFailures, st.Failures)
		gauge(certStale, float64(st.Stale))
	}
	count(selfDropped, n.config.LogDropped())
	if log := n.log.Load(); log != nil {
		count(logged, log.Written())
		count(logDropped, log.Dropped())
	}
	if n.tracer != nil {
		if st, ok := n.tracer.Stats(); ok {
			count(tracedSpans, st.Exported, "exported")
			count(tracedSpans, st.Failed, "failed")
			count(tracedSpans, st.Dropped, "dropped")
		}
	}

	var sumActive, sumQueued, sumSick, words int
	own := choice{MetricsConfig: n.config.Metrics}
	for slot := range t.Slots("", "") {
		if slot.Override != nil && slot.Override.Def.State != store.Auto {
			words++
		}
		b := slot.Backend
		if b == nil {
			continue
		}
		if !slot.Available() {
			sumSick++
		}
		sumActive += b.Runtime.Active()
		sumQueued += b.Runtime.Queued()
		own.offer(slot)
	}
	gauge(allActive, float64(sumActive))
	gauge(allQueued, float64(sumQueued))
	gauge(sick, float64(sumSick))
	gauge(overridden, float64(words))
	gauge(seriesless, float64(counts.Backends-len(own.kept)))
	for _, chosen := range own.slots() {
		slot, b := chosen.slot, chosen.slot.Backend
		count(backendCount, chosen.requests, b.Name)
		count(backendFails, b.Runtime.Failures.Load(), b.Name)
		gauge(active, float64(b.Runtime.Active()), b.Name)
		gauge(queued, float64(b.Runtime.Queued()), b.Name)
		flag(healthy, slot.Available(), b.Name)
		if b.Probe != nil {
			probe := b.Probe.Snapshot()
			if probe.Probes > 0 {
				gauge(probeAge, time.Since(probe.At).Seconds(), b.Name)
			}
			gauge(probeGood, float64(probe.Good), b.Name)
			gauge(probeAverage, probe.Average.Seconds(), b.Name)
		}
		if b.Pool != nil {
			stats := b.Pool.Stats()
			gauge(connections, float64(stats.Active), b.Name, "active")
			gauge(connections, float64(stats.Idle), b.Name, "idle")
		}
	}
}

// countDangling walks all references once for each table that is scraped.
func (c *collector) countDangling(t *table.Table) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if this := weak.Make(t); this != c.counted {
		c.counted, c.dangling = this, 0
		for range t.Dangling() {
			c.dangling++
		}
	}
	return c.dangling
}

func (c *collector) collectProbes(out chan<- prometheus.Metric) {
	st := c.node.probers.Stats()
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	count := func(d *prometheus.Desc, v uint64, label string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label)
	}
	gauge(probers, st.Probers)
	all := 0
	for _, count := range c.node.probers.Seeded() {
		all += count
	}
	gauge(seeded, all)
	gauge(probing, st.Running)
	gauge(probesQueued, st.Waiting)
	count(probes, st.Good, "good")
	count(probes, st.Bad, "bad")
	count(probes, st.Local, "local")
	count(probes, st.Cancelled, "cancelled")
	count(transitions, st.WentHealthy, "healthy")
	count(transitions, st.WentSick, "sick")
	buckets := make(map[float64]uint64)
	var total uint64
	for i, bound := range prober.LatenessBounds {
		total += st.Lateness.Counts[i]
		buckets[bound.Seconds()] = total
	}
	total += st.Lateness.Counts[len(prober.LatenessBounds)]
	out <- prometheus.MustNewConstHistogram(lateness, total, st.Lateness.Sum.Seconds(), buckets)
}
