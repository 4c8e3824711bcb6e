package loadgen

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"fanfare"
	"fanfare/internal/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ours runs a Fanfare server and returns its URL.
func ours(t *testing.T, serve func(http.Handler) *httptest.Server) *url.URL {
	t.Helper()
	server, err := fanfare.New(fanfare.Config{Logger: slog.New(slog.DiscardHandler), Limits: fanfare.Limits{Messages: -1, Bytes: -1}})
	if err != nil {
		t.Fatal(err)
	}
	web := serve(server)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		web.Close()
	})
	return webSocket(t, web.URL+"/bench")
}

func webSocket(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse("ws" + strings.TrimPrefix(address, "http"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A hub is somebody else's server: it sends what a client sent to all of them.
type hub struct {
	// send is asked before each message for each client, both counted from 0, and says how
	// often to send it. Nil: once. Called with the lock.
	send func(message, client int, sender bool) int
	// read is called after each message that was read, without the lock. May be nil.
	read func(message int)

	mu       sync.Mutex
	clients  []*websocket.Conn
	messages int
	pongs    int
	sources  map[string]bool
	all      sync.WaitGroup
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.all.Add(1)
	defer h.all.Done()
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetPongHandler(func(string) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pongs++
		return nil
	})
	h.mu.Lock()
	if h.sources == nil {
		h.sources = map[string]bool{}
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	h.sources[host] = true
	h.clients = append(h.clients, conn)
	_ = conn.WriteMessage(websocket.PingMessage, []byte("well?"))
	h.mu.Unlock()
	for {
		kind, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		h.mu.Lock()
		n := h.messages
		h.messages++
		for i, c := range h.clients {
			times := 1
			if h.send != nil {
				times = h.send(n, i, c == conn)
			}
			for range times {
				_ = c.WriteMessage(kind, text)
			}
		}
		h.mu.Unlock()
		if h.read != nil {
			h.read(n)
		}
	}
}

// start runs the hub and returns its URL.
func (h *hub) start(t *testing.T) *url.URL {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		h.all.Wait()
		web.Close()
	})
	return webSocket(t, web.URL)
}

// quick are small numbers: 15 messages in 0.3 s to 20 connections.
func quick(u *url.URL, s Scenario) Config {
	c := Defaults(s)
	c.URL, c.Connections = u, 20
	if s != Connect {
		c.Duration = 300 * time.Millisecond
	}
	if c.Warmup > 0 {
		c.Warmup = 100 * time.Millisecond
	}
	switch s {
	case Broadcast:
		c.Rate = 50
	case Stall:
		c.Rate, c.Size = 50, 2000
	}
	return c
}

// measured runs and wants a report.
func measured(t *testing.T, c Config) *Report {
	t.Helper()
	r, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// flawless checks a run in which every one of so many receivers got everything.
func flawless(t *testing.T, r *Traffic, receivers int64) {
	t.Helper()
	if r == nil {
		t.Fatal("no messages were measured")
	}
	if r.Lost != 0 || r.Doubled != 0 || r.Disordered != 0 || r.Unsent != 0 || r.Closed != 0 {
		t.Errorf("lost, doubled, out of order, unsent and closed are %d, %d, %d, %d and %d (%s), want none", r.Lost, r.Doubled, r.Disordered, r.Unsent, r.Closed, r.Why)
	}
	if r.Last.Count == 0 || r.Latency.Count != r.Last.Count*receivers {
		t.Errorf("%d deliveries of %d messages to %d receivers", r.Latency.Count, r.Last.Count, receivers)
	}
	if l := r.Latency; l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max || r.Last.Max < l.Max {
		t.Errorf("the latencies are in disorder: %+v, last %+v", l, r.Last)
	}
	if r.Deliveries <= 0 || r.Messages <= 0 || r.Seconds <= 0 {
		t.Errorf("%v deliveries/s, %v messages/s in %v s", r.Deliveries, r.Messages, r.Seconds)
	}
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	h := &hub{}
	for name, u := range map[string]*url.URL{"fanfare": ours(t, httptest.NewServer), "gorilla": h.start(t)} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []Scenario{Broadcast, Throughput, Stall, Connect} {
				r := measured(t, quick(u, s))
				if err := r.Err(); err != nil {
					t.Errorf("%s: %v", s, err)
				}
				if r.Handshakes.Connections != 20 || r.Handshakes.Latency.Count != 20 || r.Handshakes.PerSecond <= 0 {
					t.Errorf("%s: the handshakes were %+v", s, r.Handshakes)
				}
				switch s {
				case Connect:
					if r.Traffic != nil {
						t.Errorf("%s sent messages: %+v", s, r.Traffic)
					}
				case Stall:
					flawless(t, r.Unstalled, 20)
					flawless(t, r.Traffic, 18)
					if r.Unstalled.Stalled != 0 || r.Traffic.Stalled != 2 {
						t.Errorf("%d and %d stalled, want 0 and 2", r.Unstalled.Stalled, r.Traffic.Stalled)
					}
				default:
					flawless(t, r.Traffic, 20)
					if s == Broadcast && r.Traffic.Last.Count != 15 {
						t.Errorf("%d messages were measured in 0.3 s at 50/s", r.Traffic.Last.Count)
					}
				}
				var back map[string]any
				if b, err := json.Marshal(r); err != nil || json.Unmarshal(b, &back) != nil || back["scenario"] != string(s) {
					t.Errorf("%s: the report is no JSON: %v", s, err)
				}
				var plot bytes.Buffer
				if err := r.Plot(&plot); err != nil {
					t.Errorf("%s: Plot: %v", s, err)
				}
				wellFormed(t, plot.Bytes())
			}
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pongs < 20 {
		t.Errorf("%d of the hub's pings were answered", h.pongs)
	}
}

// wellFormed checks that b is one XML document, an SVG.
func wellFormed(t *testing.T, b []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	first := ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && first == "" {
			first = e.Name.Space + " " + e.Name.Local
		}
	}
	if first != "http://www.w3.org/2000/svg svg" {
		t.Errorf("the plot is %q, not an SVG", first)
	}
	if bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
		t.Errorf("the plot has points that are nowhere:\n%s", b)
	}
}

