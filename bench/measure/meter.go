package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A scenario is one way to load a server: what fanload is told.
type scenario struct {
	name string
	n    int      // connections
	args []string // for fanload, besides --port, --pid and --n
	only string   // the one server that it is for, or "" for all

	// wait is for mode idle: after all have connected they are sent a few
	// messages, and memory is read no sooner than this after the last one.
	wait time.Duration

	// together is for long waits: all rounds are measured at the same time,
	// at the end, each with a server of its own.
	together bool
}

// result is what fanload reports of one run, as far as we use it.
type result struct {
	ConnectCPU float64  `json:"connect_cpu_us"`             // of the server, for each connection
	CPU        float64  `json:"server_cpu_us_per_delivery"` // microseconds
	Bytes      float64  `json:"bytes_per_delivery"`
	RSSPerConn float64  `json:"rss_per_conn_b"` // more than before they came
	RSS        float64  `json:"rss_mb"`         // of the server, at the end
	Closed     int      `json:"closed"`         // connections that the server ended
	Missing    int      `json:"missing"`        // deliveries
	Latency    *latency `json:"latency_us"`
}

type latency struct {
	P99 float64 `json:"p99"`
}

// String is for the line of progress.
func (r *result) String() string {
	if r.CPU == 0 {
		return fmt.Sprintf("%.0f bytes a connection, %.1f µs of CPU each to connect", r.RSSPerConn, r.ConnectCPU)
	}
	return fmt.Sprintf("%.2f µs of CPU per delivery, p99 %s ms, %.1f MB", r.CPU, num(p99(r)), r.RSS)
}

// meter runs scenarios. Any number of goroutines may ask it to measure: while
// an idle server waits it lets the next one be loaded.
type meter struct {
	bin string // where fanload is
	pin bool   // server on core 0, load on core 1
	raw io.Writer

	active sync.Mutex // held by whoever loads the machine
}

// measure starts the server anew, loads it once, and writes down what came out.
func (m *meter) measure(ctx context.Context, round int, s server, sc scenario) (*result, error) {
	text, err := m.load(ctx, s, sc)
	record := struct {
		Round    int             `json:"round"`
		Server   string          `json:"server"`
		Scenario string          `json:"scenario"`
		Load     string          `json:"load"`
		Failed   string          `json:"failed,omitempty"`
		Result   json.RawMessage `json:"result,omitempty"`
	}{Round: round, Server: s.name, Scenario: sc.name, Load: strings.Join(sc.load(), " ")}
	var r result
	if err == nil {
		record.Result = text
		if err = json.Unmarshal(text, &r); err != nil {
			err, record.Result = fmt.Errorf("what fanload printed cannot be read: %w", err), nil
		}
	}
	switch {
	case err != nil:
	case r.Closed > 0:
		err = fmt.Errorf("the server closed %d connections", r.Closed)
	case r.Missing > 0:
		err = fmt.Errorf("%d deliveries never came", r.Missing)
	}
	if err != nil {
		record.Failed = err.Error()
	}
	line, err2 := json.Marshal(record)
	if err2 == nil {
		m.active.Lock()
		_, err2 = m.raw.Write(append(line, '\n'))
		m.active.Unlock()
	}
	return &r, errors.Join(err, err2)
}

func (sc scenario) load() []string {
	return append([]string{"--n", strconv.Itoa(sc.n)}, sc.args...)
}

func (m *meter) load(ctx context.Context, s server, sc scenario) ([]byte, error) {
	m.active.Lock()
	defer m.active.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, sc.wait+5*time.Minute, errors.New("it did not end within five minutes"))
	defer cancel()
	p, err := s.start(ctx, m.pin)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if sc.wait == 0 {
		return m.fanload(ctx, p, sc.load()...)
	}
	return m.idle(ctx, p, sc)
}

// idle holds the connections, sends everyone a few messages from one more, and
// lets the others get on while it waits. fanload is ended then, so memory and
// CPU are read here.
func (m *meter) idle(ctx context.Context, p *process, sc scenario) ([]byte, error) {
	before := p.usage()
	ctx, release := context.WithCancel(ctx)
	held := make(chan error, 1)
	go func() {
		secs := int(sc.wait.Seconds()) + 300
		_, err := m.fanload(ctx, p, append(sc.load(), "--secs", strconv.Itoa(secs))...)
		held <- err
	}()
	defer func() {
		release()
		<-held
	}()
	pause := func(d time.Duration) error {
		select {
		case err := <-held:
			held <- err
			return fmt.Errorf("the connections were not held: %w", err)
		case <-time.After(d):
			return nil
		}
	}
	for p.usage().files < sc.n {
		if err := pause(50 * time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := pause(200 * time.Millisecond); err != nil { // for the last of the handshakes
		return nil, err
	}
	connected := p.usage()
	if _, err := m.fanload(ctx, p, "--mode", "rate", "--n", "1", "--rate", "3", "--warm", "0", "--secs", "1"); err != nil {
		return nil, err
	}
	m.active.Unlock() // load holds it, and goes on holding it after the wait
	err := pause(sc.wait)
	m.active.Lock()
	if err != nil {
		return nil, err
	}
	after := p.usage()
	return json.Marshal(result{
		ConnectCPU: float64((connected.cpu - before.cpu).Microseconds()) / float64(sc.n),
		RSSPerConn: float64(after.rss-before.rss) / float64(sc.n),
		RSS:        float64(after.rss) / (1 << 20),
		Closed:     max(0, sc.n-after.files),
	})
}

// fanload runs the load generator against a server and returns the JSON it
// prints. What it says on standard error is always a complaint.
func (m *meter) fanload(ctx context.Context, p *process, args ...string) ([]byte, error) {
	args = append([]string{filepath.Join(m.bin, "fanload"), "--port", strconv.Itoa(p.port), "--pid", strconv.Itoa(p.cmd.Process.Pid)}, args...)
	cmd := command(ctx, m.pin, "1", args)
	var complaint tail
	cmd.Stderr = &complaint
	text, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case p.ended():
		return nil, fmt.Errorf("the server ended%s", p.said.last())
	case err != nil || complaint.last() != "":
		return nil, fmt.Errorf("the load failed (%v)%s", err, complaint.last())
	}
	return text, nil
}
