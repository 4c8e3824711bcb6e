package feed_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/broker"
	"fanfare/internal/feed"
)

// One appends while sixteen read, half of them over a joiner they share: all
// see everything, in one order.
func TestAllSeeOneOrder(t *testing.T) {
	const messages = 5_000
	var encoded atomic.Int64
	form := &feed.Form{Encode: func(dst []byte, m *broker.Message) []byte {
		encoded.Add(1)
		runtime.Gosched() // so that others want it meanwhile
		return binary.BigEndian.AppendUint64(dst, m.Position.Offset)
	}}
	f := feed.New(feed.Retention{Keys: 4096, Count: 50}, start, nil)
	var shared feed.Joiner
	var group sync.WaitGroup
	rnd := random(t)
	for i := range 16 {
		r := f.Live(form, feed.Policy(i%4), unlimited)
		j := &shared
		if i%2 == 0 {
			j = new(feed.Joiner)
		}
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		group.Go(func() {
			for next := uint64(1); next <= messages; {
				b, err := r.Take(j, rnd.IntN(2000))
				if err != nil || b.Gap.Missed != 0 {
					t.Errorf("reader %d: gap %+v, error %v", i, b.Gap, err)
					return
				}
				for _, got := range offsets(b.Bytes) {
					if got != next {
						t.Errorf("reader %d: message %d, want %d", i, got, next)
						return
					}
					next++
				}
				if rnd.IntN(50) == 0 {
					j.Reset()
				}
				if b.Count == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	fill(f, messages, 0)
	group.Wait()
	if n := encoded.Load(); n != messages {
		t.Errorf("%d messages were encoded %d times", messages, n)
	}
}

// Readers of all policies with a small limit, and one that is relieved all the
// time: whatever they do while others publish, what they are given and what
// they are told they missed is all there was.
func TestSlowReadersWhilePublishing(t *testing.T) {
	const messages = 10_000
	f := feed.New(feed.Retention{Keys: 4096, Count: 20}, start, nil)
	var group sync.WaitGroup
	rnd := random(t)
	var done atomic.Bool
	for i := range 9 {
		policy := feed.Policy(i % 3)
		r := f.Live(numbers, policy, 1000)
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		group.Go(func() {
			var j feed.Joiner
			var last uint64
			var given, missed int64
			for {
				quiet := done.Load() // before Take, so that nothing comes after a Take that gave nothing
				b, err := r.Take(&j, rnd.IntN(500))
				if err != nil {
					t.Errorf("reader %d: %v", i, err)
					return
				}
				missed += b.Gap.Missed
				for _, got := range offsets(b.Bytes) {
					if got <= last {
						t.Errorf("reader %d (%v): message %d after %d", i, policy, got, last)
						return
					}
					last = got
					given++
				}
				if quiet && b.Count == 0 && b.Gap.Missed == 0 {
					break
				}
				for rnd.IntN(4) != 0 {
					r.Relieve()
					runtime.Gosched()
				}
			}
			if given+missed != messages || last != messages {
				t.Errorf("reader %d (%v) was given %d and missed %d of %d; the last was %d", i, policy, given, missed, messages, last)
			}
		})
	}
	for i := range messages {
		f.Append(message(f.Position(), string(rune('a'+i%7)), i%300))
	}
	done.Store(true)
	group.Wait()
}

// A record is all there was of a channel or a pattern, in order.
type record struct {
	mu      sync.Mutex
	offsets []uint64
}

func (r *record) add(offset uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offsets = append(r.offsets, offset)
}

// last returns a copy of the last n.
func (r *record) last(n int) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.offsets[max(0, len(r.offsets)-n):])
}

// after returns those after an offset.
func (r *record) after(offset uint64) []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearch(r.offsets, offset+1)
	return slices.Clone(r.offsets[i:])
}

// The seam of resuming: thousands of readers begin anywhere, also between two
// messages, within the feed's history, further back than it and further back than
// the broker's, while others publish. None misses a message it was not told of,
// none gets one twice: in a channel whose messages have all the offsets, and in a
// pattern whose channels share them with others.
func TestResumeSeam(t *testing.T) {
	t.Run("channel", func(t *testing.T) { resumeSeam(t, "news", []string{"news"}, 120) })
	t.Run("pattern", func(t *testing.T) { resumeSeam(t, "a/*", []string{"a/x", "b/x", "a/y", "a/z/z", "a/z"}, 40) })
}

func resumeSeam(t *testing.T, name string, channels []string, kept int) {
	const resumes, resumers = 3000, 4
	rnd := random(t)
	var f atomic.Pointer[feed.Feed]
	var all record
	memory := broker.NewMemory(&broker.MemoryOptions{History: kept})
	defer memory.Close()
	memory.Start(func(m *broker.Message) {
		all.add(m.Position.Offset) // before a reader can have it
		f.Load().Append(m)
	})
	base, err := memory.Subscribe(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	f.Store(feed.New(feed.Retention{Keys: 4096, Count: 60}, base, nil))
	chance := rand.New(rand.NewPCG(rnd.Uint64(), 0))
	publish := func() {
		memory.Publish(&broker.Message{Channel: channels[chance.IntN(len(channels))]}, func(broker.Position, error) {})
	}
	for range 300 {
		publish()
	}
	var stop atomic.Bool
	var resumed atomic.Int64
	var publisher, group sync.WaitGroup
	publisher.Go(func() {
		for n := int64(0); !stop.Load(); n++ {
			publish()
			if n > 10*resumed.Load() {
				time.Sleep(100 * time.Microsecond) // leave the others some of the machine
			}
		}
	})
	var fromFeed, fromBroker, told atomic.Int64
	for range resumers {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		group.Go(func() {
			f := f.Load()
			var j feed.Joiner
			for range resumes / resumers {
				places := all.last(160)
				i := rnd.IntN(len(places) - 1)
				since := broker.Position{Epoch: base.Epoch, Offset: places[i] + rnd.Uint64N(places[i+1]-places[i])}
				r := f.Live(numbers, feed.CatchUp, unlimited)
				if r.Resume(since) {
					fromFeed.Add(1)
				} else {
					page, err := memory.History(context.Background(), name, broker.Query{Since: since})
					if err != nil {
						t.Error(err)
						return
					}
					r.Rewind(since, page)
					fromBroker.Add(1)
				}
				goal := f.Position().Offset
				var got []uint64
				var gap feed.Gap
				for r.Position().Offset < goal {
					b, err := r.Take(&j, 4096)
					if err != nil || b.Gap.Missed != 0 && len(got) > 0 {
						t.Errorf("gap %+v after %d messages, error %v", b.Gap, len(got), err)
						return
					}
					if b.Gap.Missed != 0 {
						gap = b.Gap
						told.Add(1)
					}
					got = append(got, offsets(b.Bytes)...)
				}
				want := all.after(since.Offset)
				end, _ := slices.BinarySearch(want, r.Position().Offset+1)
				want = want[:end]
				switch {
				case gap.Missed == 0 && slices.Equal(got, want):
				case gap.Missed < 0 && broker.IsPattern(name) && slices.IsSorted(got) && len(slices.Compact(slices.Clone(got))) == len(got) && len(got) <= len(want):
					// of a pattern nobody knows what is missing; what the feed has is there
				case gap.Missed > 0 && int(gap.Missed) <= len(want) && slices.Equal(got, want[gap.Missed:]):
				default:
					t.Errorf("resumed after %v: gap %+v and %v, want %v", since, gap, got, want)
					return
				}
				j.Reset()
				resumed.Add(1)
			}
		})
	}
	group.Wait()
	stop.Store(true)
	publisher.Wait()
	t.Logf("%d from the feed, %d from the broker, %d told of a gap, %d messages", fromFeed.Load(), fromBroker.Load(), told.Load(), f.Load().Position().Offset)
	if fromFeed.Load() == 0 || fromBroker.Load() == 0 || told.Load() == 0 || told.Load() == fromBroker.Load() {
		t.Error("one of the ways to resume was never taken: the test proves less than it says")
	}
}
