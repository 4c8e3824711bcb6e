package fanfare_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/internal/frame"
)

// limited counts how often a limit was reached.
func (s *stage) limited(name string) int64 {
	s.t.Helper()
	n, known := s.Stats().Limited[name]
	if !known {
		s.t.Fatalf("there is no limit %q: %v", name, s.Stats().Limited)
	}
	return n
}

// floods are what a client can send, each n times in one go. A command or a message
// behind them is heard when they were.
var floods = []struct {
	name    string
	headers []string
	weight  int // in messages
	each    []byte
	last    []byte
}{
	{"messages", nil, 1, masked(frame.Text, true, "x"), masked(frame.Text, true, `{"last":1}`)},
	{"empty messages", nil, 1, masked(frame.Binary, true, ""), masked(frame.Text, true, `{"last":1}`)},
	{"pings", nil, 1, masked(frame.Ping, true, "?"), masked(frame.Text, true, `{"last":1}`)},
	{"pongs", nil, 1, masked(frame.Pong, true, ""), masked(frame.Text, true, `{"last":1}`)},
	{"commands", []string{askV1}, 2, masked(frame.Text, true, `{"type":"ping"}`), masked(frame.Text, true, `{"type":"publish","data":{"last":1}}`)},
	{"nonsense", []string{askV1}, 2, masked(frame.Text, true, `{`), masked(frame.Text, true, `{"type":"publish","data":{"last":1}}`)},
	{"subscribes", []string{askV1}, 2, masked(frame.Text, true, `{"type":"subscribe","channel":"a"}`), masked(frame.Text, true, `{"type":"publish","data":{"last":1}}`)},
}

// Whatever a client sends too fast is heard at the rate, and all of it. Others are
// heard at once meanwhile.
func TestPace(t *testing.T) {
	const rate, seconds = 200, 1.5
	bothTransports(t, func(t *testing.T) {
		for _, f := range floods {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: rate}})
				hasty, other := s.join("/a", f.headers...), s.join("/b")
				heard, err := s.Subscribe(t.Context(), "a", nil)
				if err != nil {
					t.Fatal(err)
				}
				defer heard.Close()
				began := time.Now()
				hasty.raw(append(bytes.Repeat(f.each, (rate+rate*seconds)/f.weight-1), f.last...))
				other.say("quick")
				if got := other.said(); got != "quick" {
					t.Errorf("the other is heard as %q", got)
				}
				if took := time.Since(began); took.Seconds() > 0.9*seconds {
					t.Errorf("the other is heard after %v", took)
				}
				n := 0
				for m, err := range heard.Messages(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					if n++; strings.Contains(string(m.Payload), "last") {
						break
					}
				}
				took := time.Since(began).Seconds()
				t.Logf("%.2f s", took)
				if took < 0.9*seconds || took > 2*seconds+1 { // on a busy machine
					t.Errorf("what takes %v s at the rate took %.2f", seconds, took)
				}
				if strings.Contains(f.name, "messages") && n != rate+rate*seconds {
					t.Errorf("%d messages came", n)
				}
				if s.limited("messages") == 0 {
					t.Error("nothing was counted")
				}
			})
		}
	})
}

// Pieces of messages count too, and bytes.
func TestPaceOfBytes(t *testing.T) {
	const rate = 64 << 10
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Limits: fanfare.Limits{Bytes: rate, Messages: -1}})
		hasty := s.join("/a")
		began := time.Now()
		for range 4 {
			hasty.send(frame.Binary, make([]byte, rate/4))
		}
		hasty.send(frame.Binary, make([]byte, rate*3/2))
		for n := 0; n < rate*5/2; {
			if text := hasty.hear(); !strings.Contains(text, "* this connection sends more than 65536 bytes a second") {
				n += len(text)
			}
		}
		if took := time.Since(began).Seconds(); took < 1.3 || took > 6 {
			t.Errorf("2.5 times a second's bytes took %.2f s, want 1.5", took)
		}
		if s.limited("bytes") == 0 {
			t.Error("nothing was counted")
		}
	})
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: 100}})
	hasty := s.join("/a")
	began := time.Now()
	hasty.raw(masked(frame.Text, false, "a"))
	for range 200 {
		hasty.raw(masked(frame.Continuation, false, ""))
	}
	hasty.raw(masked(frame.Continuation, true, "b"))
	hasty.raw(masked(frame.Text, true, "c"))
	for got := ""; got != "c"; {
		got = hasty.said()
	}
	if took := time.Since(began).Seconds(); took < 0.9 || took > 5 {
		t.Errorf("200 pieces at 100 a second took %.2f s", took)
	}
}

