package broker

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// MemoryOptions are the settings of [NewMemory]. Nil and zero values mean the
// defaults.
type MemoryOptions struct {
	// History is how many messages a channel keeps. Default 256; negative: none.
	History int
	// HistoryAge is how long a message is kept. Default one hour.
	HistoryAge time.Duration
	// HistoryBytes is what a channel's history may weigh ([Message.Size]).
	// Default 1 MiB. The newest message is kept even if it alone weighs more.
	HistoryBytes int
	// IDWindow is how long a [Message.ID] is remembered at least; at most twice
	// as long. Default 5 minutes. Of a channel 100,000 are remembered at most,
	// and its newest 50,000 at least.
	IDWindow time.Duration
	// TotalBytes is what all histories together may weigh, with 96 bytes for
	// each id, and 512 or more for each channel that is remembered without
	// interest in it: a name of many segments costs ten kilobytes. Default 256 MiB. Past it the channel whose last publication is longest
	// ago is forgotten first, its ids too; without this limit whoever may name
	// channels can fill the memory.
	TotalBytes int
}

const (
	defaultHistory      = 256
	defaultHistoryAge   = time.Hour
	defaultHistoryBytes = 1 << 20
	defaultIDWindow     = 5 * time.Minute
	defaultTotalBytes   = 256 << 20

	// topicOverhead is about what a topic costs at least besides its messages,
	// bareTopic without its name, and segmentOverhead for each segment of that
	// in Memory.names.
	topicOverhead   = 512
	bareTopic       = 300
	segmentOverhead = 80
	// breath is how many topics are looked at before others may have the lock.
	breath = 1000
)

// Memory is the broker of a single process: nothing to set up, nothing kept
// when the process ends. An acknowledged message is in this process's memory.
// It is a [Retainer] too.
//
// One lock guards everything. Under it a message gets its offset, enters
// history and is delivered; so the order of all three is the same, over all
// channels. That is also its weakness: two publishers to different channels
// wait for one another, and whoever makes deliver slow makes all slow.
//
// History of a pattern looks at all channels that begin as the pattern does
// before its first star, but at a thousand segments at most under one hold of
// the lock: of a hundred thousand channels that takes tens of milliseconds. It says
// Gap also where a message was forgotten together
// with its channel whose first segment is that of the pattern, whether or not
// the rest of it fits.
type Memory struct {
	opts    MemoryOptions  // static after NewMemory
	epoch   uint64         // static; another one for each process, unless the clock was set back
	hash    hasher         // static
	deliver func(*Message) // static after Start; called under mu
	taken   sync.WaitGroup // publishes whose done was not called yet

	mu        sync.Mutex                     // guards the following
	newest    uint64                         // the offset given out last
	total     int                            // what TotalBytes limits
	topics    map[string]*topic              // the channels that have history or interest
	names     Patterns[*topic]               // the same, to find those that fit a pattern
	patterns  Patterns[struct{}]             // in which there is interest
	asked     uint64                         // how often patterns changed
	forgotten forgotten                      // the channels that had messages and are no topics now
	retain    func(channel string) Retention // nil: for all alike
	retained  uint64                         // how often retain changed
	shortest  time.Duration                  // age of history that was asked for anywhere
	sweeper   *time.Timer                    // runs sweep; nil while there are no topics
	closed    bool

	// The topics of which something was published and is remembered, in the
	// order of their last publications.
	first, last *topic
}

// A topic is a channel as this broker has it.
type topic struct {
	name    string
	wanted  bool      // this server declared interest in this very channel
	fits    bool      // it fits a pattern of interest
	asked   uint64    // Memory.asked when fits was found out
	head    uint64    // offset of the newest message, or, before the first, what was forgotten
	spoken  time.Time // when that was published; zero before the first
	kept    []*Message
	bytes   int  // of kept
	gone    gone // what of it is no longer kept
	ids     *ids // nil: none
	keep    Retention
	version uint64 // Memory.retained when keep was found out

	listed       bool // is in the list of Memory.first
	older, newer *topic
}

// gone is what of a topic is no longer kept: everything up to last. The newest
// messages of that which have offsets without a hole are from first on, and the
// message before those is prev: so much is known of their number.
type gone struct{ last, first, prev uint64 }

func (g *gone) add(m *Message) {
	if offset := m.Position.Offset; g.first == 0 || offset != g.last+1 {
		g.first, g.prev = offset, m.Prev
	}
	g.last = m.Position.Offset
}

// after returns how many messages after an offset are gone, where that is
// known; otherwise 0.
func (g *gone) after(offset uint64) uint64 {
	if g.first == 0 || offset < g.prev || offset >= g.last {
		return 0
	}
	return g.last + 1 - max(offset+1, g.first)
}

