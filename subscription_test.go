package fanfare_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"fanfare"
)

// The program speaks and listens like everybody else.
func TestSubscribe(t *testing.T) {
	s := perform(t, fanfare.Config{History: 3, MaxLag: 1000})
	publish := func(n int) fanfare.Position {
		t.Helper()
		pos, err := s.Publish(t.Context(), &fanfare.Message{Channel: "a/b", Sender: "me", Payload: fmt.Append(nil, n)})
		if err != nil {
			t.Fatal(err)
		}
		return pos
	}
	sub, err := s.Subscribe(t.Context(), "a/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	alice := s.join("/a/b?name=alice")
	alice.say("hello")
	m, err := sub.Next(t.Context())
	if err != nil || string(m.Payload) != "hello" || m.Sender != "alice" || m.Channel != "a/b" || m.Binary || m.Time.IsZero() || m.Position != sub.Position() {
		t.Fatalf("%+v %v", m, err)
	}
	first := publish(0)
	if got := alice.said(); got != "alice: hello" {
		t.Fatal(got)
	}
	if got := alice.said(); got != "me: 0" {
		t.Fatal(got)
	}
	for n := 1; n < 100; n++ {
		publish(n)
	}
	// The subscription lagged more than MaxLag, and history has three.
	var gap *fanfare.GapError
	if _, err := sub.Next(t.Context()); !errors.As(err, &gap) || gap.Missed != 97 || gap.Reason != "outrun" {
		t.Fatalf("%v", err)
	}
	n := 97
	for m, err := range sub.Messages(t.Context()) {
		if err != nil || string(m.Payload) != fmt.Sprint(n) {
			t.Fatalf("%v %v, want %d", m, err, n)
		}
		if n++; n == 100 {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sub.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	publish(100)
	if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "100" {
		t.Fatalf("after a wait that was given up: %v %v", m, err)
	}
	sub.Close()
	sub.Close()
	if _, err := sub.Next(t.Context()); !errors.Is(err, fanfare.ErrUnsubscribed) {
		t.Fatal(err)
	}
	if sub, err = s.Subscribe(t.Context(), "a/b", &fanfare.SubscribeOptions{Since: &first}); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Next(t.Context()); !errors.As(err, &gap) || gap.Missed != 97 || gap.Reason != "expired" {
		t.Fatal(err)
	}
	if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "98" {
		t.Fatalf("%v %v", m, err)
	}
	sub.Close()
	if _, err := s.Subscribe(t.Context(), "-/x", nil); err == nil {
		t.Fatal("subscribed to the server's own")
	}
}

// The caller's bytes stay the caller's.
func TestPublishCopies(t *testing.T) {
	s := perform(t, fanfare.Config{})
	sub, err := s.Subscribe(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	payload := []byte("before")
	if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "a", Payload: payload}); err != nil {
		t.Fatal(err)
	}
	copy(payload, "AFTER!")
	if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "before" {
		t.Fatalf("%s %v", m.Payload, err)
	}
}
