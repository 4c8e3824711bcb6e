// Package limit says how much is too much: token buckets and counts, of one or
// by key. It knows neither what is counted nor what becomes of who has too much.
//
// Time is the caller's, so that a test can have its own. What is here never
// waits: it says for how long one would have to.
package limit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A Rate is how much may come. One that is not positive is no limit.
type Rate struct {
	Second float64 // tokens a second
	Burst  int     // tokens at once, after a silence; 1 at least
}

// None reports whether the rate bounds nothing.
func (r Rate) None() bool { return r.Second <= 0 }

// A Bucket holds tokens, which come back at a rate, up to a burst. It is full
// when it is made. It is not safe for concurrent use.
type Bucket struct {
	rate    Rate
	limiter *rate.Limiter
}

// NewBucket returns a full one. The rate bounds something.
func NewBucket(r Rate) *Bucket {
	return &Bucket{r, rate.NewLimiter(rate.Limit(r.Second), max(1, r.Burst))}
}

// Spend takes n tokens, also those that are not there, and returns how long it
// takes until they are; zero: they were. A rate other than before counts from now on.
func (b *Bucket) Spend(now time.Time, n int, r Rate) (wait time.Duration) {
	b.adopt(now, r)
	for most := b.limiter.Burst(); n > 0; n -= most { // x/time/rate gives no more than a burst at a time
		wait = b.limiter.ReserveN(now, min(n, most)).DelayFrom(now)
	}
	return wait
}

// Allow takes n tokens if they are there, and else returns how long it takes until
// they are. More than a burst is there when the bucket is full: else it would never be.
func (b *Bucket) Allow(now time.Time, n int, r Rate) (wait time.Duration) {
	b.adopt(now, r)
	if missing := float64(min(n, b.limiter.Burst())) - b.limiter.TokensAt(now); missing > slack {
		return time.Duration(missing / r.Second * float64(time.Second))
	}
	b.Spend(now, n, r)
	return 0
}

// slack is of a token, where a duration was rounded.
const slack = 1e-6

// Tokens is how many are there, of those that Allow and Spend would take without a wait.
func (b *Bucket) Tokens(now time.Time) int { return max(0, int(b.limiter.TokensAt(now)+slack)) }

// Missing is how long it takes until one is there.
func (b *Bucket) Missing(now time.Time) time.Duration {
	return time.Duration(max(0, 1-b.limiter.TokensAt(now)) / b.rate.Second * float64(time.Second))
}

// Full reports whether the bucket is as if it were new; nil is.
func (b *Bucket) Full(now time.Time) bool {
	return b == nil || b.limiter.TokensAt(now) >= float64(b.limiter.Burst())-slack
}

func (b *Bucket) adopt(now time.Time, r Rate) {
	if b.rate != r {
		b.rate = r
		b.limiter.SetLimitAt(now, rate.Limit(r.Second))
		b.limiter.SetBurstAt(now, max(1, r.Burst))
	}
}

// Buckets are buckets by key. There is one for each key that is not at rest: a
// bucket that is full again is forgotten. And there are no more than a fixed number:
// past it, one of the others is forgotten for each newcomer. So whoever has so many keys
// has a burst with each, which no limit by key could have kept him from, and others are
// refused nothing because of him. Its methods may be called from any goroutine.
type Buckets[K comparable] struct {
	seed   maphash.Seed
	most   int // of a shard
	shards [16]shard[K]
}

type shard[K comparable] struct {
	mu      sync.Mutex
	buckets map[K]*Bucket
	peak    int       // how many there were since buckets was made
	swept   time.Time // when those that are full were last forgotten
}

// sweepEvery is how often all buckets of a shard are looked at, while newcomers
// come: so a flood of them pays for a walk past all of them once, not each time.
const sweepEvery = time.Second

// NewBuckets returns room for about so many.
func NewBuckets[K comparable](most int) *Buckets[K] {
	b := &Buckets[K]{seed: maphash.MakeSeed()}
	b.most = max(1, most/len(b.shards))
	return b
}

// Spend is [Bucket.Spend] of the key's.
func (b *Buckets[K]) Spend(now time.Time, key K, n int, r Rate) (wait time.Duration) {
	s := b.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(now, key, r, b.most).Spend(now, n, r)
}

// Allow is [Bucket.Allow] of the key's.
func (b *Buckets[K]) Allow(now time.Time, key K, n int, r Rate) (wait time.Duration) {
	s := b.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(now, key, r, b.most).Allow(now, n, r)
}

func (b *Buckets[K]) shard(key K) *shard[K] {
	return &b.shards[maphash.Comparable(b.seed, key)%uint64(len(b.shards))]
}

// of returns the key's bucket. The caller holds mu, here and below.
func (s *shard[K]) of(now time.Time, key K, r Rate, most int) *Bucket {
	if b := s.buckets[key]; b != nil {
		return b
	}
	if now.Sub(s.swept) >= sweepEvery {
		s.sweep(now)
	}
	if s.buckets == nil {
		s.buckets, s.peak = make(map[K]*Bucket), 0
	}
	if len(s.buckets) >= most {
		for any := range s.buckets {
			delete(s.buckets, any)
			break
		}
	}
	b := NewBucket(r)
	s.buckets[key] = b
	s.peak = max(s.peak, len(s.buckets))
	return b
}

func (s *shard[K]) sweep(now time.Time) {
	s.swept = now
	for key, b := range s.buckets {
		if b.Full(now) {
			delete(s.buckets, key)
		}
	}
	if n := len(s.buckets); n < s.peak/4 { // a map does not shrink
		kept := make(map[K]*Bucket, n)
		for key, b := range s.buckets {
			kept[key] = b
		}
		s.buckets, s.peak = kept, n
	}
}

// Counts are how many there are of each key. The zero value is ready. Its methods
// may be called from any goroutine.
type Counts[K comparable] struct {
	mu sync.Mutex
	of map[K]*Count[K]
}

// A Count is how many there are of one key. All who are counted share it.
type Count[K comparable] struct {
	Key K // does not change
	n   int
}

// Enter counts one more, unless there are so many already, and then returns nil. A most that is not
// positive is no limit.
func (c *Counts[K]) Enter(key K, most int) *Count[K] {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.of[key]
	switch {
	case n == nil:
		if c.of == nil {
			c.of = make(map[K]*Count[K])
		}
		n = &Count[K]{Key: key}
		c.of[key] = n
	case most > 0 && n.n >= most:
		return nil
	}
	n.n++
	return n
}

// Leave ends what Enter began; of nil there is nothing to end.
func (c *Counts[K]) Leave(n *Count[K]) {
	if n == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.n--; n.n == 0 {
		delete(c.of, n.Key)
	}
}

// Neighbours is what an address is counted as: with all others that one person has
// as easily. That is an IPv4 address itself, and of IPv6 the network of 64 bits.
func Neighbours(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		network, _ := a.Prefix(64) // which every address has
		return network.Addr()
	}
	return a
}
