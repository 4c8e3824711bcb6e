package tally

import (
	"maps"
	"sync"
	"testing"
)

func TestHistogram(t *testing.T) {
	a, b := NewHistogram(10, 100), NewHistogram(10, 100)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for _, v := range []int64{0, 10, 11, 100, 101, 1 << 40} {
				a.Observe(v)
			}
		})
	}
	all.Wait()
	b.Observe(5)
	var c Count
	c.Add(a)
	c.Add(b)
	want := map[int64]uint64{10: 9, 100: 17}
	if sum := int64(4*(222+1<<40) + 5); c.Total != 25 || c.Sum != sum || !maps.Equal(c.UpTo, want) {
		t.Errorf("counted %+v, want 25 values, the sum %d and %v", c, sum, want)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	h := NewHistogram(1, 2, 4, 8)
	if n := testing.AllocsPerRun(100, func() { h.Observe(5) }); n != 0 {
		t.Errorf("Observe allocates %v times", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	h := NewHistogram(50_000, 100_000, 250_000, 500_000)
	for b.Loop() {
		h.Observe(60_000)
	}
}