// NewMemory returns a memory broker.
func NewMemory(o *MemoryOptions) *Memory {
	m := &Memory{
		epoch:    uint64(time.Now().UnixMicro()),
		hash:     newHasher(),
		topics:   make(map[string]*topic),
		retained: 1,
	}
	if o != nil {
		m.opts = *o
	}
	if m.opts.History == 0 {
		m.opts.History = defaultHistory
	}
	if m.opts.HistoryAge <= 0 {
		m.opts.HistoryAge = defaultHistoryAge
	}
	if m.opts.HistoryBytes <= 0 {
		m.opts.HistoryBytes = defaultHistoryBytes
	}
	if m.opts.IDWindow <= 0 {
		m.opts.IDWindow = defaultIDWindow
	}
	if m.opts.TotalBytes <= 0 {
		m.opts.TotalBytes = defaultTotalBytes
	}
	m.shortest = m.opts.HistoryAge
	return m
}

// Start implements [Broker].
func (m *Memory) Start(deliver func(*Message)) error {
	m.deliver = deliver
	return nil
}

// Publish implements [Broker]. The done callback runs before it returns.
func (m *Memory) Publish(msg *Message, done func(Position, error)) {
	var id idHash
	var what published
	named := msg.ID != ""
	if named {
		id, what.body = m.hash.id(msg.ID), m.hash.body(msg)
		msg.ID = ""
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		done(Position{}, ErrClosed)
		return
	}
	m.taken.Add(1) // under mu, so that Close waits for it
	defer m.taken.Done()
	t := m.topic(msg.Channel)
	now := time.Now()
	if named {
		if before, found := m.find(t, id, now); found {
			m.mu.Unlock()
			if before.body != what.body {
				done(Position{}, ErrIDReused)
				return
			}
			done(Position{m.epoch, before.offset}, nil)
			return
		}
	}
	m.newest++
	pos := Position{m.epoch, m.newest}
	msg.Time, msg.Prev, msg.Position = now, t.head, pos
	t.head, t.spoken = m.newest, now
	m.push(t)
	if named {
		what.offset = m.newest
		m.remember(t, id, what)
	}
	t.kept = append(t.kept, msg)
	t.bytes += msg.Size()
	m.total += msg.Size()
	m.trim(t, now)
	m.shed()
	if t.wanted || m.fits(t) {
		m.deliver(msg)
	}
	m.mu.Unlock()
	done(pos, nil)
}

// History implements [Broker].
func (m *Memory) History(_ context.Context, name string, q Query) (Page, error) {
	if IsPattern(name) {
		return m.merge(name, q)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Page{}, ErrClosed
	}
	since, gap := m.since(q)
	t := m.topics[name]
	if t == nil {
		upTo := m.forgotten.upTo(name)
		return Page{Position: Position{m.epoch, upTo}, Gap: gap || !q.Since.IsZero() && since < upTo}, nil
	}
	m.trim(t, time.Now())
	page := Page{Position: Position{m.epoch, t.head}, Gap: gap}
	if !gap && !q.Since.IsZero() && since < t.gone.last {
		page.Gap, page.Missed = true, t.gone.after(since)
	}
	rest := t.after(since)
	if q.Limit > 0 && len(rest) > q.Limit {
		if q.Tail {
			rest = rest[len(rest)-q.Limit:]
		} else {
			rest, page.More = rest[:q.Limit], true
		}
	}
	page.Messages = slices.Clone(rest)
	if n := len(rest); n > 0 {
		page.Position = rest[n-1].Position
	}
	return page, nil
}

// since returns the offset after which a query wants messages, and whether its
// place is none of ours. The caller holds mu.
func (m *Memory) since(q Query) (offset uint64, strange bool) {
	s := q.Since
	if !s.IsZero() && (s.Epoch != m.epoch || s.Offset > m.newest) {
		return 0, true
	}
	return s.Offset, false
}

// after returns the messages kept after an offset.
func (t *topic) after(offset uint64) []*Message {
	n, _ := slices.BinarySearchFunc(t.kept, offset+1, func(m *Message, offset uint64) int {
		return cmp.Compare(m.Position.Offset, offset)
	})
	return t.kept[n:]
}

