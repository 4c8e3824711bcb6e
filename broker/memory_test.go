package broker_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"go.uber.org/goleak"

	"fanfare/broker"
	"fanfare/broker/brokertest"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random programs; 0: another one each time")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryIsABroker(t *testing.T) {
	brokertest.Run(t, func(testing.TB) broker.Broker {
		return broker.NewMemory(&broker.MemoryOptions{HistoryBytes: 8 << 20})
	})
}

// start returns a started memory broker, and closes it when the test ends.
func start(t testing.TB, o *broker.MemoryOptions) *broker.Memory {
	m := broker.NewMemory(o)
	if err := m.Start(func(*broker.Message) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// publish publishes a message with a payload of size bytes.
func publish(t testing.TB, m *broker.Memory, channel string, size int) broker.Position {
	t.Helper()
	var at broker.Position
	m.Publish(&broker.Message{Channel: channel, Payload: make([]byte, size)}, func(pos broker.Position, err error) {
		if err != nil {
			t.Errorf("Publish: %v", err)
		}
		at = pos
	})
	if at.IsZero() {
		t.Fatal("done was not called before Publish returned, as this broker promises")
	}
	return at
}

func history(t testing.TB, m *broker.Memory, channel string, since broker.Position) broker.Page {
	t.Helper()
	page, err := m.History(context.Background(), channel, broker.Query{Since: since})
	if err != nil {
		t.Fatalf("History: %v", err)
	}
	return page
}

// offsets returns those of the messages in a page.
func offsets(page broker.Page) []uint64 {
	all := []uint64{}
	for _, m := range page.Messages {
		all = append(all, m.Position.Offset)
	}
	return all
}

func wantOffsets(t testing.TB, when string, page broker.Page, want ...uint64) {
	t.Helper()
	if got := offsets(page); !slices.Equal(got, want) {
		t.Errorf("%s: history has the offsets %v, want %v", when, got, want)
	}
}

func TestHistoryByCount(t *testing.T) {
	for _, c := range []struct{ limit, want int }{{0, 256}, {1, 1}, {5, 5}, {1000, 300}, {-1, 0}} {
		m := start(t, &broker.MemoryOptions{History: c.limit})
		for range 300 {
			publish(t, m, "news", 0)
		}
		page := history(t, m, "news", broker.Position{})
		if len(page.Messages) != c.want || page.Position.Offset != 300 || page.Gap {
			t.Errorf("History %d: %d messages are kept, want %d; position %v, gap %v", c.limit, len(page.Messages), c.want, page.Position, page.Gap)
		}
		since := broker.Position{Epoch: page.Position.Epoch, Offset: 10}
		page = history(t, m, "news", since)
		if missed := uint64(max(0, 290-c.want)); page.Gap != (missed > 0) || page.Missed != missed {
			t.Errorf("History %d: since 10 the gap is %v, %d missed, want %d", c.limit, page.Gap, page.Missed, missed)
		}
	}
}

func TestHistoryByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, &broker.MemoryOptions{HistoryAge: time.Minute})
		for range 5 {
			publish(t, m, "news", 0)
			time.Sleep(20 * time.Second)
		}
		// At 100 s: published at 0, 20, 40, 60, 80.
		wantOffsets(t, "after 100 s", history(t, m, "news", broker.Position{}), 3, 4, 5)
		time.Sleep(time.Nanosecond)
		wantOffsets(t, "a moment later", history(t, m, "news", broker.Position{}), 4, 5)
		publish(t, m, "news", 0)
		time.Sleep(time.Minute)
		wantOffsets(t, "a minute after the last", history(t, m, "news", broker.Position{}), 6)
	})
}

func TestHistoryByBytes(t *testing.T) {
	m := start(t, &broker.MemoryOptions{HistoryBytes: 3 * (100 + 128)})
	for range 5 {
		publish(t, m, "news", 100)
	}
	wantOffsets(t, "as many as fit exactly", history(t, m, "news", broker.Position{}), 3, 4, 5)
	publish(t, m, "news", 101)
	wantOffsets(t, "a byte more", history(t, m, "news", broker.Position{}), 5, 6)
	publish(t, m, "news", 1<<20)
	wantOffsets(t, "the newest, however large", history(t, m, "news", broker.Position{}), 7)
}

