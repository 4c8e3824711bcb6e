package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/fanfaretest"
)

// serveTokens runs a server that takes tokens which a test gives.
func serveTokens(t *testing.T, cfg fanfare.Config) (*fanfaretest.Server, *fanfaretest.Tokens) {
	t.Helper()
	tokens := new(fanfaretest.Tokens)
	cfg.Auth = &fanfare.AuthConfig{Authenticator: tokens}
	return fanfaretest.NewServer(t, cfg), tokens
}

// fresh gives a new token of a subject's each time, and counts them.
func fresh(tokens *fanfaretest.Tokens, subject string, lifetime time.Duration, given *atomic.Int64) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		given.Add(1)
		return tokens.Give(auth.Identity{Subject: subject, Expires: time.Now().Add(lifetime)}), nil
	}
}

// A hundred clients whose tokens last for two seconds, over as many lifetimes as
// it takes: their connections go on, and everything that is said arrives once and in order.
func TestShortLivedTokensUnderLoad(t *testing.T) {
	const clients, publishers, lifetimes = 100, 10, 3
	srv, tokens := serveTokens(t, fanfare.Config{History: 100_000, HistoryBytes: 64 << 20})
	ctx := testContext(t)
	var given atomic.Int64
	all := make([]*Client, clients)
	sessions := make([]string, clients)
	subs := make([]*Subscription, clients)
	for i := range all {
		all[i] = dialServer(t, srv.URL[len("http://"):], Options{Token: fresh(tokens, fmt.Sprint("user", i), 2*time.Second, &given)})
		sessions[i] = all[i].State().Session
		var err error
		if subs[i], err = all[i].Subscribe(ctx, "load", nil); err != nil {
			t.Fatal(err)
		}
	}
	type said struct{ By, N int }
	until := time.Now().Add(lifetimes * 2 * time.Second)
	var work sync.WaitGroup
	counts := make([]int, publishers)
	for p := range publishers {
		work.Go(func() {
			for n := 0; time.Now().Before(until); n++ {
				if _, err := all[p].Publish(ctx, "load", said{p, n}, nil); err != nil {
					t.Errorf("publisher %d: %v", p, err)
					return
				}
				counts[p] = n + 1
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	work.Wait()
	due := 0
	for _, n := range counts {
		due += n
	}
	for i, sub := range subs {
		work.Go(func() {
			next := make([]int, publishers)
			for read := 0; read < due; read++ {
				m, err := sub.Next(ctx)
				if err != nil {
					t.Errorf("client %d: after %d of %d: %v", i, read, due, err)
					return
				}
				var one said
				if err := json.Unmarshal(m.Data, &one); err != nil || one.N != next[one.By] || m.Sender != fmt.Sprint("user", one.By) {
					t.Errorf("client %d: %s of %s, expected %d of it", i, m.Data, m.Sender, next[one.By])
					return
				}
				next[one.By]++
			}
		})
	}
	work.Wait()
	anew := 0
	for i, c := range all {
		if c.State().Session != sessions[i] {
			anew++
		}
	}
	t.Logf("%d messages, %d tokens, %d of %d connections were made anew", due, given.Load(), anew, clients)
	// On a busy machine some are too late; most are not.
	if renewed := given.Load() - int64(clients+anew); renewed < given.Load()/2 {
		t.Error("tokens were not renewed in place")
	}
	if due == 0 {
		t.Error("nothing was said")
	}
}

// Whose access is revoked hears nothing more, is not let in again, and does not try for ever.
func TestRevokedClients(t *testing.T) {
	srv, tokens := serveTokens(t, fanfare.Config{})
	ctx := testContext(t)
	const clients = 20
	var given atomic.Int64
	address := srv.URL[len("http://"):]
	mallory := make([]*Subscription, clients)
	for i := range mallory {
		token := tokens.Give(auth.Identity{Subject: "mallory", Issued: time.Now().Add(-time.Second)})
		c := dialServer(t, address, Options{Token: func(context.Context) (string, error) {
			given.Add(1)
			return token, nil
		}})
		var err error
		if mallory[i], err = c.Subscribe(ctx, "chat", nil); err != nil {
			t.Fatal(err)
		}
	}
	alice, err := dialServer(t, address, Options{Token: fresh(tokens, "alice", time.Hour, new(atomic.Int64))}).Subscribe(ctx, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.Publish("chat", "before")
	if n, err := srv.Fanfare.Revoke(ctx, fanfare.Revocation{Subject: "mallory"}); n != clients || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	srv.Publish("chat", "after")
	for _, sub := range mallory {
		for {
			m, err := sub.Next(ctx)
			if err == nil && string(m.Data) == `"before"` {
				continue
			}
			var said *Error
			if !errors.As(err, &said) || said.Code != "revoked" {
				t.Errorf("%v, %v", m, err)
			}
			break
		}
	}
	for _, want := range []string{`"before"`, `"after"`} {
		if m, err := alice.Next(ctx); err != nil || string(m.Data) != want {
			t.Errorf("%v, %v; expected %s", m, err, want)
		}
	}
	if n := given.Load(); n != 2*clients {
		t.Errorf("%d clients asked for %d tokens", clients, n)
	}
}

// A server that was away takes its clients' tokens again, new ones from those whose own have expired.
func TestTokensOverACut(t *testing.T) {
	srv, tokens := serveTokens(t, fanfare.Config{})
	ctx := testContext(t)
	var given atomic.Int64
	c := dialServer(t, srv.URL[len("http://"):], Options{Token: fresh(tokens, "alice", 500*time.Millisecond, &given)})
	sub, err := c.Subscribe(ctx, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		srv.GoOffline()
		for s := range c.States(ctx) {
			if s.Phase == Waiting {
				break
			}
		}
		srv.Publish("chat", fmt.Sprint("while away ", round))
		time.Sleep(600 * time.Millisecond) // so that the token that was said is of no use any more
		srv.GoOnline()
		if m, err := sub.Next(ctx); err != nil || string(m.Bytes()) != fmt.Sprint("while away ", round) {
			t.Fatalf("%v, %v", m, err)
		}
	}
	// Somebody whose tokens are old before they are said is told so once more, and that is all.
	given.Store(0)
	late, err := Dial(ctx, srv.URL, quick(Options{Patient: true, Token: fresh(tokens, "late", -time.Hour, &given)}))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for range late.States(ctx) {
	}
	var said *Error
	if s := late.State(); !errors.As(s.Err, &said) || said.Code != "token_expired" || given.Load() != 2 {
		t.Errorf("%+v after %d tokens", s, given.Load())
	}
}

// What a token grants counts for every command, and other rights go on.
func TestRights(t *testing.T) {
	srv, tokens := serveTokens(t, fanfare.Config{})
	ctx := testContext(t)
	address := srv.URL[len("http://"):]
	token := tokens.Give(auth.Identity{Subject: "alice", Allow: map[auth.Right][]string{
		auth.Subscribe: {"news", "inbox/$sub"}, auth.Publish: {"inbox/bob"}, auth.History: {"inbox/$sub"}, auth.Presence: nil,
	}})
	c := dialServer(t, address, Options{Token: StaticToken(token)})
	srv.Publish("news", "old")
	for what, err := range map[string]func() error{
		"publish":          func() error { _, err := c.Publish(ctx, "news", 1, nil); return err },
		"subscribe":        func() error { _, err := c.Subscribe(ctx, "secret", nil); return err },
		"subscribe inbox":  func() error { _, err := c.Subscribe(ctx, "inbox/bob", nil); return err },
		"history":          func() error { _, err := c.History(ctx, "news", nil); return err },
		"presence":         func() error { _, err := c.Presence(ctx, "news", 0); return err },
		"presence of news": func() error { _, err := c.Subscribe(ctx, "news", &SubscribeOptions{Presence: true}); return err },
	} {
		var said *Error
		if err := err(); !errors.As(err, &said) || said.Code != "forbidden" {
			t.Errorf("%s: %v", what, err)
		}
	}
	sub, err := c.Subscribe(ctx, "news", &SubscribeOptions{Since: "0"})
	if err != nil {
		t.Fatal(err)
	}
	var gap *GapError
	if _, err := sub.Next(ctx); !errors.As(err, &gap) || gap.Reason != "forbidden" {
		t.Errorf("%v, expected a gap", err)
	}
	srv.Publish("news", "new")
	if m, err := sub.Next(ctx); err != nil || string(m.Bytes()) != "new" {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := c.Publish(ctx, "inbox/bob", "hi", nil); err != nil {
		t.Error(err)
	}
	if _, err := c.History(ctx, "inbox/alice", nil); err != nil {
		t.Error(err)
	}
}
