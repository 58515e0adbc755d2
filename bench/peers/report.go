//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"

	"roster/bench/internal/rig"
)

// round is what one proxy did in one round.
type round struct {
	Requests  int     `json:"requests"`
	CPU       float64 `json:"cpu_us"`     // of a request, user and system
	System    float64 `json:"system_us"`  // of that
	All       float64 `json:"all_cpu_us"` // with what load generator and origin need
	Rate      float64 `json:"requests_per_s"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Resident  float64 `json:"resident_bytes"`
	RatioCPU  float64 `json:"cpu_ratio,omitempty"`  // to the reference in the same round
	RatioRate float64 `json:"rate_ratio,omitempty"` // 0: there is none

	beside string // what the command beside said
}

// series are a proxy's rounds in one scenario.
type series struct {
	Proxy  string  `json:"proxy"`
	Rounds []round `json:"rounds"`
	Calls  calls   `json:"calls,omitempty"` // system calls of a request, by name
}

// result is what came out of one scenario.
type result struct {
	Scenario string   `json:"scenario"`
	Title    string   `json:"title"`
	Aim      float64  `json:"aim"`
	Against  string   `json:"against"` // the reference of ratios
	Series   []series `json:"series,omitempty"`
	Open     *opened  `json:"open,omitempty"` // with -open, instead
}

// compare fills in the ratios to the reference by round.
func (r *result) compare() {
	var reference []round
	for _, s := range r.Series {
		if s.Proxy == r.Against {
			reference = slices.Clone(s.Rounds)
		}
	}
	for _, s := range r.Series {
		for i := range min(len(reference), len(s.Rounds)) {
			if reference[i].CPU > 0 && reference[i].Rate > 0 {
				s.Rounds[i].RatioCPU = s.Rounds[i].CPU / reference[i].CPU
				s.Rounds[i].RatioRate = s.Rounds[i].Rate / reference[i].Rate
			}
		}
	}
}

// spread is the median of rounds, the least and the most.
type spread struct{ median, least, most float64 }

func (s series) spread(of func(round) float64) spread {
	var all []float64
	for _, r := range s.Rounds {
		all = append(all, of(r))
	}
	return spreadOf(all)
}

func spreadOf(all []float64) spread {
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[n/2] + all[(n-1)/2]) / 2, all[0], all[n-1]}
}

func (s spread) format(verb string, unit float64) string {
	f := "%" + verb + " (%" + verb + "..%" + verb + ")"
	return fmt.Sprintf(f, s.median/unit, s.least/unit, s.most/unit)
}

// table writes one scenario's result: medians, and beside each the least and the most.
func (r *result) table(w io.Writer) {
	fmt.Fprintf(w, "\n### %s: %s\n\n", r.Scenario, r.Title)
	if r.Open != nil {
		r.Open.table(w)
		return
	}
	rows := [][]string{{"proxy", "CPU us/request", "of it system", "with load and origin", "CPU to " + r.Against, "requests/s", "to " + r.Against, "p50 us", "p99 us", "resident MiB"}}
	for _, s := range r.Series {
		row := []string{
			s.Proxy,
			s.spread(func(r round) float64 { return r.CPU }).format(".1f", 1),
			s.spread(func(r round) float64 { return r.System }).format(".1f", 1),
			s.spread(func(r round) float64 { return r.All }).format(".1f", 1),
			s.spread(func(r round) float64 { return r.RatioCPU }).format(".2f", 1),
			s.spread(func(r round) float64 { return r.Rate }).format(".0f", 1),
			s.spread(func(r round) float64 { return r.RatioRate }).format(".2f", 1),
			s.spread(func(r round) float64 { return r.P50 }).format(".0f", 1),
			s.spread(func(r round) float64 { return r.P99 }).format(".0f", 1),
			s.spread(func(r round) float64 { return r.Resident }).format(".1f", 1<<20),
		}
		if s.Proxy == r.Against {
			row[4], row[6] = "1", "1"
		}
		rows = append(rows, row)
	}
	rig.Markdown(w, rows)
	for _, s := range r.Series {
		if s.Calls != nil {
			fmt.Fprintf(w, "System calls of a request, %s: %v\n", s.Proxy, s.Calls)
		}
	}
}

// summary writes one line for each scenario: roster's CPU time against its aim.
func summary(w io.Writer, results []result) {
	results = slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.Aim == 0 || r.Open != nil })
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(w, "\n### roster's CPU time of a request\n\n")
	rows := [][]string{{"scenario", "against", "aim, at most", "measured", "met", "requests/s"}}
	for _, r := range results {
		for _, s := range r.Series {
			if s.Proxy != roster {
				continue
			}
			ratio := s.spread(func(r round) float64 { return r.RatioCPU })
			met := "no"
			if ratio.median <= r.Aim {
				met = "yes"
			}
			rate := s.spread(func(r round) float64 { return r.RatioRate })
			rows = append(rows, []string{
				r.Scenario + ": " + r.Title, r.Against, fmt.Sprintf("%.2f", r.Aim), ratio.format(".2f", 1), met, rate.format(".2f", 1),
			})
		}
	}
	rig.Markdown(w, rows)
}
