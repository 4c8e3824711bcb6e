package websocket

import (
	"fmt"
	"slices"
	"testing"

	"fanfare/internal/frame"
)

func TestPongsThatNobodyAskedFor(t *testing.T) {
	var told []string // by one goroutine; read once a later message has been
	server, client := pair(t, nil, &DialOptions{OnPong: func(payload []byte, messages int64) {
		told = append(told, fmt.Sprintf("%s after %d", payload, messages))
	}})
	ctx := testContext(t)
	pong := func(payload string) {
		f := &outFrame{bytes: server.appendControl(nil, frame.Pong, []byte(payload)), done: make(chan struct{})}
		server.out.addControl(f)
		<-f.done
	}
	pong("a")
	go func() {
		for { // answers pings
			if _, _, err := server.Read(ctx); err != nil {
				return
			}
		}
	}()
	if _, err := client.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := server.Write(ctx, Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	pong("")
	pong("b")
	if err := server.Write(ctx, Text, []byte("three")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := client.Read(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"a after 0", "b after 2"}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
}