// Histories together weigh no more than TotalBytes, and the channel that was
// silent longest is forgotten first. One in which somebody is interested
// loses its history only.
func TestTotalBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const weight = 1000 + 128 + 512 // of a channel with one message
		m := start(t, &broker.MemoryOptions{TotalBytes: 10 * weight})
		if _, err := m.Subscribe(t.Context(), "wanted"); err != nil {
			t.Fatal(err)
		}
		wanted := publish(t, m, "wanted", 1000)
		first := make([]broker.Position, 12)
		for i := range first {
			time.Sleep(time.Second)
			first[i] = publish(t, m, fmt.Sprint("channel/", i), 1000)
			if i == 8 {
				wantOffsets(t, "within TotalBytes", history(t, m, "wanted", broker.Position{}), 1)
			}
		}
		page := history(t, m, "wanted", broker.Position{Epoch: wanted.Epoch})
		if !page.Gap || page.Missed != 1 || len(page.Messages) != 0 || page.Position != wanted {
			t.Errorf("the wanted channel: %+v, want a gap of one, and the position %v", page, wanted)
		}
		for i := range first {
			if n := len(history(t, m, fmt.Sprint("channel/", i), broker.Position{}).Messages); (n == 1) != (i >= 2) {
				t.Errorf("channel %d of 12 has %d messages, want one in each of the newest ten", i, n)
			}
		}
		// Who had seen all there was of a forgotten channel missed nothing.
		for since, gap := range map[broker.Position]bool{{}: false, first[0]: false, before(first[0]): true} {
			if page := history(t, m, "channel/0", since); page.Gap != gap || page.Missed != 0 || len(page.Messages) != 0 {
				t.Errorf("a forgotten channel since %v: %+v, want gap %v of unknown size", since, page, gap)
			}
		}
		again := publish(t, m, "channel/0", 0)
		if again.Epoch != first[0].Epoch || again.Offset != 14 {
			t.Errorf("the 14th message is at %v", again)
		}
		if page := history(t, m, "channel/0", first[0]); page.Gap || len(page.Messages) != 1 || page.Messages[0].Prev != first[0].Offset {
			t.Errorf("a forgotten channel goes on: %+v", page)
		}
		if page := history(t, m, "channel/0", before(first[0])); !page.Gap || page.Missed != 0 || len(page.Messages) != 1 {
			t.Errorf("a forgotten channel goes on, and before that: %+v", page)
		}
	})
}

// before returns the place before the message at p.
func before(p broker.Position) broker.Position {
	p.Offset--
	return p
}

// Names of many segments cost what they weigh: they do not fill twenty times the
// memory that TotalBytes permits.
func TestLongNamesAreWeighed(t *testing.T) {
	const most = 4 << 20
	inUse := func() int {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	m := start(t, &broker.MemoryOptions{TotalBytes: most})
	before := inUse()
	for i := range 5000 {
		publish(t, m, fmt.Sprintf("%08d/%s", i, strings.Repeat("a/", 122)+"a"), 0)
	}
	if grown := inUse() - before; grown > 2*most {
		t.Errorf("channels with long names are remembered in %d KiB, and TotalBytes is %d KiB", grown>>10, most>>10)
	}
	if n, w := m.Topics(), m.Weight(); n == 0 || w > most {
		t.Errorf("%d channels weigh %d", n, w)
	}
}

// Whoever may name channels cannot fill the memory, even with channels that
// keep no history, nor with ids.
func TestNamesAreBounded(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: -1, TotalBytes: 100 * 512})
	for i := range 200 {
		publish(t, m, fmt.Sprint("channel/", i), 0)
	}
	if n := m.Topics(); n != 100 {
		t.Errorf("after 200 names %d are remembered, of 100 that TotalBytes permits", n)
	}
	for i := range 1000 {
		publishID(t, m, "channel", fmt.Sprint(i), "")
	}
	if w := m.Weight(); w > 100*512 {
		t.Errorf("after ids that weigh more than TotalBytes %d bytes are counted, want %d at most", w, 100*512)
	}
	if pos := publishID(t, m, "channel", "0", ""); pos.Offset != 1201 {
		t.Errorf("the first id of too many is remembered: %v", pos)
	}
}

func TestChannelsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, &broker.MemoryOptions{HistoryAge: time.Minute, IDWindow: 10 * time.Minute})
		old := publish(t, m, "old", 0)
		publishID(t, m, "named", "id", "")
		wanted := publish(t, m, "wanted", 0)
		if pos, err := m.Subscribe(t.Context(), "wanted"); err != nil || pos != wanted {
			t.Fatalf("Subscribe: %v, %v", pos, err)
		}
		time.Sleep(3 * time.Minute)
		if n := m.Topics(); n != 2 {
			t.Errorf("%d channels are remembered, want the wanted one and the one with an id", n)
		}
		next := publish(t, m, "wanted", 0)
		if page := history(t, m, "wanted", wanted); page.Gap || len(page.Messages) != 1 || page.Messages[0].Position != next || page.Messages[0].Prev != wanted.Offset {
			t.Errorf("a channel somebody is interested in, since %v: %+v", wanted, page)
		}
		if page := history(t, m, "old", before(old)); !page.Gap || len(page.Messages) != 0 {
			t.Errorf("a forgotten channel since %v: gap %v", before(old), page.Gap)
		}
		m.Unsubscribe("wanted")
		time.Sleep(30 * time.Minute)
		if n := m.Topics(); n != 0 {
			t.Errorf("%d channels are remembered half an hour later", n)
		}
		if page := history(t, m, "wanted", next); page.Gap {
			t.Error("who had seen all of a forgotten channel is told of a gap")
		}
	})
}

// Whoever waits in a channel where nobody ever spoke, leaves and comes back
// missed nothing, and is not told that he did; whatever else was forgotten
// meanwhile.
func TestSilentChannelHasNoGap(t *testing.T) {
	m := start(t, &broker.MemoryOptions{TotalBytes: 700})
	for _, name := range []string{"quiet", "quiet/**"} {
		pos, err := m.Subscribe(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			publish(t, m, fmt.Sprint("other/", i), 0)
		}
		m.Unsubscribe(name)
		if page := history(t, m, name, pos); page.Gap || len(page.Messages) != 0 {
			t.Errorf("nobody ever spoke: %s since %v: %+v", name, pos, page)
		}
		last := publish(t, m, "quiet/1", 0)
		if page := history(t, m, "quiet/**", pos); page.Gap || len(page.Messages) != 1 || page.Position != last {
			t.Errorf("quiet/** since %v: %+v, want the first message", pos, page)
		}
	}
}

func TestOldMessagesAreFreed(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: 3})
	var all []weak.Pointer[broker.Message]
	for range 100 {
		msg := &broker.Message{Channel: "news", Payload: make([]byte, 100)}
		all = append(all, weak.Make(msg))
		m.Publish(msg, func(broker.Position, error) {})
	}
	var alive []int
	for range 20 {
		runtime.GC()
		alive = nil
		for i, p := range all {
			if p.Value() != nil {
				alive = append(alive, i)
			}
		}
		if slices.Equal(alive, []int{97, 98, 99}) {
			break
		}
	}
	if !slices.Equal(alive, []int{97, 98, 99}) {
		t.Errorf("of 100 messages %v are in memory, want the last three", alive)
	}
	runtime.KeepAlive(m)
}

