package fanfare_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/internal/frame"
)

// What somebody said before he hung up is done behind his back, and not any more
// once his access was revoked.
func TestRevokedWhenGone(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for _, what := range []string{"subject", "token", "session"} {
			t.Run(what, func(t *testing.T) {
				g := newGate("alice")
				defer g.open()
				ended := make(chan string, 1)
				s := perform(t, guarded(func(c *fanfare.Config) {
					c.Hooks.Publish, c.CloseTimeout = g.ask, 100*time.Millisecond
					c.Hooks.Disconnect = func(channel, name, why string) { ended <- name }
				}))
				v := s.talk("/chat/x?token=alice-token")
				members := v.ask(`{"type":"presence","id":"1"}`).Members
				var b []byte
				for n := range 10 {
					b = append(b, masked(frame.Text, true, fmt.Sprintf(`{"type":"publish","data":%d}`, n))...)
				}
				v.raw(frame.AppendMasked(b, frame.Close, true, testKey, frame.AppendClose(nil, frame.NormalClosure, "")))
				g.waitUntilAsked(t)
				v.closed()
				v.conn.Close()
				eventually(t, "she is gone", func() bool { return s.Stats().Sessions == 0 })
				whose := map[string]fanfare.Revocation{"subject": {Subject: "alice"}, "token": {Token: "a1"}, "session": {Session: members[0].Session}}
				if _, err := s.Revoke(t.Context(), whose[what]); err != nil {
					t.Fatal(err)
				}
				g.open()
				<-ended
				if _, body := s.fetch("GET", "/chat/x", "", bearer("bob-token")); strings.Contains(fmt.Sprint(body), "data:") {
					t.Errorf("behind the revocation came %v", body)
				}
			})
		}
	})
}

// Rules that change while somebody subscribes count for him too.
func TestRulesReloadedWhileSubscribing(t *testing.T) {
	b := newLateBroker(0)
	cfg := fanfare.Config{Broker: b, Auth: &fanfare.AuthConfig{Authenticator: members, Rules: auth.Rules{{Channels: []string{"**"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights}}}}
	s := perform(t, cfg)
	v := s.talk("/-/connect?token=alice-token")
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	var looks atomic.Int32
	b.onHistory(func(name string) error {
		if name == "chat/**" && looks.Add(1) == 2 {
			asked <- struct{}{}
			<-answer
		}
		return nil
	})
	v.say(`{"type":"subscribe","id":"1","channel":"chat/**","since":"0"}`)
	<-asked
	cfg.Auth = &fanfare.AuthConfig{Authenticator: members, Rules: auth.Rules{{Channels: []string{"chat/mine"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights}}}
	if err := s.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	close(answer)
	wants(t, v.event(), "error", "1", "forbidden")
	s.publishes("chat/secret", "secret")
	s.publishes("chat/mine", "mine")
	v.say(`{"type":"ping","id":"end"}`)
	wants(t, v.event(), "ok", "end", "")
}

// Rights that go and come back while a hook takes its time.
func TestRightsComeAndGo(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	cfg := guarded(func(c *fanfare.Config) {
		c.Hooks.Subscribe = func(ctx context.Context, channel, name string) error {
			if channel == "chat/slow" {
				asked <- struct{}{}
				<-answer
			}
			return nil
		}
	})
	s := perform(t, cfg)
	v := s.talk("/-/connect?token=alice-token")
	answering := func() {
		<-asked
		answer <- struct{}{}
	}
	go answering()
	wants(t, v.ask(`{"type":"subscribe","id":"1","channel":"chat/slow"}`), "ok", "1", "")
	v.say(`{"type":"subscribe","id":"2","channel":"chat/slow","presence":true}`)
	<-asked
	for _, rules := range []auth.Rules{{{Channels: []string{"elsewhere"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights}}, houseRules} {
		cfg.Auth = &fanfare.AuthConfig{Authenticator: members, Rules: rules}
		if err := s.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}
	answer <- struct{}{}
	wants(t, v.event(), "unsubscribed", "", "forbidden")
	wants(t, v.event(), "error", "2", "forbidden")
	go answering()
	wants(t, v.ask(`{"type":"subscribe","id":"3","channel":"chat/slow"}`), "ok", "3", "")
}

// Who takes what is written a little at a time is put out as soon as others: a
// stranger who does not say who he is, and a reader whose access was revoked.
func TestTricklersArePutOut(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for name, head := range map[string]string{
			"stranger": upgrade("x", "/chat/x", askV1),
			"listener": "GET /chat/x HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n" + bearer("alice-token") + "\r\n\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				s := perform(t, guarded(func(c *fanfare.Config) {
					c.Auth.Timeout, c.CloseTimeout, c.Limits.Messages = time.Second, time.Second, -1
					c.MaxLag = 16 << 20
				}))
				conn, err := net.Dial("tcp", s.addr())
				if err != nil {
					t.Fatal(err)
				}
				var busy sync.WaitGroup
				defer busy.Wait()
				defer conn.Close()
				conn.(*net.TCPConn).SetReadBuffer(2 << 10)
				fmt.Fprint(conn, head)
				eventually(t, "he is there", func() bool { return s.Stats().Sessions == 1 })
				if name == "stranger" {
					busy.Go(func() { // more answers than the system has room for
						flood := bytes.Repeat(masked(frame.Text, true, `{"type":"ping"}`), 1000)
						for err := error(nil); err == nil; _, err = conn.Write(flood) {
						}
					})
				} else {
					for range 100 {
						s.publishes("chat/x", strings.Repeat("x", 100<<10))
					}
					if _, err := s.Revoke(t.Context(), fanfare.Revocation{Subject: "alice"}); err != nil {
						t.Fatal(err)
					}
				}
				busy.Go(func() {
					for b, err := make([]byte, 512), error(nil); err == nil; _, err = conn.Read(b) {
						time.Sleep(20 * time.Millisecond)
					}
				})
				began := time.Now()
				for s.Stats().Sessions > 0 && time.Since(began) < patience {
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(began); took > patience/2 {
					t.Errorf("he was there for %v", took)
				}
			})
		}
	})
}

