package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/protocol"
	"fanfare/websocket"
)

// tokens are given one after the other, and the last for ever.
func tokens(all ...string) (give func(context.Context) (string, error), asked *atomic.Int64) {
	asked = new(atomic.Int64)
	return func(context.Context) (string, error) {
		return all[min(int(asked.Add(1)), len(all))-1], nil
	}, asked
}

func bearer(r *http.Request) string { return r.Header.Get("Authorization") }

// A token in the URL becomes a header, and an option wins over it.
func TestATokenIsNeverInTheURL(t *testing.T) {
	st := newStage(t)
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{}, "Bearer canary"},
		{Options{Token: StaticToken("better")}, "Bearer better"},
		{Options{Token: StaticToken("")}, ""},
	} {
		c, err := Dial(st.ctx, st.url+"/chat?token=canary&x=1", quick(tt.o))
		if err != nil {
			t.Fatal(err)
		}
		r := st.enter().request
		if got := bearer(r); got != tt.want || strings.Contains(r.URL.String(), "canary") || r.URL.Query().Get("x") != "1" {
			t.Errorf("it came with %q to %v, expected %q", got, r.URL, tt.want)
		}
		_ = c.Close()
	}
}

// What cannot be a token is said without saying it.
func TestTokensAreNotInErrors(t *testing.T) {
	st := newStage(t)
	for _, bad := range []string{"canary\r\nX: y", "canary é", "the canary"} {
		if _, err := Dial(st.ctx, st.url, quick(Options{Token: StaticToken(bad)})); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	st.refuses(refuseWith(401, nil, map[string]any{"error": Error{Code: "bad_token", Message: "no"}}))
	if _, err := Dial(st.ctx, st.url+"?token=canary", quick(Options{})); err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
	if _, err := Dial(st.ctx, "http://127.0.0.1:1/?token=canary", quick(Options{})); err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
}

func TestRenewing(t *testing.T) {
	st := newStage(t)
	st.welcomes(`{"type":"welcome","protocol":"fanfare.v1","session":"s1","subject":"alice","expires":2000,"heartbeat":25000}`)
	give, asked := tokens("t1", "t1", "t2", "t3", "t4")
	c, a := st.dial(Options{Token: give})
	if s := c.State(); s.Subject != "alice" || bearer(a.request) != "Bearer t1" {
		t.Errorf("%+v, %s", s, bearer(a.request))
	}
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	a.message("chat", 2)
	a.says(`{"type":"renew","expires":1000}`)
	a.says(`{"type":"renew","expires":900}`)
	command := a.hears(protocol.Auth) // the same once more would change nothing
	if command.Token != "t2" || command.ID == "" {
		t.Errorf("%+v", command)
	}
	a.message("chat", 3)
	a.says(`{"type":"error","id":%q,"code":"auth_unavailable","message":"not now"}`, command.ID)
	if command = a.hears(protocol.Auth); command.Token != "t3" {
		t.Errorf("%+v", command)
	}
	a.says(`{"type":"ok","id":%q,"subject":"alice","expires":2000}`, command.ID)
	if command = a.hears(protocol.Auth); command.Token != "t4" { // that of the second question
		t.Errorf("%+v", command)
	}
	a.says(`{"type":"ok","id":%q,"subject":"alice","expires":2000}`, command.ID)
	a.message("chat", 4)
	st.reads(sub, 2, 3, 4)
	a.hearsNothing()
	if n := asked.Load(); n != 5 {
		t.Errorf("it asked for a token %d times", n)
	}
}

// A connection whose token ran out is followed by one with a new token, as often as that happens.
func TestATokenRunsOut(t *testing.T) {
	st := newStage(t)
	give, _ := tokens("t1", "t2", "t3", "t4")
	c, a := st.dial(Options{Token: give, LeastPause: 50 * time.Millisecond, MostPause: 50 * time.Millisecond})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	for _, next := range []string{"t2", "t3", "t4"} {
		a.says(`{"type":"bye","code":"token_expired","message":"it has expired"}`)
		if a = st.enter(); bearer(a.request) != "Bearer "+next {
			t.Fatalf("it came back with %q, expected %s", bearer(a.request), next)
		}
		a.agrees("chat", "7-1", "7-1")
	}
	a.message("chat", 2)
	st.reads(sub, 2)
	a.says(`{"type":"bye","code":"token_expired","message":"it has expired"}`)
	var said *Error
	if s := st.reaches(c, Closed); !errors.As(s.Err, &said) || said.Code != "token_expired" { // t4 again
		t.Errorf("%+v", s)
	}
}

// However a token is refused, another one is tried once; and then it is over.
func TestRefusedTokens(t *testing.T) {
	refusal := func(status int, code string) func(*stage) {
		return func(st *stage) {
			st.refuses(refuseWith(status, nil, map[string]any{"error": Error{Code: code, Message: "no"}}))
		}
	}
	byes := func(text string) func(*stage) { return func(st *stage) { st.welcomes(text) } }
	for name, tt := range map[string]struct {
		later func(*stage) // from the second connection on
		code  string
	}{
		"bad":         {refusal(401, "bad_token"), "bad_token"},
		"expired":     {refusal(401, "token_expired"), "token_expired"},
		"not granted": {refusal(403, "forbidden"), "forbidden"},
		"goodbye":     {byes(`{"type":"bye","code":"token_revoked","message":"no"}`), "token_revoked"},
	} {
		for _, again := range []string{"another", "the same"} {
			t.Run(name+", "+again, func(t *testing.T) {
				st := newStage(t)
				give, asked := tokens("t1", "t2", "t3", "t4", "t5")
				want := int64(3)
				if again == "the same" {
					give, asked = tokens("t1", "t2")
				}
				c, a := st.dial(Options{Token: give})
				tt.later(st)
				a.cut()
				var said *Error
				if s := st.reaches(c, Closed); !errors.As(s.Err, &said) || said.Code != tt.code || asked.Load() != want {
					t.Errorf("%+v after %d tokens, expected %s after %d", s, asked.Load(), tt.code, want)
				}
			})
		}
	}
	t.Run("there is no other", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{})
		refusal(401, "unauthenticated")(st)
		a.cut()
		var said *Error
		if s := st.reaches(c, Closed); !errors.As(s.Err, &said) || said.Code != "unauthenticated" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("nobody knows", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{Token: StaticToken("t")})
		came := make(chan struct{}, 100)
		st.refuses(func(w http.ResponseWriter, r *http.Request) bool {
			came <- struct{}{}
			return len(came) <= 3 && refuseWith(503, nil, map[string]any{"error": Error{Code: "auth_unavailable", Message: "not now"}})(w, r)
		})
		a.cut()
		st.enter()
		if c.State().Phase == Closed || len(came) < 4 {
			t.Errorf("%+v after %d attempts", c.State(), len(came))
		}
	})
	for _, code := range []websocket.Code{4401, 4403} {
		t.Run(http.StatusText(int(code-4000)), func(t *testing.T) {
			st := newStage(t)
			give, asked := tokens("t1", "t2", "t2")
			c, a := st.dial(Options{Token: give, LeastPause: time.Hour, MostPause: time.Hour})
			go a.conn.Close(st.ctx, code, "no more")
			if s := st.reaches(c, Waiting); asked.Load() != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("revoked, and the next one will do", func(t *testing.T) {
		st := newStage(t)
		give, _ := tokens("t1", "t2")
		_, a := st.dial(Options{Token: give})
		a.says(`{"type":"bye","code":"revoked","message":"gone"}`)
		if b := st.enter(); bearer(b.request) != "Bearer t2" {
			t.Error(bearer(b.request))
		}
	})
}

// A proxy that takes headers away makes the token a message.
func TestIntroduction(t *testing.T) {
	const required = `{"type":"welcome","protocol":"fanfare.v1","session":"s1","auth":"required","heartbeat":25000}`
	t.Run("taken", func(t *testing.T) {
		st := newStage(t)
		st.welcomes(required)
		dialed := later(t, func() (*Client, error) { return Dial(st.ctx, st.url, quick(Options{Token: StaticToken("t1")})) })
		a := st.enter()
		command := a.hears(protocol.Auth)
		if command.Token != "t1" {
			t.Errorf("%+v", command)
		}
		a.says(`{"type":"heartbeat"}`)
		a.says(`{"type":"ok","id":%q,"subject":"alice"}`, command.ID)
		c, err := dialed()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if s := c.State(); s.Subject != "alice" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("refused", func(t *testing.T) {
		st := newStage(t)
		st.welcomes(required)
		for _, answer := range []string{
			`{"type":"error","id":"auth","code":"bad_token","message":"no"}`,
			`{"type":"bye","code":"bad_token","message":"no"}`,
		} {
			dialed := later(t, func() (*Client, error) { return Dial(st.ctx, st.url, quick(Options{Token: StaticToken("t1")})) })
			a := st.enter()
			a.hears(protocol.Auth)
			a.says("%s", answer)
			var said *Error
			if _, err := dialed(); !errors.As(err, &said) || said.Code != "bad_token" {
				t.Error(err)
			}
		}
	})
	t.Run("nobody", func(t *testing.T) {
		st := newStage(t)
		st.welcomes(required)
		var said *Error
		if _, err := Dial(st.ctx, st.url, quick(Options{})); !errors.As(err, &said) || said.Code != "unauthenticated" {
			t.Error(err)
		}
	})
}

// A right that is taken away ends what it granted, and nothing else.
func TestUnsubscribed(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	secret := st.subscribe(c, a, "secret/*", "7-1", nil)
	open := st.subscribe(c, a, "open", "7-1", nil)
	a.says(`{"type":"message","channel":"secret/1","pattern":"secret/*","position":"7-2","time":"2026-11-22T16:00:00.123Z","data":2}`)
	a.says(`{"type":"unsubscribed","channel":"secret/*","code":"forbidden","message":"no longer"}`)
	a.says(`{"type":"unsubscribed","channel":"never heard of it","code":"forbidden","message":"no longer"}`)
	a.message("open", 3)
	st.reads(open, 3)
	st.reads(secret, 2) // it had arrived before
	var said *Error
	if _, err := secret.Next(st.ctx); !errors.As(err, &said) || said.Code != "forbidden" {
		t.Error(err)
	}
	a.hearsNothing()
	a.cut()
	b := st.enter()
	b.agrees("open", "7-3", "7-3")
	b.hearsNothing()
}

// Who may not read history hears of it as a gap, over a reconnection and after a lag.
func TestNoRightToHistory(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{Buffer: 2})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	a.cut()
	b := st.enter()
	b.agrees("chat", "7-1", "7-5")
	b.says(`{"type":"gap","channel":"chat","reason":"forbidden","position":"7-5"}`)
	b.message("chat", 6)
	if gap := st.readsGap(sub, "forbidden"); gap.Position != "7-5" {
		t.Error(gap)
	}
	st.reads(sub, 6)
	for offset := 7; offset <= 9; offset++ {
		b.message("chat", offset)
	}
	b.hears(protocol.Unsubscribe)
	st.reads(sub, 7)
	b.says(`{"type":"error","id":%q,"code":"forbidden","message":"no history"}`, b.hears(protocol.History).ID)
	b.agrees("chat", "7-8", "7-10")
	b.says(`{"type":"gap","channel":"chat","reason":"forbidden","position":"7-10"}`)
	st.reads(sub, 8)
	st.readsGap(sub, "forbidden")
	b.message("chat", 11)
	st.reads(sub, 11)
}

// Where the server takes no more for now, Publish waits and Send does not.
func TestRateLimits(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	began := time.Now()
	published := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, nil) })
	first := a.hears(protocol.Publish)
	a.says(`{"type":"error","code":"rate_limited","message":"slowly"}`) // to nobody
	a.says(`{"type":"error","id":%q,"code":"rate_limited","message":"slowly","retry":200}`, first.ID)
	again := a.hears(protocol.Publish)
	if waited := time.Since(began); waited < 200*time.Millisecond || again.ID != first.ID {
		t.Errorf("said again after %v, with the id %q after %q", waited, again.ID, first.ID)
	}
	a.says(`{"type":"ok","id":%q,"channel":"chat","position":"7-1"}`, again.ID)
	if position, err := published(); err != nil || position != "7-1" {
		t.Error(position, err)
	}

	r, err := c.Send("chat", 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.says(`{"type":"error","id":%q,"code":"rate_limited","message":"slowly","retry":60000}`, a.hears(protocol.Publish).ID)
	var said *Error
	if _, err := r.Wait(st.ctx); !errors.As(err, &said) || said.Code != "rate_limited" || said.Retry != 60000 {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(st.ctx)
	published = later(t, func() (string, error) { return c.Publish(ctx, "chat", 3, nil) })
	a.says(`{"type":"error","id":%q,"code":"rate_limited","message":"slowly","retry":60000}`, a.hears(protocol.Publish).ID)
	st.settled(c, a)
	cancel()
	if _, err := published(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	subscribed := later(t, func() (*Subscription, error) { return c.Subscribe(st.ctx, "chat", nil) })
	a.says(`{"type":"error","id":%q,"code":"forbidden","message":"not you"}`, a.hears(protocol.Subscribe).ID)
	if _, err := subscribed(); !errors.As(err, &said) || said.Code != "forbidden" {
		t.Error(err)
	}
}