// Who is too fast is told so, once in a while.
func TestPaceIsTold(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: 50}})
	p, v := s.join("/a"), s.talk("/-/connect")
	for range 80 {
		p.send(frame.Binary, []byte("x"))
		v.say(`{"type":"ping"}`)
	}
	told := 0
	for n := 0; n < 80; {
		if text := p.hear(); strings.Contains(text, "* this connection sends more than 50 messages a second; what is more has to wait, and nothing of it is lost") {
			told++
		} else {
			n++
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	told = 0
	for n := 0; n < 80; {
		switch e := v.event(); {
		case e.Type == "ok":
			n++
		case e.Type == "error" && e.Code == "rate_limited" && e.Retry > 0 && e.ID == "":
			told++
		default:
			t.Fatalf("%+v", e)
		}
	}
	if told != 1 {
		t.Errorf("told %d times over fanfare.v1", told)
	}
}

// Who closes while he has to wait loses nothing, and does not keep the server.
func TestPaceAndLeave(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: 20}, CloseTimeout: 200 * time.Millisecond})
		p := s.join("/a")
		p.raw(bytes.Repeat(masked(frame.Text, true, "x"), 100)) // one read
		eventually(t, "it has to wait", func() bool { return s.limited("messages") > 0 })
		p.conn.Close()
		eventually(t, "all was heard", func() bool { return s.Stats().Published == 100 && s.Stats().Sessions == 0 })
		q := s.join("/a")
		q.raw(bytes.Repeat(masked(frame.Ping, true, "x"), 500)) // 24 seconds' worth
		q.say("x")
	}) // and perform's Shutdown has no 24 seconds
}

func from(address string) string { return "X-Forwarded-For: " + address }

// local has this machine's addresses count as a proxy's.
var local = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// An address opens connections at the rate, and others are unharmed.
func TestHandshakes(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Proxies: local, Limits: fanfare.Limits{Handshakes: 4}})
		var mu sync.Mutex
		in, out := 0, 0
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				ways := []string{"Accept: text/event-stream"}
				if i%2 == 0 {
					ways = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Origin: http://evil.example"}
				}
				req, _ := http.NewRequest(http.MethodGet, s.url("/a"), nil)
				for _, h := range append(ways, from(fmt.Sprintf("2001:db8::%d", i))) {
					name, value, _ := strings.Cut(h, ": ")
					req.Header.Set(name, value)
				}
				resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				mu.Lock()
				defer mu.Unlock()
				switch resp.StatusCode {
				case http.StatusTooManyRequests:
					if resp.Header.Get("Retry-After") == "" {
						t.Error("no Retry-After")
					}
					out++
				default:
					in++
				}
			})
		}
		other := s.join("/a", from("2001:db8:0:1::1"))
		other.leave()
		all.Wait()
		if in < 20 || in > 26 { // five seconds' at once, and what comes back meanwhile
			t.Errorf("of 40 at once %d were let in, want 20", in)
		}
		if n := s.limited("handshakes"); n != int64(out) {
			t.Errorf("%d were refused, and %d counted", out, n)
		}
	})
}

