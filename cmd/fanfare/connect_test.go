package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"fanfare"
	"fanfare/websocket"
)

func TestAliceAndBobOnPipes(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	alice := start(t, "connect", at+"/chat/general", "--name", "alice")
	bob := start(t, "connect", "http://"+at+"/chat/general")
	present(t, server, "chat/general", 2)

	alice.write("hello")
	alice.want("alice: hello")
	bob.want("alice: hello")
	bob.write("你好 🎉", `{"type":"chat","content":"hi"}`, "")
	for _, p := range []*program{alice, bob} {
		p.want("你好 🎉", `{"type":"chat","content":"hi"}`, "")
	}
	publish(t, server, "chat/general", "two\nlines \x1b[31m\ttab")
	for _, p := range []*program{alice, bob} {
		p.want("two", "lines \x1b[31m\ttab") // byte for byte: this is no terminal
	}
	alice.stdin.Close()
	alice.ends(exitFine)
	present(t, server, "chat/general", 1)
	bob.stdin.Close()
	bob.ends(exitFine)
}

func TestTheEndOfTheInputComesAfterAllIsDelivered(t *testing.T) {
	server, at := hub(t, fanfare.Config{History: 10000})
	next := listener(t, server, "log")
	p := start(t, "connect", at+"/log", "--linger", "0")
	go func() {
		for range p.lines { // its own echo
		}
	}()
	const n = 3000 // more than the queue holds
	go func() {
		for i := range n {
			fmt.Fprintf(p.stdin, "line %d\r\n", i)
		}
		io.WriteString(p.stdin, "and one without a line break")
		p.stdin.Close()
	}()
	for i := range n {
		if got, want := next(), fmt.Sprint("line ", i); got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	if got := next(); got != "and one without a line break" {
		t.Errorf("the last line is %q", got)
	}
	p.ends(exitFine)
}

func TestTheAnswerToTheLastLineIsPrinted(t *testing.T) {
	// Any server that answers, whether or not its close comes after its answer.
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for m := range conn.Messages(r.Context()) {
			_ = conn.Write(r.Context(), m.Type, append([]byte("you said "), m.Data...))
		}
	})
	p := start(t, "connect", at, "--linger", "2s")
	p.write("a", "b")
	p.stdin.Close()
	p.want("you said a", "you said b")
	p.ends(exitFine)
}

func TestLinesThatCannotBeSent(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	next := listener(t, server, "x")
	p := start(t, "connect", at+"/x", "--max-message", "30", "--linger", "0")
	go func() {
		io.WriteString(p.stdin, "fine\n"+strings.Repeat("x", 100000)+"\nbad \xff\nfine too\n")
		p.stdin.Close()
	}()
	for _, want := range []string{"fine", "fine too"} {
		if got := next(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	p.ends(exitOther, "line 2 was not sent: it has 100000 bytes, and --max-message allows 30", "line 3 was not sent: it is not UTF-8", "2 of 4 lines were not sent")
}

func TestHistoryNameAndHeaders(t *testing.T) {
	var asked atomic.Pointer[http.Request]
	server, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown(context.Background())
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Clone(context.Background()))
		server.ServeHTTP(w, r)
	})
	publish(t, server, "x", "before")
	p := start(t, "connect", at+"/x?a=b", "--name", "al ice", "--since", "0", "-H", "X-One: 1", "-H", "x-two:2", "--subprotocol", "chat", "--subprotocol", "superchat", "--origin", "http://"+at)
	p.want("before")
	r := asked.Load()
	if got := r.URL.RawQuery; got != "a=b&name=al+ice&since=0" {
		t.Errorf("the query is %s", got)
	}
	for name, want := range map[string]string{"X-One": "1", "X-Two": "2", "Sec-Websocket-Protocol": "chat, superchat", "Origin": "http://" + at} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	p.stdin.Close()
	p.ends(exitFine)

	p = start(t, "connect", at+"/x")
	p.stdin.Close()
	p.ends(exitFine)
	if r := asked.Load(); r.URL.Path != "/-/connect" || r.URL.Query().Has("name") || r.URL.Query().Has("since") {
		t.Errorf("without --name and --since it asks for %s", r.URL)
	}
}

func TestWhatWasMissedComesAfterTheConnectionIsBack(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	line := newCable(t, at)
	p := start(t, "connect", line.Addr().String()+"/x")
	present(t, server, "x", 1)
	publish(t, server, "x", "one")
	p.want("one")
	line.cut(true)
	connected(t, server, 0)
	p.says("the connection was lost")
	publish(t, server, "x", "two")
	p.write("written meanwhile")
	publish(t, server, "x", "three")
	line.cut(false)
	p.want("two", "three", "written meanwhile")
	p.says("connected to ws://" + line.Addr().String() + "/x again")
	p.stdin.Close()
	p.ends(exitFine)
}

