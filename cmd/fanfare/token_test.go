package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"fanfare/protocol"
)

// doorman is a server that lets in who has one of the tokens, says what it is given
// after its welcome, and answers each publish with ok, but the first with tooFast.
func doorman(t *testing.T, say string, tokens ...string) string {
	return web(t, func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if strings.Contains(r.URL.RawQuery, "token") {
			t.Errorf("a token in %s", r.URL)
		}
		known := false
		for _, one := range tokens {
			known = known || token == one
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":{"code":"bad_token","message":"this token is none of ours"}}`))
			return
		}
		conn, err := (&gorilla.Upgrader{Subprotocols: []string{protocol.Subprotocol}}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.WriteMessage(gorilla.TextMessage, []byte(`{"type":"welcome","protocol":"fanfare.v1","session":"s","subject":"alice","heartbeat":25000}`))
		for limited := false; ; {
			_, text, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if say != "" && say != tooFast {
				_ = conn.WriteMessage(gorilla.TextMessage, []byte(say))
				continue
			}
			var said protocol.Command
			if err := json.Unmarshal(text, &said); err != nil {
				t.Error(err)
			}
			answer := protocol.Event{Type: protocol.OKEvent, ID: said.ID, Channel: said.Channel, Position: "7-" + string(said.Data)}
			if say == tooFast && !limited {
				limited = true
				answer = protocol.Event{Type: protocol.ErrorEvent, ID: said.ID, Code: "rate_limited", Message: "slowly", Retry: 20}
			}
			_ = conn.WriteMessage(gorilla.TextMessage, answer.Append(nil))
		}
	})
}

const tooFast = "too fast"

func TestTokens(t *testing.T) {
	at := doorman(t, "", "from-flag", "from-env", "from-file", "from-url")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, "publish", at+"/x", "1", "--token", "from-flag").ends(exitFine)
	start(t, "publish", at+"/x?token=from-url", "1").ends(exitFine)
	t.Setenv("FANFARE_TOKEN", "from-env")
	start(t, "publish", at+"/x", "1").ends(exitFine)
	start(t, "publish", at+"/x", "1", "--token", "canary", "--token-file", file).ends(exitFine)
	t.Setenv("FANFARE_TOKEN", "")
	t.Setenv("FANFARE_TOKEN_FILE", file)
	start(t, "publish", at+"/x", "1").ends(exitFine)
	t.Setenv("FANFARE_TOKEN_FILE", "")
	for _, command := range [][]string{{"connect"}, {"subscribe"}, {"publish"}} {
		args := append(command, at+"/x")
		if command[0] == "publish" {
			args = append(args, "hello")
		}
		p := start(t, args...)
		p.ends(exitConnect, "401 Unauthorized: this token is none of ours", "FANFARE_TOKEN")
		p = start(t, append(args, "--token", "canary")...)
		p.ends(exitConnect, "this token is none of ours; another token may do")
		if strings.Contains(p.errs.String(), "canary") {
			t.Errorf("it said %s", p.errs)
		}
	}
}

// However a token is wrong, it is not said.
func TestTokensAreNotSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for content, want := range map[string]string{"": "is empty", "can ary": "is one word", strings.Repeat("canary", 20_000): "can hardly be a token"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, "subscribe", "localhost:1/x", "--token-file", file)
		p.ends(exitUsage, want)
		if strings.Contains(p.errs.String(), "canary") || strings.Contains(p.errs.String(), "can ary") {
			t.Errorf("it said %s", p.errs)
		}
	}
	start(t, "subscribe", "localhost:1/x", "--token-file", file+"s").ends(exitUsage, "--token-file: ")
	for _, args := range [][]string{
		{"subscribe", "x", "--token", "the canary"},
		{"subscribe", "http://canary@[::1/x?token=canary"},
		{"subscribe", "ftp://x/?token=canary"},
		{"subscribe", "ws://me:canary@x/a?token=canary#b"},
		{"subscribe", "x", "--token", "canary", "--history", "x"},
		{"subscribe", "--help", "--token", "canary"},
	} {
		p := start(t, args...)
		p.stdin.Close()
		text := ""
		for line := range p.lines {
			text += line
		}
		if strings.Contains(p.errs.String()+text, "canary") {
			t.Errorf("%q: it said %s %s", args, p.errs, text)
		}
	}
	t.Setenv("FANFARE_TOKEN", "the canary")
	p := start(t, "subscribe", "x")
	p.ends(exitUsage, "is one word")
	if strings.Contains(p.errs.String(), "canary") {
		t.Errorf("it said %s", p.errs)
	}
}

// A connection that ends because of who one is says what can be done, and has the
// exit code of one that was closed.
func TestTheTokenEnds(t *testing.T) {
	for say, want := range map[string]string{
		`{"type":"bye","code":"token_expired","message":"the token has expired"}`: "the token has expired; another token may do",
		`{"type":"bye","code":"revoked","message":"you were let go"}`:             "you were let go; another token may do",
		`{"type":"bye","code":"forbidden","message":"no more"}`:                   "no more; a token with more rights may do",
	} {
		at := doorman(t, say, "t")
		for _, args := range [][]string{{"connect", at + "/x"}, {"subscribe", at + "/x"}, {"publish", at + "/x", "hello"}} {
			start(t, append(args, "--token", "t")...).ends(exitClosed, "the server closed the connection: "+want)
		}
	}
	// As it is for who speaks plain.
	for code, want := range map[int]string{4401: "say who you are with a token", 4403: "a token with more rights may do"} {
		var came atomic.Pointer[string]
		at := elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
			token := r.Header.Get("Authorization")
			came.Store(&token)
			conn, err := new(gorilla.Upgrader).Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, "no more"))
			_, _, _ = conn.ReadMessage()
		})
		start(t, "subscribe", at+"/x", "--token", "t").ends(exitClosed, "no more", want)
		if *came.Load() != "Bearer t" {
			t.Errorf("it came with %q", *came.Load())
		}
	}
}

// Lines that come too fast for the server are said again.
func TestTooFastForTheServer(t *testing.T) {
	at := doorman(t, tooFast, "t")
	p := start(t, "publish", at+"/x", "--json", "--token", "t")
	p.write("1", "2", "3")
	p.stdin.Close()
	for _, want := range []string{`"7-1"`, `"7-2"`, `"7-3"`} {
		if line := p.line(); !strings.Contains(line, want) {
			t.Errorf("%s, expected %s", line, want)
		}
	}
	p.ends(exitFine)
}
