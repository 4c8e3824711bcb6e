package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fanfare/client"
)

func TestAuth(t *testing.T) {
	defer goleak.VerifyNone(t)
	defer http.DefaultClient.CloseIdleConnections()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	at := "http://" + listener.Addr().String()
	post := func(path, token, body string, want int) string {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "POST", at+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != want {
			t.Fatalf("POST %s: %d %s, expected %d", path, answer.StatusCode, text, want)
		}
		return string(text)
	}
	post("/login", "", "no name", 400)
	post("/live/chat/general", "", "Hello", 401)
	post("/live/chat/general", "forged", "Hello", 401)
	token := post("/login", "", "alice", 200)
	post("/live/inbox/bob", token, "Hello", 403)

	c, err := client.Dial(ctx, at+"/live/", &client.Options{Token: client.StaticToken(token)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	chat, err := c.Subscribe(ctx, "chat/general", nil)
	if err != nil {
		t.Fatal(err)
	}
	post("/live/chat/general", token, "Hello", 200)
	if m, err := chat.Next(ctx); err != nil || string(m.Bytes()) != "Hello" || m.Sender != "alice" {
		t.Errorf("%v, %v", m, err)
	}
	if page, err := c.History(ctx, "inbox/alice", nil); err != nil || len(page.Messages) != 1 {
		t.Errorf("%v, %v", page, err)
	}
	var said *client.Error
	if _, err := c.Subscribe(ctx, "inbox/bob", nil); !errors.As(err, &said) || said.Code != "forbidden" {
		t.Error(err)
	}
	post("/logout", token, "", 204)
	if _, err := chat.Next(ctx); !errors.As(err, &said) || said.Code != "revoked" {
		t.Error(err)
	}
	post("/logout", token, "", 401)
}