// An address has so many connections, of either kind, and another one when one has ended.
func TestConnections(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Proxies: local, Limits: fanfare.Limits{Connections: 3}})
		here := from("192.0.2.1")
		first := s.join("/a", here)
		second := s.join("/a", "X-Forwarded-For: 192.0.2.99, 192.0.2.1") // it can say what it likes
		third := s.listen("/a", here, "Accept: text/event-stream")
		s.refusedJoin("/a", http.StatusTooManyRequests, "too_many_connections", here)
		s.join("/a", from("192.0.2.2")).leave()
		second.leave()
		eventually(t, "there is room again", func() bool { return s.Stats().Sessions == 2 })
		again := s.join("/a", here)
		s.refusedJoin("/a", http.StatusTooManyRequests, "too_many_connections", here)
		third.conn.Close()
		first.leave()
		again.leave()
		eventually(t, "nobody is here", func() bool { return s.Stats().Sessions == 0 })
		for range 3 {
			s.join("/a", here)
		}
		if n := s.limited("connections"); n != 2 {
			t.Errorf("%d were counted, want 2", n)
		}
	})
}

// The defaults by address do not count for this machine's own, unless a proxy says
// that it is somebody else.
func TestOwnAddress(t *testing.T) {
	s := perform(t, fanfare.Config{Proxies: local})
	refused := func(headers ...string) (n int) {
		client := &http.Transport{}
		defer client.CloseIdleConnections()
		for range 700 {
			req, _ := http.NewRequest(http.MethodHead, s.url("/a"), nil)
			req.Header.Set("Accept", "text/event-stream")
			for _, h := range headers {
				name, value, _ := strings.Cut(h, ": ")
				req.Header.Set(name, value)
			}
			resp, err := client.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == http.StatusTooManyRequests {
				return n + 1
			}
		}
		return n
	}
	if n := refused(); n != 0 {
		t.Error("this machine is refused")
	}
	began := time.Now()
	if n := refused(from("192.0.2.1")); n == 0 && time.Since(began) < 2*time.Second {
		t.Error("700 handshakes at once of an address are let in")
	}
}

// Requests beyond the rate are 429; lines of a body wait.
func TestPosts(t *testing.T) {
	s := perform(t, fanfare.Config{Proxies: local, Limits: fanfare.Limits{Messages: 10, Bytes: 20_000}})
	refused := 0
	for range 12 {
		resp, said := s.fetch("POST", "/a", "x", from("192.0.2.1"))
		if resp.StatusCode == http.StatusTooManyRequests {
			refused++
			if resp.Header.Get("Retry-After") != "1" || !strings.Contains(fmt.Sprint(said), "code:rate_limited message:you send more than 10 messages a second") {
				t.Errorf("%v %v", resp.Header, said)
			}
		}
	}
	if refused == 0 || s.limited("messages") != int64(refused) {
		t.Errorf("%d were refused, %d counted", refused, s.limited("messages"))
	}
	if resp, _ := s.fetch("POST", "/a", strings.Repeat("x", 60_000), from("192.0.2.2")); resp.StatusCode != http.StatusOK {
		t.Errorf("a long one: %s", resp.Status)
	}
	if resp, said := s.fetch("GET", "/a", "", from("192.0.2.2")); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("who owes two seconds of bytes: %s %v", resp.Status, said)
	}
	began := time.Now()
	resp, _ := s.fetch("POST", "/a", strings.Repeat("{\"data\":1}\n", 25), from("192.0.2.3"), "Content-Type: application/x-ndjson")
	if took := time.Since(began).Seconds(); resp.StatusCode != http.StatusOK || took < 1.2 || took > 6 {
		t.Errorf("25 lines at 10 a second: %s after %.2f s", resp.Status, took)
	}
}

