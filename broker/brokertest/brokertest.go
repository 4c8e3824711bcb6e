// Package brokertest is the law of [broker.Broker]: what passes [Run] is a
// broker. It holds only what every one can fulfil; what a broker promises
// beyond (how much history it keeps and for how long, that nothing is lost
// when the power fails) its own tests hold.
package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"fanfare/broker"
)

// patience is how long the kit waits for what a broker owes it.
const patience = 30 * time.Second

// Run holds the broker that fresh returns to the contract. Fresh is called for
// each test; it returns one that was not started, whose channels are empty,
// and which keeps at least 256 messages and 4 MiB for a channel, for a minute.
// The kit starts and closes it.
func Run(t *testing.T, fresh func(t testing.TB) broker.Broker) {
	for _, law := range []struct {
		name string
		test func(*kit)
	}{
		{"Positions", (*kit).positions},
		{"DoneOnce", (*kit).doneOnce},
		{"AcknowledgedIsInHistory", (*kit).acknowledged},
		{"DeliveredIsInHistory", (*kit).deliveredInHistory},
		{"Contents", (*kit).contents},
		{"EmptyChannel", (*kit).empty},
		{"History", (*kit).history},
		{"HistoryInPages", (*kit).pages},
		{"HistoryStrangePositions", (*kit).strange},
		{"PageIsTheCallers", (*kit).pageIsTheCallers},
		{"Subscribe", (*kit).subscribe},
		{"SubscribeWhilePublishing", (*kit).seam},
		{"Unsubscribe", (*kit).unsubscribe},
		{"OneOrder", (*kit).oneOrder},
		{"ChannelsAreIndependent", (*kit).independent},
		{"OneCount", (*kit).oneCount},
		{"IDs", (*kit).ids},
		{"IDsReused", (*kit).idsReused},
		{"IDsAtOnce", (*kit).idsAtOnce},
		{"IDsReusedAtOnce", (*kit).idsReusedAtOnce},
		{"Patterns", (*kit).patterns},
		{"PatternsOverlap", (*kit).patternsOverlap},
		{"PatternHistory", (*kit).patternHistory},
		{"PatternsWhilePublishing", (*kit).patternSeam},
		{"Retain", (*kit).retain},
		{"ChannelNameIsCopied", (*kit).names},
		{"Close", (*kit).close},
		{"CloseWhilePublishing", (*kit).closeWhilePublishing},
	} {
		t.Run(law.name, func(t *testing.T) {
			k := &kit{T: t, b: fresh(t), got: make(map[string][]*broker.Message)}
			if err := k.b.Start(k.deliver); err != nil {
				t.Fatalf("Start: %v", err)
			}
			defer k.b.Close()
			law.test(k)
		})
	}
}

// A kit is one broker under test.
type kit struct {
	*testing.T
	b broker.Broker

	inside sync.Map // channel or pattern → *atomic.Int32: calls of deliver that are under way
	mu     sync.Mutex
	wants  []string                     // patterns of interest
	got    map[string][]*broker.Message // what was delivered, by channel, and by pattern of interest
	tap    func(*broker.Message)        // called with each message delivered, if set
}

// breach fails the test with the rule that was broken.
func (k *kit) breach(rule, format string, args ...any) {
	k.Helper()
	k.Errorf("%s\nthe contract: %q", fmt.Sprintf(format, args...), rule)
}

func (k *kit) deliver(m *broker.Message) {
	k.mu.Lock()
	names := []string{m.Channel}
	for _, pattern := range k.wants {
		if broker.Fits(pattern, m.Channel) {
			names = append(names, pattern)
		}
	}
	k.mu.Unlock()
	for _, name := range names {
		count, _ := k.inside.LoadOrStore(name, new(atomic.Int32))
		if count.(*atomic.Int32).Add(1) != 1 {
			k.breach("in order of offset within a channel and over all channels of a pattern, and for neither twice at once", "deliver is called for %q while it is at work for it", name)
		}
		defer count.(*atomic.Int32).Add(-1)
	}
	k.mu.Lock()
	for _, name := range names {
		k.got[name] = append(k.got[name], m)
	}
	tap := k.tap
	k.mu.Unlock()
	if tap != nil {
		tap(m)
	}
}

func (k *kit) delivered(channel string) []*broker.Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.got[channel])
}

// awaitDelivered waits until a message at pos was delivered, and returns all
// that were.
func (k *kit) awaitDelivered(channel string, pos broker.Position) []*broker.Message {
	k.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		all := k.delivered(channel)
		if slices.ContainsFunc(all, func(m *broker.Message) bool { return m.Position == pos }) {
			return all
		}
		if time.Now().After(deadline) {
			k.breach("everything after it will be delivered", "message %v of channel %q was not delivered within %v", pos, channel, patience)
			k.FailNow()
		}
	}
}

func text(channel, payload string) *broker.Message {
	return &broker.Message{Channel: channel, Payload: []byte(payload)}
}

type outcome struct {
	pos broker.Position
	err error
}

// publish publishes messages one after the other and waits for all of them.
func (k *kit) publish(msgs ...*broker.Message) []broker.Position {
	k.Helper()
	outcomes := make([]outcome, len(msgs))
	var pending sync.WaitGroup
	pending.Add(len(msgs))
	for i, m := range msgs {
		k.b.Publish(m, func(pos broker.Position, err error) {
			outcomes[i] = outcome{pos, err}
			pending.Done()
		})
	}
	k.wait(&pending)
	positions := make([]broker.Position, len(msgs))
	for i, o := range outcomes {
		if o.err != nil {
			k.Fatalf("Publish to %q: %v", msgs[i].Channel, o.err) // #nosec G602: there are as many outcomes as messages
		}
		positions[i] = o.pos
	}
	return positions
}

// publishN publishes n messages to a channel, with their numbers as payload.
func (k *kit) publishN(channel string, n int) []broker.Position {
	k.Helper()
	msgs := make([]*broker.Message, n)
	for i := range msgs {
		msgs[i] = text(channel, fmt.Sprint(i))
	}
	return k.publish(msgs...)
}

func (k *kit) wait(pending *sync.WaitGroup) {
	k.Helper()
	all := make(chan struct{})
	go func() {
		pending.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(patience):
		k.breach("done is called exactly once", "done of a publish was not called within %v", patience)
		k.FailNow()
	}
}

