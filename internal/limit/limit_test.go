package limit

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// What a bucket allows is its burst, and then its rate, exactly, however it is asked.
func TestAllow(t *testing.T) {
	for _, r := range []Rate{{10, 1}, {10, 10}, {1000, 50}, {0.5, 3}, {20_000, 20_000}} {
		for _, step := range []time.Duration{100 * time.Microsecond, 7 * time.Millisecond, 300 * time.Millisecond} {
			b, got := NewBucket(r), 0
			const lasts = 4 * time.Second
			for at := time.Duration(0); at < lasts; at += step {
				for range int(r.Second*step.Seconds()*2) + 1 {
					if b.Allow(start.Add(at), 1, r) == 0 {
						got++
					}
				}
			}
			most := float64(r.Burst) + r.Second*lasts.Seconds()
			least := min(r.Second, float64(r.Burst)/step.Seconds(), 1/step.Seconds()+2*r.Second) * lasts.Seconds() * 0.9
			if float64(got) > most+1 || float64(got) < least {
				t.Errorf("%+v asked each %v: %d in %v, want %.0f to %.0f", r, step, got, lasts, least, most)
			}
		}
	}
}

// What a refusal says to wait is enough, and not more than needed.
func TestWait(t *testing.T) {
	r := Rate{4, 2}
	b, now := NewBucket(r), start
	for range 50 {
		wait := b.Allow(now, 1, r)
		if wait == 0 {
			continue
		}
		if wait > 250*time.Millisecond {
			t.Fatalf("%v for a token of four a second", wait)
		}
		if w := b.Allow(now.Add(wait-time.Millisecond), 1, r); w == 0 {
			t.Fatalf("there after %v already", wait-time.Millisecond)
		}
		if now = now.Add(wait + 1); b.Allow(now, 1, r) != 0 {
			t.Fatalf("not there after %v", wait)
		}
	}
}

// Debts are paid at the rate, however large they are.
func TestSpend(t *testing.T) {
	r := Rate{100, 10}
	b := NewBucket(r)
	if wait := b.Spend(start, 10, r); wait != 0 {
		t.Errorf("a burst waits %v", wait)
	}
	if wait := b.Spend(start, 1005, r).Round(time.Millisecond); wait != 10050*time.Millisecond {
		t.Errorf("1005 more at 100 a second: %v", wait)
	}
	if wait := b.Spend(start.Add(5*time.Second), 100, r).Round(time.Millisecond); wait != 6050*time.Millisecond {
		t.Errorf("5 s later, and 100 more: %v", wait)
	}
	if b.Full(start.Add(11 * time.Second)) {
		t.Error("full as soon as nothing is owed")
	}
	if !b.Full(start.Add(12 * time.Second)) {
		t.Error("not full after the time for a burst more")
	}
}

// More than a burst can be had, from a full bucket, and is paid for.
func TestAllowMoreThanABurst(t *testing.T) {
	r := Rate{1000, 1000}
	b := NewBucket(r)
	if b.Allow(start, 5000, r) != 0 {
		t.Error("not from a full bucket")
	}
	if wait := b.Allow(start.Add(time.Second), 1, r).Round(time.Millisecond); wait != 3001*time.Millisecond {
		t.Errorf("then one must wait %v", wait)
	}
	if b.Allow(start.Add(4500*time.Millisecond), 5000, r) == 0 {
		t.Error("again from one half full")
	}
	if b.Allow(start.Add(5*time.Second), 5000, r) != 0 {
		t.Error("not again from a full one")
	}
}

// A rate that changes counts at once.
func TestOtherRate(t *testing.T) {
	b := NewBucket(Rate{1, 1})
	b.Spend(start, 1, Rate{1, 1})
	if wait := b.Allow(start, 1, Rate{100, 10}); wait > 10*time.Millisecond {
		t.Errorf("at 100 a second one waits %v", wait)
	}
	if wait := b.Allow(start.Add(time.Second), 10, Rate{100, 10}); wait != 0 {
		t.Errorf("a larger burst is not there: %v", wait)
	}
}

// Each key has its own, and is forgotten when it is full again.
func TestBuckets(t *testing.T) {
	b := NewBuckets[string](1000)
	r := Rate{1, 2}
	for _, key := range []string{"a", "b"} {
		for i := range 5 {
			if got := b.Allow(start, key, 1, r) == 0; got != (i < 2) {
				t.Errorf("%s, the %d.: %v", key, i+1, got)
			}
		}
	}
	if b.Spend(start, "c", 1, r) != 0 || b.Spend(start, "a", 1, r) != time.Second {
		t.Error("what c spends is a's")
	}
	if n := b.len(); n != 3 {
		t.Errorf("%d, want 3", n)
	}
	b.forget(start.Add(1500 * time.Millisecond))
	if n := b.len(); n != 2 {
		t.Errorf("when c is full again there are %d", n)
	}
	b.forget(start.Add(time.Hour))
	if n := b.len(); n != 0 {
		t.Errorf("after an hour there are %d", n)
	}
}

