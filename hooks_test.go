package fanfare_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/internal/frame"
)

// bothTransports runs a test over each transport that this system has.
func bothTransports(t *testing.T, f func(t *testing.T)) {
	for _, name := range transports {
		t.Run(name, func(t *testing.T) {
			t.Setenv("FANFARE_TRANSPORT", name)
			f(t)
		})
	}
}

// A gate is a hook Publish that keeps one sender's messages waiting.
type gate struct {
	sender string
	asked  atomic.Int64  // how often the hook was called for them
	shut   chan struct{} // closed: they go on
	open   func()        // closes it, once
}

func newGate(sender string) *gate {
	g := &gate{sender: sender, shut: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.shut) })
	return g
}

// ask is the hook. It ignores ctx.
func (g *gate) ask(_ context.Context, m *fanfare.Message) error {
	if m.Sender == g.sender {
		g.asked.Add(1)
		<-g.shut
	}
	return nil
}

func (g *gate) waitUntilAsked(t *testing.T) {
	t.Helper()
	eventually(t, "the hook is asked", func() bool { return g.asked.Load() > 0 })
}

func heapAlloc() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Alice's messages are looked at for as long as it takes. Meanwhile nothing is
// read from her, however much she sends; everybody else, on her loop too, goes on as if she were
// not there. In the end all that she said is heard, in order.
func TestHookBlocksOnlyItsClient(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		g := newGate("alice")
		defer g.open()
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: g.ask}, History: 1 << 20, HistoryBytes: 1 << 30, MaxLag: 1 << 30})
		alice := s.join("/room?name=alice")
		alice.conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
		others := make([]*person, 3*runtime.GOMAXPROCS(0)) // some of them on each loop
		for i := range others {
			others[i] = s.join(fmt.Sprintf("/room?name=other%d", i))
		}
		before := heapAlloc()
		alice.say("0")
		g.waitUntilAsked(t)

		// She floods until nobody takes any more.
		said := 1
		var rest []byte
		for taken := 0; len(rest) == 0; said++ {
			rest = frame.AppendMasked(nil, frame.Text, true, testKey, fmt.Appendf(nil, "%d %01000d", said, 0))
			alice.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := alice.conn.Write(rest)
			rest = rest[n:]
			if taken += n; taken > 64<<20 {
				t.Fatalf("%d bytes were taken from a client whose first message is not yet published", taken)
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if grown := heapAlloc() - before; grown > 4<<20 {
			t.Errorf("the heap grew by %d bytes for a client that is not read from", grown)
		}
		for i, p := range others {
			p.send(frame.Ping, fmt.Append(nil, i))
			if op, payload, err := p.next(); err != nil || op != frame.Pong || string(payload) != fmt.Sprint(i) {
				t.Fatalf("client %d pinged and got %v %q %v", i, op, payload, err)
			}
		}
		for i, p := range others {
			p.say("hello")
			for _, q := range append(slices.Clone(others), alice) {
				if got, want := q.said(), fmt.Sprintf("other%d: hello", i); got != want {
					t.Fatalf("heard %q, want %q", got, want)
				}
			}
		}
		if n := g.asked.Load(); n != 1 {
			t.Errorf("the hook was asked about %d of alice's messages, before it answered the first", n)
		}

		g.open()
		alice.raw(rest)
		for _, p := range others[:1] {
			for n := range said {
				if got, _, _ := strings.Cut(strings.TrimPrefix(p.said(), "alice: "), " "); got != fmt.Sprint(n) {
					t.Fatalf("heard %q, want %d", got, n)
				}
			}
		}
		alice.conn.Close()
	})
}

// What one read brings can be very many messages. While they wait they need no
// more room than they had on their way.
func TestWaitingCostsWhatWasSent(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		const clients, each = 20, 5000
		var asked atomic.Int64
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: func(ctx context.Context, m *fanfare.Message) error {
			asked.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}}, CloseTimeout: 100 * time.Millisecond})
		flood := bytes.Repeat(frame.AppendMasked(nil, frame.Text, true, testKey, nil), each)
		before := heapAlloc()
		for range clients {
			s.join("/").raw(flood)
		}
		eventually(t, "everyone is asked about", func() bool { return asked.Load() == clients })
		most := int64(clients * (len(flood) + 64<<10))
		if grown := heapAlloc() - before; grown > most {
			t.Errorf("the heap grew by %d bytes for %d clients that sent %d bytes each, want %d at most", grown, clients, len(flood), most)
		}
	})
}

