package fanfare_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// The corners of fanfare.v1, one after the other.

// swallow is the size of a message that a client who does not read has under way, and
// that keeps all that follows waiting: more than the kernels between us take, where
// connections are slim.
const swallow = 512 << 10

// slim has a server's connections hold little.
func slim(h *http.Server) {
	h.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
}

// stalls has a client that speaks v1 read no further than into a message of its own.
func (s *stage) stalls(p *person, channel string) {
	s.t.Helper()
	p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	s.publishes(channel, strings.Repeat("x", swallow))
	p.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := p.r.Peek(1); err != nil {
		s.t.Fatal(err)
	}
}

// publishes publishes a text, and returns its position.
func (s *stage) publishes(channel, text string) string {
	s.t.Helper()
	at, err := s.Publish(s.t.Context(), &fanfare.Message{Channel: channel, Payload: []byte(text)})
	if err != nil {
		s.t.Fatal(err)
	}
	return at.String()
}

// roomy takes a message that a client swallows.
var roomy = fanfare.Config{MaxMessage: swallow, HistoryBytes: 64 << 20, WriteTimeout: time.Minute, Heartbeat: time.Minute, CloseTimeout: time.Minute}

// What was published before Shutdown is delivered before the bye, whatever else
// the client has subscribed to, and to whoever reads late.
func TestV1Bye(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, roomy, slim)
		p := s.talk("/big")
		s.stalls(p, "big")
		for i := range 5 {
			p.say(fmt.Sprintf(`{"type":"subscribe","id":"%d","channel":"c/%d"}`, i, i))
		}
		eventually(t, "all is subscribed to", func() bool { return s.Stats().Channels == 6 })
		s.publishes("c/3", `"farewell"`)
		s.publishes("c/1", `"adieu"`)
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			done <- s.Shutdown(ctx)
		}()
		eventually(t, "newcomers are refused", func() bool {
			resp, _ := s.fetch("GET", "/-/readyz", "")
			return resp.StatusCode == 503
		})
		var heard []string
		for {
			e := p.event()
			if e.Type == "bye" {
				if e.Code != "shutting_down" || e.Retry <= 0 || e.Message == "" {
					t.Errorf("%s", e.Append(nil))
				}
				break
			}
			if e.Type == "message" && e.Channel != "big" {
				heard = append(heard, e.Channel+string(e.Data))
			}
		}
		if fmt.Sprint(heard) != `[c/3"farewell" c/1"adieu"]` && fmt.Sprint(heard) != `[c/1"adieu" c/3"farewell"]` {
			t.Errorf("before the bye: %v", heard)
		}
		if code, _ := p.closed(); code != frame.GoingAway {
			t.Errorf("closed with %d", code)
		}
		p.send(frame.Close, nil)
		p.ended()
		p.conn.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who talks on, and is told nothing, hears heartbeats: pings and pongs are not seen
// by the program in a browser.
func TestV1Heartbeat(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Heartbeat: 200 * time.Millisecond, HeartbeatTimeout: patience})
		p := s.talk("/-/connect")
		defer time.AfterFunc(patience, func() { p.conn.Close() }).Stop()
		over := make(chan struct{})
		defer close(over)
		go func() {
			for n := 0; ; n++ {
				b := masked(frame.Text, true, `{"type":"publish","channel":"elsewhere","data":1}`)
				if n%2 == 0 {
					b = masked(frame.Ping, true, "are you there?")
				}
				if _, err := p.conn.Write(b); err != nil {
					return
				}
				select {
				case <-over:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		}()
		for range 3 {
			wants(t, p.event(), "heartbeat", "", "")
		}
	})
}