// A flood of new addresses is held to the number that was meant, at each moment,
// and nobody new is refused for it; and what is full is forgotten by itself.
func TestFlood(t *testing.T) {
	const most = 1024
	b := NewBuckets[netip.Addr](most)
	r, now := Rate{0.001, 3}, start
	for i := range 20 * most {
		now = now.Add(time.Millisecond)
		if b.Allow(now, address(i), 1, r) != 0 {
			t.Fatalf("newcomer %d is refused", i)
		}
		if n := b.shard(address(i)); len(n.buckets) > most/len(b.shards) {
			t.Fatalf("a shard has %d, %d were meant at most", len(n.buckets), most/len(b.shards))
		}
	}
	if n := b.len(); n < most/2 {
		t.Errorf("of %d only %d are known", most, n)
	}
	now = now.Add(time.Hour)
	for i := range 1000 {
		b.Allow(now, address(i), 1, Rate{1, 3})
	}
	if n := b.len(); n > 1000 {
		t.Errorf("an hour later there are %d of 1,000", n)
	}
	for i := range b.shards {
		if s := &b.shards[i]; s.peak > most {
			t.Errorf("a map of %d was kept for %d", s.peak, len(s.buckets))
		}
	}
}

func address(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return netip.AddrFrom4(b)
}

func TestCounts(t *testing.T) {
	var c Counts[string]
	first, second := c.Enter("a", 2), c.Enter("a", 2)
	if first == nil || first != second || first.Key != "a" {
		t.Fatalf("%v %v", first, second)
	}
	if c.Enter("a", 2) != nil {
		t.Error("a third of two")
	}
	if other := c.Enter("b", 1); other == nil || c.len() != 2 {
		t.Error("another is held to the first one's")
	}
	if free := c.Enter("a", 0); free == nil {
		t.Error("no limit is one")
	}
	for range 3 {
		c.Leave(first)
	}
	c.Leave(nil)
	if n := c.len(); n != 1 {
		t.Errorf("%d keys are left, want b alone", n)
	}
	if again := c.Enter("a", 1); again == nil || again == first {
		t.Error("who left is still counted")
	}
}

// Many at once: as many get in as may, and at the end nobody is left.
func TestAtOnce(t *testing.T) {
	var c Counts[int]
	b := NewBuckets[int](64)
	var all sync.WaitGroup
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := range 2000 {
				key := random.IntN(100)
				if in := c.Enter(key, 3); in != nil {
					if in.Key != key {
						t.Errorf("%d is counted as %d", key, in.Key)
					}
					c.Leave(in)
				}
				b.Allow(start.Add(time.Duration(n)*time.Millisecond), key, 1, Rate{10, 2})
				if n%500 == 0 {
					b.forget(start.Add(time.Duration(n) * time.Millisecond))
				}
			}
		})
	}
	all.Wait()
	if n := c.len(); n != 0 {
		t.Errorf("%d are left", n)
	}
	if n := b.len(); n > 64 {
		t.Errorf("%d buckets, 64 were meant at most", n)
	}
}

func TestNeighbours(t *testing.T) {
	for given, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1",
		"::ffff:192.0.2.1":    "192.0.2.1",
		"2001:db8:1:2:3::4":   "2001:db8:1:2::",
		"2001:db8:1:2::":      "2001:db8:1:2::",
		"fe80::1:2:3:4%eth0":  "fe80::",
		"::1":                 "::",
		"2001:db8:1:3::ffff":  "2001:db8:1:3::",
		"::ffff:1.2.3.4%zone": "1.2.3.4",
	} {
		a := netip.MustParseAddr(given)
		if got := Neighbours(a); got.String() != want {
			t.Errorf("%s counts as %s, want %s", given, got, want)
		}
	}
	if Neighbours(netip.Addr{}).IsValid() {
		t.Error("no address counts as one")
	}
}

func BenchmarkBucket(b *testing.B) {
	r := Rate{1e9, 1e9}
	bucket, now := NewBucket(r), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		bucket.Spend(now, 1, r)
	}
}

func BenchmarkBuckets(b *testing.B) {
	buckets, r := NewBuckets[netip.Addr](65536), Rate{100, 500}
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buckets.Allow(now, address(i%10_000), 1, r)
	}
}

// BenchmarkFlood is what a newcomer costs while all room is taken.
func BenchmarkFlood(b *testing.B) {
	buckets, r := NewBuckets[netip.Addr](65536), Rate{0.001, 500}
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now = now.Add(10 * time.Microsecond)
		buckets.Allow(now, address(i), 1, r)
	}
}

// len is how many there are.
func (b *Buckets[K]) len() (n int) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		n += len(s.buckets)
		s.mu.Unlock()
	}
	return n
}

// forget forgets those that are full.
func (b *Buckets[K]) forget(now time.Time) {
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		s.sweep(now)
		s.mu.Unlock()
	}
}

// len is how many keys there are.
func (c *Counts[K]) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.of)
}
