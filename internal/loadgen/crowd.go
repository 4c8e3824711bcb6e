package loadgen

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// shards is how many parts a crowd has: enough that two readers seldom want
	// the same one, few enough to be one bit each of a uint16.
	shards = 16
	// maxWindow is how many messages back it is still known who has them.
	maxWindow = 1 << 16
	// maxRate keeps what a server is six seconds behind with within that.
	maxRate = 10000
	// longest is the longest latency that is told from longer ones.
	longest = 10 * time.Minute
	// nobody's: no message has this number.
	noNumber = ^uint32(0)
)

// newHistogram is for ns: to three digits, and half a microsecond at best.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(longest), 3)
}

func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns, 0), int64(longest))) // within the range, so there is no error
}

// A crowd is the connections of one run, and what they saw. Each connection
// belongs to one shard for good, and its reader takes only that lock; what goes
// from there to the board is one note for each message and shard.
type crowd struct {
	clock  time.Time // all times are ns since
	conns  []*conn   // that read; written before the first begin
	shards [shards]shard
	board  board
}

// A shard is a part of the crowd.
type shard struct {
	mu sync.Mutex // guards all below, and the fields of conn that say so

	prefix  *markPrefix // of the messages that count; nil: none
	from    int64       // messages intended before are warm-up
	size    uint32      // receivers that must have a message
	latency *hdrhistogram.Histogram
	has     []arrivals // ring, by the message's number

	deliveries int64 // each message once for each receiver
	doubled    int64 // a message that the receiver had already
	disordered int64 // a message that came after a later one
	closed     int   // connections that ended though we did not want it
	why        error // the first one's end

	_ [64]byte // the next shard is on cache lines of its own
}

// arrivals is how many of a shard have a message, and since when the latest.
type arrivals struct {
	number, count uint32
	at            int64
}

// The board knows which messages every receiver has.
type board struct {
	mu       sync.Mutex // guards all below; taken after a shard's
	all      uint16     // the shards that have receivers
	has      []gathered // ring, by the message's number
	last     *hdrhistogram.Histogram
	complete uint32 // messages that every receiver has

	changed chan struct{} // one place: look again
}

// gathered is which shards have a message.
type gathered struct {
	number uint32
	shards uint16
	at     int64 // when the latest receiver had it
}

func newCrowd() *crowd {
	w := &crowd{clock: time.Now()}
	for i := range w.shards {
		w.shards[i].has = make([]arrivals, maxWindow)
	}
	w.board.has = make([]gathered, maxWindow)
	w.board.changed = make(chan struct{}, 1)
	return w
}

func (w *crowd) now() int64 { return int64(time.Since(w.clock)) }

// begin forgets what was and counts the messages of a run from now on.
func (w *crowd) begin(run uint32, from int64) *markPrefix {
	prefix := newPrefix(run)
	b := &w.board
	b.mu.Lock()
	b.last, b.complete = newHistogram(), 0
	for i := range b.has {
		b.has[i].number = noNumber
	}
	b.mu.Unlock()
	var all uint16
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		s.prefix, s.from, s.size, s.latency = prefix, from, 0, newHistogram()
		s.deliveries, s.doubled, s.disordered = 0, 0, 0
		for j := range s.has {
			s.has[j].number = noNumber
		}
		for j := i; j < len(w.conns); j += shards {
			c := w.conns[j]
			c.got, c.next, c.recent = 0, 0, 0
			if !c.mute {
				s.size++
			}
		}
		if s.size > 0 {
			all |= 1 << i
		}
		s.mu.Unlock()
	}
	b.mu.Lock()
	b.all = all
	b.mu.Unlock()
	return prefix
}

// arrived notes that one more receiver of shard i has a message. The caller
// holds the shard's lock.
func (w *crowd) arrived(i int, number uint32, intended, at int64) {
	s := &w.shards[i]
	s.deliveries++
	counts := intended >= s.from
	if counts {
		record(s.latency, at-intended)
	}
	a := &s.has[number%maxWindow]
	if a.number != number {
		*a = arrivals{number: number}
	}
	a.at = max(a.at, at)
	if a.count++; a.count == s.size {
		w.board.gather(i, number, intended, a.at, counts)
	}
}

// gather notes that all of shard i have a message.
func (b *board) gather(i int, number uint32, intended, at int64, counts bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := &b.has[number%maxWindow]
	if g.number != number {
		*g = gathered{number: number}
	}
	g.shards |= 1 << i
	g.at = max(g.at, at)
	if g.shards != b.all {
		return
	}
	b.complete++
	if counts {
		record(b.last, g.at-intended)
	}
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// completed is how many messages every receiver has.
func (b *board) completed() uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complete
}

// A tally is what all shards counted.
type tally struct {
	deliveries, doubled, disordered int64
	closed                          int
	why                             error
}

func (w *crowd) tally() (sum tally) {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		sum.deliveries += s.deliveries
		sum.doubled += s.doubled
		sum.disordered += s.disordered
		sum.closed += s.closed
		if sum.why == nil {
			sum.why = s.why
		}
		s.mu.Unlock()
	}
	return sum
}

// missing is how many deliveries there are still to come of so many messages,
// and on how many of them nobody waits any more, because the connection ended.
func (w *crowd) missing(sent uint32) (expected, hopeless int64) {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for j := i; j < len(w.conns); j += shards {
			c := w.conns[j]
			if c.mute {
				continue
			}
			lacks := int64(sent) - int64(c.got)
			if c.ended != nil {
				hopeless += lacks
			} else {
				expected += lacks
			}
		}
		s.mu.Unlock()
	}
	return expected, hopeless
}

// muteIfSilent takes a connection out of the count if it got nothing in this
// run, and reports whether it did.
func (w *crowd) muteIfSilent(i int) bool {
	s := &w.shards[i%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	c := w.conns[i]
	c.mute = c.got == 0
	return c.mute
}

// latency joins the shards' histograms.
func (w *crowd) latency() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		all.Merge(s.latency)
		s.mu.Unlock()
	}
	return all
}
