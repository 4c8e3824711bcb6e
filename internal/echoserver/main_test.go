package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fanfare/websocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEcho(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(echo))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{Limit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for _, n := range []int{0, 1, 16 << 20} {
		want := strings.Repeat("x", n)
		sent := make(chan error, 1)
		go func() { sent <- c.Write(ctx, websocket.Text, []byte(want)) }()
		if kind, got, err := c.Read(ctx); err != nil || kind != websocket.Text || string(got) != want {
			t.Fatalf("%d bytes: %v, %d bytes, %v", n, kind, len(got), err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	// 65,537 fragments, the most that the public test suite sends in one message.
	w, err := c.Writer(ctx, websocket.Binary)
	if err != nil {
		t.Fatal(err)
	}
	const fragments = 65_536
	sent := make(chan error, 1)
	go func() {
		for range fragments {
			if _, err := w.Write([]byte("ab")); err != nil {
				sent <- err
				return
			}
		}
		sent <- w.Close()
	}()
	if _, got, err := c.Read(ctx); err != nil || string(got) != strings.Repeat("ab", fragments) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx, websocket.NormalClosure, ""); err != nil {
		t.Error(err)
	}
}
