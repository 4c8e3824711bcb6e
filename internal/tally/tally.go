// Package tally counts what happens often: adding is a few atomic operations on
// memory that, where one goroutine does most of it, its processor has at hand.
// Reading is rare, and puts up with numbers of slightly different moments.
package tally

import "sync/atomic"

// most is how many bounds a histogram may have.
const most = 15

// A Histogram counts values by their size. It is made by [NewHistogram]; its
// methods may be called from any goroutine.
type Histogram struct {
	bounds []int64 // static
	sum    atomic.Int64
	counts [most + 1]atomic.Uint64 // the last: above all bounds
}

// NewHistogram returns a histogram of values up to each of the bounds, which grow
// and are 15 at most.
func NewHistogram(bounds ...int64) *Histogram {
	if len(bounds) > most {
		panic("tally: too many bounds")
	}
	return &Histogram{bounds: bounds}
}

// Observe counts a value.
func (h *Histogram) Observe(value int64) {
	i := 0
	for i < len(h.bounds) && value > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(value)
}

// A Count is what histograms with the same bounds counted together.
type Count struct {
	Total uint64
	Sum   int64
	UpTo  map[int64]uint64 // by bound: the values up to it
}

// Add adds what h counted so far.
func (c *Count) Add(h *Histogram) {
	if c.UpTo == nil {
		c.UpTo = make(map[int64]uint64, len(h.bounds))
	}
	c.Sum += h.sum.Load()
	n := uint64(0)
	for i, bound := range h.bounds {
		n += h.counts[i].Load()
		c.UpTo[bound] += n
	}
	c.Total += n + h.counts[len(h.bounds)].Load()
}
