package fanfare_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// The corners of fanfare.v1, one after the other.

// swallow is a message that a client who does not read has under way, and keeps
// all that follows waiting: more than the kernels between us take.
const swallow = 8 << 20

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

// until returns what is said up to an answer to id, and the answer.
func (p *person) until(id string) (before []protocol.Event, answer protocol.Event) {
	p.t.Helper()
	for {
		e := p.event()
		if e.ID == id {
			return before, e
		}
		before = append(before, e)
	}
}

// What was published before Shutdown is delivered before the bye, whatever else
// the client has subscribed to, and to whoever reads late.
func TestV1Bye(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, roomy)
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
