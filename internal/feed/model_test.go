package feed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fanfare/broker"
	"fanfare/internal/feed"
)

// A toy is the promise of the package, as plainly as it can be written: all
// messages in a slice, and for each reader a queue of what it is owed.
type toy struct {
	keep   feed.Retention
	all    []*broker.Message // of the channel, since ever
	oldest int               // index of the oldest that the feed's history keeps
	keys   []int             // indices of the newest for each key, longest silent first
}

func (t *toy) append(m *broker.Message) {
	i := len(t.all)
	t.all = append(t.all, m)
	if i > 0 && t.all[i-1].Position.Epoch != m.Position.Epoch {
		t.oldest, t.keys = i, nil
	}
	t.trim(m.Time)
	t.keys = slices.DeleteFunc(t.keys, func(k int) bool { return t.all[k].Key == m.Key && t.all[k].Channel == m.Channel })
	t.keys = append(t.keys, i)
	t.trimKeys()
}

func (t *toy) trimKeys() {
	for t.keep.Bytes > 0 && len(t.keys) > 1 && t.size(t.keys) > t.keep.Bytes {
		t.keys = t.keys[1:]
	}
}

func (t *toy) size(indices []int) (sum int64) {
	for _, i := range indices {
		sum += int64(t.all[i].Size())
	}
	return sum
}

func (t *toy) trim(now time.Time) {
	for ; t.oldest < len(t.all); t.oldest++ {
		var sum int64
		for _, m := range t.all[t.oldest:] {
			sum += int64(m.Size())
		}
		n := len(t.all) - t.oldest
		tooMany := n > t.keep.Count
		tooOld := t.keep.Age > 0 && now.Sub(t.all[t.oldest].Time) > t.keep.Age
		tooBig := t.keep.Bytes > 0 && sum > t.keep.Bytes && n > 1
		if !tooMany && !tooOld && !tooBig {
			return
		}
	}
}

// A listener is a reader and what it is owed by the promise.
type listener struct {
	name   string
	reader *feed.Cursor
	form   *feed.Form
	policy feed.Policy
	limit  int64

	made  int    // how many messages there were when it was made
	owed  []owed // what it is to be given, in order
	gap   feed.Gap
	gone  bool // it let go of its place
	ended bool // it got ErrTooSlow
	seen  int  // messages delivered
}

type owed struct {
	index int
	lag   int64 // what it counts for as lag
}

func (l *listener) lag() (sum int64) {
	for _, o := range l.owed {
		sum += o.lag
	}
	return sum
}

// slow is the promise of Live: the message that is next does not count.
func (l *listener) slow() bool { return len(l.owed) > 1 && l.lag()-l.owed[0].lag > l.limit }

// place does to the queue what the policy says, and returns the gap.
func (l *listener) place(t *toy) feed.Gap {
	before, newest := len(l.owed), len(t.all)-1
	reason := feed.Skipped
	switch l.policy {
	case feed.CatchUp:
		reason = feed.Outrun
		if t.oldest <= newest {
			l.owed = slices.DeleteFunc(l.owed, func(o owed) bool { return o.index < t.oldest })
			break
		}
		l.owed = l.owed[before-1:]
	case feed.Skip:
		l.owed = l.owed[before-1:]
	case feed.Latest:
		reason = feed.Superseded
		l.owed = slices.DeleteFunc(l.owed, func(o owed) bool { return !slices.Contains(t.keys, o.index) })
		for i := range l.owed {
			l.owed[i].lag = 0
		}
	}
	l.gone = false
	if len(l.owed) == before {
		return feed.Gap{}
	}
	return feed.Gap{Reason: reason, Missed: int64(before - len(l.owed))}
}

// A program is a random one against a feed, its broker and the toy.
type program struct {
	*rapid.T
	*toy
	feed      *feed.Feed
	source    source
	joiner    feed.Joiner
	forms     []*feed.Form
	encoded   map[string]int // form and message: how often
	allowed   map[string]int // by rewinds
	listeners []*listener
	base      broker.Position // where the feed began to be appended to
	before    int             // how many messages were before that
}

// A source is a broker with what the feed is of: a channel, or all that fit a
// pattern.
type source interface {
	publish(channel int, key string, size int) // to one of four channels
	newest() broker.Position                   // of all messages, also of other channels
	history(since broker.Position) broker.Page
	lose() // history; begins another epoch
	close()
}

