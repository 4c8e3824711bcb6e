package transporttest

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/internal/transport"
)

// Bytes arrive as they were sent, both ways, however they are cut; those first
// that came before Accept, or were there to be written before Start.
func (k *kit) conversation() {
	rnd := Random(k)
	tr := k.open(Slow)
	there, back := make([]byte, 3<<20), make([]byte, 3<<20)
	for i := 0; i < len(there); i += 8 {
		binary.LittleEndian.PutUint64(there[i:], rnd.Uint64())
		binary.LittleEndian.PutUint64(back[i:], rnd.Uint64())
	}
	want := string(there) // a copy: what is received may be changed
	early := rnd.IntN(5000)
	s, peers := k.script(tr, there[:early:early])
	s.Say(back[:1000]) // and not lost
	s.Start()
	cut := func(b []byte, seed uint64, f func([]byte)) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		for len(b) > 0 {
			n := min(len(b), 1+rnd.IntN(1<<rnd.IntN(18)))
			f(b[:n:n])
			b = b[n:]
		}
	}
	seeds := [2]uint64{rnd.Uint64(), rnd.Uint64()}
	go cut(back[1000:], seeds[0], s.Say)
	go cut([]byte(want[early:]), seeds[1], func(b []byte) { peers.Write(b) })
	got := make([]byte, len(back))
	if _, err := io.ReadFull(peers, got); err != nil {
		k.Fatal(err)
	}
	if !bytes.Equal(got, back) {
		k.Error("what the peer reads is not what was written")
	}
	Until(k, "everything was received", func() bool { return s.heardBytes() == len(want) })
	if s.Heard() != want {
		k.Error("what was received is not what the peer wrote")
	}
	peers.Close()
	if err := s.IsOver(); err != io.EOF {
		k.Errorf("Gone was told %v, want EOF", err)
	}
	if s.Conn.Wake(); s.Flush() {
		k.Error("when all is over, Flush says that the peer keeps it waiting")
	}
}

// Nothing of the session is called before Start, whatever happens until then.
func (k *kit) startComesLater() {
	o := Slow
	o.Tick = 8 * time.Millisecond
	tr := k.open(o)
	ticked := make(chan struct{}, 1)
	clock, _ := k.script(tr, nil)
	clock.OnTick = func() {
		select {
		case ticked <- struct{}{}:
		default:
		}
	}
	clock.Start()

	ours, peers := k.connect(k)
	s := Accept(k, tr, ours, []byte("early, "))
	var started atomic.Bool
	early := func() {
		if !started.Load() {
			k.Error("the session was called before Start")
		}
	}
	s.OnReceive = func([]byte) bool { early(); return true }
	s.OnNext = func() ([]byte, transport.Then) { early(); return nil, transport.Wait }
	s.OnTick = early
	s.OnLastWords = func(error) []byte { early(); return nil }
	s.Conn.Wake()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		io.WriteString(peers, "hello")
	}()
	for range 3 {
		<-ticked
	}
	if s.Flush() {
		k.Error("before the start, Flush says that the peer keeps it waiting")
	}
	started.Store(true)
	s.Start()
	Until(k, "everything was received", func() bool { return s.Heard() == "early, hello" })
	s.Conn.End(errTest)
	if err := s.IsOver(); err != errTest {
		k.Errorf("Gone was told %v, want what End was given", err)
	}
	<-wrote
}

// Every Wake is followed by a Next that sees what was there before the Wake:
// many wake, and the connection falls quiet in between as often as possible.
func (k *kit) wakeIsNeverLost() {
	rnd := Random(k)
	tr := k.open(Slow)
	s, peers := k.script(tr, nil)
	var said atomic.Uint32 // the highest number there is
	var written uint32     // Next's
	s.OnNext = func() ([]byte, transport.Then) {
		if written == said.Load() {
			return nil, transport.Wait
		}
		written++
		if written < said.Load() {
			return binary.BigEndian.AppendUint32(nil, written), transport.More
		}
		return binary.BigEndian.AppendUint32(nil, written), transport.Wait
	}
	s.Start()

	const wakers = 3
	for range 2000 {
		var wg sync.WaitGroup
		for i := range wakers {
			pause := rnd.IntN(50)
			wg.Go(func() {
				for range pause {
					runtime.Gosched()
				}
				said.Add(1)
				if i == 0 {
					s.Conn.Loop().Post(transport.Do(func() { s.Conn.Flush() })) // as good as a Wake
				} else {
					s.Conn.Wake()
				}
			})
		}
		wg.Wait()
		// No further Wake until all has arrived: a lost one is lost for good.
		var b [4 * wakers]byte
		if _, err := io.ReadFull(peers, b[:]); err != nil {
			k.Fatalf("after %d a Wake was lost: %v", said.Load()-wakers, err)
		}
		for i := range uint32(wakers) {
			if got, want := binary.BigEndian.Uint32(b[4*i:]), said.Load()-wakers+1+i; got != want {
				k.Fatalf("%d arrives in the place of %d", got, want)
			}
		}
	}
}

