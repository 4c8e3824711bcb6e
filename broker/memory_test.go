package broker_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
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
// loses its history but not its epoch: its offsets go on.
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
		if next := publish(t, m, "wanted", 0); next.Epoch != wanted.Epoch || next.Offset != 2 {
			t.Errorf("the wanted channel goes on at %v, want the offset after %v", next, wanted)
		}
		kept := 0
		for i := range first {
			n := len(history(t, m, fmt.Sprint("channel/", i), broker.Position{}).Messages)
			if n < kept {
				t.Errorf("channel %d was forgotten, one silent for longer was not", i)
			}
			kept = n
		}
		if kept != 1 {
			t.Error("the newest channel was forgotten")
		}
		// A forgotten channel begins anew, in another epoch.
		if again := publish(t, m, "channel/0", 0); again.Epoch == first[0].Epoch || again.Offset != 1 {
			t.Errorf("a forgotten channel goes on at %v after %v", again, first[0])
		}
		if page := history(t, m, "channel/0", first[0]); !page.Gap || page.Missed != 0 {
			t.Errorf("since a position before it was forgotten: gap %v, missed %d, want a gap of unknown size", page.Gap, page.Missed)
		}
	})
}

// Whoever may name channels cannot fill the memory, even with channels that
// keep no history.
func TestNamesAreBounded(t *testing.T) {
	m := start(t, &broker.MemoryOptions{History: -1, TotalBytes: 100 * 512})
	first := publish(t, m, "channel", 0)
	for i := range 200 {
		publish(t, m, fmt.Sprint("channel/", i), 0)
	}
	if again := publish(t, m, "channel", 0); again.Epoch == first.Epoch || again.Offset != 1 {
		t.Errorf("after 200 others, of 100 that TotalBytes permits, the channel goes on at %v after %v", again, first)
	}
}

func TestChannelsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, &broker.MemoryOptions{HistoryAge: time.Minute})
		old := publish(t, m, "old", 0)
		wanted := publish(t, m, "wanted", 0)
		if pos, err := m.Subscribe(t.Context(), "wanted"); err != nil || pos != wanted {
			t.Fatalf("Subscribe: %v, %v", pos, err)
		}
		time.Sleep(3 * time.Minute)
		if next := publish(t, m, "wanted", 0); next.Epoch != wanted.Epoch || next.Offset != 2 {
			t.Errorf("a channel somebody is interested in goes on at %v after %v", next, wanted)
		}
		if page := history(t, m, "old", old); !page.Gap || len(page.Messages) != 0 {
			t.Errorf("a forgotten channel since %v: gap %v", old, page.Gap)
		}
		again := publish(t, m, "old", 0)
		if again.Epoch == old.Epoch || again.Offset != 1 {
			t.Errorf("a forgotten channel goes on at %v after %v", again, old)
		}
		if page := history(t, m, "old", old); !page.Gap || page.Missed != 0 || len(page.Messages) != 1 {
			t.Errorf("since a position of the epoch before: %+v", page)
		}
		m.Unsubscribe("wanted")
		time.Sleep(3 * time.Minute)
		if pos := publish(t, m, "wanted", 0); pos.Epoch == wanted.Epoch {
			t.Errorf("nobody was interested for three minutes, and yet the epoch is the same: %v", pos)
		}
	})
}