// merge is History of a pattern, with everything that is there at its
// beginning. Others may have the lock meanwhile: what they publish is later than
// that, and what they forget is counted as a gap.
func (m *Memory) merge(pattern string, q Query) (Page, error) {
	limit, tail := q.Limit, q.Tail
	if limit <= 0 {
		limit, tail = MaxPage, true
	}
	m.mu.Lock()
	since, gap := m.since(q)
	newest, now := m.newest, time.Now()
	page := Page{Position: Position{m.epoch, newest}}
	var found []*Message
	work, cut, from := 0, false, since
	m.names.Fitting(pattern, func(t *topic) {
		if t.head <= since {
			return
		}
		if t.head > from {
			m.trim(t, now)
			for _, msg := range t.after(from) {
				if msg.Position.Offset > newest {
					break
				}
				found = append(found, msg)
				work++
			}
		}
		gap = gap || !q.Since.IsZero() && since < t.gone.last
	}, func() {
		if work++; work < breath {
			return
		}
		work = 0
		m.mu.Unlock()
		if len(found) > 4*limit {
			found, cut = clip(found, limit, tail), true
			if tail {
				from = found[0].Position.Offset - 1 // what is older would be cut off
			}
		}
		m.mu.Lock()
	})
	gap = gap || !q.Since.IsZero() && since < m.forgotten.upTo(pattern)
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return Page{}, ErrClosed
	}
	cut = cut || len(found) > limit
	page.Messages = clip(found, limit, tail)
	page.Gap = gap || cut && q.Limit <= 0
	page.More = cut && !tail
	if n := len(page.Messages); n > 0 {
		page.Position = page.Messages[n-1].Position
	}
	return page, nil
}

// clip sorts messages, and returns the first or the last of them.
func clip(msgs []*Message, limit int, tail bool) []*Message {
	slices.SortFunc(msgs, func(a, b *Message) int { return cmp.Compare(a.Position.Offset, b.Position.Offset) })
	switch {
	case len(msgs) <= limit:
		return msgs
	case tail:
		return slices.Clone(msgs[len(msgs)-limit:])
	}
	return slices.Clone(msgs[:limit])
}

// Subscribe implements [Broker].
func (m *Memory) Subscribe(_ context.Context, name string) (Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Position{}, ErrClosed
	}
	if IsPattern(name) {
		if !m.patterns.Add(name, struct{}{}) {
			panic("broker: Subscribe called twice for pattern " + name)
		}
		m.asked++
		return Position{m.epoch, m.newest}, nil
	}
	t := m.topic(name)
	if t.wanted {
		panic("broker: Subscribe called twice for channel " + name)
	}
	t.wanted = true
	m.total -= t.overhead()
	return Position{m.epoch, t.head}, nil
}

// Unsubscribe implements [Broker].
func (m *Memory) Unsubscribe(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.patterns.Remove(name) {
		m.asked++
		return
	}
	t := m.topics[name]
	if t == nil || !t.wanted {
		return
	}
	t.wanted = false
	m.total += t.overhead()
	switch {
	case t.spoken.IsZero():
		m.forget(t) // nobody ever published: nothing to remember
	case !t.listed:
		m.unshift(t) // its history was shed, so what is listed was published later
	}
}

// Retain implements [Retainer].
func (m *Memory) Retain(of func(channel string) Retention) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retain = of
	m.retained++
	m.shortest = m.opts.HistoryAge
}

// Close implements [Broker].
func (m *Memory) Close() error {
	m.mu.Lock()
	m.closed = true
	if m.sweeper != nil {
		m.sweeper.Stop()
	}
	clear(m.topics)
	m.names = Patterns[*topic]{}
	m.first, m.last = nil, nil
	m.mu.Unlock()
	m.taken.Wait()
	return nil
}

// What follows is called with mu held.

// topic returns the channel's topic, made if need be.
func (m *Memory) topic(channel string) *topic {
	if t := m.topics[channel]; t != nil {
		return t
	}
	// The name is a copy: the caller's string may be a piece of something bigger.
	t := &topic{name: strings.Clone(channel), head: m.forgotten.upTo(channel)}
	t.gone.last = t.head
	m.total += t.overhead()
	m.topics[t.name] = t
	m.names.Add(t.name, t)
	if m.sweeper == nil {
		m.sweeper = time.AfterFunc(m.sweepEvery(), m.sweep)
	}
	return t
}

// overhead is about what a topic costs besides its messages. Its name is there
// twice, and each segment of it, unless others share it, as a branch: so names
// of nothing but slashes are not the cheap way to fill the memory.
func (t *topic) overhead() int {
	return max(topicOverhead, bareTopic+2*len(t.name)+segmentOverhead*(1+strings.Count(t.name, "/")))
}

// fits reports whether a topic fits a pattern of interest.
func (m *Memory) fits(t *topic) bool {
	if t.asked != m.asked {
		t.asked, t.fits = m.asked, false
		m.patterns.Match(t.name, func(struct{}) { t.fits = true })
	}
	return t.fits
}

