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
// The rest up to Size is filled up with x, or with JSON. What carries no mark of this run is
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
// A goroutine and a buffer of 16 KiB for each connection, and no allocation for
// a message. What the receivers have to say is written into
// one of 16 shards, each with its own lock, taken once for each read.
// Measured on one core, with 1,000 receivers of 128 bytes and the server on
// another core, in turn with a generator of one epoll loop in C: a delivery
// that comes alone costs 10.7 µs of CPU (in C 6.6), most of it the kernel's; with 64
// messages in flight, where a read brings many, 0.37 µs (in C 0.38). Our own
// part of it, without system calls, is 0.13 µs (BenchmarkDelivery). 10,000
// connections take some 130 MB and 10,010 descriptors.
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
	"strconv"
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

// Config says what to measure: [Defaults], with a URL and what else is to be
// different. What Defaults leaves zero means nothing to the scenario.
type Config struct {
	URL          *url.URL // ws, wss, ws+unix or wss+unix
	Header       http.Header
	Subprotocols []string
	Origin       string
	TLS          *tls.Config // nil verifies the server

	Scenario    Scenario
	Connections int
	Rate        float64       // messages a second
	Compress    bool          // receive compressed messages where the server can, and send what gets smaller as JSON does
	Size        int           // of a message, in bytes; MinSize at least
	Duration    time.Duration // of what is measured
	Warmup      time.Duration // before it
	Window      int           // messages in flight, or handshakes at once
	Stall       float64       // share of the connections that never read, between 0 and 1
	// Sources are local addresses to connect from, in turn. One address has some
	// 28,000 ports.
	Sources []netip.Addr
	PID     int // of the server, on this machine; 0: unknown

	// patience is how long nothing may arrive before what is missing counts as
	// lost.
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

// Defaults are the settings of a scenario, without a URL.
func Defaults(s Scenario) Config {
	c := Config{Scenario: s, Connections: 1000, patience: 5 * time.Second}
	switch s {
	case Idle:
		c.Duration = 5 * time.Second
	case Connect:
		c.Window = 128
	default:
		c.Size, c.Duration, c.Warmup = 128, 10*time.Second, time.Second
		if c.Rate = 30; s == Throughput {
			c.Rate, c.Window = 0, 64
		}
		if s == Stall {
			// Enough bytes that no buffer of the kernel can take them in.
			c.Connections, c.Size, c.Stall = 200, 32000, 0.1
		}
	}
	return c
}

// stalled is how many connections never read.
func (c *Config) stalled() int {
	return int(math.Ceil(c.Stall * float64(c.Connections)))
}

// messages is how many there are in a schedule.
func (c *Config) messages() float64 {
	return math.Ceil(c.Rate * (c.Warmup + c.Duration).Seconds())
}

// Check says what is wrong with a Config, for people, by the names that bench's
// flags have.
func (c Config) Check() error {
	switch {
	case c.URL == nil:
		return errors.New("there is no URL")
	case !slices.Contains(Scenarios(), c.Scenario):
		return fmt.Errorf("there is no scenario %q: there are broadcast, throughput, idle, connect and stall", c.Scenario)
	}
	d := Defaults(c.Scenario)
	for _, is := range []struct {
		name, unit                string
		value, usual, least, most float64
	}{
		{"connections", "", float64(c.Connections), float64(d.Connections), 1, 1e6},
		{"rate", " messages a second", c.Rate, d.Rate, 0.001, 1e6},
		{"size", " bytes", float64(c.Size), float64(d.Size), MinSize, 1 << 30},
		{"duration", "time", c.Duration.Seconds(), d.Duration.Seconds(), 0.001, 86400},
		{"warmup", "time", c.Warmup.Seconds(), d.Warmup.Seconds(), 0, 86400},
		{"window", "", float64(c.Window), float64(d.Window), 1, maxWindow},
		{"stall", "", c.Stall, d.Stall, 0.001, 0.999},
	} {
		number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		if is.unit == "time" { // which names its own
			is.unit = ""
			number = func(v float64) string { return time.Duration(v * float64(time.Second)).String() }
		}
		switch {
		case is.usual == 0 && is.value != 0:
			return fmt.Errorf("--%s means nothing to the scenario %s: leave it out", is.name, c.Scenario)
		case is.usual != 0 && !(is.value >= is.least && is.value <= is.most):
			return fmt.Errorf("--%s is %s: it must be between %s and %s%s", is.name, number(is.value), number(is.least), number(is.most), is.unit)
		}
	}
	switch {
	case c.Scenario == Stall && c.stalled() >= c.Connections:
		return fmt.Errorf("with %d of %d connections stalled nobody would be left to measure: take more connections", c.stalled(), c.Connections)
	case c.messages() > maxMessages:
		return fmt.Errorf("that would be %.0f messages, and %.0f at most can be followed: lower --rate or --duration, or measure throughput", c.messages(), float64(maxMessages))
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
