package fanfare

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/internal/transport"
	"fanfare/protocol"
)

// Who is present in a channel is who subscribes to it from outside. The members
// are not kept anywhere: they are the audiences, and a list is made by walking
// past them; the count is a number. Who comes and goes is a feed of its own, with
// cursors like every other, that is there as soon as somebody wants to know.

// A member is somebody who is present.
type member struct {
	id   uint64 // the session's
	name string // empty: nobody in particular
}

const (
	// defaultMembers and maxMembers are how many members a list has.
	defaultMembers = 100
	maxMembers     = 1000
	// quietCrowd is how many members a channel may have for every coming and
	// going to be told at once. In larger ones it is told every crowdPause, and of
	// those concerned toldMembers are named.
	quietCrowd  = 32
	crowdPause  = time.Second
	toldMembers = 100
)

// told is a member as clients are told of him, who was attached since seconds
// after the server's start.
func (s *Server) told(m member, since uint32) protocol.Member {
	return protocol.Member{Session: idText(m.id), Name: m.name, Since: s.born.Add(time.Duration(since) * time.Second).UTC().Truncate(time.Second)}
}

// came counts in a subscriber that was attached, and went one that left.
func (c *channel) came(s subscriber) { c.moved(s, 1) }
func (c *channel) went(s subscriber) { c.moved(s, -1) }

func (c *channel) moved(s subscriber, by int64) {
	m, ok := s.member()
	if !ok {
		return
	}
	c.present.Add(by)
	if crowd := c.crowd.Load(); crowd != nil && crowd.watched() {
		crowd.note(m, s.reading().since, by > 0)
	}
}

// members returns how many are present, and up to limit of them, the longest
// present of those found first. It asks the loops, and so may wait.
func (c *channel) members(ctx context.Context, limit int) ([]protocol.Member, int) {
	all := []protocol.Member{} // a list, also of nobody
	if limit > 0 {
		if crowd := c.crowd.Load(); crowd != nil {
			crowd.lists(1)
			defer crowd.lists(-1)
		}
		audiences := *c.audiences.Load()
		lists := make(chan []protocol.Member, len(audiences))
		for _, a := range audiences {
			a.loop.Post(transport.Do(func() { lists <- a.list(limit) }))
		}
		for range audiences {
			select {
			case list := <-lists:
				all = append(all, list...)
			case <-ctx.Done():
			}
		}
		slices.SortFunc(all, func(a, b protocol.Member) int {
			return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Session, b.Session))
		})
		all = all[:min(len(all), limit)]
	}
	return all, int(max(c.present.Load(), int64(len(all))))
}

// list returns up to limit members. The loop calls it.
func (a *audience) list(limit int) []protocol.Member {
	var list []protocol.Member
	for _, s := range a.members {
		if len(list) == limit {
			break
		}
		if m, ok := s.member(); ok {
			list = append(list, a.channel.server.told(m, s.reading().since))
		}
	}
	return list
}

// Member is one client that is present in a channel.
type Member = protocol.Member

// Presence returns how many clients are in a channel, over whatever they came,
// and up to limit of them: the longest present of those that were found first. It waits
// for the event loops, or until ctx is done, and then some may be missing. It may be
// called from any goroutine.
func (s *Server) Presence(ctx context.Context, channel string, limit int) (count int, members []Member, err error) {
	if err := CheckChannel(channel); err != nil {
		return 0, nil, err
	}
	members, count = s.presence(ctx, channel, limit)
	return count, members, nil
}

// presence is who is present in a channel.
func (s *Server) presence(ctx context.Context, name string, limit int) ([]protocol.Member, int) {
	s.mu.Lock()
	c := s.channels[name]
	s.mu.Unlock()
	if c == nil {
		return []protocol.Member{}, 0
	}
	return c.members(ctx, limit)
}

// A crowd is who comes to a channel and goes, as a feed.
type crowd struct {
	of      *channel
	channel *channel // for those who want to know; nobody finds it by a name

	mu     sync.Mutex                 // guards the following; feeds' and loops' locks may be taken under it
	came   map[uint64]protocol.Member // since it was told last
	went   map[uint64]protocol.Member // as well
	asking int                        // how many are finding out who is here
	asked  bool                       // somebody did since it was told last
	timer  *time.Timer                // runs tell; nil: not about to
	seq    uint64                     // how often it was told
}

// crowdWire: what is in such a feed is events already.
var crowdWire = newWire(func(dst []byte, _ string, m *Message) []byte { return frame.Append(dst, frame.Text, m.Payload) })

// crowdLag is how many bytes of joins and leaves a reader may lag: then he is to
// ask anew.
const crowdLag = 64 << 10

// watch returns a place among those who are told who comes from now on and goes.
// The caller has a subscription in the channel.
func (c *channel) watch() place {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	w := c.crowd.Load()
	if w == nil {
		w = &crowd{of: c, channel: s.newChannel(c.name), came: make(map[uint64]protocol.Member), went: make(map[uint64]protocol.Member)}
		w.channel.feed = feed.New(feed.Retention{}, Position{Epoch: 1}, nil)
		w.channel.live = w.channel.feed
		close(w.channel.opened)
		c.crowd.Store(w)
	}
	if w.channel.refs.Add(1) == 1 {
		w.forget()
	}
	return place{channel: w.channel, cursor: *w.channel.feed.Live(&crowdWire.form, feed.Skip, crowdLag)}
}

// watched reports whether anybody wants to know, or is about to.
func (w *crowd) watched() bool { return w.channel.refs.Load() > 0 }

// forget drops what was about to be told when nobody wanted to know any more:
// since then nothing was noted.
func (w *crowd) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.came)
	clear(w.went)
}

// lists notes that somebody begins to find out who is here, or has found out.
func (w *crowd) lists(by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking += by
	w.asked = true
}

// note takes down that a member came or went.
func (w *crowd) note(m member, since uint32, came bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch _, untold := w.came[m.id]; {
	case came:
		w.came[m.id] = w.of.server.told(m, since)
	case untold && !w.asked:
		delete(w.came, m.id) // came and went: nobody needs to know
	default: // also who is not told of, but may be on a list
		delete(w.came, m.id)
		w.went[m.id] = w.of.server.told(m, since)
	}
	switch {
	case w.timer != nil:
	case w.of.present.Load() <= quietCrowd:
		w.tell()
	default:
		w.timer = time.AfterFunc(crowdPause, w.tellLater)
	}
}

func (w *crowd) tellLater() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = nil
	w.tell()
}

// tell says who came and went. The caller holds mu.
func (w *crowd) tell() {
	w.say(protocol.LeaveEvent, w.went)
	w.say(protocol.JoinEvent, w.came)
	w.asked = w.asking > 0
}

func (w *crowd) say(what string, who map[uint64]protocol.Member) {
	if len(who) == 0 {
		return
	}
	n := int(w.of.present.Load())
	e := &protocol.Event{Type: what, Channel: w.of.name, Count: &n}
	for _, m := range who {
		if len(e.Members) == toldMembers {
			e.Omitted = len(who) - toldMembers
			break
		}
		e.Members = append(e.Members, m)
	}
	clear(who)
	w.seq++
	w.channel.deliver(&Message{Position: Position{Epoch: 1, Offset: w.seq}, Time: time.Now(), Payload: e.Append(nil)})
}
