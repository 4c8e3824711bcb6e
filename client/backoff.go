package client

import (
	"math/rand/v2"
	"time"
)

// A backoff says how long to wait before each attempt. Every client waits a
// time of its own below a bound that doubles with each failure ("full jitter"),
// so that thousands who lost the same server do not come back as one wave.
type backoff struct {
	first, most time.Duration // bounds of the first wait and of all
	failures    int           // in a row
}

// bound is what next stays below.
func (b *backoff) bound() time.Duration {
	bound := b.first
	for range b.failures {
		if bound >= b.most/2 {
			return b.most
		}
		bound *= 2
	}
	return min(bound, b.most)
}

// next returns the time to wait after one more failure. It is at least a tenth
// of first, so that bad luck is not a busy loop.
func (b *backoff) next() time.Duration {
	wait := max(rand.N(b.bound()), b.first/10) // #nosec G404: spreads those who come back
	b.failures++
	return wait
}

// reset is for what proved good.
func (b *backoff) reset() { b.failures = 0 }

// A moment is read from two clocks. The monotonic one stands still while a
// machine is suspended; the wall's can be set.
type moment struct{ mono, wall time.Time }

// after returns how much time has passed since an earlier moment, by the clock
// that says more. Zero if earlier is no moment at all.
func (m moment) after(earlier moment) time.Duration {
	if earlier.mono.IsZero() {
		return 0
	}
	return max(m.mono.Sub(earlier.mono), m.wall.Sub(earlier.wall))
}