func (k *kit) page(channel string, q broker.Query) broker.Page {
	k.Helper()
	page, err := k.b.History(context.Background(), channel, q)
	if err != nil {
		k.Fatalf("History of %q, %+v: %v", channel, q, err)
	}
	return page
}

func (k *kit) subscribeTo(channel string) broker.Position {
	k.Helper()
	pos, err := k.b.Subscribe(context.Background(), channel)
	if err != nil {
		k.Fatalf("Subscribe to %q: %v", channel, err)
	}
	return pos
}

func positions(msgs []*broker.Message) []broker.Position {
	all := make([]broker.Position, len(msgs))
	for i, m := range msgs {
		all[i] = m.Position
	}
	return all
}

// chain holds messages that were published one after the other, first the
// channel's first, to what their places must be like.
func (k *kit) chain(msgs []*broker.Message) {
	k.Helper()
	var prev broker.Position
	for i, m := range msgs {
		switch p := m.Position; {
		case p.Epoch == 0:
			k.breach("Never zero in a position that a broker gave", "message %d has epoch 0", i)
		case p.Offset == 0:
			k.breach("Offset grows with each message of the channel, from 1", "message %d has offset 0", i)
		case i > 0 && p.Epoch != prev.Epoch:
			k.breach("Epoch changes when a channel's history was lost", "it changes from %v to %v at message %d, though nothing was lost", prev, p, i)
		case i > 0 && p.Offset <= prev.Offset:
			k.breach("Offset grows with each message of the channel", "message %d has position %v, the one before it %v", i, p, prev)
		case m.Prev != prev.Offset:
			k.breach("Prev: offset of the message before it in the channel; 0: none", "message %d has Prev %d, and the offset before it is %d", i, m.Prev, prev.Offset)
		}
		prev = m.Position
	}
}

func (k *kit) positions() {
	before := time.Now()
	acked := k.publishN("chat/general", 50)
	page := k.page("chat/general", broker.Query{})
	k.chain(page.Messages)
	if got := positions(page.Messages); !slices.Equal(got, acked) {
		k.breach("done is called with the position", "done says %v, history %v", acked, got)
	}
	for i, m := range page.Messages {
		// Another machine may have set the time, by another clock.
		if off := m.Time.Sub(before).Abs(); m.Time.IsZero() || off > time.Minute {
			k.breach("Time: when the broker took it", "message %d of now (%v) has Time %v", i, before, m.Time)
		}
	}
}

func (k *kit) doneOnce() {
	const publishers, each = 8, 100
	var calls [publishers * each]atomic.Int32
	var pending, publishing sync.WaitGroup
	pending.Add(len(calls))
	for p := range publishers {
		publishing.Go(func() {
			for i := range each {
				count := &calls[p*each+i]
				k.b.Publish(text(fmt.Sprint("channel/", p%3), "x"), func(broker.Position, error) {
					if count.Add(1) == 1 {
						pending.Done()
					}
				})
			}
		})
	}
	publishing.Wait()
	k.wait(&pending)
	k.b.Close() // whatever could still call has ended then
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			k.breach("done is called exactly once", "done of publish %d was called %d times", i, n)
		}
	}
}

func (k *kit) acknowledged() {
	for i := range 100 {
		done := make(chan outcome, 1)
		k.b.Publish(text("news", fmt.Sprint(i)), func(pos broker.Position, err error) { done <- outcome{pos, err} })
		var o outcome
		select {
		case o = <-done:
		case <-time.After(patience):
			k.breach("done is called exactly once", "done was not called within %v", patience)
			return
		}
		if o.err != nil {
			k.Fatalf("Publish: %v", o.err)
		}
		page := k.page("news", broker.Query{Limit: 1, Tail: true})
		if len(page.Messages) != 1 || page.Messages[0].Position != o.pos || string(page.Messages[0].Payload) != fmt.Sprint(i) {
			k.breach("A message is in history before its publisher is told so", "message %v was acknowledged, and the newest in history is %v", o.pos, positions(page.Messages))
			return
		}
	}
}

func (k *kit) deliveredInHistory() {
	const n = 100
	arrived := make(chan *broker.Message, n)
	k.tap = func(m *broker.Message) {
		arrived <- m
		time.Sleep(100 * time.Microsecond) // whoever keeps it only after this is late
	}
	k.subscribeTo("news")
	var pending sync.WaitGroup
	pending.Add(n)
	go func() {
		for i := range n {
			k.b.Publish(text("news", fmt.Sprint(i)), func(broker.Position, error) { pending.Done() })
		}
	}()
	for range n {
		select {
		case m := <-arrived:
			page := k.page("news", broker.Query{Since: broker.Position{Epoch: m.Position.Epoch, Offset: m.Prev}, Limit: 1})
			if page.Gap || len(page.Messages) != 1 || page.Messages[0].Position != m.Position {
				k.breach("A message is in history before it is delivered", "message %v was delivered, and history after %d answers %v, gap %v", m.Position, m.Prev, positions(page.Messages), page.Gap)
			}
		case <-time.After(patience):
			k.breach("everything after it will be delivered", "%d messages were published and no more than %d delivered within %v", n, len(k.delivered("news")), patience)
			return
		}
	}
	k.wait(&pending)
}

