package node

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"roster/node/proxy"
)

// nativeSchema gives native histograms eight buckets for each doubling, so that no two
// of the proxy's, which has four, fall into one.
const nativeSchema = 3

// both is a histogram with native buckets, and classic ones for those who scrape
// without having negotiated the former.
type both struct{ native, classic prometheus.Metric }

func (b both) Desc() *prometheus.Desc { return b.native.Desc() }

func (b both) Write(out *dto.Metric) error {
	var classic dto.Metric
	if err := b.classic.Write(&classic); err != nil {
		return err
	}
	if err := b.native.Write(out); err != nil {
		return err
	}
	out.Histogram.Bucket = classic.Histogram.Bucket
	return nil
}

// histogram is what requests took. Classic buckets are every second bound of the
// proxy's: two for each doubling.
//
// The native bucket of one of the proxy's is that of its middle: a quantile is off by
// an eighth at most, half the proxy's own resolution. To share a count out over all
// native buckets that it may belong to would be no more precise, and rounding would make
// some of them fall, which looks like a restart.
func histogram(desc *prometheus.Desc, l proxy.Latency, since time.Time) prometheus.Metric {
	classic := make(map[float64]uint64, len(l.Buckets)/2)
	native := make(map[int]int64)
	var count uint64
	for i, v := range l.Buckets {
		count += v
		if i%2 == 1 {
			classic[l.Bound(i).Seconds()] = count
		}
		if i > 0 && v > 0 {
			native[nativeBucket((l.Bound(i-1)+l.Bound(i)).Seconds()/2)] += int64(v)
		}
	}
	sum := l.Sum.Seconds()
	return both{
		// What took less than the first bound counts as zero.
		native:  prometheus.MustNewConstNativeHistogram(desc, count, sum, native, nil, l.Buckets[0], nativeSchema, l.Bound(0).Seconds(), since),
		classic: prometheus.MustNewConstHistogram(desc, count, sum, classic),
	}
}

// nativeBucket is the number of a value's bucket: number i ends with 2^(i/8).
func nativeBucket(seconds float64) int {
	return int(math.Ceil(math.Log2(seconds) * (1 << nativeSchema)))
}