// A subject shares its rates, over whatever it comes by, and has so many connections.
func TestSubjects(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded(func(c *fanfare.Config) {
			c.Limits = fanfare.Limits{SubjectMessages: 50, SubjectConnections: 2}
		}))
		alice := bearer("alice-token")
		one, two := s.join("/chat/a", alice), s.join("/chat/b", alice)
		s.refusedJoin("/chat/a", http.StatusTooManyRequests, "too_many_connections", alice)
		waits := s.join("/chat/a")
		waits.say(`{"type":"auth","token":"alice-token"}`)
		if code, reason := waits.closed(); code != frame.TryAgainLater || !strings.Contains(reason, "2 connections") {
			t.Errorf("%d %s", code, reason)
		}
		bob := s.join("/chat/b", bearer("bob-token"))
		began := time.Now()
		one.raw(bytes.Repeat(masked(frame.Text, true, "x"), 70))
		two.raw(bytes.Repeat(masked(frame.Text, true, "x"), 70))
		bob.say("quick")
		for got := ""; got != "Bob: quick"; {
			got = bob.said()
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("another is heard after %v", took)
		}
		posted := int64(0)
		for { // a refusal takes a second; one now and then may find a token that has just come
			resp, said := s.fetch("POST", "/chat/a", "x", alice)
			if resp.StatusCode == http.StatusTooManyRequests {
				break
			}
			if posted++; posted == 20 {
				t.Errorf("POSTs beside: %s %v", resp.Status, said)
				break
			}
		}
		eventually(t, "all was heard", func() bool { return s.Stats().Published == 141+posted })
		if took := time.Since(began).Seconds(); took < 1.6 || took > 6 {
			t.Errorf("140 messages at 50 a second took %.2f s, want 1.8", took)
		}
		if resp, said := s.fetch("POST", "/chat/b", "x", bearer("bob-token")); resp.StatusCode != http.StatusOK {
			t.Errorf("a POST beside: %s %v", resp.Status, said)
		}
		if s.limited("subject_messages") == 0 || s.limited("subject_connections") != 2 {
			t.Error(s.Stats().Limited)
		}
		one.leave()
		eventually(t, "one has left", func() bool { return s.Stats().Sessions == 2 })
		s.join("/chat/a", alice)
	})
}

// A token can have limits of its own.
func TestTokensLimits(t *testing.T) {
	cfg := fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: register{"slow": {Subject: "slow", Limits: auth.Limits{Messages: 20, Connections: 1}}}}}
	s := perform(t, cfg)
	p := s.join("/a", bearer("slow"))
	s.refusedJoin("/a", http.StatusTooManyRequests, "too_many_connections", bearer("slow"))
	began := time.Now()
	p.raw(bytes.Repeat(masked(frame.Text, true, "x"), 40))
	eventually(t, "all was heard", func() bool { return s.Stats().Published == 40 })
	if took := time.Since(began).Seconds(); took < 0.8 || took > 2.5 {
		t.Errorf("40 at 20 a second took %.2f s", took)
	}
}

// A channel takes so many messages from clients, of whomever; the program's own are free.
func TestChannelRate(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{ChannelMessages: 10}, Channels: []fanfare.ChannelConfig{{Pattern: "busy/*", Messages: -1}, {Pattern: "slow", Messages: 1}}})
	for channel, want := range map[string]int{"a": 10, "busy/a": 30, "slow": 1} {
		v, got := s.talk("/-/connect"), 0
		for i := range 30 {
			v.say(fmt.Sprintf(`{"type":"publish","id":"%d","channel":%q,"data":1}`, i, channel))
		}
		for range 30 {
			switch e := v.event(); {
			case e.Type == "ok":
				got++
			case e.Code != "rate_limited" || e.Retry == 0:
				t.Errorf("%+v", e)
			}
		}
		if got < want || got > want+2 {
			t.Errorf("of 30 for %s %d were published, want %d", channel, got, want)
		}
	}
	p := s.join("/slow")
	s.say("slow", 5)
	for range 5 {
		p.said()
	}
	p.say("x")
	p.say("x")
	for {
		if text := p.said(); strings.Contains(text, "* not published: more than 1 messages a second are published to \"slow\"") {
			break
		}
	}
	if s.limited("channel_messages") == 0 {
		t.Error("nothing was counted")
	}
}