func (k *kit) contents() {
	const channel = "stra\u00dfe/\u5e83\u5834/\U0001F389"
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	sent := []broker.Message{
		{},
		{Payload: []byte("plain")},
		{Payload: []byte("\u4f60\u597d \U0001F44B\u0000\r\n"), Sender: "al\u00efce", Key: "temp\u00e9rature/\u2103"},
		{Payload: every, Binary: true},
		{Binary: true},
		{Payload: []byte(" leading and trailing "), Sender: " \t", Key: "a b\nc:d*>"},
		{Payload: bytes.Repeat(every, 1<<20/len(every)), Binary: true, Sender: "large"},
		{Payload: []byte("\u007b\u0022type\u0022:\u0022chat\u0022}"), Key: strings.Repeat("k", 200), Sender: strings.Repeat("s", 200)},
	}
	k.subscribeTo(channel)
	msgs := make([]*broker.Message, len(sent))
	for i, m := range sent {
		m.Channel = channel
		m.Payload = bytes.Clone(m.Payload)
		msgs[i] = &m
	}
	acked := k.publish(msgs...)
	history := k.page(channel, broker.Query{}).Messages
	for where, got := range map[string][]*broker.Message{"history": history, "delivery": k.awaitDelivered(channel, acked[len(acked)-1])} {
		if len(got) != len(sent) {
			k.breach("a channel's history; everything after it is delivered", "%s has %d messages of %d", where, len(got), len(sent))
			continue
		}
		for i, m := range got {
			want := sent[i]
			if m.Channel != channel || m.Sender != want.Sender || m.Key != want.Key || m.Binary != want.Binary || !bytes.Equal(m.Payload, want.Payload) {
				k.breach("nobody changes it but the broker, which fills in Position, Prev and Time",
					"in %s message %d is channel %q, sender %q, key %q, binary %v, %d bytes of payload; published with sender %q, key %q, binary %v, %d bytes",
					where, i, m.Channel, m.Sender, m.Key, m.Binary, len(m.Payload), want.Sender, want.Key, want.Binary, len(want.Payload))
			}
			if m.Position != acked[i] {
				k.breach("every server is delivered the same messages in the same order", "in %s message %d has position %v, acknowledged was %v", where, i, m.Position, acked[i])
			}
		}
	}
}

func (k *kit) empty() {
	const rule = "A channel that nobody ever published to is empty, not an error"
	for _, q := range []broker.Query{{}, {Limit: 5}, {Limit: 5, Tail: true}} {
		if page := k.page("nobody/here", q); len(page.Messages) != 0 || page.Gap || page.More || page.Missed != 0 {
			k.breach(rule, "History %+v answers %+v", q, page)
		}
	}
	pos := k.subscribeTo("nobody/here")
	if page := k.page("nobody/here", broker.Query{Since: pos}); len(page.Messages) != 0 || page.Gap {
		k.breach(rule, "History since %v, which Subscribe answered, is %+v", pos, page)
	}
	if got := k.delivered("nobody/here"); len(got) != 0 {
		k.breach(rule, "%d messages were delivered", len(got))
	}
	k.b.Unsubscribe("nobody/here")
	k.b.Unsubscribe("never/subscribed")
}

func (k *kit) history() {
	all := k.publishN("log", 40)
	newest := all[39]
	check := func(q broker.Query, want []broker.Position, more bool) {
		k.Helper()
		page := k.page("log", q)
		if got := positions(page.Messages); !slices.Equal(got, want) {
			k.breach("Since: only messages after it. Limit: at most so many. Tail: the newest Limit of them", "History %+v answers %v, want %v", q, got, want)
			return
		}
		if page.Gap || page.Missed != 0 {
			k.breach("Gap: messages after Query.Since are no longer kept", "History %+v says gap %v, missed %d, though all is kept", q, page.Gap, page.Missed)
		}
		if page.More != more {
			k.breach("More: the limit left newer messages out", "History %+v says More %v with %d messages", q, page.More, len(want))
		}
		goesOn := newest
		if len(want) > 0 {
			goesOn = want[len(want)-1]
		}
		if page.Position != goesOn {
			k.breach("Position is where reading goes on: that of the last message here, or, without one, that of the newest", "History %+v says %v, want %v", q, page.Position, goesOn)
		}
	}
	before := broker.Position{Epoch: newest.Epoch} // the first message's Prev is 0
	for _, limit := range []int{0, 1, 7, 39, 40, 41, 1000} {
		for since, from := range map[broker.Position]int{{}: 0, before: 0, all[0]: 1, all[19]: 20, all[38]: 39, newest: 40} {
			rest := all[from:]
			n := len(rest)
			if limit > 0 {
				n = min(n, limit)
			}
			check(broker.Query{Since: since, Limit: limit}, rest[:n], n < len(rest))
			check(broker.Query{Since: since, Limit: limit, Tail: true}, rest[len(rest)-n:], false)
		}
	}
}

func (k *kit) pages() {
	all := k.publishN("log", 40)
	for _, limit := range []int{1, 3, 40} {
		var got []broker.Position
		q := broker.Query{Limit: limit}
		for n := 0; ; n++ {
			page := k.page("log", q)
			got = append(got, positions(page.Messages)...)
			if !page.More || n > len(all) {
				break
			}
			q.Since = page.Position
		}
		if !slices.Equal(got, all) {
			k.breach("Position is where reading goes on", "in pages of %d history is %v, want %v", limit, got, all)
		}
	}
}

func (k *kit) strange() {
	all := k.publishN("log", 10)
	newest := all[9]
	for what, since := range map[string]broker.Position{
		"the newest offset + 1":       {Epoch: newest.Epoch, Offset: newest.Offset + 1},
		"offset 2^63":                 {Epoch: newest.Epoch, Offset: 1 << 63},
		"offset 2^64 - 1":             {Epoch: newest.Epoch, Offset: 1<<64 - 1},
		"another epoch":               {Epoch: newest.Epoch + 1, Offset: newest.Offset},
		"an epoch before":             {Epoch: newest.Epoch - 1, Offset: 1},
		"another epoch's beginning":   {Epoch: newest.Epoch + 1},
		"epoch 2^64 - 1":              {Epoch: 1<<64 - 1, Offset: 5},
		"an offset without any epoch": {Offset: 5},
	} {
		page := k.page("log", broker.Query{Since: since})
		if got := positions(page.Messages); !page.Gap || !slices.Equal(got, all) || page.Position != newest {
			k.breach("Gap: its epoch is not the channel's, or it names a place that is yet to come. Messages then begin with the oldest kept",
				"History since %s, %v, answers gap %v, %d of %d messages, position %v", what, since, page.Gap, len(got), len(all), page.Position)
		}
		if page.Missed != 0 {
			k.breach("Missed is how many messages the gap lost, where that is known; otherwise 0", "History since %s says %d", what, page.Missed)
		}
	}
	future := broker.Position{Epoch: newest.Epoch, Offset: newest.Offset + 1000}
	if page := k.page("unheard/of", broker.Query{Since: future}); !page.Gap || len(page.Messages) != 0 {
		k.breach("Gap: it names a place that is yet to come", "History of an empty channel since %v answers gap %v and %d messages", future, page.Gap, len(page.Messages))
	}
	if page := k.page("unheard/of", broker.Query{Since: newest}); page.Gap || len(page.Messages) != 0 {
		k.breach("a place in one channel is one in every channel", "History of an empty channel since %v, the newest message of another, answers gap %v and %d messages", newest, page.Gap, len(page.Messages))
	}
}

