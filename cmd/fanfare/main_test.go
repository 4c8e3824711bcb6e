package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"fanfare"
)

// patience bounds what should take no time at all.
const patience = 30 * time.Second

// TestMain lets the scripts run the test binary as the command fanfare.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"fanfare": main})
}

// leakless fails a run that leaves goroutines behind.
type leakless struct{ m *testing.M }

func (l leakless) Run() int {
	code := l.m.Run()
	if code == 0 {
		// os/signal starts its goroutine once and keeps it.
		if err := goleak.Find(goleak.IgnoreAnyFunction("os/signal.loop")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// A program is one run of the command line within the test.
type program struct {
	t     *testing.T
	stdin *io.PipeWriter
	lines chan string // of standard output; closed at its end
	errs  *buffer
	code  chan int
}

// buffer is standard error.
type buffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// reset forgets what was said.
func (b *buffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// start runs fanfare with args.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	return perform(t, strings.Join(args, " "), func(std stdio) int { return run(args, std) })
}

// perform runs what a command does, and returns its exit code.
func perform(t *testing.T, name string, command func(stdio) int) *program {
	t.Helper()
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	p := &program{
		t: t, stdin: stdin, lines: make(chan string, 1000),
		errs: &buffer{changed: make(chan struct{}, 1)}, code: make(chan int, 1),
	}
	go func() {
		p.code <- command(stdio{in, out, p.errs})
		out.Close()
		in.Close()
	}()
	go func() {
		defer close(p.lines)
		r := bufio.NewReader(stdout)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				if line != "" {
					p.lines <- line + " (without a line break)"
				}
				return
			}
			p.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		stdout.Close()
		select {
		case code := <-p.code:
			p.code <- code
		case <-time.After(patience):
			t.Errorf("%s did not end; it said %q", name, p.errs)
		}
	})
	return p
}

// write writes lines to standard input.
func (p *program) write(lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
			p.t.Fatalf("writing %q: %v; it said %q", line, err, p.errs)
		}
	}
}

// line returns the next line of standard output.
func (p *program) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatalf("standard output has ended; standard error is %q", p.errs)
		}
		return line
	case <-time.After(patience):
		p.t.Fatalf("nothing came; standard error is %q", p.errs)
	}
	return ""
}

// want takes the next lines of standard output; a stamp [HH:MM:SS] is left out.
func (p *program) want(lines ...string) {
	p.t.Helper()
	for _, want := range lines {
		if got := unstamped(p.line()); got != want {
			p.t.Fatalf("the next line is %q, want %q", got, want)
		}
	}
}

// says waits until standard error has a text.
func (p *program) says(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(p.errs.String(), text) {
		select {
		case <-p.errs.changed:
		case <-deadline:
			p.t.Fatalf("it never said %q; it said %q", text, p.errs)
		}
	}
}

// ends waits for the exit and checks its code, and that standard error holds
// the texts.
func (p *program) ends(code int, texts ...string) {
	p.t.Helper()
	select {
	case got := <-p.code:
		p.code <- got
		if got != code {
			p.t.Errorf("exit code %d, want %d; it said %q", got, code, p.errs)
		}
	case <-time.After(patience):
		p.t.Fatalf("it does not end; it said %q", p.errs)
	}
	for _, text := range texts {
		if !strings.Contains(p.errs.String(), text) {
			p.t.Errorf("it said %q, want in it %q", p.errs, text)
		}
	}
}

// unstamped is a line without the server's time.
func unstamped(line string) string {
	if len(line) >= len("[15:04:05] ") && line[0] == '[' {
		if _, err := time.Parse("[15:04:05] ", line[:len("[15:04:05] ")]); err == nil {
			return line[len("[15:04:05] "):]
		}
	}
	return line
}

// hub runs a Fanfare server for the test, and returns it and its host:port.
func hub(t *testing.T, cfg fanfare.Config) (*fanfare.Server, string) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	server, err := fanfare.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		web.Close()
	})
	return server, web.Listener.Addr().String()
}

// publish says something in the process.
func publish(t *testing.T, server *fanfare.Server, channel, text string) {
	t.Helper()
	if _, err := server.Publish(context.Background(), &fanfare.Message{Channel: channel, Payload: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

// listener hears everything that is said in a channel.
func listener(t *testing.T, server *fanfare.Server, channel string) func() string {
	t.Helper()
	sub, err := server.Subscribe(context.Background(), channel, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	return func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("nothing was said: %v", err)
		}
		return string(m.Payload)
	}
}

// connected waits until n clients of a server are connected.
func connected(t *testing.T, server *fanfare.Server, n int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for server.Stats().Sessions != n {
		if time.Now().After(deadline) {
			t.Fatalf("%d clients are connected, want %d", server.Stats().Sessions, n)
		}
		time.Sleep(time.Millisecond)
	}
}

// present waits until n clients are in a channel.
func present(t *testing.T, server *fanfare.Server, channel string, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		count, _, err := server.Presence(t.Context(), channel, 0)
		switch {
		case err != nil:
			t.Fatal(err)
		case count == n:
			return
		case time.Now().After(deadline):
			t.Fatalf("%d clients are in %s, want %d", count, channel, n)
		}
	}
}

// A cable is a TCP proxy that can be cut.
type cable struct {
	net.Listener
	target string

	mu    sync.Mutex
	conns map[net.Conn]bool
	dead  bool // new connections are cut at once
}

func newCable(t *testing.T, target string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{Listener: l, target: target, conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { c.carry(near) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.cut(true)
		all.Wait()
	})
	return c
}

func (c *cable) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer far.Close()
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	c.conns[near] = true
	c.mu.Unlock()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far)
		near.Close()
	}()
	_, _ = io.Copy(far, near)
	far.Close()
	<-back
	c.mu.Lock()
	delete(c.conns, near)
	c.mu.Unlock()
}

// cut ends every connection, and with dead all that follow.
func (c *cable) cut(dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = dead
	for conn := range c.conns {
		conn.Close()
	}
}

// deaf is a port that takes connections and never says a word. accepted gets
// each of them, and must be read.
func deaf(t *testing.T) (at string, accepted chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted = make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for conn := range accepted {
			conn.Close()
		}
	})
	return l.Addr().String(), accepted
}

// elsewhere is web for a server that has no idea of Fanfare's places.
func elsewhere(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	return web(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/-/connect" {
			http.NotFound(w, r)
			return
		}
		handle(w, r)
	})
}

// web runs an HTTP handler for the test and returns its host:port.
func web(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