// Every message is printed once and in order, wherever the cable is cut.
func TestResumeIsExact(t *testing.T) {
	const messages, cuts = 2000, 3
	server, at := hub(t, fanfare.Config{History: 2 * messages, MaxLag: 64 << 20})
	line := newCable(t, at)
	p := start(t, "subscribe", line.Addr().String()+"/x", "--count", fmt.Sprint(messages))
	present(t, server, "x", 1)
	go func() {
		for i := range messages {
			publish(t, server, "x", fmt.Sprintf("message %d %s", i, strings.Repeat("x", i%200)))
			if i%(messages/cuts) == messages/cuts/2 {
				line.cut(false)
			}
		}
	}()
	for i := range messages {
		p.want(fmt.Sprintf("message %d %s", i, strings.Repeat("x", i%200)))
	}
	p.ends(exitFine)
}

// forgetful is a server that reads one line and drops the connection, before it
// could answer a ping; a line for which spare says so it answers instead.
func forgetful(t *testing.T, spare func(connection int32, line string) bool) (at string, connections *atomic.Int32) {
	connections = new(atomic.Int32)
	upgrader := gorilla.Upgrader{} // reads only what its ReadMessage asks for
	return elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		n := connections.Add(1)
		for {
			typ, line, err := conn.ReadMessage()
			if err != nil || !spare(n, string(line)) {
				return
			}
			_ = conn.WriteMessage(typ, line)
		}
	}), connections
}

// A line that a server may not have read is sent again, but not for ever.
func TestALineThatBreaksTheConnection(t *testing.T) {
	at, connections := forgetful(t, func(_ int32, line string) bool { return line == "fine" })
	u, err := parseTarget(at)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(linkConfig{
		url: u, pause: backoff{random: func(time.Duration) time.Duration { return 0 }},
		onMessage: func(websocket.MessageType, []byte) error { return nil },
	})
	for i, text := range []string{"fine", "fine", "poison", "fine"} {
		if err := l.trySend(&outgoing{typ: websocket.Text, data: []byte(text), number: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	err = l.run(context.Background())
	if exitCode(err) != exitClosed || !strings.Contains(err.Error(), "the connection broke 5 times right after line 3 was sent") {
		t.Errorf("error %v with code %d", err, exitCode(err))
	}
	// A connection may break before the line was wholly written, and that is
	// not held against it.
	if n := connections.Load(); n < maxTries || n > 3*maxTries {
		t.Errorf("there were %d connections, want about %d", n, maxTries)
	}
}

func TestALineThatGotLostIsSentAgain(t *testing.T) {
	at, _ := forgetful(t, func(connection int32, _ string) bool { return connection > 1 })
	p := start(t, "connect", at)
	p.write("important")
	p.want("important")
	p.stdin.Close()
	p.ends(exitFine)
}

// A server that answers no pings, against RFC 6455, is left in order all the
// same.
func TestAServerWithoutPongs(t *testing.T) {
	upgrader := gorilla.Upgrader{}
	read := make(chan string, 10)
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetPingHandler(func(string) error { return nil })
		for {
			_, line, err := conn.ReadMessage()
			if err != nil {
				return
			}
			read <- string(line)
		}
	})
	u, err := parseTarget(at)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(linkConfig{url: u, confirm: 50 * time.Millisecond, onMessage: func(websocket.MessageType, []byte) error { return nil }})
	for _, text := range []string{"one", "two"} {
		if err := l.trySend(&outgoing{typ: websocket.Text, data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	l.finish()
	if err := l.run(context.Background()); err != nil {
		t.Errorf("run: %v", err)
	}
	if a, b := <-read, <-read; a != "one" || b != "two" {
		t.Errorf("the server read %q and %q", a, b)
	}
	if doubtful, unsent := l.unconfirmed(); doubtful+unsent != 0 {
		t.Errorf("%d lines are in doubt, %d were not sent", doubtful, unsent)
	}
}

// How a connection ends decides what connect does.
func TestCloseCodes(t *testing.T) {
	for _, c := range []struct {
		close func(*websocket.Conn)
		code  int
		says  string
		again bool // it comes back, and is then told goodbye
	}{
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.NormalClosure, "bye") }, exitFine, "", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.NoStatus, "") }, exitFine, "", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.GoingAway, "restart") }, exitFine, "1001 going away: restart", true},
		{func(c *websocket.Conn) { c.CloseNow() }, exitFine, "1006", true},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.InternalError, "") }, exitFine, "1011", true},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.ServiceRestart, "") }, exitFine, "1012", true},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.TryAgainLater, "") }, exitFine, "1013", true},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.BadGateway, "") }, exitFine, "1014", true},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.ProtocolError, "") }, exitClosed, "1002 protocol error", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.UnsupportedData, "") }, exitClosed, "1003", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.PolicyViolation, "too loud\x1b[2J") }, exitClosed, "1008 policy violation: too loud␛[2J", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), websocket.MessageTooBig, "") }, exitClosed, "1009", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), 3000, "") }, exitClosed, "3000", false},
		{func(c *websocket.Conn) { c.Close(context.Background(), 4001, "banned") }, exitClosed, "4001 application code: banned", false},
		{func(c *websocket.Conn) { _ = c.Write(context.Background(), websocket.Text, make([]byte, 2<<20)) }, exitClosed, "larger than --max-message", false},
	} {
		t.Run(c.says, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			at := elsewhere(t, func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer conn.CloseNow()
				if connections.Add(1) > 1 {
					conn.Close(context.Background(), websocket.NormalClosure, "")
					return
				}
				c.close(conn)
				_, _, _ = conn.Read(r.Context())
			})
			p := start(t, "connect", at)
			p.ends(c.code, c.says)
			if again := connections.Load() > 1; again != c.again {
				t.Errorf("it came back: %v, want %v", again, c.again)
			}
		})
	}
}