func (k *kit) pageIsTheCallers() {
	all := k.publishN("log", 5)
	first := k.page("log", broker.Query{})
	clear(first.Messages)
	k.publishN("log", 5)
	if page := k.page("log", broker.Query{Limit: 5}); slices.Contains(page.Messages, nil) || !slices.Equal(positions(page.Messages), all) {
		k.breach("Asking changes nothing", "after the caller cleared the slice of a page, history is %d messages, not the same", len(page.Messages))
	}
}

func (k *kit) subscribe() {
	early := k.publishN("news", 5)
	pos := k.subscribeTo("news")
	if pos != early[4] {
		k.breach("Subscribe answers with the position of the channel's newest message", "it answers %v, the newest is %v", pos, early[4])
	}
	late := k.publishN("news", 5)
	k.publishN("unwanted", 5)
	got := k.awaitDelivered("news", late[4])
	if at := positions(got); !slices.Equal(at, late) {
		k.breach("everything after it will be delivered, and nothing up to it", "subscribed at %v, delivered %v, want %v", pos, at, late)
	}
	if n := len(k.delivered("unwanted")); n != 0 {
		k.breach("deliver is called with every message of the channels in which Subscribe declared interest", "%d messages of another channel were delivered", n)
	}
}

func (k *kit) seam() {
	const rounds = 100
	var stop atomic.Bool
	var publishing, pending sync.WaitGroup
	defer publishing.Wait()
	defer stop.Store(true)
	channel := func(i int) string { return fmt.Sprint("seam/", i) }
	var current atomic.Int32
	for range 2 {
		publishing.Go(func() {
			ahead := make(chan struct{}, 16) // publishes that were not acknowledged
			for !stop.Load() {
				ahead <- struct{}{}
				pending.Add(1)
				k.b.Publish(text(channel(int(current.Load())), "x"), func(broker.Position, error) {
					<-ahead
					pending.Done()
				})
			}
		})
	}
	for i := range rounds {
		current.Store(int32(i))
		pos := k.subscribeTo(channel(i))
		last := k.publish(text(channel(i), "last"))[0]
		got := k.awaitDelivered(channel(i), last)
		prev := pos.Offset
		for n, m := range got {
			if m.Position.Epoch != last.Epoch || m.Prev != prev || m.Position.Offset <= pos.Offset {
				k.breach("From Subscribe's answer on no message is missing: everything after the position it names is delivered",
					"subscribed at %v; delivery %d is %v, which comes after %d, and the one before was %d", pos, n, m.Position, m.Prev, prev)
				return
			}
			prev = m.Position.Offset
		}
	}
	stop.Store(true)
	publishing.Wait()
	k.wait(&pending)
}

func (k *kit) unsubscribe() {
	k.subscribeTo("news")
	first := k.publishN("news", 3)
	k.awaitDelivered("news", first[2])
	k.b.Unsubscribe("news")
	k.publishN("news", 3)
	pos := k.subscribeTo("news")
	last := k.publishN("news", 3)
	got := k.awaitDelivered("news", last[2])
	k.chainWithHoles(got)
	after := slices.DeleteFunc(got, func(m *broker.Message) bool { return m.Position.Offset <= pos.Offset })
	if at := positions(after); !slices.Equal(at, last) {
		k.breach("after Unsubscribe a second call is none; everything after the position is delivered", "subscribed anew at %v, delivered after it %v, want %v", pos, at, last)
	}
	k.b.Unsubscribe("news")
	k.b.Unsubscribe("news")
}

// chainWithHoles holds deliveries of which some may be missing to order.
func (k *kit) chainWithHoles(msgs []*broker.Message) {
	for i := 1; i < len(msgs); i++ {
		if msgs[i].Position.Offset <= msgs[i-1].Position.Offset {
			k.breach("positions grow in that order", "message %v is delivered after %v", msgs[i].Position, msgs[i-1].Position)
		}
	}
}

func (k *kit) oneOrder() {
	const publishers, each, channels = 8, 25, 2
	for c := range channels {
		k.subscribeTo(fmt.Sprint("order/", c))
	}
	var pending, publishing sync.WaitGroup
	pending.Add(publishers * each * channels)
	var mu sync.Mutex
	newest := make([]broker.Position, channels)
	for p := range publishers {
		publishing.Go(func() {
			for i := range each * channels {
				c := i % channels
				m := text(fmt.Sprint("order/", c), fmt.Sprint(i))
				m.Sender = fmt.Sprint(p)
				k.b.Publish(m, func(pos broker.Position, err error) {
					if err != nil {
						k.Errorf("Publish: %v", err)
					}
					mu.Lock()
					if pos.Offset > newest[c].Offset {
						newest[c] = pos
					}
					mu.Unlock()
					pending.Done()
				})
			}
		})
	}
	publishing.Wait()
	k.wait(&pending)
	for c := range channels {
		channel := fmt.Sprint("order/", c)
		got := k.awaitDelivered(channel, newest[c])
		k.chain(got)
		history := k.page(channel, broker.Query{}).Messages
		if len(got) != publishers*each || !slices.Equal(positions(got), positions(history)) {
			k.breach("every server is delivered the same messages in the same order", "%d messages were published, %d delivered, %d are in history; or their order differs", publishers*each, len(got), len(history))
		}
		last := make(map[string]int)
		for i, m := range got {
			if i < len(history) && (history[i].Sender != m.Sender || !bytes.Equal(history[i].Payload, m.Payload)) {
				k.breach("every server is delivered the same messages in the same order", "message %v is %s/%s delivered and %s/%s in history", m.Position, m.Sender, m.Payload, history[i].Sender, history[i].Payload)
			}
			var n int
			fmt.Sscan(string(m.Payload), &n)
			if before, any := last[m.Sender]; any && n <= before {
				k.breach("Messages published to a channel one after the other, by one goroutine, keep that order", "publisher %s's %d is delivered after its %d", m.Sender, n, before)
			}
			last[m.Sender] = n
		}
	}
}

