package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"fanfare/protocol"
)

func TestSubscribe(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	old := st.subscribe(c, a, "old", "7-0", &SubscribeOptions{Since: "7-0", Slow: "catch-up"})
	if sub.Position() != "7-1" || old.Position() != "7-0" || sub.Channel() != "chat" {
		t.Errorf("%q and %q", sub.Position(), old.Position())
	}
	a.message("chat", 2)
	a.message("old", 1)
	a.message("chat", 3)
	st.reads(sub, 2)
	if sub.Position() != "7-2" {
		t.Errorf("the position is %q: the consumer has not seen the next yet", sub.Position())
	}
	st.reads(old, 1)
	for m, err := range sub.Messages(st.ctx) {
		if err != nil || m.Channel != "chat" || m.Position != "7-3" || sub.Position() != "7-3" {
			t.Errorf("%+v, %v", m, err)
		}
		break
	}

	var said *Error
	if _, err := c.Subscribe(st.ctx, "chat", nil); !errors.As(err, &said) || said.Code != "already_subscribed" {
		t.Error(err)
	}
	refused := later(t, func() (*Subscription, error) { return c.Subscribe(st.ctx, "no", nil) })
	a.says(`{"type":"error","id":%q,"code":"forbidden","message":"…"}`, a.hears(protocol.Subscribe).ID)
	if _, err := refused(); !errors.As(err, &said) || said.Code != "forbidden" {
		t.Error(err)
	}
	st.subscribe(c, a, "no", "7-1", nil) // another time it may be different

	ctx, cancel := context.WithCancel(st.ctx)
	left := later(t, func() (*Subscription, error) { return c.Subscribe(ctx, "late", nil) })
	a.hears(protocol.Subscribe)
	cancel()
	if _, err := left(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if said := a.hears(protocol.Unsubscribe); said.Channel != "late" {
		t.Errorf("%+v", said)
	}

	a.message("chat", 4)
	waiting := later(t, func() (*Message, error) { return old.Next(st.ctx) })
	sub.Close()
	old.Close()
	if _, err := waiting(); err != ErrClosed {
		t.Error(err)
	}
	a.hears(protocol.Unsubscribe)
	a.hears(protocol.Unsubscribe)
	if _, err := sub.Next(st.ctx); err != ErrClosed {
		t.Error(err)
	}
	if sub.Position() != "7-3" {
		t.Errorf("after Close the position is %q", sub.Position())
	}
	sub.Close()
	a.hearsNothing()
	again := st.subscribe(c, a, "chat", "7-4", nil)
	a.message("chat", 5)
	st.reads(again, 5)
}

func TestPatterns(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	all := st.subscribe(c, a, "chat/**", "7-1", nil)
	one := st.subscribe(c, a, "chat/a", "7-1", nil)
	a.says(`{"type":"message","channel":"chat/a","pattern":"chat/**","position":"7-2","time":"2026-11-22T16:00:00Z","data":2}`)
	a.message("chat/a", 2)
	a.says(`{"type":"gap","pattern":"chat/**","reason":"skipped","missed":3,"position":"7-5"}`)
	st.reads(one, 2)
	if m, err := all.Next(st.ctx); err != nil || m.Channel != "chat/a" || m.Pattern != "chat/**" {
		t.Errorf("%+v, %v", m, err)
	}
	if gap := st.readsGap(all, "skipped"); gap.Missed != 3 || gap.Position != "7-5" || gap.Channel != "chat/**" {
		t.Errorf("%+v", gap)
	}
	a.cut()
	b := st.enter()
	for range 2 {
		said := b.hears(protocol.Subscribe)
		if want := map[string]string{"chat/**": "7-5", "chat/a": "7-2"}[said.Channel]; said.Since != want {
			t.Errorf("%+v", said)
		}
	}
}

// What comes twice at the seam of two connections is read once, and what the
// consumer has not read yet is not asked for again.
func TestResume(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-10", nil)
	fresh := later(t, func() (*Subscription, error) { return c.Subscribe(st.ctx, "fresh", nil) })
	a.hears(protocol.Subscribe)
	a.message("chat", 11)
	a.message("chat", 14)
	st.reads(sub, 11)
	st.settled(c, a)
	a.cut()
	b := st.enter()
	for range 2 {
		said := b.hears(protocol.Subscribe)
		if want := map[string]string{"chat": "7-14", "fresh": ""}[said.Channel]; said.Since != want {
			t.Errorf("%+v, expected since %q", said, want)
		}
		b.message(said.Channel, 13) // not agreed yet
		b.says(`{"type":"ok","id":%q,"channel":%q,"position":"7-14"}`, said.ID, said.Channel)
	}
	if _, err := fresh(); err != nil {
		t.Error(err)
	}
	b.message("chat", 11)
	b.message("chat", 14)
	b.message("chat", 15)
	b.message("chat", 15)
	b.says(`{"type":"gap","channel":"chat","reason":"lost","position":"8-0"}`)
	b.says(`{"type":"message","channel":"chat","position":"8-1","time":"2026-11-22T16:00:00Z","data":1}`)
	st.reads(sub, 14, 15)
	if gap := st.readsGap(sub, "lost"); gap.Position != "8-0" || gap.Missed != 0 || sub.Position() != "8-0" {
		t.Errorf("%+v, at %q", gap, sub.Position())
	}
	st.reads(sub, 1)
}

func TestASubscriptionMayEndAtAReconnection(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	a.message("chat", 2)
	st.settled(c, a)
	a.cut()
	b := st.enter()
	// The server cannot, just now: it is asked again.
	for _, code := range []string{"internal", "timeout"} {
		b.says(`{"type":"error","id":%q,"code":%q,"message":"…"}`, b.hears(protocol.Subscribe).ID, code)
	}
	said := b.hears(protocol.Subscribe)
	if said.Since != "7-2" {
		t.Errorf("%+v", said)
	}
	b.says(`{"type":"error","id":%q,"code":"shutting_down","message":"…"}`, said.ID)
	b.says(`{"type":"bye","code":"shutting_down","message":"…","retry":1}`)
	d := st.enter()
	// Now it may not any more.
	d.says(`{"type":"error","id":%q,"code":"forbidden","message":"…"}`, d.hears(protocol.Subscribe).ID)
	st.reads(sub, 2)
	var refused *Error
	for _, err := range sub.Messages(st.ctx) {
		if !errors.As(err, &refused) || refused.Code != "forbidden" {
			t.Error(err)
		}
	}
	if refused == nil {
		t.Error("the messages ended without an error")
	}
	d.hearsNothing()
}

// A consumer who lags gets the rest from history, page by page.
func TestSlowConsumer(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{Buffer: 4})
	sub := st.subscribe(c, a, "chat", "7-0", nil)
	other := st.subscribe(c, a, "other", "7-0", nil)
	for n := range 10 {
		a.message("chat", n+1)
	}
	a.message("other", 11)
	if said := a.hears(protocol.Unsubscribe); said.Channel != "chat" || said.ID != "" {
		t.Errorf("%+v", said)
	}
	st.reads(other, 11) // nobody waits for the slow one
	other.Close()
	a.hears(protocol.Unsubscribe)
	a.hearsNothing()
	st.reads(sub, 1, 2)
	page := func(a *actor, since string, more, gap bool, position int, offsets ...int) {
		t.Helper()
		said := a.hears(protocol.History)
		if said.Channel != "chat" || said.Since != since || said.Limit == nil || *said.Limit != 2 {
			t.Errorf("%+v", said)
		}
		messages := ""
		for i, n := range offsets {
			if i > 0 {
				messages += ","
			}
			messages += fmt.Sprintf(`{"type":"message","channel":"chat","position":"7-%d","time":"2026-11-22T16:00:00Z","data":%d}`, n, n)
		}
		a.says(`{"type":"ok","id":%q,"channel":"chat","position":"7-%d","more":%v,"gap":%v,"messages":[%s]}`, said.ID, position, more, gap, messages)
	}
	page(a, "7-4", true, false, 6, 5, 6)
	st.reads(sub, 3, 4)
	page(a, "7-6", true, true, 9, 8, 9) // 7 is gone
	st.reads(sub, 5, 6)
	if gap := st.readsGap(sub, "outrun"); gap.Position != "7-6" {
		t.Errorf("%+v", gap)
	}
	a.cut() // it goes on over another connection, too
	b := st.enter()
	page(b, "7-9", false, false, 10, 10)
	b.agrees("chat", "7-10", "7-10")
	st.reads(sub, 8, 9, 10)
	b.message("chat", 12)
	st.reads(sub, 12)
	b.hearsNothing()
}

