package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"fanfare/internal/frame"
)

const (
	// drainMost bounds the wait for what is late, though it keeps coming.
	drainMost = 30 * time.Second
	// leaving bounds the goodbye of all connections.
	leaving = 2 * time.Second
)

// traffic is one run of messages through one crowd.
type traffic struct {
	config  *Config
	crowd   *crowd
	readers sync.WaitGroup
	deaf    []*conn // that never read
	sent    atomic.Uint32
}

// runTraffic connects, sends, and reports what the readers saw; so many of the
// connections never read. Nil and no error: ctx ended before anything was measured.
func runTraffic(ctx context.Context, c *Config, d *dialer, r *Report, stalled int) (*Traffic, error) {
	t := &traffic{config: c, crowd: newCrowd()}
	defer t.leave()
	var err error
	if r.Handshakes, err = t.assemble(ctx, d, c.Connections, stalled); err != nil || ctx.Err() != nil {
		return nil, err
	}
	if err := t.probe(ctx); err != nil || ctx.Err() != nil {
		return nil, err
	}
	result, err := t.measure(ctx)
	if result != nil {
		rival := 0.0
		if result.Server != nil && process(c.PID).sharesCores() {
			rival = result.Server.Cores
		}
		for _, w := range result.Generator.judge(result.Latency.P99, rival) {
			if c.Scenario == Stall {
				w = map[bool]string{true: "with everybody reading", false: fmt.Sprintf("with %d that never read", stalled)}[stalled == 0] + ": " + w
			}
			r.Warnings = append(r.Warnings, w)
		}
	}
	return result, err
}

// probe sends a message now and then until one has come to everybody: a server
// may still be letting the last ones in when their handshake is over. It also
// finds out whether the sender hears itself, as it does not with every server.
func (t *traffic) probe(ctx context.Context) error {
	w := t.crowd
	defer t.watch("waiting until everybody hears everything", 0)()
	probing := 2 * t.config.patience
	end := w.now() + int64(probing)
	_ = w.conns[0].net.SetWriteDeadline(w.clock.Add(time.Duration(end)))
	for ctx.Err() == nil {
		p := newPublisher(w.conns[0], w.begin(rand.Uint32(), 0, 1), MinSize)
		if err := p.send(0, w.now()); err != nil {
			return fmt.Errorf("no message could be sent: %s", describe(err))
		}
		for next := min(w.now()+int64(time.Second), end); w.now() < next && ctx.Err() == nil; {
			if w.board.completed() > 0 {
				return nil
			}
			pause(2 * time.Millisecond)
		}
		got, all := w.tally(), int64(len(w.conns))
		if all > 1 && got.deliveries == all-1 && w.muteIfSilent(0) {
			return nil
		}
		if got.closed > 0 || w.now() >= end {
			text := fmt.Sprintf("of %d readers %d got a first message within %v", all, got.deliveries, probing)
			switch {
			case got.closed > 0:
				text = fmt.Sprintf("before anything was measured %d of %d connections ended, the first because: %s", got.closed, all, describe(got.why))
			case got.deliveries == 0:
				text += ": does this server send every text to all clients?"
			case got.deliveries == 1 && all > 1:
				text += ": this server seems to answer the sender alone"
			}
			return errors.New(text)
		}
	}
	return nil
}

// A snapshot is what had been used and done at a time.
type snapshot struct {
	at         int64
	deliveries int64
	sent       uint32
	server     usage
	own        time.Duration
}

func (t *traffic) look() snapshot {
	return snapshot{
		at: t.crowd.now(), deliveries: t.crowd.tally().deliveries, sent: t.sent.Load(),
		server: t.server(), own: ownCPU(),
	}
}

// measure sends for as long as it should, and waits for what is late.
func (t *traffic) measure(ctx context.Context) (*Traffic, error) {
	w, c := t.crowd, t.config
	begin := w.now() + int64(20*time.Millisecond)
	from := begin + int64(c.Warmup)
	end := from + int64(c.Duration)
	p := newPublisher(w.conns[0], w.begin(rand.Uint32(), from, max(c.Window, int(c.messages())+1)), c.Size)
	if c.Compress {
		p.payload = objects(c.Size)
	}
	_ = p.c.net.SetWriteDeadline(w.clock.Add(time.Duration(end) + c.patience))
	defer context.AfterFunc(ctx, func() { _ = p.c.net.SetWriteDeadline(time.Unix(1, 0)) })()

	stop := t.watch("", begin)
	rss := t.look().server.rss
	peak := rss
	done := make(chan struct{})
	var s schedule
	go func() {
		defer close(done)
		runtime.LockOSThread() // pause blocks the thread
		if c.Scenario == Throughput {
			s = t.inFlight(ctx, p, from, end)
		} else {
			// No message is due just when the measuring begins or ends, so that it counts or does not.
			s = t.onSchedule(ctx, p, begin+int64(float64(time.Second)/c.Rate/2), from, end)
		}
	}()
	var first, last snapshot
	for running := true; running; {
		next := int64(50 * time.Millisecond) // for the peak of the memory
		for _, edge := range []int64{from, end} {
			if until := edge - w.now(); until > 0 {
				next = min(next, until)
			}
		}
		select {
		case <-done:
			running = false
		case <-time.After(time.Duration(next)):
		}
		now := t.look()
		peak = max(peak, now.server.rss)
		switch {
		case first.at == 0:
			if now.at >= from {
				first = now
			}
		case last.at == 0 && (now.at >= end || !running):
			last = now
		}
	}
	stop()
	if ctx.Err() != nil {
		s.err = nil // it was our own doing
	}
	if first.at == 0 || s.sent == 0 {
		if ctx.Err() != nil {
			return nil, nil
		}
		return nil, fmt.Errorf("nothing could be measured: %s", s.why())
	}
	if last.at == 0 {
		last = t.look()
	}
	t.drain(s.sent)
	peak = max(peak, t.look().server.rss)
	return t.report(first, last, s, rss, peak), nil
}

