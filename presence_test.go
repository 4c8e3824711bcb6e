package fanfare_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"fanfare"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// A watcher is a client that was told who is in a channel, and then who comes and
// goes.
type watcher struct {
	*person
	here  map[string]bool // sessions
	count int
}

// watch has a client subscribe with presence.
func (s *stage) watch(channel, name string) *watcher {
	s.t.Helper()
	w := &watcher{person: s.talk("/-/connect?name=" + name), here: make(map[string]bool)}
	ok := wants(s.t, w.ask(`{"type":"subscribe","id":"w","channel":%q,"presence":true}`, channel), "ok", "w", "")
	w.count = *ok.Count
	for _, m := range ok.Members {
		w.here[m.Session] = true
	}
	return w
}

// notice takes the next of what the server says, and returns it.
func (w *watcher) notice() protocol.Event {
	w.t.Helper()
	e := w.event()
	switch e.Type {
	case "join", "leave":
		w.count = *e.Count
		for _, m := range e.Members {
			if e.Type == "join" {
				w.here[m.Session] = true
			} else {
				delete(w.here, m.Session)
			}
		}
	}
	return e
}

// converges reads on until the watcher knows who is here.
func (w *watcher) converges(truth map[string]bool) {
	w.t.Helper()
	for w.count != len(truth) || !maps.Equal(w.here, truth) {
		w.notice()
	}
}

// A member is a client that comes to a channel and goes, over one connection after
// the other.
type member struct {
	*person
	s       *stage
	rnd     *rand.Rand
	session string
	here    bool
}

func (m *member) connect() error {
	p, _, err := meet(m.s.t, m.s.addr(), "/-/connect", askV1)
	if err != nil {
		return err
	}
	m.person, m.here = p, false
	m.session = p.event().Session
	return nil
}

// moves comes or goes, a few times, and mostly in good order.
func (m *member) moves(channel string) error {
	for range 1 + m.rnd.IntN(8) {
		what := map[bool]string{true: "unsubscribe", false: "subscribe"}[m.here]
		text := fmt.Sprintf(`{"type":%q,"id":"m","channel":%q}`, what, channel)
		if m.here && m.rnd.IntN(10) == 0 {
			reset(m.conn)
			if err := m.connect(); err != nil {
				return err
			}
			continue
		}
		m.say(text)
		if e := m.event(); e.Type != "ok" {
			return fmt.Errorf("%s is answered %s", text, e.Append(nil))
		}
		m.here = !m.here
	}
	return nil
}

// Whoever asks who is here while everybody comes and goes, and then hears who comes and
// goes, knows in the end who is here: alone or with others, in small channels, and in
// large ones where it is told once a second.
func TestPresenceConverges(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		seed := seed(t)
		for _, c := range []struct{ members, rounds int }{{6, 40}, {70, 3}} {
			t.Run(fmt.Sprint(c.members), func(t *testing.T) {
				s := perform(t, fanfare.Config{})
				rnd := rand.New(rand.NewPCG(seed, 0))
				members := make([]*member, c.members)
				for i := range members {
					members[i] = &member{s: s, rnd: rand.New(rand.NewPCG(seed, uint64(i+1)))}
					if err := members[i].connect(); err != nil {
						t.Fatal(err)
					}
					defer func() { members[i].conn.Close() }()
				}
				for n := range c.rounds {
					var moving sync.WaitGroup
					for _, m := range members {
						moving.Go(func() {
							if err := m.moves("room"); err != nil {
								t.Error(err)
							}
						})
					}
					reset(s.watch("room", "glance").conn)
					eventually(t, "who had a glance is gone", func() bool {
						_, everybody, _ := s.Presence(t.Context(), "room", 1000)
						return !slices.ContainsFunc(everybody, func(m fanfare.Member) bool { return m.Name == "glance" })
					})
					watchers := make([]*watcher, 1+rnd.IntN(2))
					for i := range watchers {
						watchers[i] = s.watch("room", "watcher")
					}
					moving.Wait()
					truth := make(map[string]bool)
					for _, m := range members {
						if m.here {
							truth[m.session] = true
						}
					}
					_, everybody, err := s.Presence(t.Context(), "room", 1000)
					if err != nil || t.Failed() {
						t.Fatal(err)
					}
					for _, m := range everybody {
						if m.Name == "watcher" {
							truth[m.Session] = true
						}
					}
					for _, w := range watchers {
						w.converges(truth)
					}
					for _, w := range watchers {
						reset(w.conn)
					}
					eventually(t, fmt.Sprintf("the watchers of round %d are gone", n), func() bool {
						count, _, _ := s.Presence(t.Context(), "room", 0)
						return count == len(truth)-len(watchers)
					})
				}
			})
		}
	})
}

