package fanfare_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

const askV1 = "Sec-WebSocket-Protocol: fanfare.v1"

// talk connects a person that speaks fanfare.v1, and has heard the welcome.
func (s *stage) talk(path string) *person {
	s.t.Helper()
	p := s.join(path, askV1)
	if e := p.event(); e.Type != "welcome" || e.Protocol != "fanfare.v1" || e.Session == "" {
		s.t.Fatalf("instead of a welcome: %+v", e)
	}
	return p
}

// event returns what the server says next.
func (p *person) event() protocol.Event {
	p.t.Helper()
	text := p.hear()
	e, err := protocol.ParseEvent([]byte(text))
	if err != nil {
		p.t.Fatalf("%v: %s", err, text)
	}
	return e
}

// ask says something and returns the answer; what comes before it is an error.
func (p *person) ask(format string, a ...any) protocol.Event {
	p.t.Helper()
	p.say(fmt.Sprintf(format, a...))
	return p.event()
}

// wants finds that e is of a type, and has a code, if it is an error.
func wants(t testing.TB, e protocol.Event, typ, id, code string) protocol.Event {
	t.Helper()
	if e.Type != typ || e.ID != id || e.Code != code {
		t.Fatalf("got %s, want a %s, id %q, code %q", e.Append(nil), typ, id, code)
	}
	return e
}

func TestV1(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{})
		alice, bob := s.talk("/-/connect?name=alice"), s.talk("/chat?name=bob")
		plain := s.join("/chat")
		eventually(t, "both are there", func() bool {
			n, _, err := s.Presence(t.Context(), "chat", 0)
			return n == 2 && err == nil
		})
		ok := wants(t, alice.ask(`{"type":"subscribe","id":"1","channel":"chat","presence":true}`), "ok", "1", "")
		if ok.Position == "" || *ok.Count != 2 || len(ok.Members) != 2 {
			t.Errorf("subscribed: %s", ok.Append(nil))
		}
		if e := wants(t, alice.event(), "join", "", ""); *e.Count != 3 || len(e.Members) != 1 || e.Members[0].Name != "alice" {
			t.Errorf("alice hears %s", e.Append(nil))
		}
		alice.say(`{"type":"publish","id":"p1","channel":"chat","data":{"type":"chat","content":"Hello"}}`)
		var position string
		for range 2 {
			switch e := alice.event(); e.Type {
			case "ok":
				position = e.Position
			case "message":
				if e.Sender != "alice" || string(e.Data) != `{"type":"chat","content":"Hello"}` {
					t.Errorf("alice hears %s", e.Append(nil))
				}
			default:
				t.Errorf("alice hears %s", e.Append(nil))
			}
		}
		if e := bob.event(); e.Type != "message" || e.Position != position || e.Channel != "chat" {
			t.Errorf("bob hears %s, published at %s", e.Append(nil), position)
		}
		if m := plain.hear(); m != `{"type":"chat","content":"Hello"}` {
			t.Errorf("plain hears %q", m)
		}
		plain.say("hi")
		if e := bob.event(); string(e.Data) != `"hi"` || e.Predecessor != position {
			t.Errorf("bob hears %s", e.Append(nil))
		}
		wants(t, alice.event(), "message", "", "")
		// Repeated with the same id it is the same message.
		e := wants(t, alice.ask(`{"type":"publish","id":"p1","channel":"chat","data":{"type":"chat","content":"Hello"}}`), "ok", "p1", "")
		if e.Position != position {
			t.Errorf("repeated it is at %s, first at %s", e.Position, position)
		}
		wants(t, alice.ask(`{"type":"publish","id":"p1","channel":"chat","data":"other"}`), "error", "p1", "id_reused")
		plain.leave()
		if e := wants(t, alice.event(), "leave", "", ""); *e.Count != 2 || len(e.Members) != 1 {
			t.Errorf("alice hears %s", e.Append(nil))
		}
		wants(t, alice.ask(`{"type":"unsubscribe","id":"u","channel":"chat"}`), "ok", "u", "")
		if e := wants(t, alice.ask(`{"type":"history","id":"h","channel":"chat","since":"0","limit":1}`), "ok", "h", ""); len(e.Messages) != 1 || !e.More {
			t.Errorf("history: %s", e.Append(nil))
		}
		if e := wants(t, alice.ask(`{"type":"presence","id":"w","channel":"chat"}`), "ok", "w", ""); *e.Count != 1 || e.Members[0].Name != "bob" {
			t.Errorf("presence: %s", e.Append(nil))
		}
		wants(t, alice.ask(`{"type":"ping"}`), "ok", "", "")
		// A reader that comes back hears what it missed.
		late := s.talk("/chat?since=" + position)
		if e := late.event(); string(e.Data) != `"hi"` {
			t.Errorf("resumed at %s: %s", position, e.Append(nil))
		}
	})
}

