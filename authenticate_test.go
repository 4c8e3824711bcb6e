package fanfare_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
)

// A register is an Authenticator for tests: tokens, and who has them.
type register map[string]auth.Identity

func (r register) Authenticate(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
	if c.Token == "down" {
		return nil, errors.New("the database is away")
	}
	if id, ok := r[c.Token]; ok {
		return &id, nil
	}
	return nil, nil
}

var members = register{
	"alice-token": {Subject: "alice", Token: "a1"},
	"bob-token":   {Subject: "bob", Name: "Bob", Token: "b1", Roles: []string{"reader"}},
	"op-token":    {Subject: "op", Roles: []string{"admin"}},
	"own-token":   {Subject: "own", Allow: map[auth.Right][]string{auth.Publish: {"own/$sub"}}},
}

var houseRules = auth.Rules{
	{Channels: []string{"news"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Subscribe}},
	{Channels: []string{"chat/**", "inbox/$sub"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights},
	{Channels: []string{"sink"}, Roles: []string{auth.Authenticated}, Allow: []auth.Right{auth.Publish}},
	{Channels: []string{"ticker"}, Roles: []string{"reader"}, Allow: []auth.Right{auth.Subscribe}},
}

func guarded(more ...func(*fanfare.Config)) fanfare.Config {
	cfg := fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: members, Rules: houseRules, Cookie: "session"}}
	for _, set := range more {
		set(&cfg)
	}
	return cfg
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// refusedJoin finds that nobody is let in, and returns how.
func (s *stage) refusedJoin(path string, status int, code string, headers ...string) {
	s.t.Helper()
	_, resp, err := s.tryJoin(path, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status || !strings.Contains(string(body), `"code":"`+code+`"`) {
		s.t.Errorf("joining %s: %s: %s; want %d with %s", path, resp.Status, body, status, code)
	}
	if resp.Header.Get("Fanfare-Position") != "" {
		s.t.Errorf("joining %s: a refusal tells the position", path)
	}
}

func TestWaysIn(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded())
		for _, way := range []struct{ path, header string }{
			{"/chat/x", bearer("alice-token")},
			{"/chat/x", "authorization: bearer   alice-token"},
			{"/chat/x?token=alice-token", "X-Nothing: 1"},
			{"/chat/x?since=0&%74oken=alice-token", "X-Nothing: 1"},
			{"/chat/x", "Sec-WebSocket-Protocol: fanfare.plain, bearer.alice-token"},
			{"/chat/x", "Cookie: session=alice-token\r\nOrigin: http://" + s.addr()},
		} {
			p := s.join(way.path, way.header)
			if p.head.Get("Fanfare-Position") == "" {
				t.Errorf("%v: no position", way)
			}
			if got := p.head.Get("Sec-Websocket-Protocol"); strings.Contains(got, "bearer") {
				t.Errorf("%v: the token came back: %s", way, got)
			}
			p.say("hello")
			for p.said() != "alice: hello" { // what there was before with since=0
			}
			p.leave()
		}
		s.refusedJoin("/chat/x", 401, "bad_token", bearer("nobody's"))
		s.refusedJoin("/chat/x?token=nobodys", 401, "bad_token")
		s.refusedJoin("/chat/x", 401, "bad_token", "Sec-WebSocket-Protocol: fanfare.v1, bearer.x")
		s.refusedJoin("/ticker", 403, "forbidden", bearer("alice-token"))
		s.refusedJoin("/chat/x", 503, "auth_unavailable", bearer("down"))
		s.refusedJoin("/chat/x", 401, "bad_token", bearer(strings.Repeat("x", 9000)))
	})
}