// Other transports than plain TCP.
func TestOtherSockets(t *testing.T) {
	t.Parallel()
	secure := ours(t, httptest.NewTLSServer)
	c := quick(secure, Broadcast)
	c.TLS = &tls.Config{InsecureSkipVerify: true}
	flawless(t, measured(t, c).Traffic, 20)
	c.TLS = nil
	var refused *DialError
	if _, err := Run(context.Background(), c); !errors.As(err, &refused) {
		t.Errorf("a certificate that nobody knows: %v", err)
	}

	path := filepath.Join(t.TempDir(), "s")
	u := ours(t, func(h http.Handler) *httptest.Server {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}}
		s.Start()
		return s
	})
	u.Scheme, u.Host, u.Path = "ws+unix", "", path+":/bench"
	flawless(t, measured(t, quick(u, Broadcast)).Traffic, 20)
}

// What a bad server does is found out.
func TestBadServers(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]struct {
		send  func(n, client int, sender bool) int
		wrong func(*Traffic) bool
		says  string
	}{
		"one that drops": {
			func(n, client int, _ bool) int { return map[bool]int{true: 0, false: 1}[n%5 == 3 && client == 3] },
			func(r *Traffic) bool { return r.Lost >= 2 && r.Lost <= 5 && r.Last.Count < 15 },
			"deliveries were lost",
		},
		"one that stammers": {
			func(n, client int, _ bool) int { return map[bool]int{true: 2, false: 1}[n%5 == 3 && client == 3] },
			func(r *Traffic) bool { return r.Lost == 0 && r.Doubled >= 2 && r.Doubled <= 5 },
			"deliveries came twice",
		},
	} {
		c := quick((&hub{send: bad.send}).start(t), Broadcast)
		c.patience = 500 * time.Millisecond
		r := measured(t, c)
		if !bad.wrong(r.Traffic) {
			t.Errorf("%s: %+v", name, r.Traffic)
		}
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: Err is %v, want %q", name, err, bad.says)
		}
	}
}

// A hub that leaves out the sender is no bad server.
func TestSenderLeftOut(t *testing.T) {
	t.Parallel()
	h := &hub{send: func(_, _ int, sender bool) int { return map[bool]int{true: 0, false: 1}[sender] }}
	u := h.start(t)
	r := measured(t, quick(u, Broadcast))
	flawless(t, r.Traffic, 19)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// Nothing can be measured with a server that is no hub, and the error says why.
func TestNoHub(t *testing.T) {
	t.Parallel()
	echo := func(_, _ int, sender bool) int { return map[bool]int{true: 1, false: 0}[sender] }
	c := quick((&hub{send: echo}).start(t), Broadcast)
	c.patience = 500 * time.Millisecond
	if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), "answer the sender alone") {
		t.Errorf("with a server that echoes: %v", err)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for _, s := range []Scenario{Broadcast, Connect} {
		var refused *DialError
		if _, err := Run(context.Background(), quick(webSocket(t, web.URL), s)); !errors.As(err, &refused) || refused.Response == nil || refused.Response.StatusCode != 404 {
			t.Errorf("%s with a web server: %v", s, err)
		}
	}
}