// While channels are made, shed, swept and forgotten, publishers and readers
// see each channel whole: positions grow, each message names the one before it
// or a later place, and nothing is missing without a gap.
func TestForgettingWhilePublishing(t *testing.T) {
	m := start(t, &broker.MemoryOptions{TotalBytes: 20_000, History: 10})
	rnd := random(t)
	var forgotten, whole atomic.Int64
	var group sync.WaitGroup
	for p := range 4 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		group.Go(func() {
			mine := make(map[string][]broker.Position)
			for range 2000 {
				channel := fmt.Sprint(p, "/", rnd.IntN(20)) // nobody else's
				mine[channel] = append(mine[channel], publish(t, m, channel, rnd.IntN(500)))
				since := mine[channel][rnd.IntN(len(mine[channel]))]
				want := mine[channel][slices.Index(mine[channel], since)+1:]
				name := channel
				if rnd.IntN(10) == 0 {
					name, want = fmt.Sprint(p, "/**"), nil
					for _, all := range mine {
						for _, pos := range all {
							if pos.Offset > since.Offset {
								want = append(want, pos)
							}
						}
					}
					slices.SortFunc(want, func(a, b broker.Position) int { return cmp.Compare(a.Offset, b.Offset) })
				}
				page := history(t, m, name, since)
				var got []broker.Position
				for _, m := range page.Messages {
					got = append(got, m.Position)
				}
				switch {
				case page.Gap && len(got) < len(want):
					forgotten.Add(1)
					want = want[len(want)-len(got):]
				case !page.Gap:
					whole.Add(1)
				}
				if name == channel && !slices.Equal(got, want) || !page.Gap && !slices.Equal(got, want) {
					t.Errorf("%s since %v: %v, gap %v, want %v", name, since, got, page.Gap, want)
					return
				}
			}
		})
	}
	group.Wait()
	if forgotten.Load() == 0 || whole.Load() == 0 {
		t.Errorf("%d queries had gaps and %d had none: this test proves less than it says", forgotten.Load(), whole.Load())
	}
}

// A channel that is forgotten in the moment in which somebody subscribes to it
// is made again: interest is never declared in one that is gone.
func TestForgettingWhileSubscribing(t *testing.T) {
	m := broker.NewMemory(&broker.MemoryOptions{TotalBytes: 2000})
	var delivered [8]int // each counted by its channel's only publisher
	m.Start(func(msg *broker.Message) { delivered[msg.Channel[0]-'0']++ })
	defer m.Close()
	var group sync.WaitGroup
	for i := range delivered {
		channel := fmt.Sprint(i)
		group.Go(func() {
			for round := range 2000 {
				if _, err := m.Subscribe(context.Background(), channel); err != nil {
					t.Errorf("Subscribe: %v", err)
					return
				}
				publish(t, m, channel, 1000) // past TotalBytes: whoever is not wanted now is forgotten
				if delivered[i] != round+1 {
					t.Errorf("channel %s, round %d: what was published after Subscribe was not delivered", channel, round)
					return
				}
				m.Unsubscribe(channel)
			}
		})
	}
	group.Wait()
}

// A publish that has its place but not yet its answer gets it before Close
// returns.
func TestCloseWaitsForDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, nil)
		answered := false
		go m.Publish(&broker.Message{Channel: "news"}, func(broker.Position, error) {
			time.Sleep(time.Second)
			answered = true
		})
		synctest.Wait()
		m.Close()
		if !answered {
			t.Error("Close returned before done was called for a publish that was taken")
		}
	})
}

func random(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Any query about a channel or a pattern answers as a slice of all messages
// ever would, as long as no channel is forgotten.
func TestHistoryAgainstSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := random(t)
		for range 200 {
			askAtRandom(t, rnd)
		}
	})
}