func TestWhenNoConnectionComesAbout(t *testing.T) {
	answer := func(code int, header, value, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(header, value)
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	secure := httptest.NewUnstartedServer(answer(200, "X", "", ""))
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	defer secure.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, c := range map[string]struct {
		url  string
		says string
	}{
		"nothing listens": {gone.Listener.Addr().String(), "nothing listens on " + gone.Listener.Addr().String() + ": start a server with `fanfare serve`, or give another URL"},
		"unauthorized":    {web(t, answer(401, "X", "", "no token\nmore")), `401 Unauthorized: no token; give what it asks for`},
		"forbidden":       {web(t, answer(403, "Content-Type", "application/json", `{"error":{"code":"bad_origin","message":"not from there"}}`)), "403 Forbidden: not from there; it may want another --origin"},
		"not found":       {web(t, answer(404, "X", "", "<html>")), "404 Not Found; check the URL's path"},
		"busy":            {web(t, answer(503, "X", "", "\x1b[2Jbusy")), "503 Service Unavailable: ␛[2Jbusy"},
		"no WebSocket":    {web(t, answer(200, "X", "", "<p>")), "200 OK instead of 101 Switching Protocols: this is no WebSocket server"},
		"bad certificate": {secure.URL, "the certificate of " + secure.Listener.Addr().String() + " cannot be trusted"},
		"no TLS":          {"wss://" + web(t, answer(200, "X", "", "")), "does not speak TLS: write ws:// instead of wss://"},
		"no socket":       {"ws+unix:///nowhere/f.sock:/x", "there is no socket /nowhere/f.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range []string{"connect", "subscribe", "publish"} {
				p := start(t, command, c.url+"")
				p.ends(exitConnect, c.says)
				if strings.Contains(p.errs.String(), "websocket:") {
					t.Errorf("%s speaks of our packages: %s", command, p.errs)
				}
			}
		})
	}
	p := start(t, "connect", "--insecure", secure.URL)
	p.ends(exitConnect, "this is no WebSocket server") // so TLS was fine
}

func TestConnectOverTLS(t *testing.T) {
	server, err := fanfare.New(fanfare.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown(context.Background())
	secure := httptest.NewTLSServer(server)
	defer secure.Close()
	p := start(t, "connect", "--insecure", secure.URL+"/x")
	p.write("over TLS")
	p.want("over TLS")
	p.stdin.Close()
	p.ends(exitFine)
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestNobodyReadsWhatIsPrinted(t *testing.T) {
	server, at := hub(t, fanfare.Config{})
	for _, args := range [][]string{{"connect", at + "/x"}, {"subscribe", at + "/x"}, {"subscribe", at + "/x", "--json", "--count", "5"}} {
		in, keyboard := io.Pipe()
		errs := &buffer{changed: make(chan struct{}, 1)}
		code := make(chan int, 1)
		go func() { code <- run(args, stdio{in, brokenPipe{}, errs}) }()
		present(t, server, "x", 1)
		publish(t, server, "x", "hello")
		select {
		case got := <-code:
			if got != exitFine || errs.String() != "" {
				t.Errorf("%q: exit code %d and %q, want 0 and nothing", args, got, errs)
			}
		case <-time.After(patience):
			t.Fatalf("%q goes on though nobody reads", args)
		}
		keyboard.Close()
		connected(t, server, 0)
	}
}

func TestOnATerminalControlCharactersAreVisible(t *testing.T) {
	var b strings.Builder
	p := newPrinter(&b, nil)
	p.safe = true
	for _, m := range []struct {
		typ  websocket.MessageType
		text string
	}{{websocket.Text, "a\x1b[2J\nb 你好"}, {websocket.Binary, "\x1b\x00"}} {
		if err := p.message(m.typ, []byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "a␛[2J␊b 你好\n<binary, 2 bytes>\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}
