package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/fanfaretest"
)

// The clients against a server that asks who they are.
func TestWithAuthentication(t *testing.T) {
	var tokens fanfaretest.Tokens
	server, at := hub(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: &tokens}})
	token := tokens.Give(auth.Identity{Subject: "alice"})
	next := listener(t, server, "x")
	start(t, "publish", at+"/x", "hello", "--token", token).ends(exitFine)
	if got := next(); got != "hello" {
		t.Errorf("%q was said", got)
	}
	for _, args := range [][]string{{"publish", at + "/x", "hello"}, {"subscribe", at + "/x"}, {"connect", at + "/x"}} {
		start(t, args...).ends(exitConnect, "say who you are with a token: FANFARE_TOKEN")
		start(t, append(args, "--token", "forged")...).ends(exitConnect, "401", "another token may do")
	}
	narrow := tokens.Give(auth.Identity{Subject: "bob", Allow: map[auth.Right][]string{auth.Subscribe: {"x"}, auth.Publish: nil}})
	start(t, "publish", at+"/x", "hello", "--token", narrow).ends(exitOther, "not published to x")
	start(t, "subscribe", at+"/y", "--token", narrow).ends(exitOther, "a token with more rights may do")

	// Speaking plain.
	p := start(t, "connect", at+"/x", "--subprotocol", "fanfare.plain", "--token", token)
	publish(t, server, "x", "to all")
	p.stdin.Close()
	p.ends(exitFine)

	// Below a prefix, which plain speech finds out.
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", server))
	mounted := web(t, mux.ServeHTTP)
	start(t, "publish", mounted+"/live/x", "from below", "--token", token).ends(exitFine)

	// Who is revoked is told so.
	p = start(t, "subscribe", at+"/z", "--token", token)
	present(t, server, "z", 1)
	if _, err := server.Revoke(t.Context(), fanfare.Revocation{Subject: "alice"}); err != nil {
		t.Fatal(err)
	}
	p.ends(exitClosed, "revoked", "another token may do")
}

// A file with a token that is written anew every second, for tokens that last two,
// and a line that is cut: everything arrives, once and in order.
func TestATokenFileThatIsWrittenAnew(t *testing.T) {
	var tokens fanfaretest.Tokens
	file := filepath.Join(t.TempDir(), "token")
	write := func() {
		token := tokens.Give(auth.Identity{Subject: "alice", Expires: time.Now().Add(2 * time.Second)})
		if err := os.WriteFile(file+".new", []byte(token), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Error(err)
		}
	}
	write()
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				write()
			case <-ctx.Done():
				return
			}
		}
	})
	defer writing.Wait()
	defer stop()
	server, at := hub(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: &tokens}})
	line := newCable(t, at)
	reader := start(t, "subscribe", line.Addr().String()+"/x", "--token-file", file)
	present(t, server, "x", 1)
	writer := start(t, "publish", line.Addr().String()+"/x", "-", "--token-file", file)
	const rounds = 40
	lines := make([]string, 0, rounds)
	for i := range rounds {
		lines = append(lines, time.Now().Format(time.RFC3339Nano))
		writer.write(lines[i])
		reader.want("alice: " + lines[i])
		if i%15 == 14 {
			line.cut(false)
		}
		time.Sleep(100 * time.Millisecond) // over two lifetimes of a token in all
	}
	writer.stdin.Close()
	writer.ends(exitFine)
}
