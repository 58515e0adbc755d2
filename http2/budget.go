package http2

import "time"

// A budget bounds how often something may happen for which there is seldom a
// good reason: burst times at once, rate times a second in the long run.
type budget struct {
	spent float64
	last  time.Time
}

// burst and rate are those of nghttp2 for resets (since 1.57, after
// CVE-2023-44487): browsers that leave a page full of images stay well below.
const burst, rate = 1000, 33

// spend takes one, and reports whether there was one to take.
func (b *budget) spend() bool {
	now := time.Now()
	if b.spent > 0 {
		b.spent = max(0, b.spent-now.Sub(b.last).Seconds()*rate)
	}
	b.last = now
	b.spent++
	return b.spent <= burst
}
