package feed_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"weak"

	"fanfare/broker"
	"fanfare/internal/feed"
)

// watched are messages that are only looked at, not kept.
type watched []weak.Pointer[broker.Message]

func (w *watched) append(f *feed.Feed, n int, key string) {
	for range n {
		m := message(f.Position(), key, 1000)
		*w = append(*w, weak.Make(m))
		f.Append(m)
	}
}

// alive returns the indices of those that are still in memory.
func (w watched) alive() []int {
	runtime.GC()
	var found []int
	for i, p := range w {
		if p.Value() != nil {
			found = append(found, i)
		}
	}
	return found
}

// want waits until only those with the given indices are in memory.
func (w watched) want(t *testing.T, when string, want ...int) {
	t.Helper()
	var got []int
	for range 20 {
		if got = w.alive(); fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
	}
	t.Errorf("%s: messages %v are in memory, want %v", when, got, want)
}

// Alice freezes while a hundred messages pass. Until she is relieved she keeps
// them all; then none, whatever her policy.
func TestFrozenReaderKeepsNothing(t *testing.T) {
	for _, policy := range []feed.Policy{feed.CatchUp, feed.Skip, feed.Latest, feed.Close} {
		t.Run(policy.String(), func(t *testing.T) {
			var w watched
			f := feed.New(feed.Retention{Keys: 4096}, start, nil)
			alice := f.Live(numbers, policy, 10_000)
			w.append(f, 100, "")
			if n := len(w.alive()); n != 100 {
				t.Fatalf("before she is relieved %d of 100 messages are in memory", n)
			}
			if err := alice.Relieve(); (err != nil) != (policy == feed.Close) {
				t.Fatalf("Relieve: %v", err)
			}
			w.want(t, "after Relieve", 99)
			w.append(f, 50, "")
			w.want(t, "and later", 149)
			runtime.KeepAlive(alice)
			runtime.KeepAlive(f)
		})
	}
}

// As long as she lags less than her limit she keeps what she has not seen.
func TestRelieveLeavesWhoIsNotSlow(t *testing.T) {
	var w watched
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	alice := f.Live(numbers, feed.Skip, 3*(1000+128))
	w.append(f, 4, "") // the one that is next does not count
	if err := alice.Relieve(); err != nil {
		t.Fatal(err)
	}
	w.want(t, "at the limit", 0, 1, 2, 3)
	w.append(f, 1, "")
	alice.Relieve()
	w.want(t, "past the limit", 4)
	runtime.KeepAlive(alice)
	runtime.KeepAlive(f)
}

// A frozen reader that was placed among the newest of each key, or that went
// back to a broker's page, is relieved of those as well.
func TestRelieveFreesWhatIsTheReadersAlone(t *testing.T) {
	var w watched
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	alice := f.Live(numbers, feed.Latest, 2000)
	for _, key := range []string{"a", "b", "a", "b", "c"} {
		w.append(f, 1, key)
	}
	var j feed.Joiner
	if b, err := alice.Take(&j, 1); err != nil || b.Gap.Missed != 2 {
		t.Fatalf("Take: %+v, %v", b, err)
	}
	for _, key := range []string{"a", "b", "c", "a", "b", "c"} {
		w.append(f, 1, key)
	}
	w.want(t, "placed", 2, 3, 4, 5, 6, 7, 8, 9, 10)
	alice.Relieve()
	w.want(t, "relieved", 8, 9, 10)
	runtime.KeepAlive(alice)

	w = nil
	bob := f.Live(numbers, feed.CatchUp, 2000)
	page := broker.Page{}
	func() {
		prev := broker.Position{Epoch: start.Epoch}
		for range 3 {
			m := message(prev, "", 1000)
			prev = m.Position
			w = append(w, weak.Make(m))
			page.Messages = append(page.Messages, m)
		}
	}()
	page.Position = f.Position()
	bob.Rewind(broker.Position{}, page)
	page = broker.Page{}
	w.want(t, "rewound", 0, 1, 2)
	fill(f, 9, 1000)
	bob.Relieve()
	w.want(t, "rewound and relieved")
	runtime.KeepAlive(bob)
	runtime.KeepAlive(f)
}