func askAtRandom(t *testing.T, rnd *rand.Rand) {
	o := &broker.MemoryOptions{
		History:      []int{-1, 1, 3, 10, 100}[rnd.IntN(5)],
		HistoryAge:   []time.Duration{10 * time.Second, time.Hour}[rnd.IntN(2)],
		HistoryBytes: []int{500, 2000, 1 << 20}[rnd.IntN(3)],
	}
	m := broker.NewMemory(o)
	defer m.Close()
	m.Start(func(*broker.Message) {})
	type line struct { // what there was of a channel
		all  []*broker.Message
		kept int // index of the oldest kept
		keep broker.Retention
	}
	lines := make(map[string]*line)
	channels := []string{"a", "a/x", "a/y", "b/x", "b/x/y"}[:1+rnd.IntN(5)]
	names := append([]string{"**", "a/**", "*/x", "b/**", "c/**"}[:rnd.IntN(6)], channels...)
	for _, channel := range channels {
		if _, err := m.Subscribe(t.Context(), channel); err != nil { // so that it is not forgotten
			t.Fatal(err)
		}
		lines[channel] = &line{keep: broker.Retention{Messages: o.History, Age: o.HistoryAge, Bytes: o.HistoryBytes}}
	}
	trim := func(l *line) {
		size := func() (sum int) {
			for _, m := range l.all[l.kept:] {
				sum += m.Size()
			}
			return sum
		}
		for n := len(l.all) - l.kept; n > 0 && (n > l.keep.Messages || n > 1 && size() > l.keep.Bytes || time.Since(l.all[l.kept].Time) > l.keep.Age); n-- {
			l.kept++
		}
	}
	var newest broker.Position
	byOffset := func(a, b *broker.Message) int { return cmp.Compare(a.Position.Offset, b.Position.Offset) }
	for range 100 {
		switch rnd.IntN(12) {
		case 0:
			time.Sleep(time.Duration(rnd.IntN(8)) * time.Second)
			continue
		case 1: // other settings for the second half of the channels
			for channel, l := range lines {
				m.History(t.Context(), channel, broker.Query{}) // what is too old now is gone
				trim(l)
			}
			some := broker.Retention{Messages: 1 + rnd.IntN(5), Age: time.Duration(1+rnd.IntN(20)) * time.Second}
			m.Retain(func(channel string) broker.Retention {
				if channel > "a" {
					return some
				}
				return broker.Retention{}
			})
			for channel, l := range lines {
				if channel > "a" {
					l.keep = broker.Retention{Messages: some.Messages, Age: some.Age, Bytes: o.HistoryBytes}
				}
				m.History(t.Context(), channel, broker.Query{}) // they have them from here on
				trim(l)
			}
			continue
		case 2, 3, 4, 5, 6, 7:
			channel := channels[rnd.IntN(len(channels))]
			l := lines[channel]
			msg := &broker.Message{Channel: channel, Payload: make([]byte, rnd.IntN(300))}
			m.Publish(msg, func(pos broker.Position, _ error) { newest = pos })
			prev := uint64(0)
			if len(l.all) > 0 {
				prev = l.all[len(l.all)-1].Position.Offset
			}
			if msg.Prev != prev || msg.Position != newest {
				t.Fatalf("message %v of channel %s comes after %d, want %d; done said %v", msg.Position, channel, msg.Prev, prev, newest)
			}
			l.all = append(l.all, msg)
			trim(l)
			continue
		}
		if newest.IsZero() {
			continue
		}
		name := names[rnd.IntN(len(names))]
		q := broker.Query{Limit: rnd.IntN(12), Tail: rnd.IntN(2) == 0}
		strange := false
		switch rnd.IntN(8) {
		case 0:
		case 1:
			q.Since = broker.Position{Epoch: newest.Epoch, Offset: []uint64{newest.Offset + 1, 1 << 63, math.MaxUint64}[rnd.IntN(3)]}
			strange = true
		case 2:
			q.Since = broker.Position{Epoch: newest.Epoch + 1, Offset: 1}
			strange = true
		default:
			q.Since = broker.Position{Epoch: newest.Epoch, Offset: rnd.Uint64N(newest.Offset + 1)}
		}
		want := broker.Page{Position: newest, Gap: strange}
		if !broker.IsPattern(name) {
			want.Position.Offset = 0
		}
		var rest []*broker.Message
		lost := uint64(0)
		for channel, l := range lines {
			if channel != name && !broker.Fits(name, channel) {
				continue
			}
			trim(l)
			for i, msg := range l.all {
				if channel == name {
					want.Position = msg.Position
				}
				switch after := strange || msg.Position.Offset > q.Since.Offset; {
				case after && i >= l.kept:
					rest = append(rest, msg)
				case after && !strange && !q.Since.IsZero():
					want.Gap = true
					lost++
				}
			}
		}
		slices.SortFunc(rest, byOffset)
		want.Messages = rest
		if q.Limit > 0 && len(rest) > q.Limit {
			want.Messages = rest[:q.Limit]
			want.More = !q.Tail
			if q.Tail {
				want.Messages = rest[len(rest)-q.Limit:]
			}
		}
		if n := len(want.Messages); n > 0 {
			want.Position = want.Messages[n-1].Position
		}
		got, err := m.History(t.Context(), name, q)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Messages, want.Messages) || got.Position != want.Position || got.Gap != want.Gap || got.More != want.More {
			t.Fatalf("%s %+v with %+v, %v published, answers %v %+v, want %v %+v", name, q, *o, newest, offsets(got), got, offsets(want), want)
		}
		known := got.Missed > 0 || len(channels) == 1 && name == channels[0]
		if known && got.Missed != lost {
			t.Fatalf("%s %+v with %+v, %v published: missed are %d, want %d", name, q, *o, newest, got.Missed, lost)
		}
	}
}

