package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
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
	present(t, server, "x", 1)
	publish(t, server, "x", "one")
	publish(t, server, "x", "two")
	publish(t, server, "x", "three")
	p.want("one", "two")
	p.ends(exitFine)
	if _, more := <-p.lines; more {
		t.Error("--count 2 printed more than two messages")
	}
}

// A message of a Fanfare server is in JSON what it is on every face.
func TestSubscribeJSON(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	p := start(t, "subscribe", at+"/x", "--json", "-n", "4")
	present(t, server, "x", 1)
	var position fanfare.Position
	say := func(m fanfare.Message) {
		t.Helper()
		m.Channel = "x"
		var err error
		if position, err = server.Publish(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now().Add(-time.Second)
	say(fanfare.Message{Sender: "alice", Key: "k", Payload: []byte("<你好> & \"bye\"\n")})
	say(fanfare.Message{Payload: []byte(` {"type": "chat", "n": 12345678901234567890}`)})
	say(fanfare.Message{Payload: []byte{0, 1, 2}, Binary: true})
	say(fanfare.Message{Payload: []byte(`{"not": json}`)})
	predecessor := ""
	for _, want := range []string{
		`"sender":"alice","key":"k","data":"<你好> & \"bye\"\n"}`,
		`"data": {"type": "chat", "n": 12345678901234567890}}`,
		`"encoding":"base64","data":"AAEC"}`,
		`"data":"{\"not\": json}"}`,
	} {
		line := p.line()
		var m struct {
			Type, Channel, Position, Predecessor string
			Time                                 time.Time
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q is not JSON: %v", line, err)
		}
		if !strings.HasSuffix(line, want) && !strings.HasSuffix(line, strings.Replace(want, `"data": `, `"data":`, 1)) {
			t.Errorf("%s; want at its end %s", line, want)
		}
		if m.Type != "message" || m.Channel != "x" || m.Predecessor != predecessor || m.Time.Before(began) || m.Time.After(time.Now()) {
			t.Errorf("%s after %s", line, predecessor)
		}
		predecessor = m.Position
	}
	if predecessor != position.String() {
		t.Errorf("the last position is %s, want %s", predecessor, position)
	}
	p.ends(exitFine)
}

// Of another server's messages less is known.
func TestSubscribeJSONElsewhere(t *testing.T) {
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for _, text := range []string{"<你好> & \"bye\"\n", ` {"type": "chat", "n": 12345678901234567890}`, `{"not": json}`} {
			_ = conn.Write(r.Context(), websocket.Text, []byte(text))
		}
		_ = conn.Write(r.Context(), websocket.Binary, []byte{0, 1, 2})
		_, _, _ = conn.Read(r.Context())
	})
	p := start(t, "subscribe", at, "--json", "-n", "4")
	began := time.Now()
	for _, want := range []string{
		`{"type":"text","data":"<你好> & \"bye\"\n","time":`,
		`{"type":"json","data":{"type":"chat","n":12345678901234567890},"time":`,
		`{"type":"text","data":"{\"not\": json}","time":`,
		`{"type":"binary","data":"AAEC","time":`,
	} {
		line := p.line()
		var m struct{ Time time.Time }
		if err := json.Unmarshal([]byte(line), &m); err != nil || !strings.HasPrefix(line, want) || m.Time.Before(began.Add(-time.Second)) || m.Time.After(time.Now()) {
			t.Errorf("%s, %v; want %s", line, err, want)
		}
	}
	p.ends(exitFine)
}

func TestSubscribeForATime(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	u, err := parseTarget(at + "/x")
	if err != nil {
		t.Fatal(err)
	}
	for count, want := range map[int]int{0: exitFine, 1: exitFine, 2: exitOther} {
		ctx, end := context.WithCancelCause(t.Context())
		p := perform(t, "subscribe", func(std stdio) int {
			err := subscribe(ctx, &dialFlags{maxMessage: 1 << 20}, u, false, count, std)
			if err != nil {
				std.say("%v", err)
			}
			return exitCode(err)
		})
		present(t, server, "x", 1)
		publish(t, server, "x", "one")
		p.want("one")
		end(timeIsUp(3 * time.Second)) // as --timeout does, but no sooner than all this was done
		p.ends(want)
		if said := p.errs.String(); (want == exitOther) != strings.Contains(said, "1 of 2 messages came within 3s") {
			t.Errorf("--count %d: it said %q", count, said)
		}
		connected(t, server, 0)
	}
}

// A time that ends before there was a connection has not ended well.
func TestSubscribeInVainForATime(t *testing.T) {
	at, _ := deaf(t)
	for _, args := range [][]string{{"subscribe", at}, {"subscribe", at, "--count", "1"}} {
		start(t, append(args, "--timeout", "50ms")...).ends(exitConnect, "no connection to ws://"+at+"/ came about: --timeout 50ms has passed")
	}
}

// Nor has an interruption; but whoever was connected has had what they wanted.
func TestInterruptions(t *testing.T) {
	server, live := hub(t, fanfare.Config{})
	silent, accepted := deaf(t)
	for _, command := range []string{"subscribe", "connect", "publish"} {
		for at, want := range map[string]int{silent: exitConnect, live: exitFine} {
			if at == live && command == "publish" {
				continue // it prints nothing, so that it cannot be told when it is connected
			}
			said := &program{t: t, errs: &buffer{changed: make(chan struct{}, 1)}}
			cmd := exec.Command("fanfare", command, at)
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
			cmd.Stderr = said.errs
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if at == silent {
				defer (<-accepted).Close()
			} else {
				present(t, server, "lobby", 1)
				publish(t, server, "lobby", "hello")
				if line, err := bufio.NewReader(out).ReadString('\n'); unstamped(line) != "hello\n" {
					t.Errorf("%s printed %q, %v", command, line, err)
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if code := exits(t, cmd); code != want {
				t.Errorf("%s %s: exit code %d, want %d; it said %q", command, at, code, want, said.errs)
			}
			if at == silent && !strings.Contains(said.errs.String(), "came about: it was interrupted") {
				t.Errorf("%s said %q", command, said.errs)
			}
		}
	}
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