func (k *kit) independent() {
	names := []string{"a", "a/b", "a/b/c", "A", "a.b", "a b", "a*", "a/>", "\u00e4", "a\u0308", "chat-general", strings.Repeat("x", 255)}
	for _, name := range names {
		k.subscribeTo(name)
	}
	var last []broker.Position
	for i, name := range names {
		acked := k.publishN(name, i+1)
		last = append(last, acked[i])
	}
	for i, name := range names {
		got := k.awaitDelivered(name, last[i])
		k.chain(got)
		if n := len(k.page(name, broker.Query{}).Messages); len(got) != i+1 || n != i+1 {
			k.breach("a channel's history", "%d messages were published to %q; %d were delivered and %d are in its history", i+1, name, len(got), n)
		}
	}
}

// names holds that a broker copies the names it remembers: the caller's may be
// a piece of a request.
func (k *kit) names() {
	freed := make(chan struct{})
	func() {
		request := strings.Repeat("channel/", 1<<17)
		runtime.AddCleanup(unsafe.StringData(request), func(freed chan struct{}) { close(freed) }, freed)
		for i, name := range []string{request[:7], request[:15], request[:23]} {
			if i > 0 {
				k.subscribeTo(name)
			}
			k.page(name, broker.Query{})
		}
		k.b.Unsubscribe(request[:15])
	}()
	for deadline := time.Now().Add(patience); ; {
		runtime.GC()
		select {
		case <-freed:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			k.breach("A broker copies the channel names it remembers", "the string that the names were pieces of is still in memory")
			return
		}
	}
}

func (k *kit) close() {
	k.subscribeTo("news")
	k.publishN("news", 3)
	if err := k.b.Close(); err != nil {
		k.breach("Close ends the broker", "Close: %v", err)
	}
	const rule = "afterwards everything answers ErrClosed"
	for range 2 {
		done := make(chan error, 2)
		k.b.Publish(text("news", "late"), func(_ broker.Position, err error) { done <- err })
		select {
		case err := <-done:
			if !errors.Is(err, broker.ErrClosed) {
				k.breach(rule, "Publish: %v", err)
			}
		case <-time.After(patience):
			k.breach(rule, "done of a publish was not called within %v", patience)
		}
		if _, err := k.b.History(context.Background(), "news", broker.Query{}); !errors.Is(err, broker.ErrClosed) {
			k.breach(rule, "History: %v", err)
		}
		for _, channel := range []string{"news", "other"} {
			if _, err := k.b.Subscribe(context.Background(), channel); !errors.Is(err, broker.ErrClosed) {
				k.breach(rule, "Subscribe: %v", err)
			}
		}
		k.b.Unsubscribe("news")
		k.b.Close() // again: no panic, no wait
	}
	for _, m := range k.delivered("news") {
		if string(m.Payload) == "late" {
			k.breach(rule, "what was published after Close was delivered")
		}
	}
}

