package stream_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/internal/stream"

	"go.uber.org/goleak"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: another one each time")

// random returns a source of random numbers and prints its seed.
func random(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestMain(m *testing.M) {
	// The first socket makes the runtime open descriptors of its own, which stay.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	goleak.VerifyTestMain(m)
}

// patience is for a busy machine; what a test waits for comes at once.
const patience = 20 * time.Second

// slow is what tests that wait for no timeout set them to.
var slow = stream.Options{Tick: time.Hour, WriteTimeout: patience, CloseTimeout: patience, Loops: 2}

// newTransport returns a transport that is closed when the test ends, and then
// holds the test to its word: no descriptor is left.
func newTransport(t *testing.T, o stream.Options) *stream.Transport {
	t.Helper()
	before := descriptors()
	tr := stream.New(o)
	t.Cleanup(func() {
		tr.Close()
		until(t, "all descriptors are closed", func() bool { return descriptors() <= before })
	})
	return tr
}

// descriptors returns how many files are open; 0 where the system does not tell.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// until waits for what is about to happen.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", patience, what)
		}
	}
}

// A script is a session that does what a test says, and watches over the
// transport's side of the contract.
type script struct {
	t    *testing.T
	conn *stream.Conn
	gone chan error // what Gone was told

	// Set before Start; nil: nothing special.
	receive   func(b []byte) bool
	next      func() ([]byte, bool)
	tick      func()
	lastWords func(err error) []byte

	receiving, nexting, ticking, isGone atomic.Bool

	mu       sync.Mutex // guards the following
	out      [][]byte
	finished bool // the last of out is the last for good
	received bytes.Buffer
	spoken   []error // what LastWords was told
}

// accept hands nc to the transport without starting.
func accept(t *testing.T, tr *stream.Transport, nc net.Conn, early []byte) *script {
	t.Helper()
	c, err := tr.Accept(nc, early)
	if err != nil {
		t.Fatal(err)
	}
	return &script{t: t, conn: c, gone: make(chan error, 2)}
}

// once holds a method to being called by one goroutine at a time, and never
// after Gone. The function returned ends the call.
func (s *script) once(what string, in *atomic.Bool) func() {
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

func (s *script) Receive(b []byte) bool {
	defer s.once("Receive", &s.receiving)()
	s.mu.Lock()
	s.received.Write(b)
	s.mu.Unlock()
	for i := range b {
		b[i] = '?' // allowed, and must hurt nobody
	}
	return s.receive == nil || s.receive(b)
}

func (s *script) Next() ([]byte, bool) {
	defer s.once("Next", &s.nexting)()
	if s.next != nil {
		return s.next()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []byte
	if len(s.out) > 0 {
		b, s.out = s.out[0], s.out[1:]
	}
	last := s.finished && len(s.out) == 0
	if last {
		s.next = func() ([]byte, bool) {
			s.t.Error("Next was called after it had said last")
			return nil, false
		}
	}
	return b, last
}

func (s *script) LastWords(err error) []byte {
	s.mu.Lock()
	s.spoken = append(s.spoken, err)
	s.mu.Unlock()
	if s.lastWords == nil {
		return nil
	}
	return s.lastWords(err)
}

func (s *script) Tick() {
	defer s.once("Tick", &s.ticking)()
	if s.tick != nil {
		s.tick()
	}
}

func (s *script) Gone(err error) {
	if s.isGone.Swap(true) {
		s.t.Error("Gone was called twice")
	}
	for what, in := range map[string]*atomic.Bool{"Receive": &s.receiving, "Next": &s.nexting, "Tick": &s.ticking} {
		if in.Load() {
			s.t.Errorf("Gone was called while %s ran", what)
		}
	}
	s.gone <- err
}

// say has b written.
func (s *script) say(b []byte) {
	s.mu.Lock()
	s.out = append(s.out, b)
	s.mu.Unlock()
	s.conn.Wake()
}

// finish has b written as the last.
func (s *script) finish(b []byte) {
	s.mu.Lock()
	s.out, s.finished = append(s.out, b), true
	s.mu.Unlock()
	s.conn.Wake()
}

func (s *script) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received.String()
}

// isOver waits for Gone and returns what it was told.
func (s *script) isOver() error {
	s.t.Helper()
	select {
	case err := <-s.gone:
		return err
	case <-time.After(patience):
		s.t.Fatal("the session is not gone")
		return nil
	}
}

// A pair makes two ends of a connection, ours and the peer's, which is closed
// with the test.
type pair func(t *testing.T) (ours, peers net.Conn)

// pairs are the ways to be connected that a test should hold for.
var pairs = map[string]pair{"TCP": tcp, "pipe": pipe}

func tcp(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	return dialed(t, new(net.ListenConfig), "tcp", "127.0.0.1:0")
}

func pipe(t *testing.T) (net.Conn, net.Conn) {
	ours, peers := net.Pipe()
	t.Cleanup(func() { peers.Close() })
	peers.SetDeadline(time.Now().Add(patience))
	return ours, peers
}

func dialed(t *testing.T, lc *net.ListenConfig, network, address string) (ours, peers net.Conn) {
	t.Helper()
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peers, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peers.Close() })
	peers.SetDeadline(time.Now().Add(patience))
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, peers
}

func write(t *testing.T, nc net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
}

// reads wants exactly this text to arrive next.
func reads(t *testing.T, nc net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != want {
		t.Fatalf("the peer reads %.100q and %v, want %.100q", got, err, want)
	}
}

// readsEnd wants the text to be all that arrives.
func readsEnd(t *testing.T, nc net.Conn, want string) {
	t.Helper()
	got, err := io.ReadAll(nc)
	if err != nil || string(got) != want {
		t.Fatalf("until the end the peer reads %.100q (%d bytes) and %v, want %.100q (%d bytes)", got, len(got), err, want, len(want))
	}
}

// goroutines waits until so many goroutines read and write for connections, of
// all transports there are.
func goroutines(t *testing.T, readers, writers int, when string) {
	t.Helper()
	buf := make([]byte, 4<<20)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		all := buf[:runtime.Stack(buf, true)]
		r := bytes.Count(all, []byte("internal/stream.(*Conn).read("))
		w := bytes.Count(all, []byte("internal/stream.(*Conn).write("))
		if r == readers && w == writers {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %d goroutines read and %d write, want %d and %d", when, r, w, readers, writers)
		}
	}
}

var errTest = errors.New("ended by the test")
