// Package loadgen is what `fanfare bench` runs: it connects many clients to a
// server that sends every message to all of them, and measures what they see.
//
// # The mark
//
// A server may put something before a text (ours the time of day), or send the
// JSON or the bytes on as they came. So every message carries a mark, which is
// found wherever in the payload it stands:
//
//	~ 8 hex digits: the run · 8: the number of the message · 12: when it was to be sent, in ns
//
// The rest up to Size is filled up with x. What carries no mark of this run is
// somebody else's message, or one of history, and is not counted.
//
// # Time that counts
//
// In an open loop the schedule is fixed before the first message, and a
// latency counts from the time for which the message was scheduled, not from
// when it could be sent. While a server stalls, or takes nothing more from
// the publisher, time therefore goes on counting for every message that
// should have gone out meanwhile. A generator that waits for the server and begins
// to count afterwards hides just the moments that hurt.
//
// # What it costs
//
// A goroutine for each connection, no buffer while nothing comes, and no
// allocation for a message. What the receivers have to say is written into
// one of 16 shards, each with its own lock, taken once for each read.
// Measured on one core, with 1,000 receivers of 128 bytes and the server on
// another core, in turn with a generator of one epoll loop in C: a delivery
// that comes alone costs 10.7 µs of CPU (in C 6.6), most of it the kernel's; with 64
// messages in flight, where a read brings many, 0.37 µs (in C 0.38). Our own
// part of it, without system calls, is 0.13 µs (BenchmarkDelivery). 10,000
// connections take some 110 MB and 10,010 descriptors.
//
// # Two ways to hurt yourself
//
// The generator takes the same cores as a server on the same machine. Look at
// [Report.Warnings]: they say when its own CPU or its own lateness, and not
// the server, was what was measured. And memory of sockets is the kernel's: it
// is in nobody's RSS.
package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// A Scenario is what is measured.
type Scenario string

const (
	// Broadcast sends on a fixed schedule, Rate messages a second.
	Broadcast Scenario = "broadcast"
	// Throughput keeps Window messages in flight; a message is in flight until
	// every receiver has it. Latency counts from when it was sent.
	Throughput Scenario = "throughput"
	// Idle connects, says nothing, and looks at the memory of the server.
	Idle Scenario = "idle"
	// Connect makes connections as fast as they come about, Window at a time.
	Connect Scenario = "connect"
	// Stall is Broadcast twice: all read; then a share of the connections
	// never reads, and the others are measured.
	Stall Scenario = "stall"
)

// Scenarios are all of them, the usual one first.
func Scenarios() []Scenario { return []Scenario{Broadcast, Throughput, Idle, Connect, Stall} }

// Config says what to measure. Zero fields but URL get [Config.Defaults].
type Config struct {
	URL          *url.URL // ws, wss, ws+unix or wss+unix
	Header       http.Header
	Subprotocols []string
	Origin       string
	TLS          *tls.Config // nil verifies the server

	Scenario    Scenario
	Connections int
	Rate        float64       // messages a second
	Size        int           // of a message, in bytes; MinSize at least
	Duration    time.Duration // of what is measured
	Warmup      time.Duration // before it; negative: none
	Window      int           // messages in flight, or handshakes at once
	Stall       float64       // share of the connections that never read, between 0 and 1
	// Sources are local addresses to connect from, in turn. One address has some
	// 28,000 ports.
	Sources []netip.Addr
	PID     int // of the server, on this machine; 0: unknown

	// patience is how long nothing may arrive before what is missing counts as
	// lost; default 5 s.
	patience time.Duration

	// Progress is called a few times a second from one goroutine. May be nil.
	Progress func(Progress)
}

// Progress is what can be said while it runs.
type Progress struct {
	Phase       string        // connecting, warming up, measuring, …
	Passed, Of  time.Duration // of this phase; Of is 0 where its length is unknown
	Connections int
	Deliveries  int64 // of marked messages so far
	Sent        int64 // messages so far
}

// Defaults are the settings of a scenario, and all that it takes: the others are zero.
func Defaults(s Scenario) Config {
	switch s {
	case Throughput:
		return Config{Connections: 1000, Window: 64, Size: 128, Duration: 10 * time.Second, Warmup: time.Second}
	case Idle:
		return Config{Connections: 1000, Duration: 5 * time.Second}
	case Connect:
		return Config{Connections: 1000, Window: 128}
	case Stall:
		// Enough bytes that no buffer of the kernel can take them in.
		return Config{Connections: 200, Rate: 30, Size: 32000, Stall: 0.1, Duration: 10 * time.Second, Warmup: time.Second}
	}
	return Config{Connections: 1000, Rate: 30, Size: 128, Duration: 10 * time.Second, Warmup: time.Second}
}