// forget ends a topic that nobody is interested in.
func (m *Memory) forget(t *topic) {
	m.empty(t)
	m.unlist(t)
	if !t.spoken.IsZero() {
		m.forgotten.add(t.name, t.head)
	}
	delete(m.topics, t.name)
	m.names.Remove(t.name)
	m.total -= t.overhead()
}

// empty drops all that is kept of a topic.
func (m *Memory) empty(t *topic) {
	for len(t.kept) > 0 {
		m.dropOldest(t)
	}
	if t.ids != nil {
		m.total -= t.ids.len() * idWeight
		t.ids = nil
	}
}

// trim drops what the limits no longer permit.
func (m *Memory) trim(t *topic, now time.Time) {
	keep := m.retention(t)
	for n := len(t.kept); n > 0 && (n > keep.Messages || n > 1 && t.bytes > keep.Bytes || now.Sub(t.kept[0].Time) > keep.Age); n-- {
		m.dropOldest(t)
	}
}

// retention returns how much of a topic is kept.
func (m *Memory) retention(t *topic) Retention {
	if t.version != m.retained {
		t.version = m.retained
		t.keep = Retention{}
		if m.retain != nil {
			t.keep = m.retain(t.name)
		}
		if t.keep.Messages == 0 {
			t.keep.Messages = m.opts.History
		}
		if t.keep.Age <= 0 {
			t.keep.Age = m.opts.HistoryAge
		}
		if t.keep.Bytes <= 0 {
			t.keep.Bytes = m.opts.HistoryBytes
		}
		m.shortest = min(m.shortest, t.keep.Age)
	}
	return t.keep
}

func (m *Memory) dropOldest(t *topic) {
	oldest := t.kept[0]
	t.kept[0] = nil // the slice's front stays allocated until it grows
	if t.kept = t.kept[1:]; len(t.kept) == 0 {
		t.kept = nil
	}
	t.bytes -= oldest.Size()
	m.total -= oldest.Size()
	t.gone.add(oldest)
}

// find looks for an id among those of a topic.
func (m *Memory) find(t *topic, id idHash, now time.Time) (published, bool) {
	if t.ids == nil {
		t.ids = &ids{since: now}
	}
	m.total -= t.ids.age(now, m.opts.IDWindow) * idWeight
	return t.ids.find(id)
}

func (m *Memory) remember(t *topic, id idHash, what published) {
	t.ids.add(id, what)
	m.total += idWeight
}

// shed forgets whole topics, longest silent first, until what is left weighs
// no more than TotalBytes. Each costs no more than dropping its messages.
func (m *Memory) shed() {
	for m.total > m.opts.TotalBytes && m.first != nil {
		if t := m.first; t.wanted {
			m.empty(t)
			m.unlist(t)
		} else {
			m.forget(t)
		}
	}
}

// sweepEvery is how long a message may outlive its age, and a topic its last message.
func (m *Memory) sweepEvery() time.Duration {
	return min(max(m.shortest/4, time.Second), time.Minute)
}

// sweep forgets what is too old: messages, ids, and topics that have none and
// that nobody is interested in.
func (m *Memory) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, done := time.Now(), 0
	for _, t := range m.topics {
		m.trim(t, now)
		if t.ids != nil {
			m.total -= t.ids.age(now, m.opts.IDWindow) * idWeight
			if t.ids.len() == 0 {
				t.ids = nil
			}
		}
		if len(t.kept) == 0 && t.ids == nil && !t.wanted && now.Sub(t.spoken) > t.keep.Age {
			m.forget(t)
		}
		if done++; done%breath == 0 {
			m.mu.Unlock()
			m.mu.Lock()
		}
	}
	switch {
	case m.closed:
	case len(m.topics) == 0:
		m.sweeper = nil
	default:
		m.sweeper.Reset(m.sweepEvery())
	}
}

// push makes t the topic of the newest publication.
func (m *Memory) push(t *topic) {
	if t == m.last {
		return
	}
	m.unlist(t)
	t.listed = true
	if t.older = m.last; m.last == nil {
		m.first = t
	} else {
		m.last.newer = t
	}
	m.last = t
}

// unshift makes t the topic of the oldest publication.
func (m *Memory) unshift(t *topic) {
	t.listed = true
	if t.newer = m.first; m.first == nil {
		m.last = t
	} else {
		m.first.older = t
	}
	m.first = t
}

func (m *Memory) unlist(t *topic) {
	if !t.listed {
		return
	}
	if t.older == nil {
		m.first = t.newer
	} else {
		t.older.newer = t.newer
	}
	if t.newer == nil {
		m.last = t.older
	} else {
		t.newer.older = t.older
	}
	t.listed, t.older, t.newer = false, nil, nil
}