// Who comes without a token, where that is not enough, is told nothing before it
// has said who it is.
func TestFirstMessage(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded())
		t.Run("plain", func(t *testing.T) {
			p := s.join("/chat/x?since=0")
			if p.head.Get("Fanfare-Position") != "" {
				t.Error("a stranger is told the position")
			}
			s.publishes("chat/x", "before")
			p.say(`{"type":"auth","token":"alice-token"}`)
			// The welcome, the position, and what there was.
			if got := p.said(); got != "* welcome" {
				t.Errorf("heard %q", got)
			}
			if got := p.said(); got != "before" {
				t.Errorf("heard %q", got)
			}
			p.say("mine")
			if got := p.said(); got != "alice: mine" {
				t.Errorf("heard %q", got)
			}
			p.say(`{"type":"auth","token":"bob-token"}`)
			if got := p.said(); !strings.Contains(got, "somebody else's") {
				t.Errorf("heard %q", got)
			}
			p.say(`{"id":7,"type":"auth","token":["secret"],"channel":""}`)
			if got := p.said(); !strings.Contains(got, "not authenticated") {
				t.Errorf("heard %q", got)
			}
			p.leave()
			for what, code := range map[string]int{"hello": 4401, `{"type":"auth","token":"x"}`: 4401, `{"type":"auth"}`: 4401} {
				p := s.join("/chat/x")
				p.say(what)
				if got, reason := p.closed(); int(got) != code {
					t.Errorf("%s: closed with %d %q", what, got, reason)
				}
			}
			p = s.join("/ticker")
			p.say(`{"type":"auth","token":"alice-token"}`)
			if code, reason := p.closed(); code != 4403 {
				t.Errorf("closed with %d %q", code, reason)
			}
		})
		t.Run("v1", func(t *testing.T) {
			p := s.join("/chat/x", askV1)
			if e := p.event(); e.Auth != "required" || e.Channel != "" || e.Position != "" {
				t.Errorf("welcome: %s", e.Append(nil))
			}
			wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"chat/y"}`), "error", "1", "unauthenticated")
			wants(t, p.ask(`{"type":"publish","id":"2","data":1}`), "error", "2", "unauthenticated")
			ok := wants(t, p.ask(`{"type":"auth","id":"3","token":"alice-token"}`), "ok", "3", "")
			if ok.Subject != "alice" || ok.Channel != "chat/x" || ok.Position == "" {
				t.Errorf("ok: %s", ok.Append(nil))
			}
			p.say(`{"type":"publish","data":"hi"}`)
			if e := p.event(); e.Type != "message" || e.Sender != "alice" {
				t.Errorf("heard %s", e.Append(nil))
			}
			wants(t, p.ask(`{"type":"auth","id":"4","token":"bob-token"}`), "error", "4", "other_subject")
			wants(t, p.ask(`{"type":"auth","id":"5","token":"x"}`), "error", "5", "bad_token")
			wants(t, p.ask(`{"type":"auth","id":"6","token":"alice-token"}`), "ok", "6", "")
			p.leave()

			p = s.join("/chat/x", askV1)
			p.event()
			p.say(`{"type":"auth","id":"3","token":"x"}`)
			if e := p.event(); e.Type != "bye" || e.Code != "unauthenticated" {
				t.Errorf("heard %s", e.Append(nil))
			}
			if code, _ := p.closed(); code != 4401 {
				t.Errorf("closed with %d", code)
			}
			p = s.join("/chat/x", askV1)
			p.event()
			p.say(`{"type":"auth","token":"` + strings.Repeat("x", 5000) + `"}`)
			if code, _ := p.closed(); code != 1009 {
				t.Errorf("closed with %d", code)
			}
		})
	})
}

func TestTooLateToSayWho(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded(func(c *fanfare.Config) { c.Auth.Timeout = 300 * time.Millisecond }))
		began := time.Now()
		p, v := s.join("/chat/x"), s.join("/chat/x", askV1)
		if code, _ := p.closed(); code != 4401 {
			t.Errorf("closed with %d", code)
		}
		p.ended()
		v.event()
		if e := v.event(); e.Type != "bye" || e.Code != "unauthenticated" || e.Retry != 0 {
			t.Errorf("heard %s", e.Append(nil))
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
		eventually(t, "it is counted", func() bool { return s.Stats().Ended["unauthenticated"] > 0 })
	})
}

// Anonymous is who nobody knows, and may do what rules say, and nothing else.
func TestAnonymous(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded())
		p := s.join("/news?name=alice")
		p.say("I am alice")
		if got := p.said(); !strings.Contains(got, "not published") {
			t.Errorf("heard %q", got)
		}
		s.publishes("news", "extra")
		if got := p.said(); got != "extra" {
			t.Errorf("heard %q", got)
		}
		p.say(`{"type":"auth","token":"alice-token"}`)
		if got := p.said(); got != "* welcome" {
			t.Errorf("heard %q", got)
		}
		v := s.talk("/-/connect")
		for _, c := range []string{
			`{"type":"subscribe","id":"1","channel":"chat/x"}`, `{"type":"subscribe","id":"1","channel":"news","presence":true}`,
			`{"type":"publish","id":"1","channel":"news","data":1}`, `{"type":"history","id":"1","channel":"news"}`,
			`{"type":"presence","id":"1","channel":"news"}`, `{"type":"request","id":"1","method":"none"}`, `{"type":"subscribe","id":"1","channel":"chat/**"}`,
		} {
			e := wants(t, v.ask("%s", c), "error", "1", map[bool]string{true: "unknown_method", false: "unauthenticated"}[strings.Contains(c, "request")])
			if strings.Contains(e.Message, "exist") {
				t.Errorf("%s: %s", c, e.Message)
			}
		}
		wants(t, v.ask(`{"type":"subscribe","id":"1","channel":"news","since":"0"}`), "ok", "1", "")
		if e := v.event(); e.Type != "gap" || e.Reason != "forbidden" {
			t.Errorf("heard %s", e.Append(nil))
		}
		l := s.listen("/news?since=0", asLines)
		if e := l.event(); e.Type != "gap" || e.Reason != "forbidden" {
			t.Errorf("heard %s", e.Append(nil))
		}
		s.publishes("news", "more")
		if got := l.hear(); !strings.Contains(got, "more") {
			t.Errorf("heard %s", got)
		}
	})
}

// A pattern brings what of it its reader may read, and nothing of the rest.
func TestWildcardsSeeOnlyWhatIsGranted(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded())
		s.publishes("inbox/alice", "old")
		s.publishes("inbox/bob", "secret")
		all := s.talk("/-/connect?token=alice-token")
		wants(t, all.ask(`{"type":"subscribe","id":"1","channel":"**","since":"0"}`), "ok", "1", "")
		if e := all.event(); e.Type != "gap" || e.Reason != "forbidden" {
			t.Errorf("heard %s", e.Append(nil))
		}
		if e := all.event(); e.Channel != "inbox/alice" {
			t.Errorf("heard %s", e.Append(nil))
		}
		lines := s.listen("/**", asLines, bearer("alice-token"))
		bobs := s.join("/inbox/*", bearer("bob-token"))
		s.refusedJoin("/ticker/*", 403, "forbidden", bearer("alice-token"))
		for _, c := range []string{"inbox/bob", "ticker", "chat/x", "inbox/alice", "chat/y/z"} {
			s.publishes(c, "to "+c)
		}
		for _, want := range []string{"chat/x", "inbox/alice", "chat/y/z"} {
			if e := all.event(); e.Channel != want {
				t.Errorf("heard %s instead of %s", e.Append(nil), want)
			}
			if e := lines.event(); e.Channel != want {
				t.Errorf("heard %s instead of %s", e.Append(nil), want)
			}
		}
		if got := bobs.hear(); !strings.Contains(got, "inbox/bob") {
			t.Errorf("bob heard %s", got)
		}
		for path, want := range map[string]int{"/inbox/*": 200, "/ticker/*": 403, "/ticker": 403} {
			req, _ := http.NewRequest("GET", s.url(path), nil)
			req.Header.Set("Authorization", "Bearer alice-token")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != want || bytes.Contains(body, []byte("secret")) || want == 200 && !bytes.Contains(body, []byte("old")) {
				t.Errorf("%s: %s: %s", path, resp.Status, body)
			}
		}
	})
}

// Nothing that is told of a pattern depends on what of it is hidden: neither places,
// nor whether there is more or less than there was.
func TestWildcardsTellNothingOfTheRest(t *testing.T) {
	told := func(hidden bool) (all []string) {
		s := perform(t, guarded(func(c *fanfare.Config) { c.History = 3 }))
		say := func(channel, text string) {
			if hidden || channel != "inbox/bob" {
				s.publishes(channel, text)
			} else {
				s.publishes("elsewhere", text) // so that the count is the same
			}
		}
		for i := range 10 {
			say("inbox/bob", "secret")
			if i < 2 {
				say("inbox/alice", "hers")
			}
		}
		since := ""
		for _, path := range []string{"/inbox/*", "/inbox/*?since=0", "/inbox/*?since=0&limit=1", "/inbox/*?since=SINCE", "/*/bob", "/*/bob?since=0"} {
			req, _ := http.NewRequest("GET", s.url(strings.Replace(path, "SINCE", since, 1)), nil)
			req.Header.Set("Authorization", "Bearer alice-token")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			var page struct {
				Position  string
				Gap, More bool
				Messages  []struct{ Position string }
			}
			_ = json.Unmarshal(body, &page)
			if since == "" && len(page.Messages) > 0 {
				since = page.Messages[0].Position
			}
			_, at, _ := strings.Cut(page.Position, "-")
			all = append(all, fmt.Sprintf("%s: %d, at %s, gap %v, more %v, %d messages", path, resp.StatusCode, at, page.Gap, page.More, len(page.Messages)))
		}
		for _, path := range []string{"/inbox/*", "/inbox/*?since=0", "/inbox/*?since=" + since} {
			l := s.listen(path, asLines, bearer("alice-token"))
			_, at, _ := strings.Cut(l.at, "-")
			all = append(all, strings.TrimSuffix(path, since)+" from "+at)
		}
		p := s.join("/inbox/*", bearer("alice-token"))
		_, at, _ := strings.Cut(p.head.Get("Fanfare-Position"), "-")
		say("inbox/bob", "secret")
		say("inbox/alice", "hers")
		p.hear()
		say("inbox/bob", "secret")
		v := s.talk("/-/connect?token=alice-token")
		for _, pattern := range []string{"*/bob", "inbox/*"} {
			ok := wants(t, v.ask(`{"type":"subscribe","id":"1","channel":%q}`, pattern), "ok", "1", "")
			_, at, _ := strings.Cut(ok.Position, "-")
			all = append(all, pattern+" from "+at)
		}
		return append(all, at)
	}
	with, without := told(true), told(false)
	for i := range with {
		if with[i] != without[i] {
			t.Errorf("with hidden messages: %s; without: %s", with[i], without[i])
		}
	}
}

// A token's own words count alone for the rights it speaks of.
func TestOwnRights(t *testing.T) {
	s := perform(t, guarded())
	p := s.talk("/-/connect?token=own-token")
	wants(t, p.ask(`{"type":"publish","id":"1","channel":"own/own","data":1}`), "ok", "1", "")
	wants(t, p.ask(`{"type":"publish","id":"2","channel":"chat/x","data":1}`), "error", "2", "forbidden")
	wants(t, p.ask(`{"type":"subscribe","id":"3","channel":"chat/x"}`), "ok", "3", "")
	sink := s.join("/sink", bearer("alice-token")) // to publish only
	sink.say("x")
	sink.say("y")
	eventually(t, "both are there", func() bool { return s.Stats().Published >= 3 })
	sink.leave()
}

// Of who says in its first message who it is the program is asked then, also about
// the URL's channel.
func TestHookOfFirstMessage(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded(func(c *fanfare.Config) {
			c.Hooks.Subscribe = func(ctx context.Context, channel, name string) error {
				if id := auth.FromContext(ctx); id == nil || id.Subject == "alice" {
					return &fanfare.Error{Message: "not you"}
				}
				return nil
			}
		}))
		p := s.join("/chat/x")
		p.say(`{"type":"auth","token":"alice-token"}`)
		if code, reason := p.closed(); code != 4403 || reason != "not you" {
			t.Errorf("closed with %d %q", code, reason)
		}
		p = s.join("/chat/x")
		p.say(`{"type":"auth","token":"bob-token"}`)
		if got := p.said(); got != "* welcome" {
			t.Errorf("heard %q", got)
		}
	})
}

// Who may only publish as nobody, and then says who it is, begins to read.
func TestReadsOnceKnown(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded(func(c *fanfare.Config) {
			c.Auth.Rules = append(auth.Rules{{Channels: []string{"chat/x"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Publish}}}, houseRules...)
		}))
		p := s.join("/chat/x?since=0")
		p.say("from nobody")
		eventually(t, "it is published", func() bool { return s.Stats().Published == 1 })
		p.say(`{"type":"auth","token":"alice-token"}`)
		if got := p.said(); got != "* welcome" {
			t.Errorf("heard %q", got)
		}
		if got := p.said(); got != "from nobody" {
			t.Errorf("heard %q", got)
		}
		for range 4 {
			p.say(`{"type":"auth","token":"x"}`)
			if got := p.said(); !strings.Contains(got, "not authenticated") {
				t.Errorf("heard %q", got)
			}
		}
		p.say(`{"type":"auth","token":"x"}`)
		if code, _ := p.closed(); code != 4401 {
			t.Errorf("closed with %d", code)
		}
	})
}

// Where a token expires a connection ends, unless there is another in time.
func TestExpiry(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		var mu sync.Mutex
		life := 900 * time.Millisecond
		cfg := guarded(func(c *fanfare.Config) {
			c.Auth.Timeout = time.Second
			c.Auth.Authenticator = auth.Func(func(ctx context.Context, cr auth.Credentials) (*auth.Identity, error) {
				id, err := members.Authenticate(ctx, cr)
				if id != nil {
					mu.Lock()
					defer mu.Unlock()
					id.Expires = time.Now().Add(life)
				}
				return id, err
			})
		})
		s := perform(t, cfg)
		p, v, l := s.join("/chat/x", bearer("alice-token")), s.talk("/chat/x?token=alice-token"), s.listen("/chat/x", asEvents, bearer("alice-token"))
		kept := s.talk("/chat/x?token=alice-token")
		if e := kept.event(); e.Type != "renew" || e.Expires <= 0 {
			t.Fatalf("heard %s", e.Append(nil))
		}
		mu.Lock()
		life = time.Hour
		mu.Unlock()
		ok := wants(t, kept.ask(`{"type":"auth","id":"1","token":"alice-token"}`), "ok", "1", "")
		if ok.Expires < 1_000_000 {
			t.Errorf("ok: %s", ok.Append(nil))
		}
		if code, _ := p.closed(); code != 4401 {
			t.Errorf("closed with %d", code)
		}
		for e := v.event(); e.Type != "bye" || e.Code != "token_expired"; e = v.event() {
			if e.Type != "renew" {
				t.Fatalf("heard %s", e.Append(nil))
			}
		}
		if e := l.bye(); e.Code != "token_expired" {
			t.Errorf("heard %s", e.Append(nil))
		}
		s.publishes("chat/x", "still here")
		if e := kept.event(); e.Type != "message" {
			t.Errorf("heard %s", e.Append(nil))
		}
	})
}

// With other rules, who is here may do what they say, from then on.
func TestRulesReloaded(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		cfg := guarded()
		s := perform(t, cfg)
		p, v, l := s.join("/chat/x", bearer("alice-token")), s.talk("/-/connect?token=alice-token"), s.listen("/chat/x", asLines, bearer("alice-token"))
		wants(t, v.ask(`{"type":"subscribe","id":"1","channel":"chat/x"}`), "ok", "1", "")
		wants(t, v.ask(`{"type":"subscribe","id":"2","channel":"inbox/alice"}`), "ok", "2", "")
		cfg.Auth = &fanfare.AuthConfig{Authenticator: members, Rules: auth.Rules{{Channels: []string{"inbox/$sub"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights}}}
		if err := s.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		s.publishes("chat/x", "not for them")
		s.publishes("inbox/alice", "for her")
		if code, _ := p.closed(); code != 4403 {
			t.Errorf("closed with %d", code)
		}
		if e := l.bye(); e.Code != "forbidden" {
			t.Errorf("heard %s", e.Append(nil))
		}
		if e := v.event(); e.Type != "unsubscribed" || e.Channel != "chat/x" || e.Code != "forbidden" {
			t.Errorf("heard %s", e.Append(nil))
		}
		if e := v.event(); e.Channel != "inbox/alice" {
			t.Errorf("heard %s", e.Append(nil))
		}
		wants(t, v.ask(`{"type":"publish","id":"3","channel":"chat/x","data":1}`), "error", "3", "forbidden")
		bad := cfg
		bad.Auth = &fanfare.AuthConfig{Authenticator: members, Rules: auth.Rules{{Channels: []string{"in$sub"}, Roles: []string{"x"}, Allow: auth.Rights}}}
		if s.Reload(bad) == nil {
			t.Error("rules that make no sense are taken")
		}
	})
}

func TestRevoke(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, guarded())
		p, v, l := s.join("/chat/x", bearer("alice-token")), s.talk("/chat/x?token=alice-token"), s.listen("/chat/x", asEvents, bearer("alice-token"))
		bob := s.join("/chat/x", bearer("bob-token"))
		eventually(t, "all are here", func() bool { return s.Stats().Sessions == 4 })
		n, err := s.Revoke(t.Context(), fanfare.Revocation{Token: "a1"})
		if n != 3 || err != nil {
			t.Errorf("closed %d, %v", n, err)
		}
		s.publishes("chat/x", "after")
		if code, _ := p.closed(); code != 4403 {
			t.Errorf("closed with %d", code)
		}
		if e := v.event(); e.Type != "bye" || e.Code != "revoked" {
			t.Errorf("heard %s", e.Append(nil))
		}
		if e := l.bye(); e.Code != "revoked" {
			t.Errorf("heard %s", e.Append(nil))
		}
		if got := bob.said(); got != "after" {
			t.Errorf("heard %q", got)
		}
		s.refusedJoin("/chat/x", 401, "token_revoked", bearer("alice-token"))
		if n, err = s.Revoke(t.Context(), fanfare.Revocation{Subject: "bob"}); n != 1 || err != nil {
			t.Errorf("closed %d, %v", n, err)
		}
		if code, _ := bob.closed(); code != 4403 {
			t.Errorf("closed with %d", code)
		}
		s.refusedJoin("/chat/x", 401, "token_revoked", bearer("bob-token"))
		op := s.join("/chat/x", askV1, bearer("op-token"))
		if n, err := s.Revoke(t.Context(), fanfare.Revocation{Session: op.event().Session}); n != 1 || err != nil {
			t.Errorf("closed %d, %v", n, err)
		}
		s.join("/chat/x", bearer("op-token")).leave() // only the connection was
		for _, bad := range []fanfare.Revocation{{}, {Token: "a", Subject: "b"}, {Token: "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"}, {Token: "ff_K3VQX72A_5GZ2Q4"}} {
			if _, err := s.Revoke(t.Context(), bad); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
	})
}

// A text that says who one is is nobody else's to read, whatever else is in it.
func TestTokensAreNotPublished(t *testing.T) {
	s := perform(t, guarded())
	p := s.join("/chat/x", bearer("alice-token"))
	for _, text := range []string{
		`{"type":"auth","token":"alice-token"}`,
		" {\"token\":\"alice-token\",\n\"type\" : \"auth\"}\n",
		`{"type":"auth","token":"alice-token","more":"` + strings.Repeat("x", 100_000) + `"}`,
		`{"type":"auth","id":"` + strings.Repeat("i", 300) + `","token":"alice-token"}`,
	} {
		p.say(text)
		if heard := p.said(); !strings.HasPrefix(heard, "* ") {
			t.Errorf("%.60q: heard %.60q", text, heard)
		}
	}
	p.leave()
}

// A token that says to be issued in a moment, by a clock that is ahead, is revoked
// with its subject as well.
func TestRevokeWhoComesFromTheFuture(t *testing.T) {
	ahead := register{"ahead": {Subject: "alice", Issued: time.Now().Add(time.Hour)}}
	s := perform(t, guarded(func(c *fanfare.Config) { c.Auth.Authenticator = ahead }))
	p := s.join("/chat/x", bearer("ahead"))
	eventually(t, "she is here", func() bool { return s.Stats().Sessions == 1 })
	if n, err := s.Revoke(t.Context(), fanfare.Revocation{Subject: "alice"}); n != 1 || err != nil {
		t.Errorf("closed %d, %v", n, err)
	}
	if code, _ := p.closed(); code != 4403 {
		t.Errorf("closed with %d", code)
	}
}

// Where every page is let in, none of them is by its visitor's cookie: only those
// that are named, and the server's own.
func TestCookiesOfOtherPages(t *testing.T) {
	s := perform(t, guarded(func(c *fanfare.Config) { c.Origins = []string{"*", "https://app.example.com"} }))
	for origin, own := range map[string]bool{"http://" + s.addr(): true, "https://app.example.com": true, "https://evil.example": false, "null": false} {
		headers := "Cookie: session=alice-token\r\nOrigin: " + origin
		p := s.join("/chat/x", headers)
		if got := p.head.Get("Fanfare-Position") != ""; got != own {
			t.Errorf("a page of %s is let in as its visitor: %v", origin, got)
		}
		p.leave()
		for _, method := range []string{"POST", "GET"} {
			req, _ := http.NewRequest(method, s.url("/chat/x"), strings.NewReader("hello"))
			req.Header.Set("Cookie", "session=alice-token")
			req.Header.Set("Origin", origin)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if want := map[bool]int{true: 200, false: 401}[own]; resp.StatusCode != want {
				t.Errorf("%s of a page of %s: %s, want %d", method, origin, resp.Status, want)
			}
		}
	}
}

// An Authenticator that looks at cookies itself, for sessions of its own, is not
// shown those which a page sends that is let in only because all are.
func TestSessionsOfOtherPages(t *testing.T) {
	sessions := auth.Func(func(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
		if _, err := c.Request.Cookie("sid"); err != nil {
			return nil, nil
		}
		return &auth.Identity{Subject: "carol"}, nil
	})
	s := perform(t, guarded(func(c *fanfare.Config) {
		c.Auth.Authenticator, c.Origins = sessions, []string{"*", "https://app.example.com"}
	}))
	for origin, want := range map[string]int{"https://app.example.com": 200, "https://evil.example": 401, "": 401} {
		req, _ := http.NewRequest("POST", s.url("/chat/x"), strings.NewReader("hello"))
		req.Header.Set("Cookie", "sid=1")
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a page of %q: %s, want %d", origin, resp.Status, want)
		}
	}
}

// Whoever guesses while nobody can tell fills no log.
func TestFailuresAreToldNowAndThen(t *testing.T) {
	var log bytes.Buffer // a handler writes a line at a time, under a lock of its own
	s := perform(t, guarded(func(c *fanfare.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }))
	for range 20 {
		s.refusedJoin("/chat/x", 503, "auth_unavailable", bearer("down"))
	}
	if n := strings.Count(log.String(), "nobody can tell who clients are"); n != 1 {
		t.Errorf("it was told %d times: %s", n, &log)
	}
}

// A POST, one message or many, and a cookie that comes from another page.
func TestPostAsWho(t *testing.T) {
	var log lockedBuffer
	s := perform(t, guarded(func(c *fanfare.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}))
	for _, c := range []struct {
		path, header, value string
		status              int
	}{
		{"/chat/x", "Authorization", "Bearer alice-token", 200},
		{"/chat/x?token=alice-token", "X-Nothing", "1", 200},
		{"/chat/x", "X-Nothing", "1", 401},
		{"/chat/x", "Authorization", "Bearer x", 401},
		{"/ticker", "Authorization", "Bearer alice-token", 403},
		{"/chat/x", "Cookie", "session=alice-token", 401}, // no Origin
		{"/chat/x", "Authorization", "Bearer down", 503},
	} {
		for _, media := range []string{"text/plain", "application/x-ndjson"} {
			req, _ := http.NewRequest("POST", s.url(c.path), strings.NewReader(`{"data":1}`))
			req.Header.Set(c.header, c.value)
			req.Header.Set("Content-Type", media)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%+v: %s %s", c, resp.Status, body)
			}
			if c.status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%+v: no WWW-Authenticate", c)
			}
		}
	}
	if text := log.take(); strings.Contains(text, "alice-token") {
		t.Errorf("the log has a token: %s", text)
	}
}
