//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"roster/bench/internal/rig"
)

// usage is CPU time of etcd, its proxies, and the nodes, each together.
type usage struct {
	Etcd    float64 `json:"etcd"`
	Proxies float64 `json:"proxies"`
	Nodes   float64 `json:"nodes"`
}

// quantiles are of durations, in milliseconds.
type quantiles struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// result is what came out of one scene.
type result struct {
	Kind    kind `json:"kind"`
	Nodes   int  `json:"nodes"`
	Proxies int  `json:"proxies"`
	Puts    int  `json:"puts"`

	Served quantiles `json:"served"` // of each node and put
	All    quantiles `json:"all"`    // of each put, until the last node
	Acked  quantiles `json:"acked"`  // until etcd answered the put

	Rest        usage   `json:"rest_percent"` // of one core, nothing being put
	Put         usage   `json:"put_cpu_ms"`   // of a put, beyond that
	Presence    float64 `json:"presence_writes_per_put"`
	EtcdBefore  int64   `json:"etcd_bytes_before,omitempty"` // resident without nodes
	EtcdMemory  int64   `json:"etcd_bytes"`
	ProxyMemory int64   `json:"proxy_bytes"`

	served, all, acked []time.Duration
}

// count makes the quantiles of what was sampled.
func (r *result) count() {
	r.Puts = len(r.all)
	r.Served, r.All, r.Acked = quantilesOf(r.served), quantilesOf(r.all), quantilesOf(r.acked)
}

// quantilesOf are the smallest samples that half, and 99 of 100, are not above, and the
// largest.
func quantilesOf(all []time.Duration) (q quantiles) {
	if len(all) == 0 {
		return q
	}
	all = slices.Sorted(slices.Values(all))
	at := func(percent int) float64 {
		return float64(all[(len(all)*percent+99)/100-1].Microseconds()) / 1e3
	}
	return quantiles{at(50), at(99), at(100)}
}

// report is all of a run.
type report struct {
	Began   time.Time `json:"began"`
	Machine string    `json:"machine"`
	Options string    `json:"options"`
	Load    []string  `json:"load"` // before and after
	Results []result  `json:"results"`
}

// write writes tables.
func (a *report) write(out io.Writer) {
	fmt.Fprintf(out, "%s, %s, load average %s before and %s after.\n%s\n", a.Began.UTC().Format("2006-01-02 15:04 UTC"), a.Machine, a.Load[0], a.Load[1], a.Options)
	a.table(out, "Put to served", func(k kind) bool { return k == processes })
	a.table(out, "Simulated nodes", func(k kind) bool { return k != processes })
}

func (a *report) table(out io.Writer, title string, of func(kind) bool) {
	simulated := !of(processes)
	heads := []string{"nodes", "grpc-proxies", "puts", "a node p50 ms", "p99", "max", "the last node p50 ms", "p99", "max", "etcd's answer p50 ms", "p99",
		"etcd at rest %", "proxies", "etcd ms/put", "proxies"}
	if !simulated {
		heads = append(heads, "a node at rest %", "a node ms/put")
	}
	heads = append(heads, "presence writes/put", "etcd MiB", "proxies MiB")
	if simulated {
		heads = append(heads, "etcd MiB before")
	}
	rows := [][]string{heads}
	for _, r := range a.Results {
		if !of(r.Kind) {
			continue
		}
		ms := func(all ...float64) (cells []string) {
			for _, v := range all {
				cells = append(cells, fmt.Sprintf("%.1f", v))
			}
			return cells
		}
		mib := func(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }
		name := fmt.Sprint(r.Nodes)
		if simulated {
			name += " " + string(r.Kind)
		}
		row := append([]string{name, fmt.Sprint(r.Proxies), fmt.Sprint(r.Puts)},
			ms(r.Served.P50, r.Served.P99, r.Served.Max, r.All.P50, r.All.P99, r.All.Max, r.Acked.P50, r.Acked.P99,
				r.Rest.Etcd, r.Rest.Proxies, r.Put.Etcd, r.Put.Proxies)...)
		if !simulated {
			row = append(row, fmt.Sprintf("%.2f", r.Rest.Nodes/float64(r.Nodes)), fmt.Sprintf("%.2f", r.Put.Nodes/float64(r.Nodes)))
		}
		row = append(row, fmt.Sprintf("%.1f", r.Presence), mib(r.EtcdMemory), mib(r.ProxyMemory))
		if simulated {
			row = append(row, mib(r.EtcdBefore))
		}
		rows = append(rows, row)
	}
	if len(rows) > 1 {
		fmt.Fprintf(out, "\n### %s\n\n", title)
		rig.Markdown(out, rows)
	}
}
