package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/websocket"
)

// A server with 256 descriptors and 400 who want in. The surplus is told to come
// back, health checks and POST are answered, and those inside notice nothing;
// also when 400 more hold connections on which they never speak.
func TestDescriptorsRunOut(t *testing.T) {
	server, said, at := limitedDaemon(t, "ulimit -n 256")
	said.says("limit=256 connections=2")

	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		inside []*websocket.Conn
	)
	for range 400 {
		all.Go(func() {
			conn := enter(t, at)
			if conn == nil {
				return
			}
			mu.Lock()
			inside = append(inside, conn)
			mu.Unlock()
		})
	}
	all.Wait()
	t.Logf("%d of 400 are inside", len(inside))
	if len(inside) < 50 || len(inside) > 256-32 {
		t.Fatalf("of 400 clients %d are inside, with 256 descriptors of which 32 are kept", len(inside))
	}
	for conn := enter(t, at); conn != nil; conn = enter(t, at) { // to the last place
		inside = append(inside, conn)
	}
	if len(inside) < 200 {
		t.Errorf("there was room for %d only", len(inside))
	}
	said.says("out of file descriptors")
	answers(t, at, false)
	exchange(t, at, inside, "a")

	// Those who never speak take the last descriptors, for ten seconds at most.
	mute := make([]net.Conn, 400)
	for i := range mute {
		var err error
		if mute[i], err = net.Dial("tcp", at); err != nil {
			t.Fatal(err)
		}
		defer mute[i].Close()
	}
	exchange(t, at, inside, "b")
	answers(t, at, true)
	exchange(t, at, inside, "c")

	before, began := processorTime(t, server.Process.Pid), time.Now()
	time.Sleep(time.Second)
	spent, elapsed := processorTime(t, server.Process.Pid)-before, time.Since(began)
	t.Logf("in %v of shortage the server took %v of the processor", elapsed, spent)
	if spent > elapsed/5 {
		t.Errorf("in %v of shortage the server took %v of the processor, want less than a fifth", elapsed, spent)
	}

	for _, conn := range inside[:50] {
		conn.CloseNow()
	}
	inside = inside[50:]
	began = time.Now()
	for newcomers := 0; newcomers < 40; {
		if conn := enter(t, at); conn != nil {
			inside = append(inside, conn)
			newcomers++
		} else if time.Since(began) > 5*time.Second {
			t.Fatalf("50 have left, and five seconds later only %d others were let in", newcomers)
		}
	}
	t.Logf("40 others were let in within %v", time.Since(began))
	exchange(t, at, inside, "d")
	if strings.Contains(said.errs.String(), "Accept error") || strings.Count(said.errs.String(), "\n") > 10 {
		t.Errorf("it said %q", said.errs)
	}
}

// The limit that counts is the hard one.
func TestTheSoftLimitIsRaised(t *testing.T) {
	_, said, _ := limitedDaemon(t, "ulimit -S -n 64 && ulimit -H -n 512")
	said.says("limit=511 connections=4")
}

// limitedDaemon is daemon, after a shell command.
func limitedDaemon(t *testing.T, limits string) (*exec.Cmd, *program, string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", limits+` && exec "$0" "$@"`, "fanfare", "serve", "--listen", "127.0.0.1:0")
	said, at := launch(t, cmd)
	return cmd, said, at
}

// enter enters a channel, or is refused as one should be and returns nil.
func enter(t *testing.T, at string) *websocket.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, "ws://"+at+"/x", nil)
	if err == nil {
		t.Cleanup(func() { conn.CloseNow() })
		return conn
	}
	if resp == nil {
		t.Errorf("a newcomer got no answer: %v", err)
		return nil
	}
	body, _ := io.ReadAll(resp.Body)
	var refusal struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal(body, &refusal) != nil || refusal.Error.Code != "full" || !strings.Contains(refusal.Error.Message, "256") ||
		resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a newcomer was answered %s, %v, %q", resp.Status, resp.Header, body)
	}
	return nil
}

// answers asks whether the server is well, until it says 200: soon, or, if
// others are silent, after the ten seconds that they may be so.
func answers(t *testing.T, at string, silent bool) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	soon := 5 * time.Second // on a busy machine, where those who were refused take a while to be gone
	if silent {
		soon += 10 * time.Second
	}
	for began := time.Now(); ; {
		said := "nothing"
		resp, err := client.Get("http://" + at + "/-/healthz")
		if err == nil {
			resp.Body.Close()
			said = resp.Status
		}
		switch {
		case err == nil && resp.StatusCode == http.StatusOK:
			t.Logf("healthz says 200 after %v", time.Since(began))
			return
		// A refusal that comes while the client still thinks of its question is an error to it.
		case err == nil && resp.StatusCode != http.StatusServiceUnavailable, time.Since(began) > soon:
			t.Fatalf("healthz says %s after %v (%v)", said, time.Since(began), err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// exchange lets one of those inside say ten things, which all must hear in
// order, and soon.
func exchange(t *testing.T, at string, inside []*websocket.Conn, word string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	const messages = 10
	for i := range messages {
		if err := inside[0].Write(ctx, websocket.Binary, fmt.Appendf(nil, "%s%d", word, i)); err != nil {
			t.Fatal(err)
		}
	}
	for n, conn := range inside {
		for i := range messages {
			_, got, err := conn.Read(ctx)
			if want := fmt.Appendf(nil, "%s%d", word, i); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("number %d inside reads %q, %v; want %q", n, got, err, want)
			}
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d messages took %v to %d clients", messages, took, len(inside))
	}
}

// processorTime is what a process has used of the processor, in its own code
// and in the system's.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may contain anything
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // the unit is a hundredth of a second
}
