package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"fanfare"
	"fanfare/websocket"
)

func TestPublish(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "x")
	heard := func(want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	start(t, "publish", at+"/x", "Dinner is ready 🎉").ends(exitFine)
	heard("Dinner is ready 🎉")
	start(t, "publish", at+"/x", "").ends(exitFine)
	heard("")
	for range 2 { // one message in each channel, however many run
		p := start(t, "publish", at+"/x", "to all", "--id", "7", "--channel", "y", "--channel", "z", "-v")
		p.ends(exitFine, "published to x at ", "published to y at ", "published to z at ")
	}
	heard("to all")
	start(t, "publish", at+"/x", "to all", "--id", strings.Repeat("7", 129)).ends(exitOther, "it may have 128")
	silent := start(t, "publish", at+"/x")
	silent.stdin.Close()
	silent.ends(exitFine, "nothing was published: there is no MESSAGE")

	for _, args := range [][]string{{"publish", at + "/x", "-"}, {"publish", at + "/x"}} {
		p := start(t, args...)
		go func() {
			for i := range 2000 {
				fmt.Fprintln(p.stdin, i)
			}
			p.stdin.Close()
		}()
		for i := range 2000 {
			heard(fmt.Sprint(i))
		}
		p.ends(exitFine)
	}

	all := make([]byte, 5000)
	for i := range all {
		all[i] = byte(i)
	}
	p := start(t, "publish", at+"/x", "--binary")
	go func() {
		p.stdin.Write(all)
		p.stdin.Close()
	}()
	if got := next(); !bytes.Equal([]byte(got), all) {
		t.Errorf("a binary message of %d bytes arrived as %d", len(all), len(got))
	}
	p.ends(exitFine)
	if p.errs.String() != "" {
		t.Errorf("publish said %q", p.errs)
	}
}

func TestPublishFails(t *testing.T) {
	_, at := hub(t, fanfare.Config{})
	start(t, "publish", at+"/x", "too long", "--max-message", "3").ends(exitOther, "larger than the 3 bytes that --max-message allows")
	start(t, "publish", at+"/x", "bad \xff").ends(exitOther, "it is not UTF-8", "--binary")

	deaf, _ := forgetful(t, func(int32, string) bool { return false })
	start(t, "publish", deaf, "hello").ends(exitClosed, "may not have arrived: 1 message\n", "the connection was lost")

	strict := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		conn.Close(context.Background(), websocket.PolicyViolation, "not you")
	})
	p := start(t, "publish", strict, "-")
	p.ends(exitClosed, "1008 policy violation: not you")
}