// A schedule is how the sending went.
type schedule struct {
	sent   uint32 // messages, warm-up included
	unsent int64  // that should have gone out and did not
	late   *hdrhistogram.Histogram
	err    error // why it ended early
}

func (s *schedule) why() string {
	if s.err != nil {
		return describe(s.err)
	}
	return "no message was due"
}

// onSchedule sends what is due from begin to end, each message with the time
// that it was due, however late it goes out, and returns at the end. What cannot
// go out at all, because the server takes nothing more, is unsent.
func (t *traffic) onSchedule(ctx context.Context, p *publisher, begin, from, end int64) schedule {
	w := t.crowd
	s := schedule{late: newHistogram()}
	interval := float64(time.Second) / t.config.Rate
	due := func(i uint32) int64 { return begin + int64(float64(i)*interval) }
	free := begin // when the server had taken the message before
	for {
		at := due(s.sent)
		if until := min(at, end) - w.now(); until > 0 {
			if ctx.Err() != nil {
				return s
			}
			pause(time.Duration(min(until, int64(50*time.Millisecond))))
			continue
		}
		if at >= end {
			return s
		}
		if at >= from {
			// Ours is only the time since the message was due and could go out.
			record(s.late, w.now()-max(at, free))
		}
		if s.err = p.send(s.sent, at); s.err != nil {
			for i := s.sent; due(i) < min(end, w.now()) && ctx.Err() == nil; i++ {
				s.unsent++
			}
			return s
		}
		free = w.now()
		s.sent++
		t.sent.Store(s.sent)
	}
}

// inFlight sends as often as every receiver has had another message.
func (t *traffic) inFlight(ctx context.Context, p *publisher, from, end int64) schedule {
	w := t.crowd
	s := schedule{late: newHistogram()}
	for ctx.Err() == nil && w.now() < end {
		if s.sent-w.board.completed() < uint32(t.config.Window) {
			if s.err = p.send(s.sent, w.now()); s.err != nil {
				return s
			}
			s.sent++
			t.sent.Store(s.sent)
			continue
		}
		select {
		case <-w.board.changed:
		case <-ctx.Done():
		case <-time.After(t.config.patience):
			s.err = fmt.Errorf("for %v no further message had come to all receivers", t.config.patience)
			return s
		}
	}
	return s
}

// drain waits for what is on its way.
func (t *traffic) drain(sent uint32) {
	w := t.crowd
	defer t.watch("waiting for what is late", 0)()
	began := w.now()
	least, progress := int64(-1), began
	for {
		expected, _ := w.missing(sent)
		now := w.now()
		if expected != least {
			least, progress = expected, now
		}
		if expected == 0 {
			pause(20 * time.Millisecond) // what comes twice comes close behind
			return
		}
		if now-progress > int64(t.config.patience) || now-began > int64(drainMost) {
			return
		}
		pause(5 * time.Millisecond)
	}
}

// watch tells of the progress until its stop is called. With begin the phases
// are those of measuring.
func (t *traffic) watch(phase string, begin int64) (stop func()) {
	return watch(t.config, func(passed time.Duration) Progress {
		p := Progress{Phase: phase, Passed: passed, Connections: len(t.crowd.conns), Deliveries: t.crowd.tally().deliveries, Sent: int64(t.sent.Load())}
		if begin != 0 {
			p.Passed = max(time.Duration(t.crowd.now()-begin), 0)
			if p.Phase, p.Of = "warming up", t.config.Warmup; p.Passed >= p.Of {
				p.Phase, p.Passed, p.Of = "measuring", p.Passed-p.Of, t.config.Duration
			}
		}
		return p
	})
}

// watch calls the Config's Progress now and then.
func watch(c *Config, progress func(passed time.Duration) Progress) (stop func()) {
	if c.Progress == nil {
		return func() {}
	}
	began := time.Now()
	end := make(chan struct{})
	var over sync.WaitGroup
	over.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				c.Progress(progress(time.Since(began)))
			}
		}
	})
	return sync.OnceFunc(func() {
		close(end)
		over.Wait()
	})
}

// A publisher sends the messages of a run. One goroutine uses it.
type publisher struct {
	c       *conn
	prefix  *markPrefix
	payload []byte
	frame   []byte
}

func newPublisher(c *conn, prefix *markPrefix, size int) *publisher {
	return &publisher{c: c, prefix: prefix, payload: bytes.Repeat([]byte{'x'}, size)}
}

// objects are size bytes of JSON, behind room for the mark: made-up quotes, which
// get about a third as long.
func objects(size int) []byte {
	b := bytes.Repeat([]byte{' '}, MinSize)
	rng := rand.New(rand.NewPCG(1, 1))
	for len(b) < size {
		b = fmt.Appendf(b, `{"symbol":"%c%c%c","bid":%d.%02d,"ask":%d.%02d,"volume":%d},`, 'A'+rng.IntN(26), 'A'+rng.IntN(26), 'A'+rng.IntN(26),
			rng.IntN(1000), rng.IntN(100), rng.IntN(1000), rng.IntN(100), rng.IntN(1000000))
	}
	return b[:size]
}

func (p *publisher) send(number uint32, intended int64) error {
	appendMark(p.payload[:0], p.prefix, number, intended)
	p.frame = frame.AppendMasked(p.frame[:0], frame.Text, true, mask, p.payload)
	p.c.crowd.board.expect(number)
	p.c.writing.Lock()
	defer p.c.writing.Unlock()
	_, err := p.c.net.Write(p.frame)
	return err
}
