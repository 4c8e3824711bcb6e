package fanfare_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

func TestPolicyNames(t *testing.T) {
	for _, p := range []fanfare.Policy{fanfare.CatchUp, fanfare.Skip, fanfare.Latest, fanfare.Close} {
		if got, err := fanfare.ParsePolicy(p.String()); got != p || err != nil {
			t.Errorf("%v: %v %v", p, got, err)
		}
	}
	for _, bad := range []string{"", "Skip", "default", "unknown", "skip ", "\xFF"} {
		if _, err := fanfare.ParsePolicy(bad); err == nil || !strings.Contains(err.Error(), "there are catch-up, skip, latest and close") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if fanfare.Policy(0).String() != "default" {
		t.Error(fanfare.Policy(0))
	}
}

// slowChannels has a policy for each kind of channel.
var slowChannels = []fanfare.ChannelConfig{
	{Pattern: "tick/gold", SlowReaders: fanfare.Skip},
	{Pattern: "tick/*", SlowReaders: fanfare.Latest, MaxLag: 64 << 10}, // gold's too: nothing before said one
	{Pattern: "tick/gold", SlowReaders: fanfare.Close},                 // never: the first counts
	{Pattern: "chat/**", SlowReaders: fanfare.CatchUp},
	{Pattern: "roomy/**", MaxLag: 64 << 20},
}

// Which policy and which limit counts where: the subscription's own word, then
// that of the first pattern that fits and has one, then the server's.
func TestPolicyByChannel(t *testing.T) {
	s := perform(t, fanfare.Config{SlowReaders: fanfare.Close, MaxLag: 128 << 10, Channels: slowChannels, HistoryBytes: 1 << 30})
	const total = 20 // of 32 KiB each
	for _, c := range []struct {
		channel string
		opts    fanfare.SubscribeOptions
		want    string // what the first Next brings
	}{
		{"tick/gold", fanfare.SubscribeOptions{}, "19 skipped"},
		{"tick/silver", fanfare.SubscribeOptions{}, "17 superseded"},
		{"tick/a/b", fanfare.SubscribeOptions{}, "close"},
		{"other", fanfare.SubscribeOptions{}, "close"},
		{"chat/a/b", fanfare.SubscribeOptions{}, "message"}, // and all the others: history has them
		{"roomy/a", fanfare.SubscribeOptions{}, "message"},
		{"roomy/a", fanfare.SubscribeOptions{MaxLag: 1}, "close"},
		{"roomy/a", fanfare.SubscribeOptions{MaxLag: 1, SlowReaders: fanfare.Skip}, "19 skipped"},
		{"other", fanfare.SubscribeOptions{SlowReaders: fanfare.CatchUp}, "message"},
		{"other", fanfare.SubscribeOptions{SlowReaders: fanfare.Latest}, "17 superseded"},
		{"other", fanfare.SubscribeOptions{MaxLag: 1 << 30}, "message"},
		{"tick/gold", fanfare.SubscribeOptions{SlowReaders: fanfare.Close}, "close"},
	} {
		sub, err := s.Subscribe(t.Context(), c.channel, &c.opts)
		if err != nil {
			t.Fatal(err)
		}
		for n := range total {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: c.channel, Key: fmt.Sprint(n % 3), Payload: append(make([]byte, 32<<10), byte(n))}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = sub.Next(t.Context())
		got := "message"
		var gap *fanfare.GapError
		switch {
		case errors.As(err, &gap):
			got = fmt.Sprint(gap.Missed, " ", gap.Reason)
		case errors.Is(err, fanfare.ErrTooSlow):
			got = "close"
		case err != nil:
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%s %+v: %s, want %s", c.channel, c.opts, got, c.want)
		}
		sub.Close()
	}
	if missed := s.Stats().Missed; missed["skipped"] != 2*19 || missed["superseded"] != 2*17 || missed["outrun"] != 0 || missed["expired"] != 0 {
		t.Errorf("%v", missed)
	}
	for _, o := range []fanfare.SubscribeOptions{{SlowReaders: 9}, {MaxLag: -1}} {
		var e *fanfare.Error
		if _, err := s.Subscribe(t.Context(), "a", &o); !errors.As(err, &e) || e.Code != "bad_slow" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestBadChannelConfig(t *testing.T) {
	fine := fanfare.ChannelConfig{Pattern: "fine/**"}
	for _, c := range []struct {
		bad  fanfare.ChannelConfig
		want string
	}{
		{fanfare.ChannelConfig{}, `Config.Channels[1].Pattern: "" is no pattern`},
		{fanfare.ChannelConfig{Pattern: "**/a"}, `Config.Channels[1].Pattern: "**/a" is no pattern`},
		{fanfare.ChannelConfig{Pattern: "a", SlowReaders: 9}, "Config.Channels[1] has SlowReaders 9"},
		{fanfare.ChannelConfig{Pattern: "a", MaxLag: -1}, "MaxLag -1"},
	} {
		if _, err := fanfare.New(fanfare.Config{Channels: []fanfare.ChannelConfig{fine, c.bad}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.bad, err, c.want)
		}
	}
}

// ?slow= means the same, and is checked, on every face.
func TestSlowSetting(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for _, bad := range []string{"fast", "Skip", "default", "skip,latest"} {
		for _, how := range [][]string{
			{"GET", "/room?slow=" + bad}, {"POST", "/room?slow=" + bad},
			{"GET", "/room?slow=" + bad, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		} {
			if resp, body := s.fetch(how[0], how[1], "", how[2:]...); resp.StatusCode != http.StatusBadRequest || errorCode(body) != "bad_slow" || !strings.Contains(fmt.Sprint(body), "catch-up, skip, latest and close") {
				t.Errorf("%v: %d %v", how, resp.StatusCode, body)
			}
		}
	}
	for _, good := range []string{"", "catch-up", "skip", "latest", "close"} {
		s.join("/room?slow=" + good).leave()
	}
}

// stall publishes 100 messages, with three keys in turn, to a client that does
// not read: first a large one, which is under way and keeps all others waiting.
// It returns when the others are there.
func (s *stage) stall(p *person, channel string) {
	s.t.Helper()
	p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	padding := strings.Repeat("x", 8<<10)
	for n := range 100 {
		text := fmt.Sprintf("%d %s", n, padding)
		if n == 0 {
			text += strings.Repeat("x", 8<<20) // more than the kernels between us take for one who does not read
		}
		if _, err := s.Publish(s.t.Context(), &fanfare.Message{Channel: channel, Key: fmt.Sprint(n % 3), Payload: []byte(text)}); err != nil {
			s.t.Fatal(err)
		}
		if n == 0 {
			p.conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := p.r.Peek(1); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// numbers hears messages from..to.
func (p *person) numbers(from, to int) {
	p.t.Helper()
	for want := from; want < to; want++ {
		if got, _, _ := strings.Cut(p.said(), " "); got != fmt.Sprint(want) {
			p.t.Fatalf("heard %q, want %d", got, want)
		}
	}
}

// What a client hears that stops reading for a while, for each policy, said by the
// channel or by itself.
func TestStalledClients(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for _, c := range []struct {
			path   string
			lag    int    // the limit that counts
			notice string // after message 0; empty: none
			next   int    // the message it goes on with; -1: a close
			reason string // that counts what it missed
		}{
			{"/tick/gold", 64 << 10, "* 98 messages skipped", 99, "skipped"},
			{"/tick/silver", 64 << 10, "* 96 messages skipped", 97, "superseded"},
			{"/tick/silver?slow=skip", 64 << 10, "* 98 messages skipped", 99, "skipped"},
			{"/chat/a/b", 0, "", 1, ""},
			{"/other?slow=catch-up", 0, "", 1, ""},
			{"/other?slow=latest", 128 << 10, "* 96 messages skipped", 97, "superseded"},
			{"/other", 128 << 10, "", -1, ""},
			{"/tick/gold?slow=close", 64 << 10, "", -1, ""},
		} {
			t.Run(c.path[1:], func(t *testing.T) {
				s := perform(t, fanfare.Config{SlowReaders: fanfare.Close, MaxLag: 128 << 10, Channels: slowChannels,
					MaxMessage: 9 << 20, HistoryBytes: 64 << 20, WriteTimeout: time.Minute, Heartbeat: time.Minute})
				channel, _, _ := strings.Cut(c.path[1:], "?")
				alice := s.join(c.path)
				s.stall(alice, channel)
				alice.numbers(0, 1)
				if c.notice != "" {
					if got := alice.said(); got != c.notice {
						t.Errorf("told %q, want %q", got, c.notice)
					}
				}
				if c.next < 0 {
					code, reason := alice.closed()
					why, position, ok := strings.Cut(reason, "; resume with ?since=")
					if code != frame.TryAgainLater || !ok || why != fmt.Sprintf("you lag more than %d bytes behind", c.lag) {
						t.Fatalf("closed with %d %q", code, reason)
					}
					alice.conn.Close()
					eventually(t, "she is gone", func() bool { return s.Stats().Ended["slow"] == 1 })
					// She comes back, and has missed nothing.
					back := s.join("/" + channel + "?since=" + position)
					back.numbers(1, 100)
					back.leave()
				} else {
					alice.numbers(c.next, 100)
					alice.leave()
				}
				for reason, n := range s.Stats().Missed {
					if want := int64(max(c.next, 1) - 1); reason == c.reason && n != want || reason != c.reason && n != 0 {
						t.Errorf("%d counted as %s", n, reason)
					}
				}
			})
		}
	})
}