// Names are as long as the settings permit, on every face.
func TestNames(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{ChannelName: 12, ChannelSegments: 3}})
	for name, fine := range map[string]bool{"a/b/c": true, "a/b/c/d": false, "a/b/**": true, "a/b/c/**": false, "123456789012": true, "1234567890123": false} {
		_, resp, err := s.tryJoin("/" + name)
		if err != nil || (resp.StatusCode == http.StatusSwitchingProtocols) != fine {
			t.Errorf("joining %s: %v %v", name, resp, err)
		}
		v := s.talk("/-/connect")
		v.say(fmt.Sprintf(`{"type":"subscribe","id":"1","channel":%q}`, name))
		if e := v.event(); (e.Type == "ok") != fine || !fine && (e.Code != "bad_channel" || !strings.Contains(e.Message, "this server permits")) {
			t.Errorf("subscribing to %s: %+v", name, e)
		}
		if strings.Contains(name, "*") {
			continue
		}
		if resp, said := s.fetch("POST", "/"+name, "x"); (resp.StatusCode == http.StatusOK) != fine {
			t.Errorf("posting to %s: %s %v", name, resp.Status, said)
		}
		v.say(fmt.Sprintf(`{"type":"publish","id":"2","channel":%q,"data":1}`, name))
		for e := v.event(); e.ID != ""; e = v.event() {
			if e.ID == "2" {
				if (e.Type == "ok") != fine {
					t.Errorf("publishing to %s: %+v", name, e)
				}
				break
			}
		}
	}
	if s.limited("channel_name") == 0 || s.limited("channel_segments") == 0 {
		t.Error(s.Stats().Limited)
	}
	d := perform(t, fanfare.Config{})
	d.join("/" + strings.Repeat("a/", 31) + "a")
	if _, resp, err := d.tryJoin("/" + strings.Repeat("a/", 32) + "a"); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("33 segments: %v %v", resp, err)
	}
}

// A dry run refuses nothing, counts it, and says so.
func TestDryRun(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		said := new(record)
		s := perform(t, fanfare.Config{Logger: slog.New(slog.NewTextHandler(said, nil)), Proxies: local, Limits: fanfare.Limits{
			Handshakes: 0.2, Connections: 1, Messages: 5, Bytes: 100, ChannelMessages: 5, ChannelName: 3, ChannelSegments: 1, DryRun: true,
		}})
		began := time.Now()
		s.join("/longer/name")
		s.join("/longer/name")
		p := s.join("/a")
		p.raw(bytes.Repeat(masked(frame.Text, true, strings.Repeat("x", 1000)), 100))
		for range 100 {
			if got := p.said(); !strings.HasPrefix(got, "xxx") {
				t.Fatalf("%q", got)
			}
		}
		for range 20 {
			if resp, said := s.fetch("POST", "/b", "x", from("192.0.2.1")); resp.StatusCode != http.StatusOK {
				t.Fatalf("%s %v", resp.Status, said)
			}
		}
		if resp, _ := s.fetch("POST", "/c", strings.Repeat("{\"data\":1}\n", 25), "Content-Type: application/x-ndjson"); resp.StatusCode != http.StatusOK {
			t.Error(resp.Status)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		for _, limit := range []string{"handshakes", "connections", "messages", "bytes", "channel_messages", "channel_name", "channel_segments"} {
			if s.limited(limit) == 0 {
				t.Errorf("%s was not counted", limit)
			}
		}
		if log := said.taken(); strings.Count(log, "limit=messages ") != 1 || !strings.Contains(log, "so_far=1 dry_run=true") {
			t.Errorf("the log says %s", log)
		}
	})
}

// Limits that change count at once.
func TestReloadLimits(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: 1, Connections: 1}})
	p := s.join("/a")
	s.refusedJoin("/a", http.StatusTooManyRequests, "too_many_connections")
	p.raw(bytes.Repeat(masked(frame.Text, true, "x"), 3))
	if err := s.Reload(fanfare.Config{Limits: fanfare.Limits{Messages: 1000}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p.raw(bytes.Repeat(masked(frame.Text, true, "x"), 50))
	eventually(t, "all was heard", func() bool { return s.Stats().Published == 53 })
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("after a reload to 1000 a second 50 took %v", took)
	}
	s.join("/a")
}

func TestBadLimits(t *testing.T) {
	for _, c := range []struct {
		cfg  fanfare.Config
		want string
	}{
		{fanfare.Config{Limits: fanfare.Limits{Messages: 1e10}}, "Config.Limits.Messages is 1e+10"},
		{fanfare.Config{Limits: fanfare.Limits{ChannelName: 256}}, "Config.Limits.ChannelName is 256; it must be 255 at most"},
		{fanfare.Config{Proxies: make([]netip.Prefix, 1)}, "Config.Proxies[0] is no network"},
	} {
		if _, err := fanfare.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