// Silence that is our doing, because we read nothing, is held against nobody.
func TestHeartbeatWhileAHookBlocks(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		g := newGate("alice")
		defer g.open()
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: g.ask}, Heartbeat: 50 * time.Millisecond, HeartbeatTimeout: 5 * time.Second, MessageTimeout: 50 * time.Millisecond})
		alice, bob := s.join("/?name=alice"), s.join("/")
		// A message that is half there: that the rest is not read is our doing too.
		whole := masked(frame.Text, true, "and more")
		alice.raw(append(masked(frame.Text, true, "hello"), whole[:5]...))
		g.waitUntilAsked(t)
		for range 10 { // bob's pings are a clock
			op, payload, err := bob.next()
			if err != nil || op != frame.Ping {
				t.Fatal(op, payload, err)
			}
			bob.send(frame.Pong, payload)
		}
		alice.raw(whole[5:])
		if st := s.Stats(); st.Sessions != 2 {
			t.Fatalf("%+v", st)
		}
		g.open()
		for _, want := range []string{"alice: hello", "alice: and more"} {
			if got := alice.said(); got != want {
				t.Fatalf("heard %q, want %q", got, want)
			}
		}
		alice.leave()
	})
}

// A client's close waits for its messages, as far as CloseTimeout. The hook may
// take longer than the connection lives; what was taken is published all the
// same, and then the program is told of the end.
func TestHookOutlivesItsConnection(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		g := newGate("alice")
		defer g.open()
		ends := make(chan string, 10)
		hooks := fanfare.Hooks{Publish: g.ask, Disconnect: func(channel, name, reason string) {
			ends <- fmt.Sprint(channel, " ", name, " ", reason)
		}}
		s := perform(t, fanfare.Config{Hooks: hooks, CloseTimeout: 100 * time.Millisecond})
		bob := s.join("/room")
		alice := s.join("/room?name=alice")
		var b []byte
		for n := range 3 {
			b = frame.AppendMasked(b, frame.Text, true, testKey, fmt.Append(nil, n))
		}
		begin := time.Now()
		alice.raw(frame.AppendMasked(b, frame.Close, true, testKey, frame.AppendClose(nil, frame.NormalClosure, "")))
		op, payload, err := alice.next()
		if code, _, _ := frame.ParseClose(payload); err != nil || op != frame.Close || code != frame.NormalClosure {
			t.Fatal(op, code, err)
		}
		if took := time.Since(begin); took < 90*time.Millisecond {
			t.Errorf("the close was answered after %v, before CloseTimeout", took)
		}
		alice.conn.Close()
		eventually(t, "she is gone", func() bool { return s.Stats().Sessions == 1 })
		select {
		case end := <-ends:
			t.Fatalf("told of the end, %s, before all messages were asked about", end)
		default:
		}
		g.open()
		for n := range 3 {
			if got := bob.said(); got != fmt.Sprintf("alice: %d", n) {
				t.Fatal(got)
			}
		}
		if end := <-ends; end != "room alice client" || g.asked.Load() != 3 {
			t.Fatalf("told %q, after %d messages", end, g.asked.Load())
		}
	})
}

// A close in time finds its messages published and heard.
func TestCloseWaitsForHooks(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		g := newGate("alice")
		defer g.open()
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: g.ask}})
		alice := s.join("/?name=alice")
		alice.raw(append(masked(frame.Text, true, "one"), append(masked(frame.Text, true, "two"), masked(frame.Close, true, "")...)...))
		g.waitUntilAsked(t)
		g.open()
		for _, want := range []string{"alice: one", "alice: two"} {
			if got := alice.said(); got != want {
				t.Fatalf("heard %q, want %q", got, want)
			}
		}
		alice.closed()
		alice.ended()
	})
}

