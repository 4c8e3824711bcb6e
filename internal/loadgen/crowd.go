package loadgen

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// shards is how many parts a crowd has: enough that two readers seldom want
	// the same one.
	shards = 16
	// maxWindow is how many messages may be in flight.
	maxWindow = 1 << 16
	// maxMessages is how many a schedule may have; they take 16 bytes each.
	maxMessages = 1e7
	// longest is the longest latency that is told from longer ones.
	longest = 10 * time.Minute
)

// newHistogram is for ns: to three digits, and half a microsecond at best.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(longest), 3)
}

func record(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns, 0), int64(longest))) // within the range, so there is no error
}

// A crowd is the connections of one run, and what they saw. Each connection
// belongs to one shard for good, and its reader takes only that lock.
type crowd struct {
	clock  time.Time // all times are ns since
	conns  []*conn   // that read; written before the first begin
	shards [shards]shard
	board  *board // of the run under way; written by begin
}

// A shard is a part of the crowd.
type shard struct {
	mu sync.Mutex // guards all below, and the fields of conn that say so

	prefix  *markPrefix // of the messages that count; nil: none
	from    int64       // messages intended before are warm-up
	latency *hdrhistogram.Histogram
	board   *board

	deliveries int64 // each message once for each receiver
	doubled    int64 // a message that the receiver had already
	disordered int64 // a message that came after a later one
	closed     int   // connections that ended though we did not want it
	why        error // the first one's end

	_ [64]byte // the next shard is on cache lines of its own
}

// A board knows which messages of a run every receiver has.
type board struct {
	receivers int64
	seen      []sighting    // ring, by the message's number
	changed   chan struct{} // one place: look again

	mu       sync.Mutex // guards all below; taken after a shard's
	last     *hdrhistogram.Histogram
	complete uint32 // messages that every receiver has
}

// A sighting is how many have a message, and since when the latest.
type sighting struct{ count, at atomic.Int64 }

func newCrowd() *crowd { return &crowd{clock: time.Now()} }

func (w *crowd) now() int64 { return int64(time.Since(w.clock)) }

// begin forgets what was and counts the messages of a run from now on, of which
// no more than so many may be under way at once.
func (w *crowd) begin(run uint32, from int64, messages int) *markPrefix {
	prefix := newPrefix(run)
	b := &board{seen: make([]sighting, messages), changed: make(chan struct{}, 1), last: newHistogram()}
	for _, c := range w.conns {
		if !c.mute {
			b.receivers++
		}
	}
	w.board = b
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		s.prefix, s.from, s.latency, s.board = prefix, from, newHistogram(), b
		s.deliveries, s.doubled, s.disordered = 0, 0, 0
		for j := i; j < len(w.conns); j += shards {
			c := w.conns[j]
			c.got, c.next, c.recent = 0, 0, 0
		}
		s.mu.Unlock()
	}
	return prefix
}

// arrived notes that one more receiver of a shard has a message. The caller
// holds its lock.
func (s *shard) arrived(number uint32, intended, at int64) {
	s.deliveries++
	counts := intended >= s.from
	if counts {
		record(s.latency, at-intended)
	}
	b := s.board
	m := b.message(number)
	for was := m.at.Load(); at > was && !m.at.CompareAndSwap(was, at); was = m.at.Load() {
	}
	if m.count.Add(1) == b.receivers {
		b.completes(m.at.Load()-intended, counts)
	}
}

func (b *board) message(number uint32) *sighting { return &b.seen[int(number)%len(b.seen)] }

// expect is called before a message is sent for the first time.
func (b *board) expect(number uint32) {
	m := b.message(number)
	m.count.Store(0)
	m.at.Store(0)
}

// completes notes that all have a message, the last one after latency.
func (b *board) completes(latency int64, counts bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complete++
	if counts {
		record(b.last, latency)
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