// memory is the real one.
type memory struct {
	*broker.Memory
	name     string    // of what the feed is of
	channels [4]string // of which one does not fit that
	head     broker.Position
}

func (s *memory) publish(channel int, key string, size int) {
	s.Publish(&broker.Message{Channel: s.channels[channel], Key: key, Payload: make([]byte, size)}, func(pos broker.Position, _ error) { s.head = pos })
}

func (s *memory) newest() broker.Position { return s.head }

func (s *memory) history(since broker.Position) broker.Page {
	page, err := s.History(context.Background(), s.name, broker.Query{Since: since})
	if err != nil {
		panic(err)
	}
	return page
}

func (s *memory) lose()  {}
func (s *memory) close() { s.Close() }

// sparse is a broker whose offsets have holes, whose messages name whatever as
// the one before, and which can lose its history.
type sparse struct {
	deliver func(*broker.Message)
	keep    int
	head    broker.Position
	all     []*broker.Message // of this epoch
}

func (s *sparse) publish(channel int, key string, size int) {
	m := message(s.head, key, size)
	m.Position.Offset += uint64(size % 3)
	m.Prev = uint64(channel)
	s.head = m.Position
	s.all = append(s.all, m)
	s.deliver(m)
}

func (s *sparse) newest() broker.Position { return s.head }

func (s *sparse) history(since broker.Position) broker.Page {
	kept := s.all[max(0, len(s.all)-s.keep):]
	lost := s.all[:len(s.all)-len(kept)]
	page := broker.Page{Position: s.head}
	after := func(m *broker.Message) bool { return m.Position.Offset > since.Offset }
	switch {
	case since.IsZero():
	case since.Epoch != s.head.Epoch || since.Offset > s.head.Offset:
		page.Gap = true
	default:
		for _, m := range lost {
			if after(m) {
				page.Gap = true
				page.Missed++
			}
		}
		for len(kept) > 0 && !after(kept[0]) {
			kept = kept[1:]
		}
	}
	page.Messages = slices.Clone(kept)
	return page
}

func (s *sparse) lose() {
	s.head = broker.Position{Epoch: s.head.Epoch + 1}
	s.all = nil
}

func (s *sparse) close() {}

func TestAgainstToy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(inBubble{t}, func(t *rapid.T) {
			p := newProgram(t)
			defer p.source.close()
			t.Repeat(map[string]func(*rapid.T){
				"publish":  p.publish,
				"burst":    p.burst,
				"time":     p.pass,
				"lose":     p.lose,
				"retain":   p.retain,
				"live":     p.live,
				"resume":   p.resume,
				"rewind":   p.resume,
				"take":     p.take,
				"takeMore": p.take,
				"drain":    p.drain,
				"relieve":  p.relieve,
				"leave":    p.leave,
				"reset":    func(*rapid.T) { p.joiner.Reset() },
				"":         p.check,
			})
			for _, l := range p.listeners {
				p.takeAll(l)
			}
		})
	})
}

// inBubble is a test whose deadline must not be asked for, since it is real time.
type inBubble struct{ *testing.T }

func (inBubble) Deadline() (time.Time, bool) { return time.Time{}, false }