func TestV1Wildcard(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{})
		p := s.talk("/-/connect")
		wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"sensors/*/temperature"}`), "ok", "1", "")
		var last string
		for i, name := range []string{"sensors/a/temperature", "sensors/b/humidity", "sensors/b/temperature"} {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: name, Payload: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []string{"a", "b"} {
			e := wants(t, p.event(), "message", "", "")
			if e.Channel != "sensors/"+want+"/temperature" || e.Pattern != "sensors/*/temperature" {
				t.Errorf("got %s", e.Append(nil))
			}
			if want == "a" {
				last = e.Position
			}
		}
		again := s.talk("/-/connect")
		wants(t, again.ask(`{"type":"subscribe","id":"1","channel":"sensors/**","since":%q}`, last), "ok", "1", "")
		for _, want := range []string{"sensors/b/humidity", "sensors/b/temperature"} {
			if e := wants(t, again.event(), "message", "", ""); e.Channel != want {
				t.Errorf("resumed: got %s, want %s", e.Append(nil), want)
			}
		}
		wants(t, again.ask(`{"type":"publish","id":"2","channel":"sensors/**","data":1}`), "error", "2", "bad_channel")
	})
}

func TestV1Request(t *testing.T) {
	s := perform(t, fanfare.Config{})
	release := make(chan struct{})
	s.Handle("add", func(_ context.Context, r *fanfare.Request) (any, error) {
		var in []int
		if err := json.Unmarshal(r.Data, &in); err != nil || len(in) != 2 {
			return nil, &fanfare.Error{Code: "bad_numbers", Message: "two numbers are needed"}
		}
		return in[0] + in[1], nil
	})
	s.Handle("wait", func(ctx context.Context, _ *fanfare.Request) (any, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	})
	s.Handle("panic", func(context.Context, *fanfare.Request) (any, error) { panic("mind") })
	p := s.talk("/-/connect")
	p.say(`{"type":"request","id":"w","method":"wait"}`)
	if e := wants(t, p.ask(`{"type":"request","id":"1","method":"add","data":[1,2]}`), "response", "1", ""); string(e.Data) != "3" {
		t.Errorf("1+2: %s", e.Append(nil))
	}
	wants(t, p.ask(`{"type":"request","id":"2","method":"add","data":[1]}`), "error", "2", "bad_numbers")
	wants(t, p.ask(`{"type":"request","id":"3","method":"sub"}`), "error", "3", "unknown_method")
	wants(t, p.ask(`{"type":"request","id":"4","method":"panic"}`), "error", "4", "internal")
	close(release)
	if e := wants(t, p.event(), "response", "w", ""); string(e.Data) != "null" {
		t.Errorf("wait: %s", e.Append(nil))
	}
	// Its end ends what still answers.
	gone := make(chan struct{})
	s.Handle("wait", func(ctx context.Context, _ *fanfare.Request) (any, error) {
		<-ctx.Done()
		close(gone)
		return nil, nil
	})
	p.say(`{"type":"request","id":"w","method":"wait"}`)
	wants(t, p.ask(`{"type":"ping"}`), "ok", "", "")
	p.conn.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the client is gone, and its request's context is not done")
	}
}

// What is wrong gets an error that says so, and the conversation goes on.
func TestV1BadInput(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 1000, MaxSubscriptions: 10})
	p := s.talk("/chat")
	for _, c := range []struct{ say, code string }{
		{`{"type":"subscribe","id":"x"`, "bad_json"},
		{`[]`, "bad_json"},
		{`hello`, "bad_json"},
		{`{"type":"dance","id":"x"}`, "unknown_type"},
		{`{"id":"x"}`, "bad_json"},
		{`{"type":"subscribe","id":"x","channel":"chat"}`, "already_subscribed"},
		{`{"type":"subscribe","id":"x","channel":"a//b"}`, "bad_channel"},
		{`{"type":"subscribe","id":"x","channel":"a/**/b"}`, "bad_channel"},
		{`{"type":"subscribe","id":"x","channel":"a/**","presence":true}`, "bad_presence"},
		{`{"type":"subscribe","id":"x","channel":"*/*/*/*/*/**"}`, "bad_channel"},
		{`{"type":"subscribe","id":"x","channel":"b","since":"yesterday"}`, "bad_since"},
		{`{"type":"subscribe","id":"x","channel":"b","slow":"never"}`, "bad_slow"},
		{`{"type":"unsubscribe","id":"x","channel":"b"}`, "not_subscribed"},
		{`{"type":"publish","id":"x","channel":"a/*","data":1}`, "bad_channel"},
		{`{"type":"publish","id":"x","data":"` + strings.Repeat("x", 1500) + `"}`, "too_big"},
		{`{"type":"publish","id":"x","key":"` + strings.Repeat("x", 256) + `","data":1}`, "bad_key"},
		{`{"type":"publish","id":"x"}`, "bad_data"},
		{`{"type":"history","id":"x","limit":1001}`, "bad_limit"},
		{`{"type":"presence","id":"x","limit":-1}`, "bad_limit"},
		{`{"type":"request","id":"x","method":"m"}`, "unknown_method"},
		{`{"type":"auth","id":"x","token":"t"}`, "no_authentication"},
	} {
		if e := p.ask("%s", c.say); e.Type != "error" || e.Code != c.code || e.Message == "" {
			t.Errorf("%.80s is answered %s, want %s", c.say, e.Append(nil), c.code)
		}
	}
	p.send(frame.Binary, []byte{1, 2, 3})
	wants(t, p.event(), "error", "", "bad_json")
	homeless := s.talk("/-/connect")
	for _, say := range []string{`{"type":"subscribe","id":"x"}`, `{"type":"publish","id":"x","data":1}`, `{"type":"history","id":"x"}`, `{"type":"presence","id":"x"}`} {
		if e := homeless.ask("%s", say); e.Code != "bad_channel" || !strings.Contains(e.Message, "name a channel") {
			t.Errorf("%s without a channel: %+v", say, e)
		}
	}
	for i := range 9 {
		wants(t, p.ask(`{"type":"subscribe","id":"s","channel":"c/%d"}`, i), "ok", "s", "")
	}
	wants(t, p.ask(`{"type":"subscribe","id":"s","channel":"c/10"}`), "error", "s", "too_many_subscriptions")
	wants(t, p.ask(`{"type":"unsubscribe","id":"s","channel":"c/3"}`), "ok", "s", "")
	wants(t, p.ask(`{"type":"subscribe","id":"s","channel":"c/10","presence":true}`), "error", "s", "too_many_subscriptions")
	wants(t, p.ask(`{"type":"subscribe","id":"s","channel":"c/10"}`), "ok", "s", "")
	// Far too large a message is no conversation any more, and even then it is said why.
	p.say(`{"type":"publish","data":"` + strings.Repeat("x", 20_000) + `"}`)
	wants(t, p.event(), "bye", "", "protocol")
	if code, _ := p.closed(); code != frame.MessageTooBig {
		t.Errorf("closed with %d", code)
	}
}

// Where the program lets clients in channel by channel, fanfare.v1 is no way around it.
func TestV1StaysAtHome(t *testing.T) {
	s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Connect: func(_ *http.Request, channel string) error {
		if channel != "public" {
			return errors.New("not here")
		}
		return nil
	}}})
	if _, resp, err := s.tryJoin("/-/connect", askV1); err != nil || resp.StatusCode != http.StatusInternalServerError {
		t.Fatalf("/-/connect: %v %v", resp, err)
	}
	p := s.talk("/public")
	for _, say := range []string{
		`{"type":"subscribe","id":"1","channel":"secret"}`,
		`{"type":"subscribe","id":"1","channel":"**"}`,
		`{"type":"history","id":"1","channel":"secret"}`,
		`{"type":"presence","id":"1","channel":"secret"}`,
		`{"type":"publish","id":"1","channel":"secret","data":1}`,
	} {
		wants(t, p.ask("%s", say), "error", "1", "forbidden")
	}
	if e := wants(t, p.ask(`{"type":"presence","id":"2"}`), "ok", "2", ""); *e.Count != 1 {
		t.Errorf("at home: %s", e.Append(nil))
	}
}

// Who is in the URL's channel can be asked for without leaving it.
func TestV1PresenceLater(t *testing.T) {
	s := perform(t, fanfare.Config{})
	p := s.talk("/chat?name=alice")
	wants(t, p.ask(`{"type":"subscribe","id":"1","presence":true,"since":"0"}`), "error", "1", "already_subscribed")
	e := wants(t, p.ask(`{"type":"subscribe","id":"1","presence":true}`), "ok", "1", "")
	if *e.Count != 1 || len(e.Members) != 1 || e.Members[0].Name != "alice" || e.Position == "" {
		t.Errorf("who is here: %s", e.Append(nil))
	}
	wants(t, p.ask(`{"type":"subscribe","id":"2","presence":true}`), "error", "2", "already_subscribed")
	bob := s.talk("/chat?name=bob")
	if e := wants(t, p.event(), "join", "", ""); *e.Count != 2 || e.Members[0].Name != "bob" {
		t.Errorf("bob came: %s", e.Append(nil))
	}
	bob.say(`{"type":"publish","data":"hi"}`)
	wants(t, p.event(), "message", "", "")
	wants(t, p.ask(`{"type":"unsubscribe","id":"3"}`), "ok", "3", "")
	wants(t, p.ask(`{"type":"unsubscribe","id":"4"}`), "error", "4", "not_subscribed")
	// Nobody there is a list too.
	p.say(`{"type":"presence","id":"5","channel":"empty"}`)
	if got := p.hear(); got != `{"type":"ok","id":"5","channel":"empty","count":0,"members":[]}` {
		t.Errorf("nobody: %s", got)
	}
}
