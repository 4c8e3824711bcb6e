package feed_test

import (
	"fmt"
	"testing"
	"unsafe"

	"fanfare/broker"
	"fanfare/internal/feed"
)

// A reader is a million times there: its place is 32 bytes, and what it shares
// with others who read in the same way it really shares.
func TestCursorIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(feed.Cursor{}); size != 32 {
		t.Errorf("a cursor has %d bytes, want 32", size)
	}
	f := feed.New(feed.Retention{}, start, nil)
	f.Live(numbers, feed.Skip, 100)
	var sink *feed.Cursor
	if n := testing.AllocsPerRun(100, func() { sink = f.Live(numbers, feed.Skip, 100) }); n != 1 {
		t.Errorf("a reader like another costs %v allocations, want its cursor alone", n)
	}
	// However many manners there were, each reader has its own.
	for i := range int64(100) {
		a, b := f.Live(numbers, feed.Policy(i%4), i), f.Live(numbers, feed.Policy(i%4), i)
		if a.Limit() != i || b.Limit() != i {
			t.Errorf("readers made with the limit %d have %d and %d", i, a.Limit(), b.Limit())
		}
	}
	if sink.Limit() != 100 {
		t.Errorf("the first reader's limit became %d", sink.Limit())
	}
}

// A message that somebody took already costs the next reader no allocation,
// whether it is the newest or a limit cuts it out of many.
func TestTakeOneAllocatesNothing(t *testing.T) {
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	scout := f.Live(numbers, feed.CatchUp, unlimited)
	alice := f.Live(numbers, feed.CatchUp, unlimited)
	var j feed.Joiner
	fill(f, 1000, 100)
	take(t, scout, &j, 1)
	j.Reset()
	if n := testing.AllocsPerRun(900, func() {
		if b, err := alice.Take(&j, 1); b.Count != 1 || err != nil {
			t.Errorf("Take: %+v, %v", b, err)
		}
	}); n != 0 {
		t.Errorf("a message of many costs %v allocations", n)
	}
	take(t, alice, &j, 1<<20)

	// The newest alone, taken by a hundred readers: Append is not counted.
	readers := make([]*feed.Cursor, 101)
	for i := range readers {
		readers[i] = f.Live(numbers, feed.CatchUp, unlimited)
	}
	fill(f, 1, 100)
	take(t, scout, &j, 1)
	next := 0
	if n := testing.AllocsPerRun(100, func() {
		if b, err := readers[next].Take(&j, 1<<20); b.Count != 1 || err != nil {
			t.Errorf("Take: %+v, %v", b, err)
		}
		next++
	}); n != 0 {
		t.Errorf("the newest message costs %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if alice.Lag() < 0 || scout.Pending() || scout.Relieve() != nil {
			t.Error("scout is not where it should be")
		}
	}); n != 0 {
		t.Errorf("Lag, Pending and Relieve cost %v allocations", n)
	}
}

// Sixty-four messages taken at once by a thousand readers are joined once: a
// few allocations for the batch, none for a reader.
func TestTakeJoinedAllocatesOnce(t *testing.T) {
	const readers, batch, rounds = 1000, 64, 10
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	var j feed.Joiner
	scout := f.Live(numbers, feed.CatchUp, unlimited)
	crowd := make([]*feed.Cursor, readers)
	for i := range crowd {
		crowd[i] = f.Live(numbers, feed.CatchUp, unlimited)
	}
	fill(f, batch*(rounds+1), 100)
	take(t, scout, &j, 1) // encodes them
	if n := testing.AllocsPerRun(rounds, func() {
		var first []byte
		for i, r := range crowd {
			b, err := r.Take(&j, batch*8)
			if err != nil || b.Count != batch {
				t.Fatalf("Take: %+v, %v", b, err)
			}
			if i == 0 {
				first = b.Bytes
			} else if &b.Bytes[0] != &first[0] {
				t.Fatalf("reader %d has bytes of its own", i)
			}
		}
		j.Reset()
	}); n > 4 {
		t.Errorf("a batch for %d readers costs %v allocations", readers, n)
	}
}

// Readers that were placed, each by itself, before the same message share the
// joined bytes too: so it is when many come back at once.
func TestResumedReadersShare(t *testing.T) {
	f := feed.New(feed.Retention{Keys: 4096, Count: 100}, start, nil)
	fill(f, 10, 100)
	var j feed.Joiner
	var first []byte
	for i := range 5 {
		r := f.Live(numbers, feed.CatchUp, unlimited)
		if !r.Resume(start) {
			t.Fatal("history does not reach back to the start")
		}
		b, err := r.Take(&j, 1<<20)
		if err != nil || b.Count != 10 {
			t.Fatalf("Take: %+v, %v", b, err)
		}
		if i == 0 {
			first = b.Bytes
		} else if &first[0] != &b.Bytes[0] {
			t.Errorf("reader %d has bytes of its own", i)
		}
	}
}

