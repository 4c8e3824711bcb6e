package main

import (
	"context"
	"regexp"
	"testing"
	"time"

	"fanfare"
	"fanfare/client"
	"fanfare/fanfaretest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBot is alice and the bot, whose connections are cut between her question
// and its answer.
func TestBot(t *testing.T) {
	srv := fanfaretest.NewServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, srv.URL, "chat/**") }()

	alice, err := client.Dial(ctx, srv.WebSocketURL("chat/general"), &client.Options{Name: "alice", LeastPause: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	general, err := alice.Subscribe(ctx, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	// A bot that is not there yet hears nothing: alice asks until it answers.
	for asked := 0; ; asked++ {
		if _, err := alice.Publish(ctx, "", "!time", nil); err != nil {
			t.Fatal(err)
		}
		soon, done := context.WithTimeout(ctx, 100*time.Millisecond)
		if hears(soon, t, general, `^It is \d\d:\d\d UTC\.$`) {
			done()
			break
		}
		done()
		if asked == 100 {
			t.Fatal("the bot does not answer")
		}
	}
	for i, c := range []struct{ question, answer string }{
		{"!roll", `^1d6: [1-6]$`},
		{"!roll 2d6", `^2d6: ([2-9]|1[0-2])$`},
		{"!roll 9999d9999", `^Say !roll 2d6 `},
		{"!who", `^1 here\.$`},
		{"!roll well", `^Say !roll 2d6 `},
	} {
		if _, err := alice.Publish(ctx, "", c.question, nil); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			srv.CutConnections()
		}
		if !hears(ctx, t, general, c.answer) {
			t.Fatalf("%s: no answer %s", c.question, c.answer)
		}
	}

	// In another room, and what is no question: the next that is said there is the bot's answer to the second.
	for _, text := range []string{"!well", "!time"} {
		if _, err := srv.Fanfare.Publish(ctx, &fanfare.Message{Channel: "chat/tea", Sender: "bob", Payload: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	if m := srv.WaitForMessages("chat/tea", 3)[2]; m.Sender != "bot" || !regexp.MustCompile(`^It is `).Match(m.Payload) {
		t.Errorf("%s says %q", m.Sender, m.Payload)
	}

	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), "http://127.0.0.1:1", "chat/**"); err == nil {
		t.Error("no error without a server")
	}
}

// hears reads until the bot says something that fits, and reports whether it
// did before ctx ended.
func hears(ctx context.Context, t *testing.T, sub *client.Subscription, pattern string) bool {
	t.Helper()
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			return false
		}
		if m.Sender == "bot" && regexp.MustCompile(pattern).Match(m.Bytes()) {
			return true
		}
	}
}
