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

	inside sync.Map // channel → *atomic.Int32: calls of deliver that are under way
	mu     sync.Mutex
	got    map[string][]*broker.Message // what was delivered, by channel
	tap    func(*broker.Message)        // called with each message delivered, if set
}

// breach fails the test with the rule that was broken.
func (k *kit) breach(rule, format string, args ...any) {
	k.Helper()
	k.Errorf("%s\nthe contract: %q", fmt.Sprintf(format, args...), rule)
}

func (k *kit) deliver(m *broker.Message) {
	count, _ := k.inside.LoadOrStore(m.Channel, new(atomic.Int32))
	if count.(*atomic.Int32).Add(1) != 1 {
		k.breach("for one channel never twice at once", "deliver is called for channel %q while it is at work for it", m.Channel)
	}
	k.mu.Lock()
	k.got[m.Channel] = append(k.got[m.Channel], m)
	tap := k.tap
	k.mu.Unlock()
	if tap != nil {
		tap(m)
	}
	count.(*atomic.Int32).Add(-1)
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
			k.Fatalf("Publish to %q: %v", msgs[i].Channel, o.err)
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