func newProgram(t *rapid.T) *program {
	p := &program{T: t, encoded: make(map[string]int), allowed: make(map[string]int)}
	p.toy = &toy{keep: retention(t)}
	for i := range 3 {
		p.forms = append(p.forms, &feed.Form{Encode: func(dst []byte, m *broker.Message) []byte {
			p.encoded[fmt.Sprint(i, m.Position)]++
			if i == 2 && m.Key == "" {
				return dst // a form that has nothing to say
			}
			return fmt.Appendf(dst, "%d/%v/%s/%d;", i, m.Position, m.Key, len(m.Payload))
		}})
	}
	var base broker.Position
	var early []*broker.Message // delivered before there is a feed
	deliver := func(m *broker.Message) {
		if p.feed == nil {
			early = append(early, m)
			return
		}
		p.feed.Append(m)
		p.append(m)
		for _, l := range p.listeners {
			l.owed = append(l.owed, owed{len(p.all) - 1, int64(m.Size())})
		}
	}
	if kind := rapid.IntRange(0, 2).Draw(t, "kind"); kind > 0 {
		m := broker.NewMemory(&broker.MemoryOptions{
			History:      rapid.SampledFrom([]int{-1, 1, 5, 20, 100}).Draw(t, "kept"),
			HistoryAge:   rapid.SampledFrom([]time.Duration{2 * time.Second, time.Hour}).Draw(t, "keptAge"),
			HistoryBytes: rapid.SampledFrom([]int{500, 2000, 1 << 20}).Draw(t, "keptBytes"),
		})
		m.Start(deliver)
		p.source = &memory{Memory: m, name: "news", channels: [4]string{"news", "other", "news", "news"}}
		if kind == 2 {
			p.source = &memory{Memory: m, name: "a/*", channels: [4]string{"a/x", "other", "a/y", "a/z"}}
		}
	} else {
		p.source = &sparse{deliver: deliver, head: start, keep: rapid.SampledFrom([]int{0, 1, 5, 20, 100}).Draw(t, "kept")}
	}
	for range rapid.IntRange(0, 12).Draw(t, "before") {
		p.source.publish(channelGen.Draw(t, "channel"), "", 10)
	}
	if m, ok := p.source.(*memory); ok {
		early = nil
		base, _ = m.Subscribe(context.Background(), m.name)
	} else {
		early = nil
		base = p.source.(*sparse).head
	}
	for range rapid.IntRange(0, 3).Draw(t, "meanwhile") {
		p.source.publish(channelGen.Draw(t, "channel"), "", 10)
	}
	page := p.source.history(broker.Position{})
	given := rapid.Bool().Draw(t, "given")
	for _, m := range page.Messages {
		if m.Position.Offset <= base.Offset {
			p.append(m)
		}
	}
	if given {
		p.feed = feed.New(p.keep, base, page.Messages)
	} else {
		// The broker has them, the feed does not.
		p.feed = feed.New(p.keep, base, nil)
		p.oldest, p.keys = len(p.all), nil
	}
	want := base
	if given && len(p.all) > 0 {
		want = p.all[len(p.all)-1].Position
	}
	if at := p.feed.Position(); at != want {
		t.Fatalf("a new feed is at %v, want %v", at, want)
	}
	p.base, p.before = want, len(p.all)
	for _, m := range early {
		deliver(m)
	}
	return p
}

func retention(t *rapid.T) feed.Retention {
	return feed.Retention{
		Keys:  4096,
		Count: rapid.SampledFrom([]int{0, 1, 3, 10, 100}).Draw(t, "count"),
		Age:   rapid.SampledFrom([]time.Duration{0, 0, time.Second, time.Minute}).Draw(t, "age"),
		Bytes: rapid.SampledFrom([]int64{0, 0, 300, 1000, 5000}).Draw(t, "bytes"),
	}
}

// retain changes the settings of the living feed.
func (p *program) retain(t *rapid.T) {
	p.keep = retention(t)
	p.feed.Retain(p.keep)
	p.trim(time.Now())
	p.trimKeys()
}

var channelGen = rapid.IntRange(0, 3)

var keyGen = rapid.SampledFrom([]string{"", "", "a", "b", "c", "d"})

func (p *program) publish(t *rapid.T) {
	p.source.publish(channelGen.Draw(t, "channel"), keyGen.Draw(t, "key"), rapid.SampledFrom([]int{0, 1, 2, 50, 400}).Draw(t, "size"))
}

func (p *program) burst(t *rapid.T) {
	for range rapid.IntRange(2, 20).Draw(t, "n") {
		p.source.publish(channelGen.Draw(t, "channel"), keyGen.Draw(t, "key"), 5)
	}
}

func (p *program) pass(t *rapid.T) {
	time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, 600 * time.Millisecond, time.Second, time.Minute}).Draw(t, "time"))
	if rapid.Bool().Draw(t, "trim") {
		p.feed.Trim(time.Now())
		p.trim(time.Now())
	}
}

func (p *program) lose(t *rapid.T) {
	if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
		p.source.lose()
		p.publish(t)
	}
}

