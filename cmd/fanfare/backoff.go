package main

import (
	"math/rand/v2"
	"time"
)

// A backoff says how long to wait before each attempt to connect again. Every
// client waits a time of its own between nothing and a bound that doubles
// ("full jitter"), so that thousands who lost the same server do not come back
// as one wave. One goroutine uses it.
type backoff struct {
	failures int                               // in a row
	random   func(time.Duration) time.Duration // below its argument; nil: math/rand
}

const (
	backoffFirst = 500 * time.Millisecond
	backoffMost  = 30 * time.Second
	backoffLeast = 100 * time.Millisecond // so that bad luck is not a busy loop
)

// next returns the time to wait after one more failure.
func (b *backoff) next() time.Duration {
	bound := backoffMost
	if b.failures < 6 { // 0.5 s · 2⁶ is past the most
		bound = backoffFirst << b.failures
	}
	b.failures++
	random := b.random
	if random == nil {
		random = rand.N[time.Duration]
	}
	return max(random(bound), backoffLeast)
}

// reset is for a connection that proved good.
func (b *backoff) reset() { b.failures = 0 }