// What of a channel is gone is counted where its messages followed one another
// without another channel's between them.
func TestMissedIsKnownInARow(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: 2})
	publish(t, m, "news", 0) // 1
	publish(t, m, "other", 0)
	for range 5 {
		publish(t, m, "news", 0) // 3 to 7, of which 6 and 7 are kept
	}
	epoch := history(t, m, "news", broker.Position{}).Position.Epoch
	for since, missed := range []uint64{0, 3, 3, 2, 1, 0, 0, 0} {
		page := history(t, m, "news", broker.Position{Epoch: epoch, Offset: uint64(since)})
		if page.Missed != missed || page.Gap != (since < 5) {
			t.Errorf("since %d: gap %v, %d missed, want %d", since, page.Gap, page.Missed, missed)
		}
	}
}

// A page of a pattern has no end of its own only up to MaxPage.
func TestPagesOfPatternsAreBounded(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: 30_000, HistoryBytes: 1 << 30})
	const each, channels = 10, 2000 // 20,000 messages: more than is looked at in one go, many times
	for i := range each * channels {
		publish(t, m, fmt.Sprint("load/", i%channels), 0)
	}
	check := func(q broker.Query, first, n int, gap, more bool) {
		t.Helper()
		page, err := m.History(t.Context(), "load/*", q)
		if err != nil || len(page.Messages) != n || page.Gap != gap || page.More != more {
			t.Fatalf("%+v: %d messages, gap %v, more %v, error %v; want %d, %v, %v", q, len(page.Messages), page.Gap, page.More, err, n, gap, more)
		}
		for i, msg := range page.Messages {
			if msg.Position.Offset != uint64(first+i) {
				t.Fatalf("%+v: message %d is %v, want offset %d", q, i, msg.Position, first+i)
			}
		}
	}
	const all = each * channels
	epoch := history(t, m, "load/*", broker.Position{}).Position.Epoch
	check(broker.Query{}, all-broker.MaxPage+1, broker.MaxPage, true, false)
	check(broker.Query{Since: broker.Position{Epoch: epoch, Offset: all - broker.MaxPage}}, all-broker.MaxPage+1, broker.MaxPage, false, false)
	check(broker.Query{Since: broker.Position{Epoch: epoch, Offset: all - broker.MaxPage - 1}}, all-broker.MaxPage+1, broker.MaxPage, true, false)
	check(broker.Query{Limit: 10}, 1, 10, false, true)
	check(broker.Query{Limit: 10, Tail: true}, all-9, 10, false, false)
	check(broker.Query{Limit: 15_000}, 1, 15_000, false, true)
}

// publishID publishes a message with an id and a payload.
func publishID(t testing.TB, m *broker.Memory, channel, id, payload string) (at broker.Position) {
	t.Helper()
	m.Publish(&broker.Message{Channel: channel, ID: id, Payload: []byte(payload)}, func(pos broker.Position, err error) {
		if err != nil {
			t.Errorf("Publish: %v", err)
		}
		at = pos
	})
	return at
}