func TestSlowPolicies(t *testing.T) {
	t.Run("skip", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{Buffer: 4})
		sub := st.subscribe(c, a, "chat", "7-0", &SubscribeOptions{Slow: "skip"})
		for n := range 9 {
			a.message("chat", n+1)
		}
		st.settled(c, a)
		// It ran over at 5, and at 8.
		if gap := st.readsGap(sub, "skipped"); gap.Missed != 7 || gap.Position != "7-7" || sub.Position() != "7-7" {
			t.Errorf("%+v", gap)
		}
		st.reads(sub, 8, 9)
	})
	t.Run("latest", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{Buffer: 6})
		sub := st.subscribe(c, a, "tick", "7-0", &SubscribeOptions{Slow: "latest"})
		for n, key := range []string{"a", "b", "", "a", "b", "a", "c"} {
			a.says(`{"type":"message","channel":"tick","position":"7-%d","time":"2026-11-22T16:00:00Z","key":%q,"data":%[1]d}`, n+1, key)
		}
		st.settled(c, a)
		if gap := st.readsGap(sub, "superseded"); gap.Missed != 3 || gap.Position != "7-0" {
			t.Errorf("%+v", gap)
		}
		st.reads(sub, 3, 5, 6, 7)
		if sub.Position() != "7-7" {
			t.Errorf("the position is %q", sub.Position())
		}
		for n := range 7 { // every one with a key of its own: then the newest is what there is
			a.says(`{"type":"message","channel":"tick","position":"7-%d","time":"2026-11-22T16:00:00Z","key":"%[1]d","data":%[1]d}`, n+8)
		}
		st.settled(c, a)
		if gap := st.readsGap(sub, "superseded"); gap.Missed != 6 {
			t.Errorf("%+v", gap)
		}
		st.reads(sub, 14)
		a.hearsNothing()
	})
	t.Run("close", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{Buffer: 2})
		sub := st.subscribe(c, a, "chat", "7-0", &SubscribeOptions{Slow: "close"})
		for n := range 4 {
			a.message("chat", n+1)
		}
		a.hears(protocol.Unsubscribe)
		st.reads(sub, 1, 2)
		var slow *Error
		if _, err := sub.Next(st.ctx); !errors.As(err, &slow) || slow.Code != "too_slow" {
			t.Error(err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{BufferBytes: 1000})
		sub := st.subscribe(c, a, "chat", "7-0", &SubscribeOptions{Slow: "skip"})
		a.says(`{"type":"message","channel":"chat","position":"7-1","time":"2026-11-22T16:00:00Z","data":%q}`, strings.Repeat("x", 2000))
		st.settled(c, a)
		if sub.Position() != "7-0" {
			t.Error("one message there may always be")
		}
		a.message("chat", 2)
		st.settled(c, a)
		st.readsGap(sub, "skipped")
		st.reads(sub, 2)
	})
}