// The end of a client is told to the program, whatever it had asked for that was
// not done yet.
func TestV1GoneWhileSubscribing(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		answer, gone := make(chan struct{}), make(chan string, 1)
		s := perform(t, fanfare.Config{Heartbeat: 50 * time.Millisecond, Hooks: fanfare.Hooks{
			Subscribe:  func(context.Context, string, string) error { <-answer; return nil },
			Disconnect: func(_, name, reason string) { gone <- name + " " + reason },
		}})
		p := s.talk("/-/connect?name=alice")
		var b []byte
		for i := range 300 {
			b = append(b, masked(frame.Text, true, fmt.Sprintf(`{"type":"subscribe","id":"%d","channel":"c/%d","presence":%v}`, i, i, i%2 == 0))...)
		}
		p.raw(b)
		reset(p.conn)
		eventually(t, "she is gone", func() bool { return s.Stats().Sessions == 0 })
		close(answer)
		select {
		case who := <-gone:
			if who != "alice lost" {
				t.Error(who)
			}
		case <-time.After(patience):
			t.Fatal("nobody is told that alice is gone")
		}
		eventually(t, "no channel is left", func() bool { return s.Stats().Channels == 0 })
	})
}

// Some channels of a pattern may be kept shorter than others: who resumes is told
// so, also by a pattern that nobody reads at the moment.
func TestV1PatternsGap(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Channels: []fanfare.ChannelConfig{{Pattern: "a/short", History: 2}, {Pattern: "a/never", History: -1}}})
		first := s.publishes("a/long", "1")
		for n := range 5 {
			s.publishes("a/short", fmt.Sprint(n))
		}
		last := s.publishes("a/long", "2")
		for range 2 { // the second finds the pattern open
			p := s.talk("/-/connect")
			wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"a/**","since":%q}`, first), "ok", "1", "")
			if e := p.event(); e.Type != "gap" || e.Reason != "expired" || e.Pattern != "a/**" {
				t.Errorf("instead of a gap: %s", e.Append(nil))
			}
			for _, want := range []string{"a/short 3", "a/short 4", "a/long 2"} {
				if e := p.event(); e.Channel+" "+string(e.Data) != want {
					t.Errorf("%s, want %s", e.Append(nil), want)
				}
			}
		}
		// Of a channel that is not kept at all it is told as well.
		s.publishes("a/never", "1")
		for range 2 {
			p := s.talk("/-/connect")
			wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"a/*","since":%q}`, last), "ok", "1", "")
			if e := p.event(); e.Type != "gap" || e.Reason != "expired" {
				t.Errorf("instead of a gap: %s", e.Append(nil))
			}
		}
	})
}