// An id is remembered for its window, and not for ever.
func TestIDWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, quiet := range []bool{false, true} {
			m := start(t, &broker.MemoryOptions{IDWindow: time.Minute})
			busy := func(d time.Duration) {
				if quiet {
					time.Sleep(d)
					return
				}
				for ; d > 0; d -= 10 * time.Second {
					publishID(t, m, "news", fmt.Sprint(d, time.Now()), "")
					time.Sleep(10 * time.Second)
				}
			}
			first := publishID(t, m, "news", "a", "")
			busy(time.Minute)
			if again := publishID(t, m, "news", "a", ""); again != first {
				t.Errorf("a minute later (quiet: %v) the id stands for %v, want %v", quiet, again, first)
			}
			busy(2 * time.Minute)
			if again := publishID(t, m, "news", "a", ""); again == first {
				t.Errorf("three minutes later (quiet: %v) the id still stands for %v", quiet, first)
			}
		}
	})
}

// Of a channel the newest ids are remembered, however many come; and what
// they weigh is about what they cost.
func TestIDsAreBounded(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: -1, TotalBytes: 1 << 30})
	const all = 149_000 // two generations, and the third nearly full
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	at := make([]broker.Position, all)
	before := heap()
	for i := range at {
		at[i] = publishID(t, m, "news", fmt.Sprint(i), "")
	}
	if each := (int64(heap()) - int64(before)) / 99_000; each > 96 {
		t.Errorf("99,000 ids take %d bytes each; 96 are counted", each)
	} else {
		t.Logf("99,000 ids take %d bytes each", each)
	}
	runtime.KeepAlive(at)
	for _, i := range []int{all - 1, all - 50_000} {
		if again := publishID(t, m, "news", fmt.Sprint(i), ""); again != at[i] {
			t.Errorf("id %d of %d stands for %v, want %v", i, all, again, at[i])
		}
	}
	if again := publishID(t, m, "news", fmt.Sprint(all-100_001), ""); again == at[all-100_001] {
		t.Error("the id before the newest 100,000 is remembered")
	}
}

// Settings that change reach a channel also when nobody speaks or asks.
func TestRetainReachesTheQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, nil)
		msg := &broker.Message{Channel: "news"}
		m.Publish(msg, func(broker.Position, error) {})
		freed := weak.Make(msg)
		publish(t, m, "news", 0)
		m.Retain(func(string) broker.Retention { return broker.Retention{Messages: 1} })
		msg = nil
		time.Sleep(2 * time.Minute)
		for range 20 {
			runtime.GC()
		}
		if freed.Value() != nil {
			t.Error("two minutes after the settings permit one message two are kept")
		}
		wantOffsets(t, "one is permitted", history(t, m, "news", broker.Position{}), 2)
		m.Retain(nil)
		publish(t, m, "news", 0)
		wantOffsets(t, "the defaults again", history(t, m, "news", broker.Position{}), 2, 3)
	})
}

// When Unsubscribe returns, nothing is delivered any more because of that
// interest, whichever channel it is and whether it was published to before.
func TestUnsubscribeIsImmediate(t *testing.T) {
	m := broker.NewMemory(nil)
	var got []string
	m.Start(func(msg *broker.Message) { got = append(got, msg.Channel) })
	defer m.Close()
	names := []string{"a/x", "a/*", "**"}
	for _, name := range names {
		m.Subscribe(t.Context(), name)
	}
	publish(t, m, "a/x", 0)
	publish(t, m, "a/y", 0)
	for _, name := range names {
		m.Unsubscribe(name)
		publish(t, m, "a/x", 0)
		publish(t, m, "a/y", 0)
		publish(t, m, name[:1]+"/new", 0)
	}
	if want := []string{"a/x", "a/y", "a/x", "a/y", "a/new", "a/x", "a/y", "a/new"}; !slices.Equal(got, want) {
		t.Errorf("delivered are %v, want %v", got, want)
	}
}