func TestPresence(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	wait := later(t, func() (*Subscription, error) {
		return c.Subscribe(st.ctx, "chat", &SubscribeOptions{Presence: true})
	})
	said := a.hears(protocol.Subscribe)
	if !said.Presence {
		t.Errorf("%+v", said)
	}
	member := func(session string, second int) string {
		return fmt.Sprintf(`{"session":%q,"name":"name of %[1]s","since":"2026-11-22T16:00:%02d.000Z"}`, session, second)
	}
	a.says(`{"type":"ok","id":%q,"channel":"chat","position":"7-1","count":2,"members":[%s,%s]}`, said.ID, member("s1", 5), member("s2", 3))
	sub, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	holds := func(all bool, count int, sessions ...string) {
		t.Helper()
		members, told := sub.Members()
		var got []string
		for _, m := range members {
			got = append(got, m.Session)
		}
		if fmt.Sprint(got) != fmt.Sprint(sessions) || told != all || sub.Count() != count {
			t.Errorf("%v are here, %v, of %d", got, told, sub.Count())
		}
	}
	changes := make(chan *PresenceEvent, 100)
	over := make(chan error, 1)
	go func() {
		defer close(over)
		for e, err := range sub.Presence(st.ctx) {
			if err != nil {
				over <- err
				return
			}
			changes <- e
		}
	}()
	change := func(kind string, members, omitted, count int) {
		t.Helper()
		select {
		case e := <-changes:
			if e.Type != kind || len(e.Members) != members || e.Omitted != omitted || e.Count != count {
				t.Errorf("%+v, expected %s of %d", e, kind, members)
			}
		case <-st.ctx.Done():
			t.Fatal("no change")
		}
	}
	change("here", 2, 0, 2)
	holds(true, 2, "s2", "s1")
	a.says(`{"type":"join","channel":"chat","count":3,"members":[%s]}`, member("s3", 9))
	change("join", 1, 0, 3)
	holds(true, 3, "s2", "s1", "s3")
	a.says(`{"type":"leave","channel":"chat","count":2,"members":[%s]}`, member("s2", 3))
	change("leave", 1, 0, 2)
	holds(true, 2, "s1", "s3")
	a.says(`{"type":"join","channel":"chat","count":500,"omitted":497,"members":[%s]}`, member("s4", 10))
	change("join", 1, 497, 500)
	holds(false, 500, "s1", "s3", "s4")
	a.says(`{"type":"leave","channel":"chat","count":1,"omitted":498,"members":[%s]}`, member("s1", 5))
	change("leave", 1, 498, 1)
	if members, _ := sub.Members(); len(members) > 1 {
		t.Errorf("of 1 who is here %v are told", members)
	}
	a.says(`{"type":"gap","channel":"chat","reason":"presence"}`)
	asked := a.hears(protocol.Presence)
	a.says(`{"type":"ok","id":%q,"channel":"chat","count":1,"members":[%s]}`, asked.ID, member("s4", 10))
	change("here", 1, 0, 1)
	holds(true, 1, "s4")
	a.message("chat", 2)
	st.reads(sub, 2) // a gap in presence is none among messages
	a.cut()
	b := st.enter()
	again := b.hears(protocol.Subscribe)
	b.says(`{"type":"ok","id":%q,"channel":"chat","position":"7-2","count":1,"members":[%s]}`, again.ID, member("s9", 1))
	change("here", 1, 0, 1)
	holds(true, 1, "s9")
	sub.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// Changes that nobody takes become one list.
func TestPresenceThatNobodyReads(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", &SubscribeOptions{Presence: true})
	for n := range 3 * mostChanges {
		a.says(`{"type":"join","channel":"chat","count":%d,"members":[{"session":"s%[1]d","since":"2026-11-22T16:00:00Z"}]}`, n+1)
	}
	a.message("chat", 2)
	st.reads(sub, 2)
	first := true
	here := make(map[string]bool)
	for e, err := range sub.Presence(st.ctx) {
		if err != nil || first && e.Type != "here" {
			t.Fatalf("%+v, %v", e, err)
		}
		first = false
		for _, m := range e.Members {
			here[m.Session] = true
		}
		if e.Count == 3*mostChanges {
			break
		}
	}
	if members, all := sub.Members(); len(here) != 3*mostChanges || len(members) != len(here) || !all {
		t.Errorf("%d members, and %d in all that was said", len(members), len(here))
	}
}

func TestBeyond(t *testing.T) {
	for _, tt := range []struct {
		position, than string
		want           bool
	}{
		{"7-2", "7-1", true}, {"7-10", "7-9", true}, {"7-1", "7-1", false}, {"7-1", "7-2", false},
		{"8-1", "7-2", true}, {"7-1", "0", true}, {"7-1", "", true}, {"odd", "7-1", true}, {"odd", "odd", false},
		{"7-18446744073709551615", "7-18446744073709551614", true},
	} {
		if got := beyond(tt.position, tt.than); got != tt.want {
			t.Errorf("%q beyond %q: %v", tt.position, tt.than, got)
		}
	}
}

// A server that tells of more members, or of longer names, than any does fills no
// memory: they count as not told.
func TestPresenceOfTooMuch(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", &SubscribeOptions{Presence: true})
	long := strings.Repeat("x", mostNamed+1)
	a.says(`{"type":"join","channel":"chat","count":1002,"members":[{"session":"s1","name":%q,"since":"2026-11-22T16:00:00Z"},{"session":"s2","since":"2026-11-22T16:00:00Z"}]}`, long)
	many := make([]string, mostMembers)
	for i := range many {
		many[i] = fmt.Sprintf(`{"session":"m%d","since":"2026-11-22T16:00:00Z"}`, i)
	}
	a.says(`{"type":"join","channel":"chat","count":1002,"members":[%s,{"session":"s3","since":"2026-11-22T16:00:00Z"}]}`, strings.Join(many, ","))
	st.settled(c, a)
	seen := 0
	for e, err := range sub.Presence(st.ctx) {
		if err != nil {
			t.Fatal(err)
		}
		switch seen++; seen {
		case 2:
			if e.Omitted != 1 || len(e.Members) != 1 || e.Members[0].Session != "s2" {
				t.Errorf("of a long name and a short one: %+v", e)
			}
			continue
		case 3:
			if e.Omitted != 1 || len(e.Members) != mostMembers {
				t.Errorf("%d members told and %d omitted, expected %d and 1", len(e.Members), e.Omitted, mostMembers)
			}
		default:
			continue
		}
		break
	}
	if members, all := sub.Members(); len(members) != mostMembers || all {
		t.Errorf("%d members (all: %v), expected %d", len(members), all, mostMembers)
	}
}