// A hook may change what is published and under whose name, and may refuse it.
func TestHookChangesAndRefuses(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		var log lockedBuffer
		hook := func(_ context.Context, m *fanfare.Message) error {
			switch text := string(m.Payload); text {
			case "change":
				m.Payload, m.Key, m.Sender = []byte("changed"), "k", "Dr. "+m.Sender
			case "to binary":
				m.Binary = true
			case "too long":
				m.Payload = make([]byte, 2000)
			case "rude":
				return fmt.Errorf("moderation: %w", &fanfare.Error{Code: "rude", Message: "be kind\xFF"})
			case "curt":
				return &fanfare.Error{}
			case "late":
				return fmt.Errorf("secret database: %w", context.DeadlineExceeded)
			case "elsewhere":
				m.Channel = "secret place"
			case "panic":
				panic("secret panic")
			}
			return nil
		}
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: hook}, MaxMessage: 1000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		sub, err := s.Subscribe(t.Context(), "room", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		alice := s.join("/room?name=alice&key=own")

		const internal = "something went wrong in the server; its log has more"
		for _, c := range []struct {
			text, notice string
			status       int
			code         string
			logged       string
		}{
			{"rude", "be kind\uFFFD", 403, "rude", ""},
			{"curt", "the server's program refuses it", 403, "forbidden", ""},
			{"late", internal, 500, "internal", "secret database"},
			{"elsewhere", internal, 500, "internal", "secret place"},
			{"panic", internal, 500, "internal", "hooks_test.go"},
			{"too long", "the message has 2000 bytes, and a message may have 1000", 413, "too_big", ""},
		} {
			alice.say(c.text)
			if got := alice.said(); got != "* not published: "+c.notice {
				t.Errorf("%s: told %q", c.text, got)
			}
			if !strings.Contains(log.take(), c.logged) {
				t.Errorf("%s: the log lacks %q", c.text, c.logged)
			}
			resp, body := s.fetch("POST", "/room", c.text)
			if resp.StatusCode != c.status || errorCode(body) != c.code {
				t.Errorf("POST %s: %d %v", c.text, resp.StatusCode, body)
			}
			if !strings.Contains(log.take(), c.logged) {
				t.Errorf("POST %s: the log lacks %q", c.text, c.logged)
			}
		}

		alice.say("change")
		if got := alice.said(); got != "Dr. alice: changed" {
			t.Error(got)
		}
		if m, err := sub.Next(t.Context()); err != nil || string(m.Payload) != "changed" || m.Key != "k" || m.Sender != "Dr. alice" {
			t.Errorf("%+v %v", m, err)
		}
		alice.say("to binary")
		if m, err := sub.Next(t.Context()); err != nil || !m.Binary || m.Key != "own" {
			t.Errorf("%+v %v", m, err)
		}
		alice.hear()
		s.fetch("POST", "/room?name=bob", "change")
		if got := alice.said(); got != "Dr. bob: changed" {
			t.Error(got)
		}
		// What the program itself publishes it need not be asked about.
		if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "room", Payload: []byte("rude")}); err != nil {
			t.Error(err)
		}
		if got := alice.said(); got != "rude" {
			t.Error(got)
		}
		alice.leave()
	})
}

// Each refused message is told of, also to one who sends many before it reads.
func TestEveryRefusalIsTold(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		hook := func(_ context.Context, m *fanfare.Message) error {
			return &fanfare.Error{Message: "not " + string(m.Payload)}
		}
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: hook}})
		alice := s.join("/")
		const total = 500
		var b []byte
		for n := range total {
			b = frame.AppendMasked(b, frame.Text, true, testKey, fmt.Append(nil, n))
		}
		alice.raw(b)
		for n := range total {
			if got := alice.said(); got != fmt.Sprintf("* not published: not %d", n) {
				t.Fatalf("heard %q, want the refusal of %d", got, n)
			}
		}
		alice.leave()
	})
}

