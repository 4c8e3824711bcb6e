package broker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// TotalBytes is what all histories together may weigh, and 512 bytes for
	// each channel that is remembered without interest in it. Default 256 MiB.
	// Past it the channel whose last publication is longest ago is forgotten
	// first; without this limit whoever may name channels can fill the memory.
	TotalBytes int
}

const (
	defaultHistory      = 256
	defaultHistoryAge   = time.Hour
	defaultHistoryBytes = 1 << 20
	defaultTotalBytes   = 256 << 20

	// topicOverhead is about what a topic costs besides its messages.
	topicOverhead = 512
)

// Memory is the broker of a single process: nothing to set up, nothing kept
// when the process ends. An acknowledged message is in this process's memory.
//
// Each channel has its own lock, under which a message gets its offset,
// enters history and is delivered; so the order of all three is the same.
type Memory struct {
	opts    MemoryOptions     // static after NewMemory
	deliver func(*Message)    // static after Start
	total   atomic.Int64      // what TotalBytes limits
	taken   sync.WaitGroup    // publishes whose done was not called yet
	mu      sync.RWMutex      // guards the following; a topic's mu may be taken under it, not the other way round
	epoch   uint64            // of topics made from now on: another one once a topic that had messages was forgotten
	topics  map[string]*topic // the channels that have history or interest
	sweeper *time.Timer       // runs sweep; nil while there are no topics
	closed  bool
}

// A topic is a channel as this broker has it.
type topic struct {
	mu     sync.Mutex // guards the following
	gone   bool       // no longer in Memory.topics: look it up again
	wanted bool       // this server declared interest
	head   Position   // of the newest message; offset 0 before the first
	last   time.Time  // when that was published
	kept   []*Message // history, oldest first; offsets are contiguous
	bytes  int        // of kept
}

// NewMemory returns a memory broker.
func NewMemory(o *MemoryOptions) *Memory {
	m := &Memory{topics: make(map[string]*topic)}
	m.newEpoch()
	if o != nil {
		m.opts = *o
	}
	if m.opts.History == 0 {
		m.opts.History = defaultHistory
	}
	m.opts.History = max(m.opts.History, 0)
	if m.opts.HistoryAge <= 0 {
		m.opts.HistoryAge = defaultHistoryAge
	}
	if m.opts.HistoryBytes <= 0 {
		m.opts.HistoryBytes = defaultHistoryBytes
	}
	if m.opts.TotalBytes <= 0 {
		m.opts.TotalBytes = defaultTotalBytes
	}
	return m
}

// Start implements [Broker].
func (m *Memory) Start(deliver func(*Message)) error {
	m.deliver = deliver
	return nil
}

// Publish implements [Broker]. The done callback runs before it returns.
func (m *Memory) Publish(msg *Message, done func(Position, error)) {
	t := m.lock(msg.Channel)
	if t == nil {
		done(Position{}, ErrClosed)
		return
	}
	m.taken.Add(1) // before Close, which needs t.mu too, can wait for it
	defer m.taken.Done()
	t.last = time.Now()
	msg.Time = t.last
	msg.Prev = t.head.Offset
	t.head.Offset++
	msg.Position = t.head
	m.keep(t, msg)
	if t.wanted {
		m.deliver(msg)
	}
	t.mu.Unlock()
	done(msg.Position, nil)
	if m.total.Load() > int64(m.opts.TotalBytes) {
		m.shed()
	}
}