// A connection that a server closes is counted, with what it then missed.
func TestClosedByServer(t *testing.T) {
	t.Parallel()
	h := &hub{}
	h.send = func(n, client int, _ bool) int {
		if client == 5 && n == 10 {
			_ = h.clients[5].WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1013, "too slow"), time.Now().Add(time.Second))
		}
		return map[bool]int{true: 0, false: 1}[client == 5 && n >= 10]
	}
	r := measured(t, quick(h.start(t), Broadcast))
	if r.Traffic.Closed != 1 || r.Traffic.Lost == 0 || !strings.Contains(r.Traffic.Why, "1013 ") || !strings.Contains(r.Traffic.Why, "too slow") {
		t.Errorf("closed %d (%s), lost %d", r.Traffic.Closed, r.Traffic.Why, r.Traffic.Lost)
	}
	if r.Err() == nil {
		t.Error("no error")
	}
}

// What a server does not take in time is counted, and the run ends.
func TestServerThatStopsReading(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	h := &hub{read: func(n int) {
		if n == 5 {
			<-over
		}
	}}
	c := quick(h.start(t), Broadcast)
	c.Connections, c.Rate, c.Size, c.Warmup = 2, 100, 1<<20, 0 // more than the kernel holds
	c.patience = 500 * time.Millisecond
	r := measured(t, c)
	close(over)
	if r.Traffic.Unsent == 0 || r.Traffic.Why == "" {
		t.Errorf("unsent are %d messages (%s)", r.Traffic.Unsent, r.Traffic.Why)
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "not taken by the server") {
		t.Errorf("Err is %v", err)
	}
}

// With messages in flight nothing goes on when one receiver is gone: the run
// ends early, and what was measured is there.
func TestThroughputEndsWithAReceiver(t *testing.T) {
	t.Parallel()
	h := &hub{send: func(n, client int, _ bool) int { return map[bool]int{true: 0, false: 1}[client == 5 && n >= 2000] }}
	c := quick(h.start(t), Throughput)
	c.Duration, c.Warmup, c.patience = time.Hour, 0, 500*time.Millisecond
	r := measured(t, c)
	if r.Traffic.Lost == 0 || r.Traffic.Last.Count < 1000 || !strings.Contains(r.Traffic.Why, "no further message had come to all receivers") || r.Err() == nil {
		t.Errorf("%+v, %v", r.Traffic, r.Err())
	}
}

// While a server stands still, the clock of every message that was due goes on:
// half of the messages that were due in the half second wait longer than half of it.
// Whoever counts from the answer before sees one.
func TestStallIsNotHidden(t *testing.T) {
	t.Parallel()
	const stall = 500 * time.Millisecond
	h := &hub{}
	h.read = func(n int) {
		if n == 20 {
			time.Sleep(stall) // this is what the server does, not what the test waits for
		}
	}
	c := quick(h.start(t), Broadcast)
	c.Rate, c.Warmup, c.Duration = 100, 0, time.Second
	r := measured(t, c)
	flawless(t, r.Traffic, 20)
	late := int64(0)
	for _, bracket := range r.Traffic.Latency.all.Distribution() {
		if bracket.From >= int64(stall/2) {
			late += bracket.Count
		}
	}
	if late < 20*20 {
		t.Errorf("%d deliveries took more than half of the stall, want some 25 messages to 20 receivers", late)
	}
}

// The marks carry the schedule, also when the server takes nothing for a while
// and the messages go out late; and that lateness is the server's, not ours.
func TestIntendedTimeWhenNothingIsTaken(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe() // no buffer: a write waits for the read
	defer far.Close()
	defer near.Close()
	w := crowdOf(1)
	w.conns[0].net = near
	c := Defaults(Broadcast)
	c.Rate = 200
	run := &traffic{config: &c, crowd: w}
	p := newPublisher(w.conns[0], w.begin(1, 0, 1<<10), MinSize)
	begin := w.now()
	end := begin + int64(500*time.Millisecond)
	var s schedule
	var over sync.WaitGroup
	over.Go(func() {
		s = run.onSchedule(context.Background(), p, begin, begin, end)
		if early := end - w.now(); early > 0 {
			t.Errorf("the run ended %v early: what it sent a second would be too much", time.Duration(early))
		}
		near.Close()
	})
	const frameSize = 6 + MinSize
	b := make([]byte, frameSize)
	read := 0
	for {
		if read == 20 {
			time.Sleep(300 * time.Millisecond) // the stall itself
		}
		if _, err := io.ReadFull(far, b); err != nil {
			break
		}
		frame.Mask(b[6:], mask, 0)
		number, _ := hex(b[6+markHead : 6+markHead+8])
		intended, ok := hex(b[6+markHead+8:])
		if want := uint64(begin) + uint64(read)*5e6; !ok || number != uint64(read) || intended != want {
			t.Fatalf("message %d carries the number %d and the time %d, want %d", read, number, intended, want)
		}
		read++
	}
	over.Wait()
	if read != 100 || s.sent != 100 || s.unsent != 0 {
		t.Errorf("%d messages came, %d were sent, %d not; want all 100", read, s.sent, s.unsent)
	}
	if late := s.late.ValueAtPercentile(90); late > int64(100*time.Millisecond) {
		t.Errorf("the server's stall counts as our lateness: %v", time.Duration(late))
	}
}