// Shutdown does not wait for hooks that heed their context, and their clients
// are told what became of their messages.
func TestShutdownWhileHooksBlock(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		asked := make(chan struct{}, 10)
		told := make(chan string, 10)
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{
			Publish: func(ctx context.Context, m *fanfare.Message) error {
				asked <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			},
			Disconnect: func(_, _, reason string) { told <- reason },
		}})
		alice := s.join("/")
		alice.raw(append(masked(frame.Text, true, "one"), masked(frame.Text, true, "two")...))
		<-asked
		done := make(chan error, 1)
		begin := time.Now()
		go func() { done <- s.Shutdown(t.Context()) }()
		for range 2 {
			if got := alice.said(); got != "* not published: the server is shutting down; try again in a moment" {
				t.Fatal(got)
			}
		}
		if code, _ := alice.closed(); code != frame.GoingAway {
			t.Fatal(code)
		}
		alice.send(frame.Close, nil)
		alice.ended()
		alice.conn.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("Shutdown took %v, as if it had waited for CloseTimeout", took)
		}
		select { // before Shutdown returned
		case reason := <-told:
			if reason != "shutdown" {
				t.Error(reason)
			}
		default:
			t.Error("the program was not told of the session's end before Shutdown returned")
		}
		if len(asked) != 0 {
			t.Error("the hook was asked again, after the shutdown began")
		}
	})
}

// Nor for ever for those that do not.
func TestShutdownLeavesHooksBehind(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		g := newGate("")
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Publish: g.ask}, CloseTimeout: 50 * time.Millisecond})
		defer g.open()
		alice, bob := s.join("/"), s.join("/")
		alice.say("never mind")
		g.waitUntilAsked(t)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(ctx) }()
		for _, p := range []*person{bob, alice} {
			if code, _ := p.closed(); code != frame.GoingAway {
				t.Error(code)
			}
			p.send(frame.Close, nil)
			p.ended()
		}
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Error("Shutdown says", err, "though a hook still runs")
		}
		if n := s.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
}

// The hook Connect sees the request and decides before the handshake is answered.
func TestConnectHook(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		var log lockedBuffer
		s := perform(t, fanfare.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Hooks: fanfare.Hooks{Connect: func(r *http.Request, channel string) error {
			switch channel {
			case "club":
				if r.Header.Get("Authorization") != "members" {
					return &fanfare.Error{Code: "members_only", Message: "the club is for members"}
				}
			case "broken":
				return errors.New("secret reason")
			case "panic":
				panic("secret panic")
			}
			return nil
		}}})
		for _, c := range []struct {
			path         string
			status       int
			code, logged string
		}{
			{"/club", 403, "members_only", ""},
			{"/broken", 500, "internal", "secret reason"},
			{"/panic", 500, "internal", "secret panic"},
		} {
			resp, body := s.fetch("GET", c.path, "", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
			if resp.StatusCode != c.status || errorCode(body) != c.code || strings.Contains(fmt.Sprint(body), "secret") || !strings.Contains(log.take(), c.logged) {
				t.Errorf("%s: %d %v", c.path, resp.StatusCode, body)
			}
		}
		s.join("/club", "Authorization: members").leave()
		s.join("/open").leave()
		eventually(t, "both are gone", func() bool { return s.Stats().Ended["client"] == 2 })
	})
}

// The hook Disconnect hears of every end, and why; a panic in it hurts nobody.
func TestDisconnectHook(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		ends := make(chan string, 10)
		s := perform(t, fanfare.Config{Hooks: fanfare.Hooks{Disconnect: func(channel, name, reason string) {
			ends <- fmt.Sprint(channel, "|", name, "|", reason)
			panic("in the hook")
		}}})
		for want, end := range map[string]func(*person){
			"a/b|alice|client": (*person).leave,
			"a/b|alice|lost": func(p *person) {
				p.conn.(*net.TCPConn).SetLinger(0)
				p.conn.Close()
			},
			"a/b|alice|protocol": func(p *person) {
				p.raw([]byte{0xFF, 0xFF})
				p.closed()
				p.conn.Close()
			},
		} {
			end(s.join("/a/b?name=alice"))
			if got := <-ends; got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
	})
}