func (p *program) newListener(t *rapid.T) *listener {
	l := &listener{
		name:   fmt.Sprint("reader ", len(p.listeners)),
		form:   rapid.SampledFrom(p.forms).Draw(t, "form"),
		policy: rapid.SampledFrom([]feed.Policy{feed.CatchUp, feed.Skip, feed.Latest, feed.Close}).Draw(t, "policy"),
		limit:  rapid.SampledFrom([]int64{0, 130, 400, 1500, unlimited}).Draw(t, "limit"),
		made:   len(p.all),
	}
	l.reader = p.feed.Live(l.form, l.policy, l.limit)
	p.listeners = append(p.listeners, l)
	return l
}

func (p *program) live(t *rapid.T) { p.newListener(t) }

// resume makes a reader and moves it to some place: one that was, one between
// two messages, where other channels had theirs, one that never was, one of
// another epoch, or the very beginning.
func (p *program) resume(t *rapid.T) {
	if len(p.all) == 0 {
		return
	}
	from := rapid.IntRange(0, len(p.all)-1).Draw(t, "from")
	pos := p.all[from].Position
	strange := true
	switch rapid.IntRange(0, 9).Draw(t, "strange") {
	case 0:
		pos.Offset = 1 << 63
	case 1:
		pos.Epoch += 1 << 40
	case 2:
		pos = broker.Position{}
	default:
		strange = false
		end := p.source.newest()
		if from+1 < len(p.all) {
			end = p.all[from+1].Position
			end.Offset--
		}
		if end.Epoch == pos.Epoch && end.Offset > pos.Offset {
			pos.Offset += rapid.Uint64Range(0, end.Offset-pos.Offset).Draw(t, "hole")
		}
	}
	l := p.newListener(t)
	meanwhile := func() {
		for range rapid.IntRange(0, 8).Draw(t, "meanwhile") {
			p.publish(t)
		}
		if rapid.Bool().Draw(t, "relieve") {
			l.gone = l.gone || l.slow()
			l.reader.Relieve()
		}
	}
	// Where the reader goes on, were nothing missed.
	rest := func(first int) {
		l.owed = nil
		for i := first; i < len(p.all); i++ {
			o := owed{index: i}
			if i >= l.made {
				o.lag = int64(p.all[i].Size())
			}
			l.owed = append(l.owed, o)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
		meanwhile()
	}
	newest := len(p.all) - 1
	reaches := !strange && from+1 >= p.oldest && p.oldest <= newest && upTo(pos, p.all[newest].Position)
	reaches = reaches && (p.oldest != p.before || from >= p.before || pos.Offset >= p.base.Offset)
	stays := pos == l.reader.Position()
	reaches = reaches || stays
	if got := l.reader.Resume(pos); got != reaches {
		p.Fatalf("Resume(%v) with history from index %d, message index %d of %d: %v", pos, p.oldest, from, len(p.all), got)
	}
	if reaches {
		l.gone = l.gone && stays
		rest(from + 1)
		return
	}
	meanwhile()
	page := p.source.history(pos)
	l.reader.Rewind(pos, page)
	if len(page.Messages) > 0 && p.hasHoles(page, l.made) {
		p.takeLoosely(l, page.Gap)
		return
	}
	if l.made > 0 {
		here := p.all[l.made-1].Position
		back := 0
		for _, m := range page.Messages {
			p.allowed[fmt.Sprint(slices.Index(p.forms, l.form), m.Position)]++
			if m.Position.Epoch == here.Epoch && m.Position.Offset <= here.Offset {
				back++
			}
		}
		if back > 0 {
			begin := page.Messages[0].Position.Offset
			for i := p.oldest; i < l.made; i++ {
				if p.all[i].Position.Offset >= begin {
					l.gone = false // the feed's own history has a place for it
				}
			}
		}
		rest(l.made - back)
	}
	if !page.Gap {
		return
	}
	l.gap = feed.Gap{Reason: feed.Expired, Missed: -1}
	if !pos.IsZero() && pos.Epoch != page.Position.Epoch {
		l.gap.Reason = feed.Lost
	}
	if page.Missed > 0 {
		missed := int64(len(p.all) - from - 1 - len(l.owed))
		begin := page.Position
		if len(page.Messages) > 0 {
			begin = page.Messages[0].Position
			begin.Offset--
		}
		if l.gone && !upTo(begin, l.reader.Position()) {
			missed = -1 // it let go of the place from which that can be counted
		}
		l.gap.Missed = missed
	}
}

// hasHoles reports whether a page, of those before index made, lacks some that
// are newer than others: of a pattern's channels each keeps what it keeps.
func (p *program) hasHoles(page broker.Page, made int) bool {
	for i := slices.Index(p.all[:made], page.Messages[0]); i >= 0 && i < made; i++ {
		if !slices.Contains(page.Messages, p.all[i]) {
			return true
		}
	}
	return false
}

// takeLoosely takes everything after such a page: first the news that something
// unknown is missing, if so; then what comes is in order and ends with the newest.
func (p *program) takeLoosely(l *listener, gap bool) {
	p.listeners = slices.DeleteFunc(p.listeners, func(x *listener) bool { return x == l })
	last := 0
	for ; l.reader.Pending(); gap = false {
		m, got, err := l.reader.Next()
		switch {
		case errors.Is(err, feed.ErrTooSlow) && l.policy == feed.Close && !gap:
			return
		case err != nil || (got.Missed < 0) != gap:
			p.Fatalf("%s (%v): Next after a page with holes: gap %+v, error %v", l.name, l.policy, got, err)
		case m != nil:
			i := slices.Index(p.all, m)
			if i < last {
				p.Fatalf("%s (%v): Next after a page with holes: message index %d after %d", l.name, l.policy, i, last-1)
			}
			last = i + 1
		}
	}
	if last != len(p.all) {
		p.Fatalf("%s (%v): after a page with holes it got messages up to index %d of %d", l.name, l.policy, last-1, len(p.all))
	}
}

// upTo reports whether a is not after b.
func upTo(a, b broker.Position) bool { return a.Epoch == b.Epoch && a.Offset <= b.Offset }

func (p *program) some(t *rapid.T) *listener {
	if len(p.listeners) == 0 {
		p.newListener(t)
	}
	return rapid.SampledFrom(p.listeners).Draw(t, "reader")
}

func (p *program) take(t *rapid.T) {
	p.takeOnce(p.some(t), rapid.SampledFrom([]int{next, 0, 1, 30, 100, 100000}).Draw(t, "most"))
}

func (p *program) drain(t *rapid.T) { p.takeAll(p.some(t)) }

func (p *program) takeAll(l *listener) {
	for n := 0; l.reader.Pending() && !l.ended; n++ {
		p.takeOnce(l, 200)
		if n > 2*len(p.all)+9 {
			p.Fatalf("%s: Pending and yet nothing comes", l.name)
		}
	}
	if !l.ended && (len(l.owed) > 0 || l.gap.Missed != 0) {
		p.Fatalf("%s: nothing pending, but %d messages owed", l.name, len(l.owed))
	}
}

// next as a limit means Next instead of Take.
const next = -1

func (p *program) takeOnce(l *listener, limit int) {
	var batch feed.Batch
	var message *broker.Message
	var err error
	if limit == next {
		message, batch.Gap, err = l.reader.Next()
	} else {
		batch, err = l.reader.Take(&p.joiner, limit)
	}
	if l.gap.Missed == 0 && (l.gone || l.slow()) {
		if l.policy == feed.Close {
			l.gone, l.ended = true, true
		} else {
			l.gap = l.place(p.toy)
		}
	}
	if l.gap.Missed != 0 {
		if err != nil || batch.Gap != l.gap || batch.Count != 0 || batch.Bytes != nil || message != nil {
			p.Fatalf("%s (%v): Take returns %+v, %v; want the gap %+v", l.name, l.policy, batch, err, l.gap)
		}
		l.gap = feed.Gap{}
		return
	}
	if l.ended {
		if !errors.Is(err, feed.ErrTooSlow) || batch.Count != 0 || message != nil || batch.Gap != (feed.Gap{}) {
			p.Fatalf("%s: Take of one that is too slow returns %+v, %v", l.name, batch, err)
		}
		return
	}
	if err != nil || batch.Gap != (feed.Gap{}) {
		p.Fatalf("%s (%v): Take returns gap %+v, error %v; owed are %d messages, %d bytes of lag, limit %d", l.name, l.policy, batch.Gap, err, len(l.owed), l.lag(), l.limit)
	}
	if message != nil {
		batch.Count = 1
	}
	if (batch.Count == 0) != (len(l.owed) == 0) || batch.Count > len(l.owed) {
		p.Fatalf("%s: Take returns %d messages of %d", l.name, batch.Count, len(l.owed))
	}
	if message != nil && message != p.all[l.owed[0].index] {
		p.Fatalf("%s: Next returns %v, want %v", l.name, message.Position, p.all[l.owed[0].index].Position)
	}
	var want []byte
	for _, o := range l.owed[:batch.Count] {
		m := p.all[o.index]
		saved := p.encoded
		p.encoded = make(map[string]int)
		want = l.form.Encode(want, m)
		p.encoded = saved
	}
	if message == nil && !bytes.Equal(batch.Bytes, want) {
		p.Fatalf("%s (%v): Take returns\n%s, want\n%s", l.name, l.policy, batch.Bytes, want)
	}
	if batch.Count > 1 && len(batch.Bytes) > limit {
		p.Fatalf("%s: Take returns %d messages of %d bytes, limit %d", l.name, batch.Count, len(batch.Bytes), limit)
	}
	if batch.Count > 0 {
		last := p.all[l.owed[batch.Count-1].index]
		if at := l.reader.Position(); at != last.Position {
			p.Fatalf("%s: Position is %v after message %v", l.name, at, last.Position)
		}
	}
	l.seen += batch.Count
	l.owed = l.owed[batch.Count:]
}

func (p *program) relieve(t *rapid.T) {
	for _, l := range p.listeners {
		err := l.reader.Relieve()
		l.gone = l.gone || l.slow()
		l.ended = l.ended || l.gone && l.policy == feed.Close
		if (err != nil) != (l.gone && l.policy == feed.Close) || err != nil && !errors.Is(err, feed.ErrTooSlow) {
			p.Fatalf("%s (%v): Relieve returns %v, with %d bytes of lag and limit %d", l.name, l.policy, err, l.lag(), l.limit)
		}
	}
}

func (p *program) leave(t *rapid.T) {
	l := p.some(t)
	p.listeners = slices.DeleteFunc(p.listeners, func(x *listener) bool { return x == l })
}

// check holds what must be true at any time.
func (p *program) check(t *rapid.T) {
	for what, times := range p.encoded {
		if times > 1+p.allowed[what] {
			p.Fatalf("message %s (form and position) was encoded %d times", what, times)
		}
	}
	for _, l := range p.listeners {
		if want := l.gap.Missed != 0 || l.gone || len(l.owed) > 0; l.reader.Pending() != want {
			p.Fatalf("%s: Pending is %v, %d messages owed, gone %v, gap %+v", l.name, !want, len(l.owed), l.gone, l.gap)
		}
		lag := l.lag()
		if l.gone {
			lag = l.limit + 1
		}
		if got := l.reader.Lag(); got != lag {
			p.Fatalf("%s (%v): Lag is %d, want %d", l.name, l.policy, got, lag)
		}
	}
	if len(p.all) == 0 {
		return
	}
	// History is from the oldest kept on, and not from the one before.
	if at := p.feed.Position(); at != p.all[len(p.all)-1].Position && (at != p.base || len(p.all) > p.before) {
		p.Fatalf("the feed's Position is %v, its last message %v", at, p.all[len(p.all)-1].Position)
	}
	reaches := func(i int) bool {
		m := p.all[i]
		return p.feed.Live(numbers, feed.CatchUp, unlimited).Resume(broker.Position{Epoch: m.Position.Epoch, Offset: m.Position.Offset - 1})
	}
	if p.oldest < len(p.all) && !reaches(p.oldest) {
		p.Fatalf("history does not reach back to message index %d of %d, though it should (%+v)", p.oldest, len(p.all), p.keep)
	}
	if i := p.oldest - 1; i >= 0 && reaches(i) {
		p.Fatalf("history reaches back to message index %d of %d, though %+v permits only %d", i, len(p.all), p.keep, len(p.all)-p.oldest)
	}
}

func TestNames(t *testing.T) {
	var names []string
	for p := feed.CatchUp; p <= feed.Close+1; p++ {
		names = append(names, p.String())
	}
	for r := feed.Skipped; r <= feed.Lost; r++ {
		names = append(names, r.String())
	}
	if got, want := strings.Join(names, " "), "catch-up skip latest close unknown skipped outrun superseded expired lost"; got != want {
		t.Errorf("names are %q, want %q", got, want)
	}
}
