package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// scraping is a size of the fleet, and which of its backends have series of their own.
type scraping struct {
	backends int
	series   string // value of --metrics-backends
}

func (s scraping) String() string { return fmt.Sprintf("backends=%d/series=%s", s.backends, s.series) }

// scrapings are the smallest fleet that has as many series as are allowed by default, the
// largest fleet with as many, with none and with all.
func scrapings() []scraping {
	all := []scraping{{1_000, "top"}, {100_000, "none"}, {100_000, "top"}, {100_000, "all"}}
	for i := range all {
		all[i].backends = sizes(all[i].backends)[0]
	}
	return slices.Compact(all)
}

// scraped starts a node with n backends and an origin that requests for scrape.test
// reach.
func scraped(b testing.TB, s scraping) *harness.Node {
	b.Helper()
	etcd := startEtcd(b)
	origin := startEcho(b)
	fill(b, etcd, s.backends-1)
	host, port, _ := net.SplitHostPort(origin.String())
	revision := routeTo(etcd, "scrape.test", "echo", fmt.Sprintf(`{"host":%q,"port":%s}`, host, port))
	node := harness.StartNode(b, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--metrics-backends", s.series}})
	node.WaitRevision(revision)
	collect(b, node)
	return node
}

// scrape reads /metrics once and returns how many bytes came.
func scrape(ctx context.Context, node *harness.Node, accept, encoding string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, node.AdminURL()+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("Accept-Encoding", encoding) // so that the client does not unpack
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("/metrics: %s", resp.Status)
	}
	return io.Copy(io.Discard, resp.Body)
}

// The formats that a scrape may have.
const (
	text     = "text/plain;version=0.0.4"
	protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited" // with native histograms
)

// One scrape of /metrics, packed with gzip, as text and as protocol buffers.
func BenchmarkScrape(b *testing.B) {
	needProc(b)
	for _, size := range scrapings() {
		b.Run(size.String(), func(b *testing.B) {
			node := scraped(b, size)
			for _, f := range []struct{ name, accept string }{{"text", text}, {"protobuf", protobuf}} {
				b.Run("format="+f.name, func(b *testing.B) {
					size := func(encoding string) float64 {
						n, err := scrape(b.Context(), node, f.accept, encoding)
						if err != nil {
							b.Fatal(err)
						}
						return float64(n)
					}
					plain, packed := size("identity"), size("gzip")
					before, scrapes := cpu(b, node.Pid()), 0
					for b.Loop() {
						size("gzip")
						scrapes++
					}
					b.ReportMetric(plain, "bytes")
					b.ReportMetric(packed, "gzip-bytes")
					b.ReportMetric(float64((cpu(b, node.Pid())-before).Microseconds())/float64(scrapes), "cpu-us/op")
				})
			}
		})
	}
}

// Requests of four clients without a pause, alone and beside a client that scrapes
// /metrics without a pause, which is what scrapes may do to requests at worst, or with
// a second between scrapes. All are measured in turn, several times, in one node.
func BenchmarkRequestsBesideScrapes(b *testing.B) {
	const (
		clients = 4
		rounds  = 3
		each    = 2 * time.Second
	)
	for _, size := range scrapings() {
		b.Run(size.String(), func(b *testing.B) {
			node := scraped(b, size)
			round := func() samples {
				var (
					all samples
					mu  sync.Mutex
					wg  sync.WaitGroup
				)
				until := time.Now().Add(each)
				for range clients {
					c := dial(b, node.Address(), "scrape.test")
					wg.Go(func() {
						defer c.conn.Close()
						var mine samples
						for begun := time.Now(); begun.Before(until); {
							if _, err := c.get(); err != nil {
								b.Error(err)
								return
							}
							now := time.Now()
							mine = append(mine, now.Sub(begun))
							begun = now
						}
						mu.Lock()
						defer mu.Unlock()
						all = append(all, mine...)
					})
				}
				wg.Wait()
				return all
			}
			// beside is a round next to scrapes with a pause between them.
			beside := func(pause time.Duration, scrapes *int) samples {
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						if _, err := scrape(b.Context(), node, text, "gzip"); err != nil {
							b.Error(err)
							return
						}
						*scrapes++
						select {
						case <-stop:
							return
						case <-time.After(pause):
						}
					}
				}()
				s := round()
				close(stop)
				<-stopped
				return s
			}
			round() // connections are made, caches are warm
			for b.Loop() {
				var alone, busy, second samples
				var often, seldom int
				for range rounds {
					alone = append(alone, round()...)
					busy = append(busy, beside(0, &often)...)
					second = append(second, beside(time.Second, &seldom)...)
				}
				alone.report(b, "alone")
				busy.report(b, "scraped")
				second.report(b, "each-second")
				seconds := (rounds * each).Seconds()
				b.ReportMetric(float64(len(alone))/seconds, "alone-req/s")
				b.ReportMetric(float64(len(busy))/seconds, "scraped-req/s")
				b.ReportMetric(float64(len(second))/seconds, "each-second-req/s")
				b.ReportMetric(float64(often)/seconds, "scrapes/s")
			}
		})
	}
}
