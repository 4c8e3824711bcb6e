package loadgen

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// assemble opens connections until there are n, starts the readers of all but
// the last, stalled ones, and reports how the handshakes went. When one fails
// it gives up, unless they are what is measured.
func (t *traffic) assemble(ctx context.Context, d *dialer, n, stalled int) (*Handshakes, error) {
	c := t.config
	have := len(t.crowd.conns)
	all := make([]*conn, n-have)
	latency := newHistogram()
	h := &Handshakes{}
	var first error
	var mu sync.Mutex // guards latency, h and first; a handshake is long enough for one lock
	defer watch(c, func(passed time.Duration) Progress {
		mu.Lock()
		defer mu.Unlock()
		return Progress{Phase: "connecting", Passed: passed, Connections: have + int(latency.TotalCount())}
	})()
	abreast := c.Window
	if c.Scenario != Connect {
		abreast = Defaults(Connect).Window
	}
	before, own, began := t.server(), ownCPU(), time.Now()
	err := d.gather(ctx, len(all), abreast, func(i int, socket net.Conn, arrived []byte, took time.Duration, err error) bool {
		if err == nil {
			one := &conn{net: socket, arrived: arrived, crowd: t.crowd, shard: (have + i) % shards, scanner: scanner{packs: t.config.Compress}}
			if all[i] = one; i < len(all)-stalled {
				t.readers.Go(one.run)
			} else if tcp, ok := socket.(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4 << 10) // so that it soon has no room for more
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			record(latency, int64(took))
		} else if h.Failed++; h.Failed == 1 {
			h.Failure, first = err.Error(), err
		}
		return err == nil || c.Scenario == Connect
	})
	h.Seconds = time.Since(began).Seconds()
	h.Latency = newLatency(latency)
	h.Connections = int(h.Latency.Count)
	h.PerSecond = float64(h.Connections) / h.Seconds
	h.Generator = generator(own, ownCPU(), h.Seconds, float64(h.Connections))
	for i, one := range all {
		switch {
		case one == nil:
		case i < len(all)-stalled:
			t.crowd.conns = append(t.crowd.conns, one)
		default:
			t.deaf = append(t.deaf, one)
		}
	}
	if err == nil && c.PID != 0 && h.Connections > 0 {
		pause(200 * time.Millisecond) // what a server does behind its answer belongs to it
		cpu := each(t.server().cpu-before.cpu, float64(h.Connections))
		h.ServerCPU = &cpu
	}
	if err == nil && h.Connections == 0 {
		err = first
	}
	return h, err
}

// leave ends all connections.
func (t *traffic) leave() {
	for _, c := range t.deaf {
		c.abandon()
	}
	for _, c := range t.crowd.conns {
		c.leave(leaving)
	}
	t.readers.Wait()
	for _, c := range t.crowd.conns {
		_ = c.net.Close()
	}
}

// server is what the server's process has used; nothing when it is not known.
func (t *traffic) server() usage {
	if t.config.PID == 0 {
		return usage{}
	}
	u, _ := process(t.config.PID).usage() // of one that is gone there is nothing to say: its connections do
	return u
}

// runConnect makes connections, and nothing with them.
func runConnect(ctx context.Context, c *Config, d *dialer, r *Report) (err error) {
	t := &traffic{config: c, crowd: newCrowd()}
	defer t.leave()
	r.Handshakes, err = t.assemble(ctx, d, c.Connections, 0)
	if err != nil {
		return err
	}
	h := r.Handshakes
	rival := 0.0
	if h.ServerCPU != nil && process(c.PID).sharesCores() {
		rival = *h.ServerCPU * h.PerSecond / 1e6
	}
	r.Warnings = append(r.Warnings, h.Generator.judge(0, rival)...)
	return nil
}

// runIdle looks at the server's memory with a tenth of the connections, and
// with all of them: what the server needs once is in both.
func runIdle(ctx context.Context, c *Config, d *dialer, r *Report) (err error) {
	t := &traffic{config: c, crowd: newCrowd()}
	defer t.leave()
	m := &Memory{Few: c.Connections / 10, RSSFew: t.server().rss}
	if m.Few > 0 {
		if _, err := t.assemble(ctx, d, m.Few, 0); err != nil {
			return err
		}
		t.rest(ctx, c.Duration) // as long as later, since a server may give memory back when it rests
		m.RSSFew = t.server().rss
	}
	if r.Handshakes, err = t.assemble(ctx, d, c.Connections, 0); err != nil {
		return err
	}
	before, began := t.server(), time.Now()
	t.rest(ctx, c.Duration)
	if ctx.Err() != nil {
		return nil
	}
	after := t.server()
	if got := t.crowd.tally(); got.closed > 0 {
		return fmt.Errorf("%d of %d idle connections ended, the first because: %s", got.closed, c.Connections, describe(got.why))
	}
	m.Connections, m.RSS = c.Connections, after.rss
	if m.RSS < m.RSSFew {
		r.Warnings = append(r.Warnings, "the server's memory shrank while connections came, for it was still giving back what it had needed before: start it anew, or wait a minute, and measure again")
	}
	m.Each = float64(m.RSS-m.RSSFew) / float64(m.Connections-m.Few)
	m.IdleCores = (after.cpu - before.cpu).Seconds() / time.Since(began).Seconds()
	r.Memory = m
	return nil
}

// rest lets time pass in which nothing is said.
func (t *traffic) rest(ctx context.Context, d time.Duration) {
	defer watch(t.config, func(passed time.Duration) Progress {
		return Progress{Phase: "resting", Passed: passed, Of: d, Connections: len(t.crowd.conns)}
	})()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