// The same while the peer is slow and writes are cut short: what came meanwhile
// is asked for when the peer goes on, and nobody wakes again for it.
func (k *kit) slowPeerMissesNothing() {
	rnd := Random(k)
	tr := k.open(Slow)
	ours, peers := k.connect(k)
	narrow(ours)
	s := Accept(k, tr, ours, nil)
	src := &source{rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0))}
	s.OnNext = src.next
	s.Start()
	var got check
	buf := make([]byte, 64<<10)
	for round := range k.times(240) {
		var wg sync.WaitGroup
		for range 4 {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
			wg.Go(func() {
				for range 1 + rnd.IntN(5) {
					for range rnd.IntN(30) {
						runtime.Gosched()
					}
					src.say(1 + rnd.Int64N(1<<rnd.IntN(18)))
					if rnd.IntN(2) == 0 {
						s.Conn.Wake()
					} else {
						s.Conn.Loop().Post(transport.Do(func() { s.Conn.Flush() }))
					}
				}
			})
		}
		if rnd.IntN(2) == 0 {
			wg.Wait() // the peer reads only now
		}
		for {
			if got.have == src.total() {
				wg.Wait()
				if got.have == src.total() {
					break
				}
			}
			n, err := peers.Read(buf[:1+rnd.IntN(len(buf))])
			if err != nil {
				k.Fatalf("in round %d the peer has %d bytes of %d, and then %v", round, got.have, src.total(), err)
			}
			if err := got.take(buf[:n]); err != nil {
				k.Fatal(err)
			}
		}
	}
}

// narrow gives our end a small buffer, if it has any, so that hardly a write is whole.
func narrow(ours net.Conn) {
	if c, ok := ours.(interface{ SetWriteBuffer(int) error }); ok {
		c.SetWriteBuffer(4 << 10)
	}
}

// Next is called again after More, not after Wait, nor after More with nothing to
// write, and never after Last.
func (k *kit) then() {
	o := Slow
	o.Tick = 8 * time.Millisecond
	tr := k.open(o)
	for name, tt := range map[string]struct {
		says  string // what Next says: m(ore), w(ait), l(ast), in capitals without bytes
		reads string // what the peer reads after one Wake
		calls int32  // how often Next is called
	}{
		"More goes on until Wait":       {"mmmmmmmww", "mmmmmmmw", 8},
		"Wait waits":                    {"wwww", "w", 1},
		"Wait with nothing waits":       {"mmWww", "mm", 3},
		"More with nothing waits, too":  {"mmMww", "mm", 3},
		"Last is the last":              {"mlw", "ml", 2},
		"Last with nothing is, as well": {"mLw", "m", 2},
	} {
		k.sub(name, func(k *kit) {
			var ticks, calls atomic.Int32
			s, peers := k.script(tr, nil)
			s.OnTick = func() { ticks.Add(1) }
			s.OnNext = func() ([]byte, transport.Then) {
				c := tt.says[calls.Add(1)-1]
				then := map[byte]transport.Then{'m': transport.More, 'w': transport.Wait, 'l': transport.Last}[c|0x20]
				if c&0x20 == 0 {
					return nil, then
				}
				return []byte{c}, then
			}
			s.Conn.Wake()
			s.Start()
			Reads(k, peers, tt.reads)
			Until(k, "Next was called", func() bool { return calls.Load() >= tt.calls })
			before := ticks.Load()
			Until(k, "some time has passed", func() bool { return ticks.Load() >= before+3 })
			if n := calls.Load(); n != tt.calls {
				k.Errorf("Next was called %d times, want %d", n, tt.calls)
			}
			s.Conn.End(errTest)
			s.IsOver()
		})
	}
}

// While the peer takes nothing, Flush says so, which is how a broadcast knows who
// lags. It has asked on behalf of all that was there: when the peer goes on,
// that is written, and nobody wakes for it.
func (k *kit) flush() {
	tr := k.open(Slow)
	s, peers := k.script(tr, nil)
	s.Start()
	var want bytes.Buffer
	say := func(b []byte) {
		want.Write(b)
		s.Queue(b)
	}
	say([]byte("hello"))
	s.Flush()
	Reads(k, peers, want.String())
	Until(k, "Flush does not say that the peer keeps it waiting", func() bool { return !s.Flush() })

	want.Reset()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	for waiting := 0; waiting < 30; { // in a row: that one write is under way does not yet say it
		if s.Flush() {
			waiting++
			time.Sleep(time.Millisecond)
			continue
		}
		waiting = 0
		if want.Len() > 256<<20 {
			k.Fatal("the peer has not read 256 MiB, and Flush does not say so")
		}
		say(chunk)
	}
	for i := range 100 {
		say([]byte{'<', byte(i), '>'})
		if !s.Flush() {
			k.Fatal("the peer reads nothing, and Flush says that it does not keep it waiting")
		}
	}
	Reads(k, peers, want.String())
	Until(k, "Flush does not say any more that the peer keeps it waiting", func() bool { return !s.Flush() })
	say([]byte("and on"))
	s.Flush()
	Reads(k, peers, "and on")
}
