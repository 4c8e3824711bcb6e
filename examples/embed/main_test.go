package main

import (
	"context"
	"encoding/json"
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
	if got, want := do("POST", "/orders", "", `{"item":"茶 🍵"}`, 201), `{"id":1,"item":"茶 🍵","ready":false}`+"\n"; got != want {
		t.Errorf("an order is answered with %s, want %s", got, want)
	}
	hears(`{"type":"ordered","order":{"id":1,"item":"茶 🍵","ready":false}}`)
	do("POST", "/orders", "", `{"item":"cake","id":77,"ready":true}`, 201)
	hears(`{"type":"ordered","order":{"id":2,"item":"cake","ready":false}}`)

	do("POST", "/orders", "", `{"item":""}`, 400)
	do("POST", "/orders", "", `tea`, 400)
	do("POST", "/orders", "", `{"item":"`+strings.Repeat("x", 5<<10)+`"}`, 400)

	// The service listens too: it takes what the kitchen says, and only that.
	for _, says := range []string{`hello`, `{"type":"ready","id":0}`, `{"type":"ready","id":3}`, `{"type":"ready","id":"1"}`, `{"type":"ready","id":2}`} {
		if err := kitchen.WriteMessage(websocket.TextMessage, []byte(says)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := kitchen.ReadMessage(); err != nil { // its own words come back
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var orders []order
		if err := json.Unmarshal([]byte(do("GET", "/orders", "", "", 200)), &orders); err != nil {
			t.Fatal(err)
		}
		if len(orders) == 2 && !orders[0].Ready && orders[1].Ready {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("order 2 is not ready, or something else is: %+v", orders)
		}
	}

	if page := do("GET", "/live/orders", "text/html", "", 200); !strings.Contains(page, "<title>") {
		t.Errorf("a browser gets no page at /live/orders:\n%.300s", page)
	}
	if history := do("GET", "/live/orders?limit=7", "application/json", "", 200); !strings.Contains(history, `"item":"cake"`) {
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
