package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/websocket"
)

var quiet = log.New(io.Discard, "", 0)

func TestSubscribe(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	p := start(t, "subscribe", at+"/x", "--count", "2")
	connected(t, server, 1)
	publish(t, server, "x", "one")
	publish(t, server, "x", "two")
	publish(t, server, "x", "three")
	p.want("one", "two")
	p.ends(exitFine)
	if _, more := <-p.lines; more {
		t.Error("--count 2 printed more than two messages")
	}
}

func TestSubscribeJSON(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	p := start(t, "subscribe", at+"/x", "--json", "-n", "4")
	connected(t, server, 1)
	began := time.Now().Add(-time.Second)
	publish(t, server, "x", "<你好> & \"bye\"\n")
	publish(t, server, "x", ` {"type": "chat", "n": 12345678901234567890}`)
	if _, err := server.Publish(context.Background(), &fanfare.Message{Channel: "x", Payload: []byte{0, 1, 2}, Binary: true}); err != nil {
		t.Fatal(err)
	}
	publish(t, server, "x", `{"not": json}`)
	for _, want := range []struct{ kind, data string }{
		{"text", `"<你好> & \"bye\"\n"`},
		{"json", `{"type":"chat","n":12345678901234567890}`},
		{"binary", `"AAEC"`},
		{"text", `"{\"not\": json}"`},
	} {
		line := p.line()
		var m struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
			Time time.Time       `json:"time"`
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q is not JSON: %v", line, err)
		}
		var text string
		data := string(m.Data)
		if json.Unmarshal(m.Data, &text) == nil && want.kind == "text" {
			quoted, _, _ := strings.Cut(data, "[") // the stamp
			_, rest, stamped := strings.Cut(data, "] ")
			if stamped && quoted == `"` {
				data = `"` + rest
			}
		}
		if m.Type != want.kind || data != want.data || m.Time.Before(began) || m.Time.After(time.Now()) {
			t.Errorf("%s; want the type %s and the data %s", line, want.kind, want.data)
		}
	}
	p.ends(exitFine)
}

func TestSubscribeForATime(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	p := start(t, "subscribe", at+"/x", "--timeout", "300ms")
	p.ends(exitFine)
	connected(t, server, 0)
	p = start(t, "subscribe", at+"/x", "--count", "2", "--timeout", "3s")
	connected(t, server, 1)
	publish(t, server, "x", "one")
	p.want("one")
	p.ends(exitOther, "1 of 2 messages came within 3s")
	connected(t, server, 0)
}

func TestSubscribeUntilGoodbye(t *testing.T) {
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		_ = conn.Write(r.Context(), websocket.Text, []byte("only one"))
		conn.Close(context.Background(), websocket.NormalClosure, "")
	})
	p := start(t, "subscribe", at)
	p.want("only one")
	p.ends(exitFine)
	p = start(t, "subscribe", at, "--count", "2")
	p.want("only one")
	p.ends(exitOther, "1 of 2 messages came")
}
