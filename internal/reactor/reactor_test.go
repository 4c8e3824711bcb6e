//go:build linux && !386 && !s390x

package reactor_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fanfare/internal/reactor"
	"fanfare/internal/transport"
	"fanfare/internal/transport/transporttest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fresh(o transport.Options) transport.Transport {
	r, err := reactor.New(o)
	if err != nil {
		panic(err)
	}
	return r
}

func TestTransport(t *testing.T) { transporttest.Run(t, fresh) }

// one returns a transport with one loop.
func one(t testing.TB) transport.Transport {
	t.Helper()
	o := transporttest.Slow
	o.Loops = 1
	return transporttest.Open(t, fresh, o)
}

// silent is a session that costs nothing.
type silent struct{}

func (silent) Receive([]byte) bool            { return true }
func (silent) Next() ([]byte, transport.Then) { return nil, transport.Wait }
func (silent) LastWords(error) []byte         { return nil }
func (silent) Tick()                          {}
func (silent) Gone(error)                     {}

// settled waits until a loop has done what was posted before.
func settled(loops ...transport.Loop) {
	for _, l := range loops {
		done := make(chan struct{})
		l.Post(transport.Do(func() { close(done) }))
		<-done
	}
}

// hold keeps a loop busy until the function returned is called.
func hold(l transport.Loop) (release func()) {
	held, free := make(chan struct{}), make(chan struct{})
	l.Post(transport.Do(func() { close(held); <-free }))
	<-held
	return func() { close(free) }
}

