package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

// patience is for a busy machine; nothing here takes a noticeable time.
const patience = 20 * time.Second

// TestEmbed is a customer who orders over REST and a kitchen that listens over
// a WebSocket.
func TestEmbed(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, interrupt := context.WithCancel(t.Context())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener) }()
	url := "http://" + listener.Addr().String()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{}}

	do := func(method, path, accept, body string, status int) string {
		t.Helper()
		req, err := http.NewRequest(method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status {
			t.Fatalf("%s %s: %s, want %d\n%s", method, path, resp.Status, status, b)
		}
		return string(b)
	}

	kitchen, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http")+"/live/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer kitchen.Close()
	kitchen.SetReadDeadline(time.Now().Add(patience))
	hears := func(want string) {
		t.Helper()
		kind, got, err := kitchen.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if kind != websocket.TextMessage || string(got) != want {
			t.Fatalf("the kitchen hears %s, want %s", got, want)
		}
	}

	if got := do("GET", "/orders", "", "", 200); got != "[]\n" {
		t.Errorf("the orders are %s before anybody ordered", got)
	}
	do("POST", "/orders", "", `{"item":"茶 🍵"}`, 201)
	hears(`{"item":"茶 🍵"}`)
	do("POST", "/orders", "", `{"item": "cake"}`, 201)
	hears(`{"item": "cake"}`)
	for _, bad := range []string{"", "tea", `{"item":`, `{"item":"` + strings.Repeat("x", 4<<10) + `"}`} {
		do("POST", "/orders", "", bad, 400)
	}
	if got, want := do("GET", "/orders", "", "", 200), `[{"item":"茶 🍵"},{"item":"cake"}]`+"\n"; got != want {
		t.Errorf("the orders are %s, want %s", got, want)
	}
	// What was refused was not announced: the next that the kitchen hears is this.
	if err := kitchen.WriteMessage(websocket.TextMessage, []byte(`{"ready":"cake"}`)); err != nil {
		t.Fatal(err)
	}
	hears(`{"ready":"cake"}`)

	if page := do("GET", "/live/orders", "text/html", "", 200); !strings.Contains(page, "<title>") {
		t.Errorf("a browser gets no page at /live/orders:\n%.300s", page)
	}
	if history := do("GET", "/live/orders?limit=7", "application/json", "", 200); !strings.Contains(history, `"data":{"item": "cake"}`) {
		t.Errorf("history does not know of the order:\n%s", history)
	}

	interrupt()
	if _, _, err := kitchen.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("at the end the kitchen is told %v, want 1001", err)
	}
	kitchen.Close()
	client.CloseIdleConnections()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the service does not end")
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("the service ended, and its port still answers")
	}
}