func (k *kit) closeWhilePublishing() {
	k.subscribeTo("news")
	var mu sync.Mutex
	var taken []*atomic.Int32 // of each publish that returned, the calls of its done
	var publishing, pending sync.WaitGroup
	closed := make(chan struct{})
	enough := make(chan struct{})
	for range 4 {
		publishing.Go(func() {
			ahead := make(chan struct{}, 64) // publishes that were not answered
			for over := 0; over < 10; {
				count := new(atomic.Int32)
				ahead <- struct{}{}
				pending.Add(1)
				k.b.Publish(text("news", "x"), func(_ broker.Position, err error) {
					if err != nil && !errors.Is(err, broker.ErrClosed) {
						k.breach("afterwards everything answers ErrClosed", "a publish around Close failed with: %v", err)
					}
					if count.Add(1) == 1 {
						pending.Done()
					}
					<-ahead
				})
				mu.Lock()
				taken = append(taken, count)
				if len(taken) == 500 {
					close(enough)
				}
				mu.Unlock()
				select {
				case <-closed:
					over++
				default:
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(patience):
		k.Fatalf("500 publishes were not taken within %v", patience)
	}
	mu.Lock()
	before := len(taken)
	mu.Unlock()
	k.b.Close()
	mu.Lock()
	for i, count := range taken[:before] {
		if count.Load() == 0 {
			k.breach("Publishes that were taken are completed or failed before it returns", "publish %d had returned before Close was called, and when it returned done was not yet called", i)
			break
		}
	}
	mu.Unlock()
	quiet := len(k.delivered("news"))
	close(closed)
	publishing.Wait()
	k.wait(&pending)
	if n := len(k.delivered("news")); n != quiet {
		k.breach("afterwards everything answers ErrClosed", "%d messages were delivered after Close had returned", n-quiet)
	}
	for i, count := range taken {
		if n := count.Load(); n != 1 {
			k.breach("done is called exactly once", "done of publish %d was called %d times", i, n)
		}
	}
}

// oneCount holds that all messages are counted by one count, and that each
// names the one before it in its channel.
func (k *kit) oneCount() {
	var all []broker.Position
	names := []string{"count/a", "count/b", "other"}
	for i := range 30 {
		all = append(all, k.publish(text(names[i%3], fmt.Sprint(i)))...) // each after the one before was acknowledged
	}
	for i := 1; i < len(all); i++ {
		if all[i].Epoch != all[i-1].Epoch || all[i].Offset <= all[i-1].Offset {
			k.breach("All messages of a broker are counted by one count", "message %d, to %q, is at %v, the one before it, to %q, at %v", i, names[i%3], all[i], names[(i-1)%3], all[i-1])
			return
		}
	}
	for n, name := range names {
		msgs := k.page(name, broker.Query{}).Messages
		k.chain(msgs)
		for i, since := range all {
			page := k.page(name, broker.Query{Since: since})
			var want []broker.Position
			for j := i + 1; j < len(all); j++ {
				if j%3 == n {
					want = append(want, all[j])
				}
			}
			if got := positions(page.Messages); page.Gap || !slices.Equal(got, want) {
				k.breach("a place in one channel is one in every channel", "History of %q since %v, message %d of all, answers %v, gap %v, want %v", name, since, i, got, page.Gap, want)
				return
			}
		}
	}
}

// outcomes publishes messages one after the other and returns what done got.
func (k *kit) outcomes(msgs ...*broker.Message) []outcome {
	k.Helper()
	all := make([]outcome, len(msgs))
	var pending sync.WaitGroup
	pending.Add(len(msgs))
	for i, m := range msgs {
		k.b.Publish(m, func(pos broker.Position, err error) {
			all[i] = outcome{pos, err}
			pending.Done()
		})
	}
	k.wait(&pending)
	return all
}

func named(channel, id, payload string) *broker.Message {
	m := text(channel, payload)
	m.ID = id
	return m
}

const idRule = "A message whose Channel and ID are those of one that was published not long ago is not published again: done gets the position of that one"

func (k *kit) ids() {
	k.subscribeTo("ids")
	long := strings.Repeat("\U0001F389", 32) // 128 bytes
	ids := []string{"1", "2", "a/b", "*", " ", long, long[:124] + "last", "\x00", "1"}
	var first []broker.Position
	for _, id := range ids {
		first = append(first, k.publish(named("ids", id, "x"))...)
	}
	if first[8] != first[0] {
		k.breach(idRule, "the second publish with id \"1\" is at %v, the first at %v", first[8], first[0])
	}
	distinct := first[:8]
	for i := 1; i < len(distinct); i++ {
		if distinct[i].Offset <= distinct[i-1].Offset {
			k.breach(idRule, "publishes with the ids %q and %q are at %v and %v", ids[i-1], ids[i], distinct[i-1], distinct[i])
		}
	}
	again := named("ids", "2", "x")
	again.Sender = "somebody else"
	if pos := k.publish(again)[0]; pos != first[1] {
		k.breach(idRule, "again with another sender it is at %v, the first at %v", pos, first[1])
	}
	elsewhere := k.publish(named("ids/other", "1", "y"))[0]
	if elsewhere == first[0] {
		k.breach(idRule, "the same id in another channel is taken for the same message")
	}
	none := k.publish(text("ids", "x"), text("ids", "x"))
	if none[0] == none[1] {
		k.breach("empty: none", "two messages without an id are taken for the same")
	}
	want := append(slices.Clone(distinct), none...)
	for where, msgs := range map[string][]*broker.Message{"history": k.page("ids", broker.Query{}).Messages, "delivery": k.awaitDelivered("ids", none[1])} {
		if got := positions(msgs); !slices.Equal(got, want) {
			k.breach(idRule, "%s has %v, want %v", where, got, want)
		}
		for _, m := range msgs {
			if m.ID != "" {
				k.breach("Readers do not see it: it is empty in what a broker delivers", "in %s message %v has the id %q", where, m.Position, m.ID)
			}
		}
	}
}

func (k *kit) idsReused() {
	const rule = "or, if Payload, Binary or Key differ, ErrIDReused"
	first := named("ids", "id", "text")
	first.Key = "key"
	at := k.publish(first)[0]
	for what, change := range map[string]func(*broker.Message){
		"another payload":          func(m *broker.Message) { m.Payload = []byte("texT") },
		"a longer payload":         func(m *broker.Message) { m.Payload = []byte("text ") },
		"no payload":               func(m *broker.Message) { m.Payload = nil },
		"the payload as binary":    func(m *broker.Message) { m.Binary = true },
		"another key":              func(m *broker.Message) { m.Key = "kex" },
		"no key":                   func(m *broker.Message) { m.Key = "" },
		"the key's end in payload": func(m *broker.Message) { m.Key, m.Payload = "ke", []byte("ytext") },
	} {
		m := named("ids", "id", "text")
		m.Key = "key"
		change(m)
		if o := k.outcomes(m)[0]; !errors.Is(o.err, broker.ErrIDReused) {
			k.breach(rule, "with %s done gets %v, %v", what, o.pos, o.err)
		}
	}
	again := named("ids", "id", "text")
	again.Key = "key"
	if pos := k.publish(again)[0]; pos != at {
		k.breach(idRule, "after others tried to reuse its id, the message is at %v, the first time it was at %v", pos, at)
	}
	if n := len(k.page("ids", broker.Query{}).Messages); n != 1 {
		k.breach(rule, "history has %d messages, want the first alone", n)
	}
}

func (k *kit) idsAtOnce() {
	const publishers, ids = 8, 50
	got := make([][]outcome, publishers)
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			msgs := make([]*broker.Message, ids)
			for i := range msgs {
				msgs[i] = named("ids", fmt.Sprint("id ", i), fmt.Sprint(i))
			}
			got[p] = k.outcomes(msgs...)
		})
	}
	publishing.Wait()
	if k.Failed() {
		return
	}
	page := k.page("ids", broker.Query{})
	k.chain(page.Messages)
	at := make(map[string]broker.Position)
	for _, m := range page.Messages {
		at[string(m.Payload)] = m.Position
	}
	if len(page.Messages) != ids || len(at) != ids {
		k.breach(idRule, "%d publishers published the same %d messages at once; history has %d, %d of them distinct", publishers, ids, len(page.Messages), len(at))
	}
	for p := range got {
		for i, o := range got[p] {
			if o.err != nil || o.pos != at[fmt.Sprint(i)] {
				k.breach("If that one is still under way, the second gets what the first gets", "publisher %d's message %d: %v, %v, and history has it at %v", p, i, o.pos, o.err, at[fmt.Sprint(i)])
			}
		}
	}
}

func (k *kit) idsReusedAtOnce() {
	const publishers, ids = 4, 50
	got := make([][]outcome, publishers)
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			msgs := make([]*broker.Message, ids)
			for i := range msgs {
				msgs[i] = named("ids", fmt.Sprint(i), fmt.Sprint(p%2)) // two say one thing, two another
			}
			got[p] = k.outcomes(msgs...)
		})
	}
	publishing.Wait()
	if k.Failed() {
		return
	}
	page := k.page("ids", broker.Query{})
	if len(page.Messages) != ids {
		k.breach(idRule, "%d ids were used by %d publishers at once; history has %d messages", ids, publishers, len(page.Messages))
	}
	said := make(map[broker.Position]string)
	for _, m := range page.Messages {
		said[m.Position] = string(m.Payload)
	}
	for i := range ids {
		won := -1
		for p := range got {
			switch o := got[p][i]; {
			case o.err == nil && said[o.pos] != fmt.Sprint(p%2):
				k.breach(idRule, "publisher %d said %d under id %d and is told that it is at %v, where %q is", p, p%2, i, o.pos, said[o.pos])
			case o.err == nil && won >= 0 && won != p%2:
				k.breach("if Payload, Binary or Key differ, ErrIDReused", "both messages under id %d were published", i)
			case o.err == nil:
				won = p % 2
			case !errors.Is(o.err, broker.ErrIDReused):
				k.breach("if Payload, Binary or Key differ, ErrIDReused", "id %d: %v", i, o.err)
			}
		}
		for p := range got {
			if got[p][i].err != nil && won == p%2 {
				k.breach(idRule, "publisher %d said under id %d what was published, and got: %v", p, i, got[p][i].err)
			}
		}
	}
}

