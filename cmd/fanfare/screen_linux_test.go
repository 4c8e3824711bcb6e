package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fanfare"
	"fanfare/websocket"
)

// openTerminal returns both ends of a pseudo-terminal of 70 by 12 cells: what a
// person sees and types, and what a program has for standard input and output.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	var failed error
	if err := raw.Control(func(fd uintptr) {
		var n int
		if n, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); failed != nil {
			return
		}
		name = fmt.Sprint("/dev/pts/", n)
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed != nil {
			return
		}
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 12, Col: 70})
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	program, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// seated runs the whole program on a real terminal, and returns what it shows there, how to
// type, and how to wait for its end, which returns all that was shown.
func seated(t *testing.T, args ...string) (screen *program, types func(keys string), left func() string) {
	t.Helper()
	person, side := openTerminal(t)
	cmd := exec.Command("fanfare", args...) // testscript put it into PATH
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	side.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	errs := &buffer{changed: make(chan struct{}, 1)}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		b := make([]byte, 4096)
		for {
			n, err := person.Read(b)
			errs.Write(b[:n])
			if err != nil {
				return // the program has closed its end
			}
		}
	}()
	types = func(keys string) {
		t.Helper()
		if _, err := person.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	left = func() string {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%q: %v; the screen got %q", args, err, errs)
		}
		<-shown
		return errs.String()
	}
	return &program{t: t, errs: errs}, types, left
}

// Alice comes before the server does, types and reads, her connection is cut and
// comes back, and she leaves.
func TestConnectOnATerminal(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "chat")
	line := newCable(t, at)
	line.cut(true)
	p, types, left := seated(t, "connect", line.Addr().String()+"/chat", "--name", "alice", "--presence", "--channel", "news")
	p.says("reconnecting")
	types("written early\r")
	p.says("⋯")
	line.cut(false)
	p.says("connected")
	if got := next(); got != "written early" {
		t.Errorf("the server heard %q", got)
	}
	p.says("chat 1 · news 1")
	types("hello 你好\r")
	if got := next(); got != "hello 你好" {
		t.Errorf("the server heard %q", got)
	}
	p.says("alice")
	publish(t, server, "news", "an \x1b]0;evil\a title")
	p.says("␛]0;evil␇")
	line.cut(true)
	p.says("reconnecting")
	types("written meanwhile\r")
	p.says("⋯")
	line.cut(false)
	if got := next(); got != "written meanwhile" {
		t.Errorf("the server heard %q", got)
	}
	publish(t, server, "chat", "last words")
	p.says("last words")
	types("exit\r")
	all := left()
	if strings.Contains(all, "\x1b]0;evil") {
		t.Error("an escape sequence of a stranger reached the terminal")
	}
	if rest := all[strings.LastIndex(all, "\x1b[?1049l"):]; !strings.Contains(rest, "written meanwhile") {
		t.Errorf("after leaving, the terminal has %q", rest)
	}
	connected(t, server, 0)
}

// At another server one's own lines are shown, because it may not send them back.
func TestConnectElsewhereOnATerminal(t *testing.T) {
	heard := make(chan string, 10)
	line := newCable(t, elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		_ = conn.Write(r.Context(), websocket.Text, []byte("welcome"))
		for m, err := range conn.Messages(r.Context()) {
			if err == nil {
				heard <- string(m.Data)
			}
		}
	}))
	p, types, left := seated(t, "connect", line.Addr().String())
	p.says("welcome")
	types("hello\r")
	if got := <-heard; got != "hello" {
		t.Errorf("the server heard %q", got)
	}
	p.says("›")
	line.cut(true)
	p.says("reconnecting")
	types("meanwhile\r")
	p.says("⋯")
	line.cut(false)
	if got := <-heard; got != "meanwhile" {
		t.Errorf("the server heard %q", got)
	}
	types("\x04")
	left()
}