// Whoever waits in a channel where nobody ever spoke, leaves and comes back
// missed nothing, and is not told that he did.
func TestSilentChannelHasNoGap(t *testing.T) {
	m := start(t, nil)
	for range 2 {
		pos, err := m.Subscribe(t.Context(), "quiet")
		if err != nil {
			t.Fatal(err)
		}
		m.Unsubscribe("quiet")
		if page := history(t, m, "quiet", pos); page.Gap || page.Position != pos {
			t.Errorf("nobody ever spoke: since %v the gap is %v, the position %v", pos, page.Gap, page.Position)
		}
		publish(t, m, "other", 0)
	}
	before := history(t, m, "quiet", broker.Position{}).Position
	publish(t, m, "quiet", 0)
	if page := history(t, m, "quiet", before); page.Gap || len(page.Messages) != 1 {
		t.Errorf("since %v: gap %v, %d messages, want the first one", before, page.Gap, len(page.Messages))
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
// see each channel whole: within an epoch no offset twice and none left out.
func TestForgettingWhilePublishing(t *testing.T) {
	m := start(t, &broker.MemoryOptions{TotalBytes: 20_000, History: 10})
	rnd := random(t)
	var mu sync.Mutex
	seen := make(map[string]map[broker.Position]bool)
	var group sync.WaitGroup
	for range 4 {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		group.Go(func() {
			for range 2000 {
				channel := fmt.Sprint(rnd.IntN(60))
				pos := publish(t, m, channel, rnd.IntN(500))
				mu.Lock()
				if seen[channel] == nil {
					seen[channel] = make(map[broker.Position]bool)
				}
				if seen[channel][pos] {
					t.Errorf("channel %s: position %v twice", channel, pos)
				}
				seen[channel][pos] = true
				mu.Unlock()
				if rnd.IntN(10) == 0 {
					history(t, m, channel, pos)
				}
			}
		})
	}
	group.Wait()
	epochs := 0
	for channel, all := range seen {
		newest := make(map[uint64]uint64)
		for pos := range all {
			newest[pos.Epoch] = max(newest[pos.Epoch], pos.Offset)
		}
		var sum uint64
		for _, n := range newest {
			sum += n
		}
		epochs += len(newest)
		if sum != uint64(len(all)) {
			t.Errorf("channel %s: %d positions, whose newest offsets are %v", channel, len(all), newest)
		}
	}
	if epochs <= 60 {
		t.Errorf("%d epochs in 60 channels: nothing was forgotten, and this test proves nothing", epochs)
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

// Any query answers as a slice of all messages ever would.
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
	if _, err := m.Subscribe(t.Context(), "news"); err != nil { // so that it is not forgotten
		t.Fatal(err)
	}
	var all []*broker.Message
	kept := 0 // index of the oldest kept
	expire := func() {
		for kept < len(all) && time.Since(all[kept].Time) > o.HistoryAge {
			kept++
		}
	}
	for range 100 {
		if rnd.IntN(3) > 0 {
			msg := &broker.Message{Channel: "news", Payload: make([]byte, rnd.IntN(300))}
			m.Publish(msg, func(broker.Position, error) {})
			all = append(all, msg)
			kept = max(kept, len(all)-max(o.History, 0))
			for sum := 0; ; kept, sum = kept+1, 0 {
				for _, msg := range all[kept:] {
					sum += msg.Size()
				}
				if sum <= o.HistoryBytes || len(all)-kept <= 1 {
					break
				}
			}
			expire()
			continue
		}
		if rnd.IntN(4) == 0 {
			time.Sleep(time.Duration(rnd.IntN(8)) * time.Second)
		}
		if len(all) == 0 {
			continue
		}
		expire()
		head := all[len(all)-1].Position
		q := broker.Query{Limit: rnd.IntN(12), Tail: rnd.IntN(2) == 0}
		want := broker.Page{Position: head}
		rest := all[kept:]
		switch rnd.IntN(8) {
		case 0:
		case 1:
			q.Since = broker.Position{Epoch: head.Epoch, Offset: []uint64{head.Offset + 1, 1 << 63, math.MaxUint64}[rnd.IntN(3)]}
			want.Gap = true
		case 2:
			q.Since = broker.Position{Epoch: head.Epoch + 1, Offset: 1}
			want.Gap = true
		default:
			i := rnd.IntN(len(all) + 1) // so many messages are before it
			q.Since = broker.Position{Epoch: head.Epoch, Offset: uint64(i)}
			if i < kept {
				want.Gap, want.Missed = true, uint64(kept-i)
			} else {
				rest = all[i:]
			}
		}
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
		got, err := m.History(t.Context(), "news", q)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Messages, want.Messages) || got.Position != want.Position || got.Gap != want.Gap || got.Missed != want.Missed || got.More != want.More {
			t.Fatalf("%+v with %+v, %d messages published, answers %v %+v, want %v %+v", q, *o, len(all), offsets(got), got, offsets(want), want)
		}
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