// A heldBroker is the memory broker, which takes messages when it is told to.
type heldBroker struct {
	*broker.Memory
	mu   sync.Mutex // guards the following
	held []func()
	most int // that were ever held
}

func (b *heldBroker) Publish(m *fanfare.Message, done func(fanfare.Position, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, func() { b.Memory.Publish(m, done) })
	b.most = max(b.most, len(b.held))
}

// take takes one message, if there is one.
func (b *heldBroker) take() bool {
	b.mu.Lock()
	if len(b.held) == 0 {
		b.mu.Unlock()
		return false
	}
	first := b.held[0]
	b.held = b.held[1:]
	b.mu.Unlock()
	first()
	return true
}

func (b *heldBroker) holds() (now, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held), b.most
}

// However much a client says at once, no more than 64 of its messages are with
// the broker; the rest follows in order, with a hook and without.
func TestBrokerIsNotFlooded(t *testing.T) {
	for _, asks := range []bool{false, true} {
		t.Run(fmt.Sprintf("hook %v", asks), func(t *testing.T) {
			bothTransports(t, func(t *testing.T) {
				b := &heldBroker{Memory: broker.NewMemory(nil)}
				cfg := fanfare.Config{Broker: b, History: 1 << 20, HistoryBytes: 1 << 30, MaxLag: 1 << 30}
				if asks {
					cfg.Hooks.Publish = func(context.Context, *fanfare.Message) error { return nil }
				}
				s := perform(t, cfg)
				const total = 3000
				alice := s.join("/")
				var flood []byte
				for n := range total {
					flood = frame.AppendMasked(flood, frame.Text, true, testKey, fmt.Append(nil, n))
				}
				alice.raw(flood)
				eventually(t, "the broker has 64", func() bool { now, _ := b.holds(); return now == 64 })
				heard := 0
				for heard < total {
					if !b.take() {
						runtime.Gosched() // the next is on its way
						continue
					}
					if got := alice.said(); got != fmt.Sprint(heard) {
						t.Fatalf("heard %q, want %d", got, heard)
					}
					heard++
				}
				if _, most := b.holds(); most != 64 {
					t.Errorf("the broker had %d messages of one client at once", most)
				}
				alice.say("bye") // she is read from again
				eventually(t, "it is there", b.take)
				if got := alice.said(); got != "bye" {
					t.Fatal(got)
				}
				alice.leave()
			})
		})
	}
}

// Nor are they more than about 1 MiB.
func TestBrokerIsNotFloodedWithLargeMessages(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		b := &heldBroker{Memory: broker.NewMemory(nil)}
		s := perform(t, fanfare.Config{Broker: b, HistoryBytes: 1 << 30, MaxMessage: 4 << 20})
		alice := s.join("/")
		sizes := []int{500 << 10, 500 << 10, 500 << 10, 3 << 20, 1, 1}
		go func() { // she waits in the middle
			var flood []byte
			for _, n := range sizes {
				flood = frame.AppendMasked(flood, frame.Text, true, testKey, bytes.Repeat([]byte("x"), n))
			}
			alice.conn.SetWriteDeadline(time.Now().Add(patience))
			alice.conn.Write(flood)
		}()
		eventually(t, "the broker has two", func() bool { now, _ := b.holds(); return now == 2 })
		bob := s.join("/")
		for range 100 { // time in which more could come
			bob.send(frame.Ping, nil)
			if op, _, err := bob.next(); op != frame.Pong {
				t.Fatal(op, err)
			}
		}
		for i, n := range sizes {
			eventually(t, "it is there", b.take)
			if got := alice.said(); len(got) != n {
				t.Fatalf("message %d has %d bytes, want %d", i, len(got), n)
			}
		}
		if _, most := b.holds(); most != 2 {
			t.Errorf("the broker had %d messages of one client at once, of nearly half a MiB and more", most)
		}
		alice.leave()
	})
}

// A lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what was written since the last take.
func (l *lockedBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	l.b.Reset()
	return s
}
