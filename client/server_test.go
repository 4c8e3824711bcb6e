package client

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/fanfaretest"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the random cuts; 0: another one each time")
	storyFlag = flag.Int("messages", 300, "messages of each publisher over the random cuts")
)

// serve runs a Fanfare server and returns its address.
func serve(t testing.TB, cfg fanfare.Config) (*fanfare.Server, string) {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	server, err := fanfare.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(func() {
		if err := server.Shutdown(testContext(t)); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		web.Close()
	})
	return server, web.Listener.Addr().String()
}

func dialServer(t *testing.T, address string, o Options) *Client {
	t.Helper()
	c, err := Dial(testContext(t), "ws://"+address, quick(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestWithAServer(t *testing.T) {
	server, address := serve(t, fanfare.Config{})
	server.Handle("add", func(_ context.Context, r *fanfare.Request) (any, error) {
		var numbers []int
		if err := json.Unmarshal(r.Data, &numbers); err != nil {
			return nil, &fanfare.Error{Code: "bad_numbers", Message: "no numbers"}
		}
		sum := 0
		for _, n := range numbers {
			sum += n
		}
		return sum, nil
	})
	ctx := testContext(t)
	alice, bob := dialServer(t, address, Options{Name: "alice"}), dialServer(t, address, Options{Name: "bob"})

	hers, err := alice.Subscribe(ctx, "chat/general", &SubscribeOptions{Presence: true})
	if err != nil {
		t.Fatal(err)
	}
	all, err := bob.Subscribe(ctx, "chat/**", nil)
	if err != nil {
		t.Fatal(err)
	}
	his, err := bob.Subscribe(ctx, "chat/general", nil)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range hers.Presence(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Count == 2 {
			break
		}
	}
	members, complete := hers.Members()
	if len(members) != 2 || !complete || hers.Count() != 2 {
		t.Errorf("%+v, %v", members, complete)
	}

	var positions []string
	for i, data := range []any{"hello", "42", map[string]int{"n": 1}, []byte("plain"), nil} {
		position, err := bob.Publish(ctx, "chat/general", data, &PublishOptions{Key: fmt.Sprint("k", i)})
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, position)
	}
	again, err := bob.Publish(ctx, "chat/general", []byte{0, 255}, &PublishOptions{Binary: true, ID: "once"})
	if err != nil {
		t.Fatal(err)
	}
	positions = append(positions, again)
	if again, err := bob.Publish(ctx, "chat/general", []byte{0, 255}, &PublishOptions{Binary: true, ID: "once"}); err != nil || again != positions[5] {
		t.Errorf("said again it is at %q, %v", again, err)
	}
	for _, sub := range []*Subscription{hers, all, his} {
		for i, want := range []string{`"hello"`, `"42"`, `{"n":1}`, `"plain"`, `null`, `"AP8="`} {
			m, err := sub.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Data) != want || m.Sender != "bob" || m.Position != positions[i] || i < 5 && m.Key != fmt.Sprint("k", i) || m.Binary() != (i == 5) {
				t.Errorf("%s: message %d is %+v with %s", sub.Channel(), i, m, m.Data)
			}
		}
	}
	page, err := alice.History(ctx, "chat/general", &HistoryOptions{Since: positions[1], Limit: 2})
	if err != nil || len(page.Messages) != 2 || page.Messages[0].Position != positions[2] || !page.More || page.Gap {
		t.Errorf("%+v, %v", page, err)
	}
	if p, err := bob.Presence(ctx, "chat/general", 1); err != nil || p.Count != 2 || len(p.Members) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	var sum int
	if err := alice.Request(ctx, "add", []int{1, 2, 3}, &sum); err != nil || sum != 6 {
		t.Error(sum, err)
	}
	for _, tt := range []struct {
		code string
		err  func() error
	}{
		{"bad_numbers", func() error { return alice.Request(ctx, "add", "x", nil) }},
		{"unknown_method", func() error { return alice.Request(ctx, "subtract", nil, nil) }},
		{"bad_channel", func() error { _, err := alice.Publish(ctx, "chat/**", 1, nil); return err }},
		{"bad_since", func() error {
			_, err := alice.Subscribe(ctx, "x", &SubscribeOptions{Since: "yesterday"})
			return err
		}},
		{"bad_presence", func() error {
			_, err := alice.Subscribe(ctx, "x/*", &SubscribeOptions{Presence: true})
			return err
		}},
		{"bad_slow", func() error { _, err := alice.Subscribe(ctx, "x", &SubscribeOptions{Slow: "stop"}); return err }},
		{"bad_limit", func() error { _, err := alice.History(ctx, "x", &HistoryOptions{Limit: 2000}); return err }},
		{"id_reused", func() error {
			_, err := bob.Publish(ctx, "chat/general", "other", &PublishOptions{ID: "once"})
			return err
		}},
		{"bad_id", func() error {
			_, err := bob.Publish(ctx, "x", 1, &PublishOptions{ID: strings.Repeat("1", 129)})
			return err
		}},
		{"too_big", func() error { _, err := bob.Publish(ctx, "x", make([]byte, 2<<20), nil); return err }},
	} {
		var said *Error
		if err := tt.err(); !errors.As(err, &said) || said.Code != tt.code {
			t.Errorf("%v, expected %s", err, tt.code)
		}
	}
	old, err := alice.Subscribe(ctx, "chat/*", &SubscribeOptions{Since: positions[4]})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := old.Next(ctx); err != nil || m.Position != positions[5] || m.Pattern != "chat/*" {
		t.Errorf("%+v, %v", m, err)
	}
}

// A consumer who takes nothing for a while gets everything from history.
func TestSlowConsumerOfAServer(t *testing.T) {
	_, address := serve(t, fanfare.Config{History: 10_000})
	ctx := testContext(t)
	alice, bob := dialServer(t, address, Options{}), dialServer(t, address, Options{Buffer: 16})
	for _, channel := range []string{"busy", "busy*"} {
		if channel == "busy*" {
			channel = "*"
		}
		sub, err := bob.Subscribe(ctx, channel, nil)
		if err != nil {
			t.Fatal(err)
		}
		const n = 500
		read := 0
		next := func() {
			m, err := sub.Next(ctx)
			if err != nil {
				t.Fatalf("%s: after %d: %v", channel, read, err)
			}
			var got int
			if err := m.Decode(&got); err != nil || got != read {
				t.Fatalf("%s: read %s, expected %d", channel, m.Data, read)
			}
			read++
		}
		for i := range n {
			if _, err := alice.Publish(ctx, "busy", i, nil); err != nil {
				t.Fatal(err)
			}
			if i%7 == 0 {
				next()
			}
		}
		for read < n {
			next()
		}
		sub.Close()
	}
}

// A proxy forwards connections and resets each after so many bytes from the
// server, or from the client, in the middle of whatever that is.
type proxy struct {
	listener net.Listener
	to       string
	budget   func() (fromServer, fromClient int) // of the next connection
	cuts     atomic.Int64

	mu    sync.Mutex
	conns map[*net.TCPConn]struct{}
	work  sync.WaitGroup
}

func newProxy(t *testing.T, to string, budget func() (fromServer, fromClient int)) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, to: to, budget: budget, conns: make(map[*net.TCPConn]struct{})}
	p.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.forward(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.cutAll()
		p.work.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) forward(client *net.TCPConn) {
	fromServer, fromClient := p.budget()
	conn, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	p.mu.Lock()
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var once sync.Once
	end := func() {
		once.Do(func() {
			p.cuts.Add(1)
			reset(client)
			reset(server)
		})
	}
	var other sync.WaitGroup
	other.Go(func() {
		_, _ = io.CopyN(client, server, int64(fromServer))
		end()
	})
	_, _ = io.CopyN(server, client, int64(fromClient))
	end()
	other.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

// Publishers and readers whose connections are reset at random bytes, in both
// directions, so that about one publish in ten loses its answer: everything
// that was acknowledged is read by every reader exactly once and in order.
func TestEverythingOnceOverRandomCuts(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	var randomMu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	between := func(least, most int) int {
		randomMu.Lock()
		defer randomMu.Unlock()
		return least + random.IntN(most-least)
	}
	const publishers, readers = 4, 3
	messages := *storyFlag
	_, address := serve(t, fanfare.Config{History: publishers * messages, HistoryBytes: 64 << 20})
	// A handshake is about 300 bytes and a welcome 180, an answer 80, a publish 130, a message 230.
	acks := newProxy(t, address, func() (int, int) { return between(300, 2000), between(300, 5000) })
	reads := newProxy(t, address, func() (int, int) { return between(300, 30_000), between(300, 3000) })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	type said struct{ Publisher, N int }
	channels := []string{"load/a", "load/b"}
	var everybody sync.WaitGroup
	var mu sync.Mutex
	acknowledged := make(map[said]string) // positions
	fail := func(format string, args ...any) {
		t.Errorf(format, args...)
		cancel()
	}

	for _, pattern := range append([]string{"load/*"}, channels...) {
		for range readers {
			c := dialServer(t, reads.address(), Options{Patient: true, Buffer: 64})
			sub, err := c.Subscribe(ctx, pattern, &SubscribeOptions{Since: "0"})
			if err != nil {
				t.Fatal(err)
			}
			everybody.Go(func() {
				due := publishers * messages
				if pattern != "load/*" {
					due /= len(channels)
				}
				last := make(map[string]map[int]int) // by channel and publisher: the newest N
				seen := make(map[said]string)
				for m, err := range sub.Messages(ctx) {
					if err != nil {
						fail("%s: %v", pattern, err)
						return
					}
					var one said
					if err := m.Decode(&one); err != nil {
						fail("%s: %v", pattern, err)
						return
					}
					if last[m.Channel] == nil {
						last[m.Channel] = make(map[int]int)
					}
					if before, ok := last[m.Channel][one.Publisher]; ok && one.N <= before {
						fail("%s: publisher %d's message %d comes after %d", pattern, one.Publisher, one.N, before)
						return
					}
					last[m.Channel][one.Publisher] = one.N
					seen[one] = m.Position
					if len(seen) == due {
						break
					}
				}
				if len(seen) != due {
					fail("%s: read %d of %d", pattern, len(seen), due)
				}
				// What was read has the position that its publisher was told.
				everyone := time.Now().Add(patience)
				for one, position := range seen {
					for {
						mu.Lock()
						told, ok := acknowledged[one]
						mu.Unlock()
						if ok && told != position {
							fail("%s: %+v is at %s, and its publisher was told %s", pattern, one, position, told)
							return
						}
						if ok || ctx.Err() != nil || time.Now().After(everyone) {
							break
						}
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
	}
	for p := range publishers {
		c := dialServer(t, acks.address(), Options{Patient: true, Queue: 20, CloseTimeout: patience})
		everybody.Go(func() {
			var waiting []*Receipt
			settle := func() bool {
				r := waiting[0]
				waiting = waiting[1:]
				position, err := r.Wait(ctx)
				if err != nil {
					fail("publisher %d: %v", p, err)
					return false
				}
				var one said
				_ = json.Unmarshal(r.call.command.Data, &one)
				mu.Lock()
				acknowledged[one] = position
				mu.Unlock()
				return true
			}
			for n := range messages {
				channel := channels[n%len(channels)]
				for {
					r, err := c.Send(channel, said{p, n}, nil)
					if err == nil {
						waiting = append(waiting, r)
						break
					}
					if !errors.Is(err, ErrFull) || !settle() {
						fail("publisher %d: %v", p, err)
						return
					}
				}
			}
			for len(waiting) > 0 {
				if !settle() {
					return
				}
			}
		})
	}
	everybody.Wait()
	if len(acknowledged) != publishers*messages {
		t.Errorf("%d of %d messages were acknowledged", len(acknowledged), publishers*messages)
	}
	t.Logf("%d connections of publishers and %d of readers were cut", acks.cuts.Load(), reads.cuts.Load())
	if acks.cuts.Load() < 10 || reads.cuts.Load() < 10 {
		t.Error("hardly anything was cut: this shows nothing")
	}
}

// The server ends and another takes its place, without its memory.
func TestAnotherServer(t *testing.T) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	first, err := fanfare.New(fanfare.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // an epoch is when a history began, in milliseconds
	second, err := fanfare.New(fanfare.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Pointer[fanfare.Server]
	now.Store(first)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	defer web.Close()
	ctx := testContext(t)
	defer second.Shutdown(ctx)

	c := dialServer(t, web.Listener.Addr().String(), Options{})
	sub, err := c.Subscribe(ctx, "chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	var receipts []*Receipt
	for n := range 500 {
		if n == 250 {
			now.Store(second)
			go first.Shutdown(ctx)
		}
		r, err := c.Send("chat", n, nil)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	positions := make(map[string]bool)
	for n, r := range receipts {
		position, err := r.Wait(ctx)
		if err != nil || positions[position] {
			t.Fatalf("message %d is at %q, %v", n, position, err)
		}
		positions[position] = true
	}
	gaps, last := 0, -1
	for m, err := range sub.Messages(ctx) {
		var gap *GapError
		if errors.As(err, &gap) {
			if gaps++; gap.Reason != "lost" {
				t.Error(gap)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := m.Decode(&n); err != nil || n <= last {
			t.Fatalf("%s comes after %d", m.Data, last)
		}
		if last = n; n == len(receipts)-1 {
			break
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps, where one history was lost", gaps)
	}
}

// A network that swallows everything is noticed by the silence, and many
// subscriptions come back together.
func TestManySubscriptionsOverABlackHole(t *testing.T) {
	t.Parallel()
	srv := fanfaretest.NewServer(t, fanfare.Config{Heartbeat: time.Second})
	ctx := testContext(t)
	c, err := Dial(ctx, srv.URL, quick(Options{}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 900
	subs := make([]*Subscription, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			sub, err := c.Subscribe(ctx, fmt.Sprint("room/", i), nil)
			if err != nil {
				t.Error(err)
			}
			subs[i] = sub
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	session := c.State().Session
	srv.SetDelay(time.Hour) // for what is read from now on
	for i := range n {
		if _, err := srv.Fanfare.Publish(ctx, &fanfare.Message{Channel: fmt.Sprint("room/", i), Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	for state := range c.States(ctx) {
		if state.Phase == Waiting {
			break
		}
	}
	srv.SetDelay(0)
	for i, sub := range subs {
		m, err := sub.Next(ctx)
		if err != nil || string(m.Data) != fmt.Sprint(i) {
			t.Fatalf("room %d: %+v, %v", i, m, err)
		}
	}
	if c.State().Session == session {
		t.Error("it is the same connection")
	}
}
