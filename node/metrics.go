package node

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"roster/exchange"
	"roster/node/proxy"
	"roster/prober"
	"roster/store"
)

// perBackend is up to how many backends, or certificates, each has series of its
// own. Above it, only sums are exported: at ten series a backend a scrape of 100,000 would be
// some 100 MB.
const perBackend = 1000

// newApplySeconds counts how long changes take, from 1 us to 8 s by doublings.
func newApplySeconds() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "roster_apply_duration_seconds",
		Help:    "From a change's receipt to its table being in effect.",
		Buckets: prometheus.ExponentialBuckets(1e-6, 2, 24),
	})
}

// metrics serves the node's metrics. They are read from the runtime objects at
// the scrape, so that requests pay for an atomic add and no more.
func (n *Node) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), n.applySeconds, &collector{node: n})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

type collector struct{ node *Node }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("roster_"+name, help, labels, nil)
}

var (
	buildInfo = desc("build_info", "Always 1; the version is a label.", "version")
	ready     = desc("ready", "1 if the node is ready for clients.")

	appliedRevision = desc("applied_revision", "Newest etcd revision that touched the prefix and is applied.")
	seenRevision    = desc("seen_revision", "Newest etcd revision that the node has seen.")
	connected       = desc("etcd_connected", "1 while a watch is open on the expected history of etcd.")
	staleness       = desc("etcd_staleness_seconds", "Time since it was last proven that no change was missed.")
	relists         = desc("etcd_relists_total", "Complete lists of the prefix after the first.")
	definitions     = desc("definitions", "Definitions in effect.", "kind")
	rejected        = desc("definitions_rejected", "Keys whose newest value is not in effect.")
	ignored         = desc("keys_ignored", "Keys under the prefix that are no definitions.")
	leaving         = desc("backends_leaving", "Removed backends that still have requests in progress.")
	pools           = desc("pools", "Connection pools, by distinct address.")
	localFaults     = desc("local_faults_total", "Connections not made for want of ports or descriptors.")

	requests     = desc("requests_total", "Requests by class of the answer; none where the client got no answer.", "class")
	failures     = desc("request_failures_total", "Requests that failed, by what went wrong.", "kind")
	retries      = desc("request_retries_total", "Requests sent once more, to the same or another backend.")
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
	logDropped   = desc("access_log_dropped_total", "Lines of the access log that were dropped because its output did not keep up.")
	allActive    = desc("backends_requests_active", "Requests in progress, over all backends.")
	allQueued    = desc("backends_requests_queued", "Requests waiting for a slot, over all backends.")
	backendCount = desc("backend_requests_total", "Requests given to a backend. There are series for each backend only while there are at most 1000.", "backend")
	backendFails = desc("backend_failures_total", "Requests that got no whole answer from a backend.", "backend")
	active       = desc("backend_requests_active", "Requests in progress.", "backend")
	queued       = desc("backend_requests_queued", "Requests waiting for a slot.", "backend")
	healthy      = desc("backend_available", "1 if new requests may be sent to the backend.", "backend")
	probers      = desc("probers", "Distinct checks of backends that are probed.")
	probes       = desc("probes_total", "Probes by result: good, bad, local (failed for a fault of this machine, which says nothing of a backend), cancelled.", "result")
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
	gauge(buildInfo, 1, n.config.Version)
	flag(ready, n.Ready())

	t, w := n.Table(), n.watcher.Status()
	gauge(appliedRevision, float64(t.Revision()))
	gauge(seenRevision, float64(n.seen()))
	flag(connected, w.Connected)
	if !w.Fresh.IsZero() {
		gauge(staleness, time.Since(w.Fresh).Seconds())
	}
	count(relists, uint64(w.Relists))
	counts := t.Counts()
	gauge(definitions, float64(counts.Backends), "backends")
	gauge(definitions, float64(counts.Directors), "directors")
	gauge(definitions, float64(counts.Routes), "routes")
	gauge(definitions, float64(counts.Probes), "probes")
	gauge(definitions, float64(counts.Certificates), "certificates")
	gauge(rejected, float64(counts.Rejected))
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
	out <- histogram(duration, s.Latency)
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
		st := n.certs.Stats(perBackend)
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
	if log := n.log.Load(); log != nil {
		count(logged, log.Written())
		count(logDropped, log.Dropped())
	}

	var sumActive, sumQueued, sumSick, words int
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
		if counts.Backends > perBackend {
			continue
		}
		count(backendCount, b.Runtime.Requests.Load(), b.Name)
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
	gauge(allActive, float64(sumActive))
	gauge(allQueued, float64(sumQueued))
	gauge(sick, float64(sumSick))
	gauge(overridden, float64(words))
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

// histogram halves the proxy's resolution: two buckets for each doubling.
func histogram(desc *prometheus.Desc, l proxy.Latency) prometheus.Metric {
	buckets := make(map[float64]uint64)
	var count uint64
	for i, v := range l.Buckets {
		count += v
		if i%2 == 1 {
			buckets[l.Bound(i).Seconds()] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, l.Sum.Seconds(), buckets)
}