// An idle connection has no goroutine, and hardly any memory.
func TestIdle(t *testing.T) {
	const n, budget = 1000, 160
	tr := transporttest.Open(t, fresh, transporttest.Slow)
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // the second empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var ends, peers []net.Conn
	for range n {
		ours, peer := transporttest.TCP(t)
		ends, peers = append(ends, ours), append(peers, peer)
	}
	goroutines, before := runtime.NumGoroutine(), heap()
	for _, ours := range ends {
		c, err := tr.Accept(ours, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Start(silent{})
		c.Wake()
	}
	for _, peer := range peers {
		transporttest.Write(t, peer, "hello")
	}
	settled(tr.Loops()...)
	if more := runtime.NumGoroutine() - goroutines; more > 0 {
		t.Errorf("%d idle connections have %d goroutines", n, more)
	}
	per := (heap() - before) / n
	t.Logf("an idle connection holds %d bytes", per)
	if per > budget {
		t.Errorf("an idle connection holds %d bytes, and %d are its budget", per, budget)
	}
	runtime.KeepAlive(ends) // net's part of them is not to be counted
}

// A parrot answers everything with one byte.
type parrot struct {
	silent
	conn   transport.Conn
	answer []byte
	ready  bool
}

func (p *parrot) Receive([]byte) bool { p.ready = true; p.conn.Wake(); return true }

func (p *parrot) Next() ([]byte, transport.Then) {
	if !p.ready {
		return nil, transport.Wait
	}
	p.ready = false
	return p.answer, transport.Wait
}

// flusher is a task that has it speak.
type flusher struct{ *parrot }

func (f flusher) Run() bool { f.ready = true; f.conn.Flush(); return false }

// What happens with every message allocates nothing.
func TestHotPathAllocatesNothing(t *testing.T) {
	tr := one(t)
	ours, peers := transporttest.TCP(t)
	c, err := tr.Accept(ours, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &parrot{conn: c, answer: []byte("!")}
	c.Start(p)
	buf := []byte("?")
	read := func() {
		if _, err := io.ReadFull(peers, buf); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(500, func() {
		if _, err := peers.Write(buf); err != nil {
			t.Fatal(err)
		}
		read()
	}); n != 0 {
		t.Errorf("a message and its answer, by Wake, allocate %v times", n)
	}
	var f transport.Task = flusher{p}
	if n := testing.AllocsPerRun(500, func() { tr.Loops()[0].Post(f); read() }); n != 0 {
		t.Errorf("a message that a task writes allocates %v times", n)
	}
}

// Who floods has a turn, as everybody has, and keeps nobody waiting.
func TestFloodKeepsNobodyWaiting(t *testing.T) {
	tr := one(t)
	l := tr.Loops()[0]
	var order []string // the loop's
	enough := make(chan struct{})
	join := func(name string) net.Conn {
		ours, peers := transporttest.TCP(t)
		s := transporttest.Accept(t, tr, ours, nil)
		s.OnReceive = func(b []byte) bool {
			if order = append(order, name); len(order) == 40 {
				close(enough)
			}
			return true
		}
		s.Start()
		return peers
	}
	floods := []string{"a", "b", "c", "d"}
	var written atomic.Int64
	release := hold(l)
	for _, name := range floods {
		peers := join(name)
		go func() {
			for noise := make([]byte, 256<<10); ; {
				n, err := peers.Write(noise)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	// Each has much more than one turn's worth on the way before the other comes.
	transporttest.Until(t, "there is a flood", func() bool { return written.Load() >= 4<<20 })
	peers := join("quiet")
	transporttest.Write(t, peers, "hello")
	release()
	<-enough
	got := make(chan []string)
	l.Post(transport.Do(func() { got <- slices.Clone(order[:40]) }))
	first := <-got
	if at := slices.Index(first, "quiet"); at < 0 || at > 2*len(floods) {
		t.Errorf("the quiet one was heard as number %d: %v", at, first)
	}
	for _, name := range floods {
		n := 0
		for _, who := range first {
			if who == name {
				n++
			}
		}
		if n < len(first)/len(floods)/2 {
			t.Errorf("of %d turns, %s had %d: %v", len(first), name, n, first)
		}
	}
}

// So has one who must be answered all the time: what a hundred of them keep
// asking stays behind what others have to do.
func TestAnsweringAFloodKeepsNobodyWaiting(t *testing.T) {
	const floods = 100
	tr := one(t)
	l := tr.Loops()[0]
	var written atomic.Int64
	turns := 0 // the loop's
	release := hold(l)
	for range floods {
		ours, peers := transporttest.TCP(t)
		s := transporttest.Accept(t, tr, ours, nil)
		s.OnReceive = func([]byte) bool { turns++; s.Conn.Wake(); return true }
		s.Start()
		go func() {
			for noise := make([]byte, 256<<10); ; {
				n, err := peers.Write(noise)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	transporttest.Until(t, "there is a flood", func() bool { return written.Load() >= floods<<20 })
	// How many turns the floods have before a task that is posted now: the first
	// is behind one turn of each.
	var before [21]int
	for i := range before {
		posted := make(chan struct{})
		l.Post(transport.Do(func() {
			then := turns
			l.Post(transport.Do(func() { before[i] = turns - then; close(posted) }))
		}))
		if i == 0 {
			release()
		}
		<-posted
	}
	slices.Sort(before[:])
	t.Logf("turns of the floods before a task: %v", before)
	if median := before[len(before)/2]; median > floods/4 {
		t.Errorf("a task waits for %d turns of %d floods", median, floods)
	}
}

// Connections that end together with others that begin, all within one batch of
// events, leave their places in order: nobody gets another's bytes or end.
func TestPlacesAreReused(t *testing.T) {
	rnd := transporttest.Random(t)
	tr := one(t)
	l := tr.Loops()[0]
	type client struct {
		s     *transporttest.Script
		peers net.Conn
		name  string
	}
	var all []client
	for round := range 15 {
		for i := range 40 {
			ours, peers := transporttest.TCP(t)
			c := client{transporttest.Accept(t, tr, ours, nil), peers, fmt.Sprintf("%d/%d", round, i)}
			if rnd.IntN(4) == 0 {
				c.s.OnReceive = func([]byte) bool { c.s.Conn.End(io.ErrNoProgress); return true } // in the midst of a batch
			}
			c.s.Start()
			all = append(all, c)
		}
		release := hold(l)
		var stay, leave []client
		for _, c := range all {
			transporttest.Write(t, c.peers, c.name)
			switch rnd.IntN(4) {
			case 0:
				c.peers.Close()
			case 1:
				c.peers.(*net.TCPConn).SetLinger(0)
				c.peers.Close()
			case 2:
				c.s.Conn.End(io.ErrNoProgress)
			default:
				stay = append(stay, c)
				continue
			}
			leave = append(leave, c)
		}
		release()
		for _, c := range leave {
			c.s.IsOver()
			if got := c.s.Heard(); !strings.HasPrefix(strings.Repeat(c.name, round+1), got) {
				t.Errorf("%s was heard as %q", c.name, got)
			}
		}
		all = nil
		for _, c := range stay {
			transporttest.Until(t, "it was heard", func() bool { return c.s.Heard() != "" })
			if c.s.OnReceive != nil {
				if err := c.s.IsOver(); err != io.ErrNoProgress {
					t.Errorf("%s ended itself, and Gone was told %v", c.name, err)
				}
				continue
			}
			c.s.Say([]byte(c.name))
			transporttest.Reads(t, c.peers, c.name)
			all = append(all, c)
		}
	}
	for _, c := range all {
		if c.s.IsGone() {
			t.Errorf("%s, which did nothing, is gone", c.name)
		}
	}
}

// A newcomer goes where the fewest are.
func TestLoopsShareTheLoad(t *testing.T) {
	tr := transporttest.Open(t, fresh, transporttest.Slow)
	join := func(n int) map[transport.Loop][]*transporttest.Script {
		at := map[transport.Loop][]*transporttest.Script{}
		for range n {
			ours, _ := transporttest.TCP(t)
			s := transporttest.Accept(t, tr, ours, nil)
			s.Start()
			at[s.Conn.Loop()] = append(at[s.Conn.Loop()], s)
		}
		return at
	}
	a, b := tr.Loops()[0], tr.Loops()[1]
	first := join(40)
	if len(first[a]) != 20 || len(first[b]) != 20 {
		t.Errorf("of 40 connections one loop has %d, the other %d", len(first[a]), len(first[b]))
	}
	for _, s := range first[a] {
		s.Conn.End(io.ErrNoProgress)
		s.IsOver()
	}
	if then := join(20); len(then[a]) != 20 {
		t.Errorf("one loop had 20 connections, the other none; of the next 20 it gets %d", len(then[a]))
	}
}

// loops returns how many loops' goroutines there are.
func loops() int {
	buf := make([]byte, 4<<20)
	return bytes.Count(buf[:runtime.Stack(buf, true)], []byte("internal/reactor.(*loop).run("))
}

func TestLoopsEndOnClose(t *testing.T) {
	o := transporttest.Slow
	o.Loops = 3
	tr := transporttest.Open(t, fresh, o)
	ours, peers := transporttest.TCP(t)
	c := transporttest.Accept(t, tr, ours, nil).Conn
	c.Start(silent{})
	settled(tr.Loops()...)
	// A goroutine that has said that it is done is there for a moment still.
	transporttest.Until(t, "there is a goroutine for each loop", func() bool { return loops() == o.Loops })
	tr.Close()
	transporttest.Until(t, "none goes on after Close", func() bool { return loops() == 0 })
	// Whoever does not know yet does no harm.
	c.Wake()
	c.Pause()
	c.Resume()
	c.End(io.ErrNoProgress)
	tr.Loops()[0].Post(transport.Do(func() { t.Error("a task runs after Close") }))
	tr.Close()
	transporttest.ReadsEnd(t, peers, "")
}

// What is not plain TCP is the caller's still.
func TestNotTCP(t *testing.T) {
	tr := one(t)
	ours, peers := net.Pipe()
	defer ours.Close()
	defer peers.Close()
	wrapped, client := transporttest.TCP(t)
	defer wrapped.Close()
	for _, tt := range []struct{ ours, peers net.Conn }{{ours, peers}, {struct{ net.Conn }{wrapped}, client}} {
		if _, err := tr.Accept(tt.ours, nil); err != reactor.ErrNotTCP {
			t.Errorf("Accept of a %T: %v, want ErrNotTCP", tt.ours, err)
		}
		go tt.ours.Write([]byte("still open"))
		transporttest.Reads(t, tt.peers, "still open")
	}
}

// without lets the process open n descriptors more than it has, while f runs.
func without(t *testing.T, n int, f func()) {
	t.Helper()
	var have syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	// The limit is on numbers: the lowest that is free is what the next one gets.
	next, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(next)
	less := have
	less.Cur = uint64(next + n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &less); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// Who has no descriptors left is told so, and loses nothing.
func TestOutOfDescriptors(t *testing.T) {
	tr := one(t)
	before := transporttest.Descriptors(t)
	for n := range 6 { // a loop has two
		without(t, n, func() {
			o := transporttest.Slow
			o.Loops = 3
			if r, err := reactor.New(o); !errors.Is(err, syscall.EMFILE) {
				t.Errorf("New with %d descriptors for 3 loops: %v and %v, want EMFILE", n, r, err)
			}
		})
		if now := transporttest.Descriptors(t); now != before {
			t.Errorf("New failed and left %d descriptors", now-before)
		}
	}
	transporttest.Until(t, "no loop is left of those that New began", func() bool { return loops() == 1 })
	ours, peers := transporttest.TCP(t)
	without(t, 0, func() {
		if _, err := tr.Accept(ours, nil); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("Accept without a descriptor: %v, want EMFILE", err)
		}
	})
	transporttest.Write(t, ours, "still open")
	transporttest.Reads(t, peers, "still open")
	s := transporttest.Accept(t, tr, ours, nil)
	s.Start()
	s.Say([]byte("and served"))
	transporttest.Reads(t, peers, "and served")
}

// A listener is a session that is told one message after the other.
type listener struct {
	silent
	conn  transport.Conn
	house *broadcast
	told  int
}

func (l *listener) Next() ([]byte, transport.Then) {
	if l.told == l.house.said {
		return nil, transport.Wait
	}
	l.told++
	return l.house.message, transport.Wait
}

// A broadcast is a task that has all listeners told, 256 in a go.
type broadcast struct {
	message   []byte
	listeners []*listener
	said, at  int // the loop's
	done      chan struct{}
}

func (b *broadcast) Run() bool {
	if b.at == 0 {
		b.said++
	}
	end := min(b.at+256, len(b.listeners))
	for _, l := range b.listeners[b.at:end] {
		l.conn.Flush()
	}
	if b.at = end; b.at < len(b.listeners) {
		return true
	}
	b.at = 0
	b.done <- struct{}{}
	return false
}

// BenchmarkBroadcast is what one message of 128 bytes to 1,000 sockets costs; to
// read it is not in the time.
func BenchmarkBroadcast(b *testing.B) {
	const n, batch = 1000, 100
	tr := one(b)
	house := &broadcast{message: bytes.Repeat([]byte("m"), 128), done: make(chan struct{})}
	var peers []net.Conn
	for range n {
		ours, peer := transporttest.TCP(b)
		peer.SetDeadline(time.Time{})
		c, err := tr.Accept(ours, nil)
		if err != nil {
			b.Fatal(err)
		}
		l := &listener{conn: c, house: house}
		c.Start(l)
		house.listeners, peers = append(house.listeners, l), append(peers, peer)
	}
	settled(tr.Loops()...)
	var task transport.Task = house
	buf := make([]byte, batch*len(house.message))
	unread := 0
	drain := func() {
		for _, peer := range peers {
			if _, err := io.ReadFull(peer, buf[:unread*len(house.message)]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				b.Fatal(err)
			}
		}
		unread = 0
	}
	b.ReportAllocs()
	for b.Loop() {
		tr.Loops()[0].Post(task)
		<-house.done
		if unread++; unread == batch {
			b.StopTimer()
			drain()
			b.StartTimer()
		}
	}
	b.StopTimer()
	drain()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/conn")
}