// Everybody is present who reads a channel, over whatever he came: not those who
// read a pattern, and not the program.
func TestPresenceOfAll(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{})
		w := s.watch("room", "wendy")
		if len(w.here) != 0 || w.count != 0 {
			t.Errorf("before her: %v", w.here)
		}
		told := func(typ, name string, count int) {
			t.Helper()
			e := w.notice()
			if e.Type != typ || e.Channel != "room" || *e.Count != count || len(e.Members) != 1 || e.Members[0].Name != name || e.Members[0].Session == "" || e.Omitted != 0 {
				t.Fatalf("wendy is told %s, want a %s of %s, %d", e.Append(nil), typ, name, count)
			}
			if typ == "join" && e.Members[0].Since.IsZero() {
				t.Errorf("%s has no since", e.Append(nil))
			}
		}
		told("join", "wendy", 1)
		s.join("/*?name=wild")
		s.talk("/*?name=wilder")
		sub, err := s.Subscribe(t.Context(), "room", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		plain := s.join("/room?name=paul")
		told("join", "paul", 2)
		v1 := s.talk("/room?name=vera")
		told("join", "vera", 3)
		events := s.listen("/room?name=eve", asEvents)
		told("join", "eve", 4)
		lines := s.listen("/room?name=lena", asLines)
		told("join", "lena", 5)
		page, body := s.fetch("GET", "/room", "", "Accept: application/json")
		if page.StatusCode != 200 || body == nil {
			t.Error(page.Status)
		}
		plain.leave()
		told("leave", "paul", 4)
		reset(v1.conn)
		told("leave", "vera", 3)
		events.conn.Close()
		told("leave", "eve", 2)
		reset(lines.conn)
		told("leave", "lena", 1)
		// She who comes twice is there twice.
		again := s.talk("/room?name=wendy")
		told("join", "wendy", 2)
		e := wants(t, again.ask(`{"type":"presence","id":"p","channel":"room","limit":1}`), "ok", "p", "")
		if *e.Count != 2 || len(e.Members) != 1 || e.Members[0].Name != "wendy" {
			t.Errorf("%s", e.Append(nil))
		}
		if e = wants(t, again.ask(`{"type":"presence","id":"p","channel":"room","limit":0}`), "ok", "p", ""); *e.Count != 2 || len(e.Members) != 0 {
			t.Errorf("%s", e.Append(nil))
		}
		if e = wants(t, again.ask(`{"type":"presence","id":"p","channel":"nobody"}`), "ok", "p", ""); *e.Count != 0 || len(e.Members) != 0 {
			t.Errorf("%s", e.Append(nil))
		}
		again.say(`{"type":"unsubscribe","id":"u","channel":"room"}`)
		told("leave", "wendy", 1)
		// With her last subscription nothing more comes, of messages or members.
		wants(t, w.ask(`{"type":"unsubscribe","id":"u","channel":"room"}`), "ok", "u", "")
		s.join("/room?name=last")
		s.publishes("room", "who hears me?")
		wants(t, w.ask(`{"type":"ping"}`), "ok", "", "")
	})
}