// History implements [Broker].
func (m *Memory) History(_ context.Context, channel string, q Query) (Page, error) {
	m.mu.RLock()
	t, closed, start := m.topics[channel], m.closed, Position{Epoch: m.epoch}
	m.mu.RUnlock()
	switch {
	case closed:
		return Page{}, ErrClosed
	case t == nil:
		return Page{Position: start, Gap: !q.Since.IsZero() && q.Since != start}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m.expire(t, time.Now())
	return t.page(q), nil
}

func (t *topic) page(q Query) Page {
	page := Page{Position: t.head}
	from := 0
	if since := q.Since; !since.IsZero() {
		oldest := t.head.Offset - uint64(len(t.kept)) // offset before the oldest kept
		switch {
		case since.Epoch != t.head.Epoch || since.Offset > t.head.Offset:
			page.Gap = true
		case since.Offset < oldest:
			page.Gap, page.Missed = true, oldest-since.Offset
		default:
			from = int(since.Offset - oldest)
		}
	}
	rest := t.kept[from:]
	if q.Limit > 0 && len(rest) > q.Limit {
		if q.Tail {
			rest = rest[len(rest)-q.Limit:]
		} else {
			rest = rest[:q.Limit]
			page.More = true
		}
	}
	page.Messages = slices.Clone(rest)
	if n := len(rest); n > 0 {
		page.Position = rest[n-1].Position
	}
	return page
}

// Subscribe implements [Broker].
func (m *Memory) Subscribe(_ context.Context, channel string) (Position, error) {
	t := m.lock(channel)
	if t == nil {
		return Position{}, ErrClosed
	}
	defer t.mu.Unlock()
	if t.wanted {
		panic("broker: Subscribe called twice for channel " + channel)
	}
	t.wanted = true
	m.total.Add(-topicOverhead)
	return t.head, nil
}

// Unsubscribe implements [Broker].
func (m *Memory) Unsubscribe(channel string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[channel]
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.wanted {
		return
	}
	t.wanted = false
	m.total.Add(topicOverhead)
	if t.head.Offset == 0 {
		m.forget(channel, t) // nobody ever published: nothing to remember
	}
}

// Close implements [Broker].
func (m *Memory) Close() error {
	m.mu.Lock()
	m.closed = true
	if m.sweeper != nil {
		m.sweeper.Stop()
	}
	for _, t := range m.topics {
		t.mu.Lock()
		t.gone = true
		t.mu.Unlock()
	}
	clear(m.topics)
	m.mu.Unlock()
	m.taken.Wait()
	return nil
}

// lock returns the channel's topic, made if need be, with its mu held; nil
// when the broker is closed.
func (m *Memory) lock(channel string) *topic {
	for {
		m.mu.RLock()
		t, closed := m.topics[channel], m.closed
		m.mu.RUnlock()
		if closed {
			return nil
		}
		if t == nil {
			t = m.create(channel)
			if t == nil {
				return nil
			}
		}
		t.mu.Lock()
		if !t.gone {
			return t
		}
		t.mu.Unlock()
	}
}

func (m *Memory) create(channel string) *topic {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	t := m.topics[channel]
	if t == nil {
		t = &topic{head: Position{Epoch: m.epoch}, last: time.Now()}
		m.total.Add(topicOverhead)
		// The key is a copy: the caller's string may be a piece of something bigger.
		m.topics[strings.Clone(channel)] = t
		if m.sweeper == nil {
			m.sweeper = time.AfterFunc(m.sweepEvery(), m.sweep)
		}
	}
	return t
}

// newEpoch changes the epoch to one that there was not yet, in this process
// or, unless the clock was set back, in one before it. The caller holds m.mu.
func (m *Memory) newEpoch() {
	m.epoch = max(uint64(time.Now().UnixMilli()), m.epoch+1)
}

// forget ends a topic that nobody is interested in and whose history is empty.
// Offsets begin anew when it is made again, so if it had any the epoch must be
// another. The caller holds m.mu and t.mu.
func (m *Memory) forget(name string, t *topic) {
	t.gone = true
	delete(m.topics, name)
	m.total.Add(-topicOverhead)
	if t.head.Offset > 0 {
		m.newEpoch()
	}
}

// keep adds the newest message to history and drops what the limits no longer
// permit. The caller holds t.mu.
func (m *Memory) keep(t *topic, msg *Message) {
	if m.opts.History == 0 {
		return
	}
	t.kept = append(t.kept, msg)
	t.bytes += msg.Size()
	m.total.Add(int64(msg.Size()))
	for len(t.kept) > m.opts.History || t.bytes > m.opts.HistoryBytes && len(t.kept) > 1 {
		m.dropOldest(t)
	}
	m.expire(t, msg.Time)
}

func (m *Memory) expire(t *topic, now time.Time) {
	for len(t.kept) > 0 && now.Sub(t.kept[0].Time) > m.opts.HistoryAge {
		m.dropOldest(t)
	}
}

func (m *Memory) dropOldest(t *topic) {
	size := t.kept[0].Size()
	t.kept[0] = nil // the slice's front stays allocated until it grows
	t.kept = t.kept[1:]
	t.bytes -= size
	m.total.Add(-int64(size))
}

// sweepEvery is how long a message may outlive its age, and a topic its last message.
func (m *Memory) sweepEvery() time.Duration {
	return min(max(m.opts.HistoryAge/4, time.Second), time.Minute)
}

// sweep forgets what is too old: messages, and topics that have none and that
// nobody is interested in.
func (m *Memory) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	now := time.Now()
	for name, t := range m.topics {
		t.mu.Lock()
		m.expire(t, now)
		if len(t.kept) == 0 && !t.wanted && now.Sub(t.last) > m.opts.HistoryAge {
			m.forget(name, t)
		}
		t.mu.Unlock()
	}
	if len(m.topics) == 0 {
		m.sweeper = nil
		return
	}
	m.sweeper.Reset(m.sweepEvery())
}

// shed forgets whole histories, longest silent first, until a tenth of
// TotalBytes is free: so that the search for them is rare.
func (m *Memory) shed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := int64(m.opts.TotalBytes) / 10 * 9
	if m.total.Load() <= want {
		return // somebody else did it
	}
	type silent struct {
		name string
		last time.Time
	}
	order := make([]silent, 0, len(m.topics))
	for name, t := range m.topics {
		t.mu.Lock()
		if len(t.kept) > 0 || !t.wanted {
			order = append(order, silent{name, t.last})
		}
		t.mu.Unlock()
	}
	slices.SortFunc(order, func(a, b silent) int { return a.last.Compare(b.last) })
	for _, s := range order {
		if m.total.Load() <= want {
			return
		}
		t := m.topics[s.name]
		t.mu.Lock()
		for len(t.kept) > 0 {
			m.dropOldest(t)
		}
		if !t.wanted {
			m.forget(s.name, t)
		}
		t.mu.Unlock()
	}
}
