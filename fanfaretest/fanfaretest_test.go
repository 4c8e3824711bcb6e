package fanfaretest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/fanfaretest"
	"fanfare/websocket"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects a plain client.
func dial(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// hears reads a plain client's next text.
func hears(t *testing.T, conn *websocket.Conn, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, text, err := conn.Read(ctx)
	if err != nil || !strings.HasSuffix(string(text), "] "+want) {
		t.Fatalf("heard %q, %v; want %q", text, err, want)
	}
}

func TestServer(t *testing.T) {
	srv := fanfaretest.NewServer(t, fanfare.Config{MaxMessage: 100})
	alice := dial(t, srv.WebSocketURL("räume/a b?c")+"?name=alice")
	srv.WaitForReaders("räume/a b?c", 1)
	pos := srv.Publish("räume/a b?c", "Hello")
	hears(t, alice, "Hello")
	if err := alice.Write(t.Context(), websocket.Text, []byte("who is there?")); err != nil {
		t.Fatal(err)
	}
	messages := srv.WaitForMessages("räume/a b?c", 2)
	if len(messages) != 2 || messages[0].Position != pos || string(messages[1].Payload) != "who is there?" || messages[1].Sender != "alice" {
		t.Errorf("%+v", messages)
	}
	resp, err := http.Post(srv.HTTPURL("räume/a b?c"), "", strings.NewReader(strings.Repeat("x", 101)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("the config does not count: %s", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	alice.CloseNow()
	srv.WaitForReaders("räume/a b?c", 0)
}

// Who reads over server-sent events is a reader too, and all are cut.
func TestCutConnections(t *testing.T) {
	srv := fanfaretest.NewServer(t)
	alice := dial(t, srv.WebSocketURL("chat"))
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.HTTPURL("chat"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	bob, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Body.Close()
	srv.WaitForReaders("chat", 2)
	srv.Publish("chat", "before")
	hears(t, alice, "before")
	lines := bufio.NewScanner(bob.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), `"data":"before"`) {
	}

	srv.CutConnections()
	var end *websocket.CloseError
	if _, text, err := alice.Read(t.Context()); !errors.As(err, &end) || end.Code != websocket.Abnormal {
		t.Errorf("alice hears %q, %v; want a connection that broke", text, err)
	}
	for lines.Scan() {
	}
	if lines.Err() == nil {
		t.Error("bob reads on to a regular end")
	}
	srv.WaitForReaders("chat", 0)
	alice = dial(t, srv.WebSocketURL("chat"))
	srv.WaitForReaders("chat", 1)
	srv.Publish("chat", "after")
	hears(t, alice, "after")
}

func TestOffline(t *testing.T) {
	srv := fanfaretest.NewServer(t)
	alice := dial(t, srv.WebSocketURL("chat"))
	srv.GoOffline()
	if _, text, err := alice.Read(t.Context()); err == nil {
		t.Errorf("heard %q from a server that is offline", text)
	}
	if _, _, err := websocket.Dial(t.Context(), srv.WebSocketURL("chat"), nil); err == nil {
		t.Error("connected to a server that is offline")
	}
	srv.Publish("chat", "meanwhile") // the server itself is not gone
	srv.GoOnline()
	hears(t, dial(t, srv.WebSocketURL("chat")+"?since=0"), "meanwhile")
}

// What is sent with a delay comes later, in order, and whole.
func TestDelay(t *testing.T) {
	const delay = 100 * time.Millisecond
	srv := fanfaretest.NewServer(t)
	alice := dial(t, srv.WebSocketURL("chat"))
	srv.WaitForReaders("chat", 1)
	srv.SetDelay(delay)
	begin := time.Now()
	big := strings.Repeat("x", 200<<10)
	srv.Publish("chat", "first")
	srv.Publish("chat", big)
	hears(t, alice, "first")
	if took := time.Since(begin); took < delay {
		t.Errorf("it took %v", took)
	}
	hears(t, alice, big)
	srv.SetDelay(time.Hour)
	srv.Publish("chat", "whoever waits for this waits long") // the test's end does not
}

// mock stands in for a test that fails.
type mock struct {
	testing.TB
	cleanups []func()
	failed   string
}

func (m *mock) Helper()                   {}
func (m *mock) Output() io.Writer         { return io.Discard }
func (m *mock) Cleanup(f func())          { m.cleanups = append(m.cleanups, f) }
func (m *mock) Errorf(f string, a ...any) { m.failed = fmt.Sprintf(f, a...) }
func (m *mock) Fatal(a ...any)            { m.Fatalf("%s", fmt.Sprint(a...)) }
func (m *mock) Fatalf(f string, a ...any) {
	m.Errorf(f, a...)
	panic(m)
}

// end runs the cleanups, as the end of a test does.
func (m *mock) end() {
	for _, f := range slices.Backward(m.cleanups) {
		f()
	}
}

// fails says how f fails its test.
func (m *mock) fails(f func()) (how string) {
	defer func() {
		if p := recover(); p != nil && p != any(m) {
			panic(p)
		}
		how = m.failed
	}()
	f()
	return ""
}

func TestFailures(t *testing.T) {
	m := &mock{TB: t}
	defer m.end()
	srv := fanfaretest.NewServer(m)
	for what, f := range map[string]func(){
		`publishing to "a//b": `:           func() { srv.Publish("a//b", "") },
		`waiting for messages of "a//b": `: func() { srv.WaitForMessages("a//b", 1) },
		`waiting for readers of "a//b": `:  func() { srv.WaitForReaders("a//b", 1) },
		`NewServer was given 2 configs`:    func() { fanfaretest.NewServer(m, fanfare.Config{}, fanfare.Config{}) },
		`fanfare: `:                        func() { fanfaretest.NewServer(m, fanfare.Config{MaxMessage: -1}) },
	} {
		if how := m.fails(f); !strings.Contains(how, what) {
			t.Errorf("it failed with %q, want %s", how, what)
		}
	}
}

func ExampleNewServer() {
	t := theTest() // yours is the parameter of your test

	srv := fanfaretest.NewServer(t)
	conn, _, err := websocket.Dial(t.Context(), srv.WebSocketURL("orders"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	srv.WaitForReaders("orders", 1)

	// What the program under test says is in the channel …
	if err := conn.Write(t.Context(), websocket.Text, []byte(`{"item":"tea"}`)); err != nil {
		t.Fatal(err)
	}
	for _, m := range srv.WaitForMessages("orders", 1) {
		fmt.Printf("ordered: %s\n", m.Payload)
	}

	// … and here is what it hears, until its connection breaks.
	srv.Publish("orders", `{"ready":"tea"}`)
	for range 2 {
		_, text, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("heard: %s\n", text)
	}
	srv.CutConnections()
	_, _, err = conn.Read(t.Context())
	fmt.Println("cut:", err != nil)

	t.(*mock).end()
	// Output:
	// ordered: {"item":"tea"}
	// heard: {"item":"tea"}
	// heard: {"ready":"tea"}
	// cut: true
}

func (m *mock) Context() context.Context { return context.Background() }

func theTest() testing.TB { return new(mock) }