func TestSubscribeTwicePanics(t *testing.T) {
	m := start(t, nil)
	m.Subscribe(t.Context(), "news")
	defer func() {
		if recover() == nil {
			t.Error("a second Subscribe for the same channel did not panic, as this broker promises")
		}
		publish(t, m, "news", 0) // the channel is not left locked
	}()
	m.Subscribe(t.Context(), "news")
}

func TestPositionText(t *testing.T) {
	for _, p := range []broker.Position{{}, {Epoch: 1}, {Epoch: 1763800000000, Offset: 42}, {Epoch: math.MaxUint64, Offset: math.MaxUint64}} {
		got, err := broker.ParsePosition(p.String())
		if err != nil || got != p {
			t.Errorf("ParsePosition(%q) = %v, %v", p.String(), got, err)
		}
	}
	if s := string((broker.Position{Epoch: 7, Offset: 9}).Append([]byte("at "))); s != "at 7-9" {
		t.Errorf("Append: %q", s)
	}
	for _, s := range []string{"", "-", "1", "1-", "-1", "0-0", "0-5", "00", "+1-2", "1-+2", "01-2", "1-02", "1--2", "1-2-3", " 1-2", "1-2 ", "18446744073709551616-1", "1-18446744073709551616", "x-1", "1-x", "\u0661-1"} {
		if p, err := broker.ParsePosition(s); err == nil || !p.IsZero() {
			t.Errorf("ParsePosition(%q) = %v, %v, want an error", s, p, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"0", "1-0", "1763800000000-42", "18446744073709551615-18446744073709551615", "01-1", "+1-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := broker.ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q is read as %v: two spellings of one position", s, p)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	m := start(b, nil)
	m.Subscribe(b.Context(), "news")
	b.ReportAllocs()
	for range b.N {
		m.Publish(&broker.Message{Channel: "news"}, func(broker.Position, error) {})
	}
}

// Each goroutine publishes to a channel of its own: they share the lock.
func BenchmarkPublishParallel(b *testing.B) {
	m := start(b, nil)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		channel := fmt.Sprint("channel/", n.Add(1))
		for pb.Next() {
			m.Publish(&broker.Message{Channel: channel}, func(broker.Position, error) {})
		}
	})
}

func BenchmarkPublishID(b *testing.B) {
	m := start(b, nil)
	b.ReportAllocs()
	for i := range b.N {
		m.Publish(&broker.Message{Channel: "news", ID: strconv.Itoa(i)}, func(broker.Position, error) {})
	}
}

// Ten thousand patterns of interest that the channel does not fit, and one it does.
func BenchmarkPublishPatterns(b *testing.B) {
	m := start(b, nil)
	for i := range 10_000 {
		m.Subscribe(b.Context(), fmt.Sprintf("devices/%d/**", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Publish(&broker.Message{Channel: "devices/77/temperature"}, func(broker.Position, error) {})
	}
}

// A look into a pattern's history, of a hundred thousand channels: where none
// begins as the pattern does, and where all do.
func BenchmarkPatternHistory(b *testing.B) {
	m := start(b, nil)
	for i := range 100_000 {
		publish(b, m, fmt.Sprintf("devices/%d/temperature", i), 0)
	}
	for _, pattern := range []string{"sensors/**", "devices/*/humidity", "devices/**"} {
		b.Run(strings.ReplaceAll(pattern, "/", " "), func(b *testing.B) {
			for b.Loop() {
				if _, err := m.History(b.Context(), pattern, broker.Query{Limit: 256, Tail: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A name that is remembered costs about what is counted for it.
func TestNamesWeighWhatTheyCost(t *testing.T) {
	heap := func() int {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int(s.HeapAlloc)
	}
	const names = 20_000
	before := heap()
	m := start(t, &broker.MemoryOptions{History: -1})
	for i := range names {
		publish(t, m, fmt.Sprintf("devices/%d/temperature", i), 0)
	}
	each := (heap() - before) / names
	t.Logf("a name costs %d bytes; %d are counted", each, m.Weight()/names)
	if counted := m.Weight() / names; each > counted*3/2 {
		t.Errorf("a name costs %d bytes; %d are counted", each, counted)
	}
}