// want declares interest in a pattern, and reports whether the broker can do
// patterns.
func (k *kit) want(pattern string) (broker.Position, bool) {
	k.Helper()
	k.mu.Lock()
	k.wants = append(k.wants, pattern)
	k.mu.Unlock()
	pos, err := k.b.Subscribe(context.Background(), pattern)
	if errors.Is(err, broker.ErrNoPatterns) {
		if _, err := k.b.History(context.Background(), pattern, broker.Query{}); !errors.Is(err, broker.ErrNoPatterns) {
			k.breach("who cannot do them answers ErrNoPatterns", "Subscribe does so, and History answers %v", err)
		}
		return pos, false
	}
	if err != nil {
		k.Fatalf("Subscribe to %q: %v", pattern, err)
	}
	return pos, true
}

func (k *kit) unwant(pattern string) {
	k.b.Unsubscribe(pattern)
	k.mu.Lock()
	k.wants = slices.DeleteFunc(k.wants, func(name string) bool { return name == pattern })
	k.mu.Unlock()
}

// places are channels, some of which fit the patterns in the tests below.
var places = []string{"p/a/t", "p/b/t", "p/b/u", "p/a/t/x", "p", "q/a/t", "p/a"}

func fitting(pattern string, msgs []*broker.Message) []broker.Position {
	var all []broker.Position
	for _, m := range msgs {
		if broker.Fits(pattern, m.Channel) {
			all = append(all, m.Position)
		}
	}
	return all
}

// spread publishes n messages, one after the other, to all the places.
func (k *kit) spread(n int) []*broker.Message {
	k.Helper()
	all := make([]*broker.Message, n)
	for i := range all {
		name := places[(i*i+i/3)%len(places)]
		all[i] = &broker.Message{Channel: name, Position: k.publish(text(name, fmt.Sprint(i)))[0]}
	}
	return all
}

func (k *kit) patterns() {
	for _, pattern := range []string{"p/*/t", "p/**", "*/a/t", "p/*/**", "**", "*", "never/**"} {
		before := k.spread(10)
		pos, can := k.want(pattern)
		if !can {
			return
		}
		if newest := before[9].Position; pos != newest {
			k.breach("for a pattern it answers with the position of the newest of all", "Subscribe to %q answers %v, the newest is %v", pattern, pos, newest)
		}
		all := k.spread(40)
		want := fitting(pattern, all)
		for n := len(want); n > 0; n = 0 {
			k.awaitDelivered(pattern, want[n-1])
		}
		if got := since(pos, k.delivered(pattern)); !slices.Equal(got, want) {
			k.breach("in order of offset over all channels of a pattern", "interest in %q at %v: delivered %v, want %v", pattern, pos, got, want)
		}
		k.unwant(pattern)
		k.b.Unsubscribe(pattern)
		k.mu.Lock()
		clear(k.got)
		k.mu.Unlock()
	}
}

// since returns the positions of those messages that are after pos: of an
// interest that ended, some may still be on their way.
func since(pos broker.Position, msgs []*broker.Message) []broker.Position {
	return slices.DeleteFunc(positions(msgs), func(p broker.Position) bool { return p.Offset <= pos.Offset })
}

// patternsOverlap holds that a message comes once, however many interests
// there are in it, and that each interest ends for itself.
func (k *kit) patternsOverlap() {
	if _, can := k.want("p/**"); !can {
		return
	}
	k.subscribeTo("p/a/t")
	k.want("*/a/t")
	k.want("p/*/t")
	check := func(name string, more []*broker.Message) {
		k.Helper()
		want := fitting(name, more)
		k.awaitDelivered(name, want[len(want)-1])
		if got := positions(k.delivered(name)); !slices.Equal(got, want) {
			k.breach("with every message in which Subscribe declared interest, once however often it did", "%q: delivered %v, want %v", name, got, want)
		}
	}
	all := k.spread(60)
	for _, name := range []string{"p/**", "p/a/t", "*/a/t", "p/*/t"} {
		check(name, all)
	}
	k.unwant("p/**")
	k.unwant("*/a/t")
	k.mu.Lock()
	clear(k.got)
	k.mu.Unlock()
	all = k.spread(60)
	check("p/*/t", all)
	check("p/a/t", all)
	k.unwant("p/*/t")
	k.mu.Lock()
	clear(k.got)
	k.mu.Unlock()
	check("p/a/t", k.spread(60))
	k.b.Unsubscribe("p/a/t")
}

