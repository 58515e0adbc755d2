//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"roster/bench/internal/rig"
)

const (
	openShare = 0.6 // of the most that HAProxy bears
	openAim   = 1.1 // at most, of HAProxy's p99
)

// opened is what came of one scenario at a fixed rate.
type opened struct {
	Most   float64      `json:"haproxy_requests_per_s"` // with the same generator, without a rate
	Rate   float64      `json:"requests_per_s"`
	Series []openSeries `json:"series"`
}

// openSeries are a proxy's rounds.
type openSeries struct {
	Proxy  string  `json:"proxy"`
	Rounds []paced `json:"rounds"`
}

// measureOpen finds what HAProxy bears, and loads all with a share of that.
func (o options) measureOpen(ctx context.Context, g *generator, proxies []*proxy, r result, progress io.Writer) (result, error) {
	var most []float64
	for range 3 {
		for _, p := range proxies {
			one, err := g.paced(ctx, p, 0)
			if err != nil {
				return r, err
			}
			if p.name == haproxy {
				most = append(most, one.Rate)
			}
		}
	}
	slices.Sort(most)
	r.Open = &opened{Most: most[1], Rate: openShare * most[1]}
	fmt.Fprintf(progress, "   haproxy bears %.0f requests a second; %.0f are asked\n", r.Open.Most, r.Open.Rate)
	for _, p := range proxies {
		r.Open.Series = append(r.Open.Series, openSeries{Proxy: p.name})
	}
	for n := range o.rounds {
		line := fmt.Sprintf("   round %d of %d:", n+1, o.rounds)
		for k := range proxies {
			i := (k + n) % len(proxies)
			one, err := g.paced(ctx, proxies[i], r.Open.Rate)
			if err != nil {
				return r, err
			}
			line += fmt.Sprintf("  %s p99 %.0f us", proxies[i].name, one.P99)
			r.Open.Series[i].Rounds = append(r.Open.Series[i].Rounds, one)
		}
		fmt.Fprintln(progress, line)
	}
	r.Open.compare()
	return r, nil
}

// paced loads a proxy for a round at a rate.
func (g *generator) paced(ctx context.Context, p *proxy, rate float64) (seen paced, err error) {
	text, err := json.Marshal(order{Address: p.address, Path: g.path, Connections: g.connections, Seconds: float64(g.seconds), Rate: rate})
	if err != nil {
		return seen, err
	}
	out, _, err := g.Processes.Run(ctx, g.limit(g.seconds), rig.OtherCore, "/proc/self/exe", pacedLoad, string(text))
	if err != nil {
		return seen, fmt.Errorf("%s: %w", p.name, err)
	}
	return seen, json.Unmarshal([]byte(out), &seen)
}

// compare fills in the ratios to HAProxy by round.
func (o *opened) compare() {
	i := slices.IndexFunc(o.Series, func(s openSeries) bool { return s.Proxy == haproxy })
	for _, s := range o.Series {
		for n := range s.Rounds {
			if base := o.Series[i].Rounds[n].P99; base > 0 {
				s.Rounds[n].Ratio = s.Rounds[n].P99 / base
			}
		}
	}
}

func (o *opened) table(w io.Writer) {
	fmt.Fprintf(w, "%.0f requests a second, %.0f %% of the %.0f that HAProxy bears. Aim: a p99 of at most %.1f of HAProxy's.\n\n", o.Rate, 100*openShare, o.Most, openAim)
	rows := [][]string{{"proxy", "p50 us", "p99 us", "p99.9 us", "p99 to haproxy", "requests/s", "generator late, p99 us"}}
	for _, s := range o.Series {
		of := func(verb string, pick func(paced) float64) string {
			var all []float64
			for _, p := range s.Rounds {
				all = append(all, pick(p))
			}
			return spreadOf(all).format(verb, 1)
		}
		rows = append(rows, []string{s.Proxy,
			of(".0f", func(p paced) float64 { return p.P50 }),
			of(".0f", func(p paced) float64 { return p.P99 }),
			of(".0f", func(p paced) float64 { return p.P999 }),
			of(".2f", func(p paced) float64 { return p.Ratio }),
			of(".0f", func(p paced) float64 { return p.Rate }),
			of(".0f", func(p paced) float64 { return p.Late })})
	}
	rig.Markdown(w, rows)
}