// Whoever begins at the oldest message the broker has reads what the feed's
// history has from there: it is not encoded anew for each.
func TestRewoundReadersShare(t *testing.T) {
	encoded := 0
	form := &feed.Form{Encode: func(dst []byte, m *broker.Message) []byte {
		encoded++
		return append(dst, 'x')
	}}
	f := feed.New(feed.Retention{Keys: 4096, Count: 8}, start, nil)
	var page broker.Page
	for range 10 {
		m := message(f.Position(), "", 1)
		page.Messages = append(page.Messages, m)
		f.Append(m)
	}
	page.Position = f.Position()
	var j feed.Joiner
	for range 5 {
		r := f.Live(form, feed.CatchUp, unlimited)
		r.Rewind(broker.Position{}, page)
		if got := take(t, r, &j, 1<<20); len(got) != 10 {
			t.Fatalf("a reader got %d messages of 10", len(got))
		}
		j.Reset()
	}
	if want := 8 + 5*2; encoded != want {
		t.Errorf("10 messages, 8 of them in the feed's history, were encoded %d times for 5 readers, want %d", encoded, want)
	}
}

// A message as large as anything, and more than the limit, makes nobody slow
// who took all before it.
func TestOneLargeMessageIsNoLag(t *testing.T) {
	for _, policy := range []feed.Policy{feed.CatchUp, feed.Skip, feed.Latest, feed.Close} {
		f := feed.New(feed.Retention{Keys: 4096}, start, nil)
		r := f.Live(numbers, policy, 10)
		var j feed.Joiner
		for range 3 {
			fill(f, 1, 1<<20)
			if err := r.Relieve(); err != nil {
				t.Errorf("%v: Relieve: %v", policy, err)
			}
			if b, err := r.Take(&j, 1); err != nil || b.Count != 1 {
				t.Errorf("%v: Take: %+v, %v", policy, b, err)
			}
		}
	}
}

// What a reader resumes from history is no lag, however large.
func TestResumeIsNoLag(t *testing.T) {
	f := feed.New(feed.Retention{Keys: 4096, Count: 100}, start, nil)
	fill(f, 100, 1000)
	r := f.Live(numbers, feed.Close, 2000)
	if !r.Resume(start) {
		t.Fatal("history does not reach back to the start")
	}
	fill(f, 1, 1000)
	var j feed.Joiner
	if got := len(offsets(take(t, r, &j, 1))); got != 101 {
		t.Errorf("it got %d messages of 101", got)
	}
}

// A feed that was made without history has a place at its start that is no
// message. Whoever went back beyond it passes it without noticing.
func TestRewindPastTheStart(t *testing.T) {
	base := start
	var page broker.Page
	for range 3 {
		m := message(base, "", 0)
		page.Messages = append(page.Messages, m)
		base = m.Position
	}
	page.Position = base
	f := feed.New(feed.Retention{Keys: 4096}, base, nil)
	waits, joins := f.Live(numbers, feed.Close, 10), f.Live(numbers, feed.Close, unlimited)
	waits.Rewind(broker.Position{}, page)
	joins.Rewind(broker.Position{}, page)
	var j feed.Joiner
	if got := fmt.Sprint(offsets(take(t, waits, &j, 1<<20))); got != "[1 2 3]" {
		t.Errorf("it got %v, want the page", got)
	}
	if waits.Pending() || waits.Position() != base {
		t.Errorf("after the page it is at %v, pending %v", waits.Position(), waits.Pending())
	}
	fill(f, 1, 1<<20) // next, however large: no lag
	if got := fmt.Sprint(offsets(take(t, waits, &j, 1<<20))); got != "[4]" {
		t.Errorf("it got %v, want what came then", got)
	}
	fill(f, 1, 0)
	if got := fmt.Sprint(offsets(take(t, joins, &j, 1<<20))); got != "[1 2 3 4 5]" {
		t.Errorf("all at once it got %v", got)
	}
}

