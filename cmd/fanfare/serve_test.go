package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanfare/websocket"
)

// daemon runs `fanfare serve` as a process of its own and returns it with its
// host:port.
func daemon(t *testing.T, args ...string) (cmd *exec.Cmd, said *program, at string) {
	t.Helper()
	cmd = exec.Command("fanfare", append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...) // testscript put it into PATH
	said, at = launch(t, cmd)
	return cmd, said, at
}

// launch starts a command that becomes `fanfare serve`.
func launch(t *testing.T, cmd *exec.Cmd) (said *program, at string) {
	t.Helper()
	said = &program{t: t, errs: &buffer{changed: make(chan struct{}, 1)}}
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = said.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	said.says("/\n")
	_, rest, _ := strings.Cut(said.errs.String(), "fanfare: ready, open http")
	_, rest, _ = strings.Cut(rest, "://")
	at, _, ok := strings.Cut(rest, "/\n")
	if !ok {
		t.Fatalf("the server said %q", said.errs)
	}
	return said, at
}

// exits waits for a process and returns its exit code.
func exits(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// ready asks a server whether it is ready, and returns the status.
func ready(t *testing.T, at string) int {
	t.Helper()
	resp, err := http.Get("http://" + at + "/-/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestShutdownIsKind(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd, said, at := daemon(t)
		conn, _, err := websocket.Dial(context.Background(), "ws://"+at+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if code := ready(t, at); code != http.StatusOK {
			t.Errorf("readyz says %d", code)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.Read(context.Background()); websocket.CloseCode(err) != websocket.GoingAway {
			t.Errorf("a client was told %v, want 1001", err)
		}
		if code := exits(t, cmd); code != exitFine {
			t.Errorf("after %v the exit code is %d, want 0; it said %q", signal, code, said.errs)
		}
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	cmd, said, at := daemon(t, "--grace", "1m")
	frozen := dialRaw(t, at)
	defer frozen.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	said.says("Ctrl-C again ends at once")
	deadline := time.Now().Add(patience)
	for ready(t, at) != http.StatusServiceUnavailable {
		if time.Now().After(deadline) {
			t.Fatal("it shuts down, and readyz does not say 503")
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exits(t, cmd); code != exitOther {
		t.Errorf("the exit code is %d, want 1", code)
	}
}

func TestTheGraceEnds(t *testing.T) {
	cmd, said, at := daemon(t, "--grace", "200ms")
	frozen := dialRaw(t, at)
	defer frozen.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exits(t, cmd); code != exitOther {
		t.Errorf("the exit code is %d, want 1", code)
	}
	said.says("not everyone had left after --grace 200ms")
}

// dialRaw is a WebSocket client that never reads what it is told.
func dialRaw(t *testing.T, at string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", at)
	answer := make([]byte, len("HTTP/1.1 101"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 101" {
		t.Fatalf("the handshake got %q, %v", answer, err)
	}
	return conn
}

func TestThePortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, "serve", "--listen", l.Addr().String())
	p.ends(exitOther, l.Addr().String()+" is in use", "for example 127.0.0.1:")
}

func TestOnlyLocal(t *testing.T) {
	for address, want := range map[string]int{
		"127.0.0.1:8765": exitFine, "127.1.2.3:0": exitFine, "[::1]:0": exitFine, "[::ffff:127.0.0.1]:0": exitFine, "localhost:0": exitFine, "unix:/x": exitFine,
		"0.0.0.0:0": exitUsage, "[::]:0": exitUsage, ":0": exitUsage, "192.168.0.1:0": exitUsage, "[fe80::1]:0": exitUsage, "[::ffff:10.0.0.1]:0": exitUsage, "[::ffff:0.0.0.0]:0": exitUsage,
		"8765": exitUsage,
	} {
		if err := onlyLocal(address); exitCode(err) != want {
			t.Errorf("onlyLocal(%s) = %v with code %d, want %d", address, err, exitCode(err), want)
		}
	}
}