// A thousand come within a second and go again: those who know are told a few
// times, of whom the first hundred by name, and of the number always.
func TestPresenceOfMany(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		const many = 1000
		s := perform(t, fanfare.Config{})
		w := s.watch("arena", "wendy")
		people := make([]*person, many)
		var coming sync.WaitGroup
		for door := range 8 {
			coming.Go(func() {
				for i := door; i < many; i += 8 {
					p, _, err := meet(t, s.addr(), fmt.Sprintf("/arena?name=n%d", i))
					if err != nil {
						t.Error(err)
						return
					}
					t.Cleanup(func() { p.conn.Close() })
					people[i] = p
				}
			})
		}
		coming.Wait()
		if t.Failed() {
			return
		}
		heard := func(typ string, final int) (events, named, omitted int) {
			for w.count != final {
				e := w.notice()
				if e.Type != typ {
					t.Fatalf("told %s", e.Append(nil))
				}
				if len(e.Members) > 100 {
					t.Errorf("%d are named at once", len(e.Members))
				}
				events++
				named += len(e.Members)
				omitted += e.Omitted
			}
			return events, named, omitted
		}
		joins, named, omitted := heard("join", many+1)
		if named+omitted != many+1 {
			t.Errorf("%d were named and %d omitted of %d who came", named, omitted, many+1)
		}
		e := wants(t, w.ask(`{"type":"presence","id":"p","channel":"arena","limit":1000}`), "ok", "p", "")
		if *e.Count != many+1 || len(e.Members) != 1000 || !slices.IsSortedFunc(e.Members, func(a, b protocol.Member) int { return a.Since.Compare(b.Since) }) {
			t.Errorf("%d are here, and %d are named", *e.Count, len(e.Members))
		}
		for i, p := range people {
			if i%2 == 0 {
				reset(p.conn)
			} else {
				p.conn.Write(masked(frame.Close, true, "\x03\xe8"))
				p.conn.Close()
			}
		}
		leaves, named, omitted := heard("leave", 1)
		if named+omitted != many {
			t.Errorf("%d were named and %d omitted of %d who went", named, omitted, many)
		}
		t.Logf("%d came, told in %d joins, and went, told in %d leaves", many, joins, leaves)
	})
}

// Who does not read what he is told of comings and goings has a gap, and messages
// all the same; then he asks.
func TestPresenceOfTheSlow(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, roomy, slim)
		w := s.watch("room", "wendy")
		w.notice()
		s.stalls(w.person, "room")
		p := s.talk("/-/connect?name=" + strings.Repeat("p", 60))
		for range 500 {
			wants(t, p.ask(`{"type":"subscribe","id":"s","channel":"room"}`), "ok", "s", "")
			wants(t, p.ask(`{"type":"unsubscribe","id":"u","channel":"room"}`), "ok", "u", "")
		}
		s.publishes("room", `"last"`)
		w.say(`{"type":"presence","id":"p"}`)
		var types []string
		for len(types) < 100 {
			e := w.notice()
			what := e.Type
			if e.Type == "gap" {
				what += " " + e.Reason
				if e.Channel != "room" || e.Position != "" || e.Missed != 0 {
					t.Errorf("%s", e.Append(nil))
				}
			}
			types = append(types, what)
			if e.Type == "error" { // it named no channel
				wants(t, e, "error", "p", "bad_channel")
				break
			}
		}
		// The large message, and then, in whatever order, all there is to say.
		for !slices.Contains(types, "gap presence") || !slices.ContainsFunc(types[1:], func(s string) bool { return s == "message" }) {
			e := w.notice()
			types = append(types, strings.TrimSpace(e.Type+" "+e.Reason))
			if len(types) > 200 {
				t.Fatalf("heard %v", types)
			}
		}
	})
}

// What was about to be told when the last one left who wanted to know is not told
// to whoever wants to know next: it may not be so any more.
func TestPresenceOfLongAgo(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for range 40 {
		s.join("/hall")
	}
	first := s.watch("hall", "first")
	for first.count < 41 {
		first.notice()
	}
	here := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " are here"), func() bool {
			count, _, _ := s.Presence(t.Context(), "hall", 0)
			return count == n
		})
	}
	bob := s.join("/hall?name=bob")
	here(42)
	wants(t, first.ask(`{"type":"unsubscribe","id":"u","channel":"hall"}`), "ok", "u", "")
	bob.leave()
	here(40)
	second := s.watch("hall", "second")
	for {
		if e := second.notice(); e.Type == "join" {
			if len(e.Members) != 1 || e.Members[0].Name != "second" {
				t.Errorf("told %s", e.Append(nil))
			}
			return
		}
	}
}