// History keeps what it should and no more, also with a reader that lags
// within it.
func TestHistoryKeepsNoMore(t *testing.T) {
	var w watched
	f := feed.New(feed.Retention{Keys: 4096, Count: 3}, start, nil)
	alice := f.Live(numbers, feed.CatchUp, 2000)
	w.append(f, 10, "")
	alice.Relieve()
	w.want(t, "three are kept", 7, 8, 9)
	var j feed.Joiner
	if b, err := alice.Take(&j, 1); err != nil || b.Gap != (feed.Gap{Reason: feed.Outrun, Missed: 7}) {
		t.Fatalf("Take: %+v, %v", b, err)
	}
	if got := offsets(take(t, alice, &j, 1)); fmt.Sprint(got) != "[8 9 10]" {
		t.Fatalf("alice reads %v", got)
	}
	f.Trim(time.Now().Add(time.Hour))
	w.want(t, "no age limit", 7, 8, 9)
	runtime.KeepAlive(alice)
	runtime.KeepAlive(f)

	w = nil
	f = feed.New(feed.Retention{Keys: 4096, Count: 100, Age: time.Minute}, start, nil)
	w.append(f, 10, "")
	f.Trim(time.Now().Add(time.Hour))
	w.want(t, "too old", 9)
	runtime.KeepAlive(f)
}

// Bytes is what history may weigh, and not one byte less.
func TestHistoryBytesAreExact(t *testing.T) {
	f := feed.New(feed.Retention{Keys: 4096, Count: 100, Bytes: 3 * (100 + 128)}, start, nil)
	reaches := func(offset uint64) bool {
		return f.Live(numbers, feed.Skip, 0).Resume(broker.Position{Epoch: start.Epoch, Offset: offset})
	}
	fill(f, 5, 100)
	if !reaches(2) || reaches(1) {
		t.Error("of five messages history does not keep exactly the three that fit")
	}
	fill(f, 1, 101)
	if !reaches(4) || reaches(3) {
		t.Error("a byte too many, and history does not keep exactly two messages")
	}
	fill(f, 1, 1000)
	if !reaches(6) || reaches(5) {
		t.Error("history does not keep exactly the newest, which alone is too large")
	}
}

// A key that fell silent keeps its newest message, and nothing that came
// before or after it.
func TestSilentKeyKeepsOnlyItsMessage(t *testing.T) {
	var w watched
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	w.append(f, 2, "quiet")
	w.append(f, 1, "")
	w.append(f, 50, "busy")
	w.want(t, "quiet, keyless and busy", 1, 2, 52)
	runtime.KeepAlive(f)
}

// However many keys somebody makes up, a feed remembers 4,096 of them.
func TestKeysAreBounded(t *testing.T) {
	var w watched
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	for i := range 5000 {
		w.append(f, 1, fmt.Sprint("key ", i))
	}
	if n := len(w.alive()); n != 4096 {
		t.Errorf("%d messages are in memory after 5000 keys, want 4096", n)
	}
	runtime.KeepAlive(f)
	w = nil
	f = feed.New(feed.Retention{Keys: 4096, Bytes: 10_000}, start, nil)
	for i := range 100 {
		w.append(f, 1, fmt.Sprint("key ", i))
	}
	if n := len(w.alive()); n != 8 { // of 1128 bytes and the key
		t.Errorf("%d messages are in memory after 100 keys, want the 8 that 10,000 bytes permit", n)
	}
	runtime.KeepAlive(f)
}

// A joiner keeps no message, nor what came after one, but the bytes it joined
// last, until it is reset.
func TestJoinerKeepsBytesOnly(t *testing.T) {
	var w watched
	var j feed.Joiner
	f := feed.New(feed.Retention{Keys: 4096}, start, nil)
	alice := f.Live(numbers, feed.CatchUp, unlimited)
	w.append(f, 10, "")
	b, err := alice.Take(&j, 1<<20)
	if err != nil || b.Count != 10 {
		t.Fatalf("Take: %+v, %v", b, err)
	}
	joined := weak.Make(&b.Bytes[0])
	b = feed.Batch{}
	w.want(t, "joined", 9)
	w.append(f, 10, "")
	take(t, alice, &j, 1)
	w.want(t, "and later", 19)
	if joined.Value() == nil {
		t.Error("the joined bytes are gone before Reset")
	}
	j.Reset()
	for range 20 {
		runtime.GC()
	}
	if joined.Value() != nil {
		t.Error("the joined bytes are in memory after Reset")
	}
	runtime.KeepAlive(&j)
	runtime.KeepAlive(alice)
	runtime.KeepAlive(f)
}