// What is measured until an interruption is reported.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	u := ours(t, httptest.NewServer)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := quick(u, Broadcast)
	c.Duration, c.Warmup = time.Hour, 0
	c.Progress = func(p Progress) {
		if p.Phase == "measuring" && p.Deliveries >= 100 {
			cancel()
		}
	}
	r, err := Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted {
		t.Error("it does not say that it was interrupted")
	}
	flawless(t, r.Traffic, 20)
	if r.Traffic.Why != "" {
		t.Errorf("it was not we, but %s", r.Traffic.Why)
	}
	// Before anything was measured.
	if r, err := Run(ctx, c); err != nil || r.Err() == nil {
		t.Errorf("interrupted at once: %+v, %v", r, err)
	}
}

func TestJudge(t *testing.T) {
	late := func(p99 float64) *Latency { return &Latency{P99: p99} }
	for name, c := range map[string]struct {
		g          Generator
		p99, rival float64
		says       string
	}{
		"idle":              {Generator{Cores: 0.2, Of: 2, Late: late(900)}, 1000, 0, ""},
		"busy":              {Generator{Cores: 1.9, Of: 2}, 1000, 0, "the load generator was the limit"},
		"late":              {Generator{Cores: 0.2, Of: 2, Late: late(2000)}, 10000, 0, "sent late"},
		"late, who notices": {Generator{Cores: 0.2, Of: 2, Late: late(2000)}, 100000, 0, ""},
		"rivals":            {Generator{Cores: 0.5, Of: 2}, 1000, 1000, "together"},
	} {
		said := strings.Join(c.g.judge(c.p99, c.rival), "\n")
		if (c.says == "") != (said == "") || !strings.Contains(said, c.says) || c.g.Limited != (c.says != "") {
			t.Errorf("%s: it says %q and Limited is %v, want %q", name, said, c.g.Limited, c.says)
		}
	}
}

func TestCheck(t *testing.T) {
	u := webSocket(t, "http://localhost/")
	with := func(s Scenario, change func(*Config)) Config {
		c := Defaults(s)
		c.URL = u
		change(&c)
		return c
	}
	for says, c := range map[string]Config{
		"there is no URL":                  Defaults(Broadcast),
		`there is no scenario "dance"`:     with("dance", func(*Config) {}),
		"--connections is 0: it must be":   with(Connect, func(c *Config) { c.Connections = 0 }),
		"--rate is 0: it must be":          with(Broadcast, func(c *Config) { c.Rate = 0 }),
		"--rate is NaN: it must be":        with(Stall, func(c *Config) { c.Rate = math.NaN() }),
		"1000000 messages a second":        with(Broadcast, func(c *Config) { c.Rate = 1e7 }),
		"--rate means nothing to the scen": with(Throughput, func(c *Config) { c.Rate = 30 }),
		"between 29 and 1073741824 bytes":  with(Broadcast, func(c *Config) { c.Size = 28 }),
		"--duration is -1s: it must be":    with(Broadcast, func(c *Config) { c.Duration = -time.Second }),
		"--warmup is -1s: it must be":      with(Broadcast, func(c *Config) { c.Warmup = -time.Second }),
		"--window is 65537: it must be":    with(Connect, func(c *Config) { c.Window = 65537 }),
		"--stall is 1: it must be":         with(Stall, func(c *Config) { c.Stall = 1 }),
		"nobody would be left":             with(Stall, func(c *Config) { c.Connections = 1 }),
		"that would be 10010000 messages":  with(Broadcast, func(c *Config) { c.Rate, c.Duration = 1e4, 1000*time.Second }),
		"idle measures the memory":         with(Idle, func(*Config) {}),
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", c, err, says)
		}
	}
	for _, s := range []Scenario{Broadcast, Throughput, Connect, Stall} {
		if err := with(s, func(c *Config) { c.Warmup = 0 }).Check(); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func init() { log.SetOutput(io.Discard) } // of httptest's servers
