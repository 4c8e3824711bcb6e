package transporttest

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/internal/transport"
)

// A Script is a session that does what a test says, and watches over the
// transport's side of the contract.
type Script struct {
	Conn transport.Conn

	// Set before Start; nil: nothing special.
	OnReceive   func(b []byte) (more bool)
	OnNext      func() ([]byte, transport.Then)
	OnLastWords func(err error) []byte
	OnTick      func()

	t    testing.TB
	gone chan error // what Gone was told

	receiving, nexting, speaking, ticking, isGone, spoke, saidLast atomic.Bool

	mu       sync.Mutex // guards the following
	out      [][]byte
	finished bool // the last of out is the last for good
	generous bool // Next says More though it may not be true; every other time
	received bytes.Buffer
	told     []error // what LastWords was told
}

// Accept hands nc to the transport without starting.
func Accept(t testing.TB, tr transport.Transport, nc net.Conn, early []byte) *Script {
	t.Helper()
	c, err := tr.Accept(nc, early)
	if err != nil {
		t.Fatal(err)
	}
	return &Script{t: t, Conn: c, gone: make(chan error, 2)}
}

// Start starts the connection.
func (s *Script) Start() { s.Conn.Start(s) }

// once holds a method to being called by one goroutine at a time, and never
// after Gone. The function returned ends the call.
func (s *Script) once(what string, in *atomic.Bool) func() {
	if in.Swap(true) {
		s.t.Errorf("%s was called twice at once", what)
	}
	if s.isGone.Load() {
		s.t.Errorf("%s was called after Gone", what)
	}
	return func() {
		if s.isGone.Load() {
			s.t.Errorf("Gone was called while %s ran", what)
		}
		in.Store(false)
	}
}

// Receive implements [transport.Session].
func (s *Script) Receive(b []byte) bool {
	defer s.once("Receive", &s.receiving)()
	if len(b) == 0 {
		s.t.Error("Receive was called with nothing")
	}
	s.mu.Lock()
	s.received.Write(b)
	s.mu.Unlock()
	more := s.OnReceive == nil || s.OnReceive(b)
	for i := range b {
		b[i] = '?' // allowed, and must hurt nobody
	}
	return more
}

// Next implements [transport.Session].
func (s *Script) Next() ([]byte, transport.Then) {
	defer s.once("Next", &s.nexting)()
	if s.saidLast.Load() {
		s.t.Error("Next was called after it had said Last")
	}
	if s.spoke.Load() {
		s.t.Error("Next was called after LastWords")
	}
	b, then := s.next()
	s.saidLast.Store(then == transport.Last)
	return b, then
}

func (s *Script) next() (b []byte, then transport.Then) {
	if s.OnNext != nil {
		return s.OnNext()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) > 0 {
		b, s.out = s.out[0], s.out[1:]
	}
	s.generous = !s.generous
	switch {
	case len(s.out) > 0 || s.generous && !s.finished:
		return b, transport.More
	case s.finished:
		return b, transport.Last
	}
	return b, transport.Wait
}

// LastWords implements [transport.Session].
func (s *Script) LastWords(err error) []byte {
	defer s.once("LastWords", &s.speaking)()
	if s.spoke.Swap(true) {
		s.t.Error("LastWords was called a second time")
	}
	s.mu.Lock()
	s.told = append(s.told, err)
	s.mu.Unlock()
	if s.OnLastWords == nil {
		return nil
	}
	return s.OnLastWords(err)
}

// Tick implements [transport.Session].
func (s *Script) Tick() {
	defer s.once("Tick", &s.ticking)()
	if s.OnTick != nil {
		s.OnTick()
	}
}

// Gone implements [transport.Session].
func (s *Script) Gone(err error) {
	if s.isGone.Swap(true) {
		s.t.Error("Gone was called twice")
	}
	for what, in := range map[string]*atomic.Bool{"Receive": &s.receiving, "Next": &s.nexting, "LastWords": &s.speaking, "Tick": &s.ticking} {
		if in.Load() {
			s.t.Errorf("Gone was called while %s ran", what)
		}
	}
	if err == nil {
		s.t.Error("Gone was told nothing")
	}
	if told := s.Told(); len(told) > 0 && told[0] != err {
		s.t.Errorf("LastWords was told %v, and Gone %v", told[0], err)
	}
	s.gone <- err
}

// IsGone reports whether Gone was called.
func (s *Script) IsGone() bool { return s.isGone.Load() }

// IsOver waits for Gone and returns what it was told.
func (s *Script) IsOver() error {
	s.t.Helper()
	select {
	case err := <-s.gone:
		return err
	case <-time.After(Patience):
		s.t.Fatal("the session is not gone")
		return nil
	}
}

// Queue has b be written, as soon as Next is called.
func (s *Script) Queue(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(s.out, b)
}

// Say has b written.
func (s *Script) Say(b []byte) {
	s.Queue(b)
	s.Conn.Wake()
}

// Finish has b written as the last.
func (s *Script) Finish(b []byte) {
	s.mu.Lock()
	s.out, s.finished = append(s.out, b), true
	s.mu.Unlock()
	s.Conn.Wake()
}

// Flush posts a task that calls Flush, and waits for what it said.
func (s *Script) Flush() (busy bool) {
	said := make(chan bool)
	s.Conn.Loop().Post(transport.Do(func() { said <- s.Conn.Flush() }))
	return <-said
}

// Heard returns what was received.
func (s *Script) Heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received.String()
}

// heardBytes returns how much that is.
func (s *Script) heardBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received.Len()
}

// Told returns what LastWords was told: one error, or none.
func (s *Script) Told() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// Floods has Next return slices of this size for ever, and bye as last words. The
// function returned waits until the peer, which does not read, can take no more.
func (s *Script) Floods(size int) (stalled func()) {
	slice := bytes.Repeat([]byte("s"), size)
	var count atomic.Int64
	s.OnNext = func() ([]byte, transport.Then) {
		count.Add(1)
		return slice, transport.More
	}
	s.OnLastWords = func(error) []byte { return []byte("bye") }
	return func() {
		s.t.Helper()
		Until(s.t, "the peer takes no more", quiet(func() int64 { return count.Load() }))
	}
}

// quiet returns a condition: a number is not 0 and has not changed for a while.
func quiet(number func() int64) func() bool {
	same, last := 0, int64(0)
	return func() bool {
		if now := number(); now == 0 || now != last {
			same, last = 0, now
		} else {
			same++
		}
		return same > 50
	}
}