func (k *kit) patternHistory() {
	if _, err := k.b.History(context.Background(), "p/**", broker.Query{}); errors.Is(err, broker.ErrNoPatterns) {
		return
	}
	all := k.spread(60)
	newest := all[59].Position
	for _, pattern := range []string{"p/*/t", "p/**", "*/a/t", "**", "*", "never/**"} {
		for i := -1; i < len(all); i++ {
			var since broker.Position
			if i >= 0 {
				since = all[i].Position
			}
			rest := fitting(pattern, all[i+1:])
			for _, q := range []broker.Query{{}, {Limit: 3}, {Limit: 3, Tail: true}, {Limit: 1000}} {
				q.Since = since
				want, more := rest, false
				switch {
				case q.Limit == 0 || q.Limit >= len(rest):
				case q.Tail:
					want = rest[len(rest)-q.Limit:]
				default:
					want, more = rest[:q.Limit], true
				}
				goesOn := newest
				if len(want) > 0 {
					goesOn = want[len(want)-1]
				}
				page := k.page(pattern, q)
				if got := positions(page.Messages); !slices.Equal(got, want) || page.Gap || page.Missed != 0 || page.More != more || page.Position != goesOn {
					k.breach("the history of a pattern, by offset, whatever channel a message is of", "History of %q, %+v, answers %v, gap %v, missed %d, more %v, position %v; want %v, more %v, position %v, and no gap",
						pattern, q, got, page.Gap, page.Missed, page.More, page.Position, want, more, goesOn)
					return
				}
			}
		}
		for what, since := range map[string]broker.Position{
			"the newest offset + 1": {Epoch: newest.Epoch, Offset: newest.Offset + 1},
			"offset 2^64 - 1":       {Epoch: newest.Epoch, Offset: 1<<64 - 1},
			"another epoch":         {Epoch: newest.Epoch + 1, Offset: newest.Offset},
		} {
			page := k.page(pattern, broker.Query{Since: since})
			if got, want := positions(page.Messages), fitting(pattern, all); !page.Gap || !slices.Equal(got, want) {
				k.breach("Gap: its epoch is not the broker's, or it names a place that is yet to come", "History of %q since %s answers gap %v and %v, want %v", pattern, what, page.Gap, got, want)
			}
		}
	}
}

// patternSeam holds that whoever declares interest in a pattern, or resumes in
// it, while others publish to its channels, has every message once: in history
// up to the page's end, delivered after that.
func (k *kit) patternSeam() {
	const rounds, each, pattern = 40, 300, "p/*/t" // history keeps more than is published in a round
	var stop atomic.Bool
	var published, allowed atomic.Int64
	var publishing, pending sync.WaitGroup
	defer publishing.Wait()
	defer stop.Store(true)
	for p := range 3 {
		publishing.Go(func() {
			ahead := make(chan struct{}, 16) // publishes that were not acknowledged
			for i := p; !stop.Load(); i++ {
				if published.Load() >= allowed.Load() {
					time.Sleep(100 * time.Microsecond)
					continue
				}
				published.Add(1)
				ahead <- struct{}{}
				pending.Add(1)
				k.b.Publish(text(places[i%len(places)], "x"), func(broker.Position, error) {
					<-ahead
					pending.Done()
				})
			}
		})
	}
	last := k.publishN("p/a/t", 1)[0]
	for range rounds {
		begin := last
		allowed.Store(published.Load() + each)
		k.mu.Lock()
		clear(k.got)
		k.mu.Unlock()
		pos, can := k.want(pattern)
		if !can {
			return
		}
		page := k.page(pattern, broker.Query{Since: begin})
		last = k.publishN("p/b/t", 1)[0]
		k.awaitDelivered(pattern, last)
		had := append(positions(page.Messages), since(page.Position, k.delivered(pattern))...)
		want := positions(k.page(pattern, broker.Query{Since: begin}).Messages)
		for _, all := range []*[]broker.Position{&had, &want} {
			*all = slices.DeleteFunc(*all, func(p broker.Position) bool { return p.Offset > last.Offset })
		}
		if page.Gap || !slices.Equal(had, want) {
			k.breach("everything after the position it names is delivered", "subscribed to %q at %v, resumed there after %v with a page up to %v, gap %v: %s", pattern, pos, begin, page.Position, page.Gap, difference(had, want))
			return
		}
		k.unwant(pattern)
	}
	stop.Store(true)
	publishing.Wait()
	k.wait(&pending)
}

// difference says where two lists of positions differ, for lists too long to print.
func difference(had, want []broker.Position) string {
	i := 0
	for i < min(len(had), len(want)) && had[i] == want[i] {
		i++
	}
	part := func(all []broker.Position) []broker.Position { return all[min(i, len(all)):min(i+5, len(all))] }
	return fmt.Sprintf("had %d, want %d; from number %d on had %v…, want %v…", len(had), len(want), i, part(had), part(want))
}

// retain holds a broker that is a Retainer to that.
func (k *kit) retain() {
	r, can := k.b.(broker.Retainer)
	if !can {
		return
	}
	const rule = "a channel has the new values from its next publish or look into history on"
	messages := 5
	r.Retain(func(channel string) broker.Retention {
		if channel == "short" {
			return broker.Retention{Messages: messages}
		}
		if channel == "never" {
			return broker.Retention{Messages: -1}
		}
		return broker.Retention{}
	})
	want := map[string]int{"short": 5, "long": 40, "never": 0}
	for _, channel := range []string{"short", "long", "never"} {
		all := k.publishN(channel, 40)
		page := k.page(channel, broker.Query{})
		if got := positions(page.Messages); !slices.Equal(got, all[40-want[channel]:]) || page.Gap {
			k.breach(rule, "of 40 messages to %q history has %d, want the newest %d", channel, len(got), want[channel])
		}
		for i, since := range all {
			if page := k.page(channel, broker.Query{Since: since}); page.Gap != (i+1 < 40-want[channel]) {
				k.breach("Gap: messages after Query.Since are no longer kept", "of 40 messages to %q %d are kept, and since number %d the gap is %v", channel, want[channel], i+1, page.Gap)
			}
		}
	}
	newest := k.page("long", broker.Query{}).Position
	for since, gap := range map[broker.Position]bool{{Epoch: newest.Epoch}: true, newest: true, k.page("never", broker.Query{}).Position: false} {
		page, err := k.b.History(context.Background(), "*", broker.Query{Since: since})
		if err == nil && page.Gap != gap {
			k.breach("Gap: messages after Query.Since are no longer kept", "of channels that keep 5, 40 and no messages, History of \"*\" since %v says gap %v", since, page.Gap)
		}
	}
	r.Retain(func(string) broker.Retention { return broker.Retention{Messages: 3} })
	for _, channel := range []string{"short", "long"} {
		if n := len(k.page(channel, broker.Query{}).Messages); n != 3 {
			k.breach(rule, "the settings permit three messages now, and %q has %d", channel, n)
		}
	}
	r.Retain(func(string) broker.Retention { return broker.Retention{Messages: 20} })
	k.publishN("short", 40)
	if n := len(k.page("short", broker.Query{}).Messages); n != 20 {
		k.breach(rule, "the settings permit twenty messages now, and of forty there are %d", n)
	}
}
