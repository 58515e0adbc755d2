package bench

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// scraped starts a node with n backends and an origin that requests for scrape.test
// reach.
func scraped(b testing.TB, n int) *harness.Node {
	b.Helper()
	etcd := startEtcd(b)
	origin := startEcho(b)
	fill(b, etcd, n-1)
	host, port, _ := net.SplitHostPort(origin.String())
	revision := routeTo(etcd, "scrape.test", "echo", fmt.Sprintf(`{"host":%q,"port":%s}`, host, port))
	node := harness.StartNode(b, harness.NodeConfig{Etcd: etcd.Endpoints()})
	node.WaitRevision(revision)
	collect(b, node)
	return node
}

// One scrape of /metrics by an HTTP client that accepts gzip, at the size with most
// series (1,000 backends have some of their own) and at the largest fleet.
func BenchmarkScrape(b *testing.B) {
	needProc(b)
	for _, n := range sizes(1_000, 100_000) {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			node := scraped(b, n)
			bytes := len(node.AdminGet("/metrics").Body)
			before, scrapes := cpu(b, node.Pid()), 0
			for b.Loop() {
				node.AdminGet("/metrics")
				scrapes++
			}
			b.ReportMetric(float64(bytes), "bytes")
			b.ReportMetric(float64((cpu(b, node.Pid())-before).Microseconds())/float64(scrapes), "cpu-us/op")
		})
	}
}

// Requests of four clients without a pause, alone and beside a client that scrapes
// /metrics without a pause: what a scrape may do to requests at worst. Both are
// measured in turn, several times, in one node.
func BenchmarkRequestsBesideScrapes(b *testing.B) {
	const (
		clients = 4
		rounds  = 3
		each    = 2 * time.Second
	)
	for _, n := range sizes(1_000, 100_000) {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			node := scraped(b, n)
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
			round() // connections are made, caches are warm
			for b.Loop() {
				var alone, beside samples
				scrapes := 0
				for range rounds {
					alone = append(alone, round()...)
					stop, stopped := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(stopped)
						for {
							select {
							case <-stop:
								return
							default:
								node.AdminGet("/metrics")
								scrapes++
							}
						}
					}()
					beside = append(beside, round()...)
					close(stop)
					<-stopped
				}
				alone.report(b, "alone")
				beside.report(b, "scraped")
				seconds := (rounds * each).Seconds()
				b.ReportMetric(float64(len(alone))/seconds, "alone-req/s")
				b.ReportMetric(float64(len(beside))/seconds, "scraped-req/s")
				b.ReportMetric(float64(scrapes)/seconds, "scrapes/s")
			}
		})
	}
}