// Who resumes from a place that the feed has not reached yet, since another
// server was quicker, gets nothing twice.
func TestResumeAheadOfTheFeed(t *testing.T) {
	f := feed.New(feed.Retention{Count: 10}, start, nil)
	fill(f, 5, 0)
	ahead := broker.Position{Epoch: start.Epoch, Offset: 8}
	var j feed.Joiner
	reads, lags, lets := f.Live(numbers, feed.Close, 200), f.Live(numbers, feed.Close, 200), f.Live(numbers, feed.CatchUp, 0)
	for i, r := range []*feed.Cursor{reads, lags, lets} {
		if r.Resume(ahead) {
			t.Fatal("the feed says that it reaches a place which is yet to come")
		}
		if i == 2 {
			r.LetGo()
		}
		r.Rewind(ahead, broker.Page{Position: ahead})
		if at := r.Position(); at != ahead {
			t.Errorf("it is at %v, want %v", at, ahead)
		}
	}
	for n := 6; n <= 8; n++ {
		fill(f, 1, 100)
		if reads.Pending() || reads.Lag() != 0 {
			t.Errorf("message %d: pending %v, lag %d", n, reads.Pending(), reads.Lag())
		}
		if b, err := reads.Take(&j, 1000); b.Count != 0 || err != nil || reads.Position() != ahead {
			t.Errorf("message %d: it is given %+v, %v, and is at %v", n, b, err, reads.Position())
		}
	}
	if err := lags.Relieve(); err != nil {
		t.Errorf("what was passed over counts as lag: %v", err)
	}
	fill(f, 2, 0)
	for _, r := range []*feed.Cursor{reads, lags, lets} {
		if got := fmt.Sprint(offsets(take(t, r, &j, 1000))); got != "[9 10]" {
			t.Errorf("it got %v, want the two after its place", got)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, key := range []string{"", "key"} {
		b.Run(fmt.Sprintf("key=%q", key), func(b *testing.B) {
			f := feed.New(feed.Retention{Keys: 4096, Count: 256, Bytes: 1 << 20}, start, nil)
			msgs := make([]*broker.Message, b.N)
			pos := start
			for i := range msgs {
				msgs[i] = message(pos, key, 128)
				pos = msgs[i].Position
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, m := range msgs {
				f.Append(m)
			}
		})
	}
}

func BenchmarkTakeOne(b *testing.B) {
	const messages = 1 << 12
	f := feed.New(feed.Retention{Keys: 4096, Count: messages}, start, nil)
	fill(f, messages, 128)
	var j feed.Joiner
	reader := func() *feed.Cursor {
		r := f.Live(numbers, feed.CatchUp, unlimited)
		r.Resume(start)
		return r
	}
	take(b, reader(), &j, 1)
	j.Reset()
	b.ReportAllocs()
	r := reader()
	for i := range b.N {
		if i%messages == 0 {
			r = reader()
		}
		r.Take(&j, 1)
	}
}

// One operation is a delivery: 64 messages to one of a thousand readers.
func BenchmarkTakeJoined(b *testing.B) {
	const readers, batch = 1000, 64
	f := feed.New(feed.Retention{Keys: 4096, Count: batch}, start, nil)
	fill(f, batch, 128)
	crowd := make([]*feed.Cursor, readers)
	var j feed.Joiner
	b.ReportAllocs()
	for i := range b.N {
		if i%readers == 0 {
			b.StopTimer()
			j.Reset()
			for k := range crowd {
				crowd[k] = f.Live(numbers, feed.CatchUp, unlimited)
				crowd[k].Resume(start)
			}
			b.StartTimer()
		}
		crowd[i%readers].Take(&j, 1<<20)
	}
}

func BenchmarkResume(b *testing.B) {
	f := feed.New(feed.Retention{Keys: 4096, Count: 256}, start, nil)
	fill(f, 1000, 128)
	b.ReportAllocs()
	for i := range b.N {
		pos := f.Position()
		pos.Offset -= uint64(i % 256)
		if !f.Live(numbers, feed.CatchUp, unlimited).Resume(pos) {
			b.Fatal("history does not reach there")
		}
	}
}

// Without keys remembered, Latest does what Skip does, and counts it exactly.
func TestLatestWithoutKeys(t *testing.T) {
	f := feed.New(feed.Retention{Count: 10}, start, nil)
	c := f.Live(numbers, feed.Latest, 300)
	for range 5 {
		f.Append(message(f.Position(), "k", 1))
	}
	var j feed.Joiner
	b, err := c.Take(&j, 1<<16)
	if err != nil || b.Gap != (feed.Gap{Reason: feed.Superseded, Missed: 4}) {
		t.Fatalf("%+v %v", b, err)
	}
	if b, err = c.Take(&j, 1<<16); err != nil || b.Count != 1 {
		t.Fatalf("%+v %v, want the newest alone", b, err)
	}
}

// When settings begin to remember keys, or cease to, what a reader with the
// policy Latest is given and what it is told it missed is still all there was.
func TestRetainKeys(t *testing.T) {
	f := feed.New(feed.Retention{}, start, nil)
	c := f.Live(numbers, feed.Latest, 0)
	var j feed.Joiner
	lag := func(want ...uint64) {
		t.Helper()
		gap, err := c.Take(&j, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		if got := offsets(take(t, c, &j, 1<<16)); fmt.Sprint(got) != fmt.Sprint(want) || gap.Gap.Missed != int64(5-len(want)) {
			t.Errorf("after a gap of %d of 5 it got %v, want %v", gap.Gap.Missed, got, want)
		}
	}
	for i := range 5 {
		f.Append(message(f.Position(), fmt.Sprint(i%2), 1))
	}
	f.Retain(feed.Retention{Keys: 10})
	lag(5)
	for i := range 5 {
		f.Append(message(f.Position(), fmt.Sprint(i%2), 1))
	}
	lag(9, 10)
	for i := range 5 {
		f.Append(message(f.Position(), fmt.Sprint(i%2), 1))
	}
	f.Retain(feed.Retention{})
	lag(15)
}
