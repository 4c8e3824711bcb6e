package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fanfare"
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

// The whole program on a real terminal: alice types and reads, her connection
// is cut and comes back, and she leaves.
func TestConnectOnATerminal(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "chat")
	line := newCable(t, at)
	person, side := openTerminal(t)
	cmd := exec.Command("fanfare", "connect", line.Addr().String()+"/chat", "--name", "alice") // testscript put it into PATH
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	side.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	screen := &buffer{changed: make(chan struct{}, 1)}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		b := make([]byte, 4096)
		for {
			n, err := person.Read(b)
			screen.Write(b[:n])
			if err != nil {
				return // the program has closed its end
			}
		}
	}()
	p := &program{t: t, errs: screen}
	p.says("connected")
	types := func(keys string) {
		t.Helper()
		if _, err := person.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	types("hello 你好\r")
	if got := next(); got != "hello 你好" {
		t.Errorf("the server heard %q", got)
	}
	p.says("alice")
	publish(t, server, "chat", "an \x1b]0;evil\a title")
	p.says("␛]0;evil␇")
	line.cut(true)
	p.says("reconnecting")
	types("written meanwhile\r")
	p.says("⋯")
	line.cut(false)
	if got := next(); got != "an \x1b]0;evil\a title" {
		t.Errorf("the server heard %q", got)
	}
	if got := next(); got != "written meanwhile" {
		t.Errorf("the server heard %q", got)
	}
	publish(t, server, "chat", "last words")
	p.says("last words")
	types("exit\r")
	if err := cmd.Wait(); err != nil {
		t.Errorf("connect: %v; the screen got %q", err, screen)
	}
	<-shown
	all := screen.String()
	if strings.Contains(all, "\x1b]0;evil") {
		t.Error("an escape sequence of a stranger reached the terminal")
	}
	left := all[strings.LastIndex(all, "\x1b[?1049l"):]
	if !strings.Contains(left, "written meanwhile") {
		t.Errorf("after leaving, the terminal has %q", left)
	}
	connected(t, server, 0)
}
