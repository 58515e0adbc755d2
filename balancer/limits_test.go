package balancer

import (
	"testing"
	"time"
)

func TestARingIsBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weight            float64
		replicas, members int
		want              int32
	}{
		{1, 67, 10_000, 67}, {1.5, 25, 3, 37}, {0, 67, 3, 0}, {-1, 67, 3, 0}, {0.001, 67, 3, 1},
		{1e6, 10_000, 1, maxPoints}, {1e6, 10_000, 1000, maxPoints / 1000},
	} {
		if got := pointsOf(c.weight, c.replicas, c.members); got != c.want {
			t.Errorf("weight %v, %d replicas, %d members: %d points, want %d", c.weight, c.replicas, c.members, got, c.want)
		}
	}
}

// A second that is full counts no further: neither field runs over into the next.
func TestABudgetsSecondIsBounded(t *testing.T) {
	t.Parallel()
	var b Budget
	b.slots[1].Store(1<<secondShift | 5<<requestBits | maxRequests)
	b.Request(time.Second)
	if requests, retries := b.sum(1); requests != maxRequests || retries != 5 {
		t.Errorf("after one more than %d requests: %d requests and %d retries", maxRequests, requests, retries)
	}
	b.slots[1].Store(1<<secondShift | maxRetries<<requestBits | maxRequests)
	if b.Take(1, time.Second) {
		t.Error("a full second admits a retry")
	}
}