// Of a body of lines nothing more is heard when its sender's access was revoked.
func TestRevokedAmidLines(t *testing.T) {
	s := perform(t, guarded())
	b := newBatch(t, http.DefaultClient, s.url("/chat/x"), bearer("alice-token"))
	defer b.body.Close()
	b.say("{\"data\":1}\n")
	if o, ok := b.next(); !ok || o.Position == "" {
		t.Fatalf("%+v", o)
	}
	if _, err := s.Revoke(t.Context(), fanfare.Revocation{Subject: "alice"}); err != nil {
		t.Fatal(err)
	}
	b.say("{\"data\":2}\n")
	if o, ok := b.next(); !ok || o.Error.Code != "token_revoked" {
		t.Errorf("%+v", o)
	}
	if o, ok := b.next(); ok {
		t.Errorf("and then %+v", o)
	}
}

// Who asks for much counts as one who says much, or asking would cost him nothing
// and us a processor.
func TestLongAnswersCount(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: 100}})
	for range 50 {
		s.publishes("chat/x", strings.Repeat("x", 1000))
	}
	v := s.talk("/chat/x")
	for n := range 30 {
		wants(t, v.ask(`{"type":"history","id":"%d","limit":1}`, n), "ok", fmt.Sprint(n), "")
	}
	if n := s.limited("messages"); n != 0 {
		t.Errorf("short answers were limited %d times", n)
	}
	v.leave()
	v = s.talk("/chat/x")
	for n := range 12 {
		v.say(fmt.Sprintf(`{"type":"history","id":"%d"}`, n))
		for v.event().ID != fmt.Sprint(n) { // but for the news that he has to wait
		}
	}
	if s.limited("messages") == 0 {
		t.Error("long answers cost nothing")
	}
	if err := s.Reload(fanfare.Config{Limits: fanfare.Limits{Messages: 2}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // which were not too many, if they were short
		if resp, _ := s.fetch("GET", "/chat/x", ""); resp.StatusCode == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("pages over HTTP cost nothing")
}