func (c Config) withDefaults() Config {
	if c.Scenario == "" {
		c.Scenario = Broadcast
	}
	d := Defaults(c.Scenario)
	fill := func(have *int, want int) {
		if *have == 0 {
			*have = want
		}
	}
	fill(&c.Connections, d.Connections)
	fill(&c.Size, d.Size)
	fill(&c.Window, d.Window)
	if c.Rate == 0 {
		c.Rate = d.Rate
	}
	if c.Stall == 0 {
		c.Stall = d.Stall
	}
	if c.Duration == 0 {
		c.Duration = d.Duration
	}
	if c.Warmup == 0 {
		c.Warmup = d.Warmup
	}
	if c.patience == 0 {
		c.patience = 5 * time.Second
	}
	c.Warmup = max(c.Warmup, 0)
	return c
}

// stalled is how many connections never read.
func (c *Config) stalled() int {
	return int(math.Ceil(c.Stall * float64(c.Connections)))
}

// Check says what is wrong with a Config, for people.
func (c Config) Check() error {
	c = c.withDefaults()
	switch {
	case c.URL == nil:
		return errors.New("there is no URL")
	case !slices.Contains(Scenarios(), c.Scenario):
		return fmt.Errorf("there is no scenario %q: there are broadcast, throughput, idle, connect and stall", c.Scenario)
	case c.Connections < 1:
		return fmt.Errorf("%d connections: there must be 1 or more", c.Connections)
	case c.Rate < 0 || math.IsNaN(c.Rate) || c.Rate > 1e6:
		return fmt.Errorf("a rate of %v messages a second: it must be above 0, and 1000000 at most", c.Rate)
	case c.Size != 0 && c.Size < MinSize:
		return fmt.Errorf("a size of %d: a message must have %d bytes or more, for the mark by which it is known again", c.Size, MinSize)
	case c.Duration < 0 || c.Duration > 24*time.Hour || c.Warmup > 24*time.Hour:
		return fmt.Errorf("a duration of %v after a warm-up of %v: it must be above 0, and each 24h at most", c.Duration, c.Warmup)
	case c.Window < 0 || c.Window > maxWindow:
		return fmt.Errorf("a window of %d: it must be 1 or more, and %d at most", c.Window, maxWindow)
	case c.Stall < 0 || c.Stall >= 1 || math.IsNaN(c.Stall):
		return fmt.Errorf("a share of %v that stalls: it must be above 0 and below 1, such as 0.1", c.Stall)
	case c.Scenario == Stall && c.stalled() >= c.Connections:
		return fmt.Errorf("with %d of %d connections stalled nobody would be left to measure: take more connections", c.stalled(), c.Connections)
	case c.Scenario == Idle && c.PID == 0:
		return errors.New("idle measures the memory of a server on this machine: say which process it is with --pid")
	}
	if c.PID != 0 {
		if _, err := (process(c.PID)).usage(); err != nil {
			return err
		}
	}
	return nil
}

// Run measures until it is done, or ctx ends: then what was measured until
// then is returned, without an error. Errors are [*DialError] when no
// connection came about, and otherwise say why nothing could be measured.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	d, err := newDialer(&c)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Scenario: c.Scenario, URL: (&url.URL{Scheme: c.URL.Scheme, Host: c.URL.Host, Path: c.URL.Path}).String(), Connections: c.Connections,
		Rate: c.Rate, Size: c.Size, Window: c.Window, Warnings: []string{},
	}
	switch c.Scenario {
	case Idle:
		err = runIdle(ctx, &c, d, r)
	case Connect:
		err = runConnect(ctx, &c, d, r)
	case Stall:
		r.Unstalled, err = runTraffic(ctx, &c, d, r, 0)
		if err == nil && ctx.Err() == nil {
			r.Traffic, err = runTraffic(ctx, &c, d, r, c.stalled())
		}
	default:
		r.Traffic, err = runTraffic(ctx, &c, d, r, 0)
	}
	if err != nil {
		return nil, err
	}
	r.Interrupted = ctx.Err() != nil
	return r, nil
}