// What becomes of a reader that lags is said by its subscription, and by the
// channel's settings otherwise; it is told what it misses, and where it goes on.
func TestV1SlowReaders(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		const total = 100 // behind the large one, of 8 KiB each, with three keys in turn
		for _, c := range []struct {
			slow   string // of the subscription; empty: none
			reason string
			missed int64
			next   int // the message it goes on with
		}{
			{"skip", "skipped", total - 1, total},
			{"latest", "superseded", total - 3, total - 2},
			{"catch-up", "", 0, 1},
			{"", "skipped", total - 1, total},
			{"close", "", 0, 0},
		} {
			t.Run(c.slow, func(t *testing.T) {
				cfg := roomy
				cfg.MaxLag, cfg.SlowReaders = 64<<10, fanfare.Skip
				s := perform(t, cfg, slim)
				p := s.talk("/-/connect")
				wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"calm","slow":"close"}`), "ok", "1", "")
				slow := ""
				if c.slow != "" {
					slow = fmt.Sprintf(`,"slow":%q`, c.slow)
				}
				wants(t, p.ask(`{"type":"subscribe","id":"2","channel":"busy"%s}`, slow), "ok", "2", "")
				s.stalls(p, "busy")
				at := make([]string, total+1)
				for n := 1; n <= total; n++ {
					m := &fanfare.Message{Channel: "busy", Key: fmt.Sprint(n % 3), Payload: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, strings.Repeat("x", 8<<10))}
					pos, err := s.Publish(t.Context(), m)
					if err != nil {
						t.Fatal(err)
					}
					at[n] = pos.String()
				}
				s.publishes("calm", "all quiet here")
				large := wants(t, p.event(), "message", "", "")
				if c.slow == "close" {
					for {
						e := p.event()
						if e.Type == "bye" {
							if e.Code != "too_slow" || e.Retry <= 0 || !strings.Contains(e.Message, "65536 bytes") {
								t.Errorf("%s", e.Append(nil))
							}
							break
						}
						if e.Channel != "calm" {
							t.Fatalf("instead of a bye: %.200s", e.Append(nil))
						}
					}
					if code, _ := p.closed(); code != frame.TryAgainLater {
						t.Errorf("closed with %d", code)
					}
					p.conn.Close()
					p = s.talk("/-/connect")
					wants(t, p.ask(`{"type":"subscribe","id":"2","channel":"busy","since":%q}`, large.Position), "ok", "2", "")
					s.hears(p, at, 1)
					eventually(t, "it is counted", func() bool { return s.Stats().Ended["slow"] == 1 })
					return
				}
				e := p.event()
				if e.Channel == "calm" && e.Type == "message" {
					e = p.event()
				}
				if c.reason != "" {
					if e.Type != "gap" || e.Reason != c.reason || e.Missed != c.missed || e.Channel != "busy" {
						t.Fatalf("instead of a gap: %.200s", e.Append(nil))
					}
					if got := s.Stats().Missed[c.reason]; got != c.missed {
						t.Errorf("%d are counted as %s", got, c.reason)
					}
					// Where reading goes on: who resumes from there has what follows and no more.
					if c.slow == "skip" {
						again := s.talk("/-/connect")
						wants(t, again.ask(`{"type":"subscribe","id":"2","channel":"busy","since":%q}`, e.Position), "ok", "2", "")
						s.hears(again, at, c.next)
					}
					e = p.event()
				}
				s.heard(p, e, at, c.next)
				s.hears(p, at, c.next+1)
			})
		}
	})
}

// hears has a client hear the messages at[from:] of "busy"; of another channel it
// may hear as well.
func (s *stage) hears(p *person, at []string, from int) {
	s.t.Helper()
	for n := from; n < len(at); n++ {
		s.heard(p, p.event(), at, n)
	}
}

func (s *stage) heard(p *person, e protocol.Event, at []string, n int) {
	s.t.Helper()
	if e.Channel == "calm" && e.Type == "message" {
		e = p.event()
	}
	if e.Type != "message" || e.Position != at[n] || !strings.HasPrefix(string(e.Data), fmt.Sprintf(`{"n":%d,`, n)) {
		s.t.Fatalf("instead of message %d at %s: %.200s", n, at[n], e.Append(nil))
	}
}

// Who asks and does not read what it is told is not heard any more, until it does:
// what the server holds for it is bounded, and it gets every answer in the end, in order.
func TestV1UnreadAnswers(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		const each, asked = 50 << 10, 30
		s := perform(t, fanfare.Config{WriteTimeout: time.Minute, Heartbeat: time.Minute}, slim)
		for range 4 {
			s.publishes("c", strings.Repeat("x", each))
		}
		p := s.talk("/-/connect")
		p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		before := heapNow()
		sent := make(chan error, 1)
		go func() { // which takes as long as nobody reads the answers
			var b []byte
			for n := range asked {
				b = append(b, masked(frame.Text, true, fmt.Sprintf(`{"type":"history","id":"%d","channel":"c"}`, n))...)
				if n%3 == 0 {
					b = append(b, masked(frame.Text, true, strings.Repeat(`hello `, 2000))...) // an error for each
				}
			}
			p.conn.SetWriteDeadline(time.Now().Add(patience))
			_, err := p.conn.Write(b)
			sent <- err
		}()
		p.conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := p.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		// Others are served meanwhile, a hundred times, and then it is as it was.
		other := s.talk("/-/connect")
		for range 100 {
			wants(t, other.ask(`{"type":"presence","id":"1","channel":"c"}`), "ok", "1", "")
		}
		if grown := heapNow() - before; grown > 80*each {
			t.Errorf("a client that has not read %d answers of %d bytes costs %d bytes", asked, 4*each, grown)
		}
		for n := 0; n < asked; {
			e := p.event()
			if e.Type == "error" && e.Code == "bad_json" {
				continue
			}
			wants(t, e, "ok", fmt.Sprint(n), "")
			if len(e.Messages) != 4 {
				t.Fatalf("%d messages", len(e.Messages))
			}
			n++
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		wants(t, p.ask(`{"type":"ping","id":"last"}`), "ok", "last", "")
	})
}

// heapNow is how many bytes are in use.
func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The program is asked before a client subscribes, reads history or is told who is
// here, but for the channel of its URL; and before it publishes.
func TestV1Hooks(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked []string
		gone := make(chan string, 1)
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{
			Subscribe: func(ctx context.Context, channel, name string) error {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, channel+" "+name)
				switch channel {
				case "forbidden/**":
					return &fanfare.Error{}
				case "members":
					return fmt.Errorf("wrapped: %w", &fanfare.Error{Code: "members_only", Message: "become a member"})
				case "broken":
					return errors.New("secret")
				case "panic":
					panic("secret")
				}
				return nil
			},
			Publish: func(_ context.Context, m *fanfare.Message) error {
				if m.Channel == "members" {
					return &fanfare.Error{Code: "members_only", Message: "become a member"}
				}
				m.Sender = "Dr. " + m.Sender
				return nil
			},
			Disconnect: func(channel, name, reason string) { gone <- channel + " " + name + " " + reason },
		}})
		p := s.talk("/home?name=alice")
		for _, what := range []string{"subscribe", "history", "presence"} {
			for _, c := range []struct{ channel, code, message string }{
				{"forbidden/**", "forbidden", "the server's program refuses it"},
				{"members", "members_only", "become a member"},
				{"broken", "internal", "something went wrong in the server; its log has more"},
				{"panic", "internal", "something went wrong in the server; its log has more"},
			} {
				if what == "presence" && c.channel == "forbidden/**" {
					continue // for which nobody is asked: nobody is in a pattern
				}
				e := wants(t, p.ask(`{"type":%q,"id":"1","channel":%q}`, what, c.channel), "error", "1", c.code)
				if e.Message != c.message || e.Channel != c.channel {
					t.Errorf("%s is answered %s", what, e.Append(nil))
				}
			}
			wants(t, p.ask(`{"type":%q,"id":"1","channel":"open"}`, what), "ok", "1", "")
		}
		for _, what := range []string{"history", "presence", "unsubscribe", "subscribe"} { // at home nobody is asked
			wants(t, p.ask(`{"type":%q,"id":"1"}`, what), "ok", "1", "")
		}
		wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"home/*"}`), "ok", "1", "")
		mu.Lock()
		if n := len(asked); n != 3*5-1+1 || asked[0] != "forbidden/** alice" || asked[n-1] != "home/* alice" {
			t.Errorf("the program was asked %q", asked)
		}
		mu.Unlock()
		e := wants(t, p.ask(`{"type":"publish","id":"1","channel":"members","data":1}`), "error", "1", "members_only")
		if e.Message != "become a member" {
			t.Errorf("%s", e.Append(nil))
		}
		p.say(`{"type":"publish","id":"2","data":1}`)
		for range 2 {
			if e := p.event(); e.Type == "message" && e.Sender != "Dr. alice" {
				t.Errorf("%s", e.Append(nil))
			}
		}
		p.leave()
		if who := <-gone; who != "home alice client" {
			t.Errorf("who left: %q", who)
		}
	})
}
