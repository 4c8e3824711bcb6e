package transporttest

import (
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/internal/transport"
)

// Gone is the last call, and comes once, whatever happens at the same time;
// the script sees to it.
func (k *kit) goneIsLast() {
	rnd := Random(k)
	o := Slow
	o.Tick, o.CloseTimeout, o.WriteTimeout = time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	tr := k.open(o)
	for range k.times(3) {
		var wg sync.WaitGroup
		var all []*Script
		for range 100 {
			s, peers := k.script(tr, []byte("early")[:rnd.IntN(6)])
			all = append(all, s)
			if rnd.IntN(16) == 0 { // on a pipe they take their time
				s.OnLastWords = func(error) []byte { return []byte("bye") }
			}
			s.OnTick = func() {
				s.Conn.Wake()
				for range 20 {
					runtime.Gosched() // Gone may want to come now
				}
			}
			s.Say(make([]byte, rnd.IntN(100_000)))
			things := []func(){
				func() { s.Conn.End(errTest) },
				func() { s.Conn.Wake() },
				func() { s.Conn.Pause() },
				func() { s.Conn.Resume() },
				func() { s.Flush() },
				func() { s.Finish(make([]byte, 100)) },
				func() { peers.Close() },
				func() { io.Copy(io.Discard, peers) },
				func() { peers.Write(make([]byte, 3000)) },
				func() { abort(peers) },
			}
			rnd.Shuffle(len(things), func(i, j int) { things[i], things[j] = things[j], things[i] })
			s.Start()
			for _, thing := range things[:1+rnd.IntN(len(things))] {
				pause := rnd.IntN(100)
				wg.Go(func() {
					for range pause {
						runtime.Gosched()
					}
					thing()
				})
			}
		}
		// What nobody ended by chance.
		for _, s := range all {
			s.Conn.End(errTest)
		}
		for _, s := range all {
			s.IsOver()
		}
		wg.Wait()
	}
}

// A party is a connection of everythingAtOnce: both its ends, and what is true of them.
type party struct {
	k     *kit
	s     *Script
	says  source // ours
	hears check  // ours; Receive's
	peers net.Conn

	wild, wildly sync.Mutex // guard the following

	// Guarded by wild.
	rnd  *rand.Rand // the session's
	stop bool       // nothing is to be paused any more

	// Guarded by wildly.
	wrote int64 // the peer

	heard  atomic.Int64 // by the session, of what the peer wrote
	reads  atomic.Int64 // by the peer, of what we said
	frozen atomic.Bool  // the peer reads nothing
	doomed atomic.Bool  // something was done that will end it
	over   chan struct{}
}

const words = "\xffbye"

func (k *kit) newParty(tr transport.Transport, seed uint64) *party {
	rnd := rand.New(rand.NewPCG(seed, 0))
	early := rnd.IntN(100)
	p := &party{k: k, rnd: rnd, wrote: int64(early), over: make(chan struct{})}
	p.says.rnd = rand.New(rand.NewPCG(seed, 1))
	ours, peers := k.connect(k)
	if rnd.IntN(2) == 0 {
		narrow(ours)
	}
	p.peers = peers
	s := Accept(k, tr, ours, append([]byte(nil), piece(0, early)...))
	p.s = s
	s.OnNext = p.says.next
	s.OnLastWords = func(error) []byte { return []byte(words) }
	s.OnReceive = p.receive
	return p
}

// receive sometimes pauses, and then somebody else goes on.
func (p *party) receive(b []byte) bool {
	if err := p.hears.take(b); err != nil || len(p.hears.last) > 0 {
		p.k.Errorf("the session: %v", err)
	}
	p.wild.Lock()
	defer p.wild.Unlock()
	p.heard.Store(p.hears.have)
	if !p.stop && p.rnd.IntN(4) == 0 {
		p.s.Conn.Pause()
		wait := time.Duration(p.rnd.IntN(2000)) * time.Microsecond
		time.AfterFunc(wait, p.s.Conn.Resume)
	}
	return true
}

// listen is the peer's reading.
func (p *party) listen(rnd *rand.Rand) {
	defer close(p.over)
	var got check
	for buf := make([]byte, 64<<10); ; {
		for p.frozen.Load() {
			time.Sleep(time.Millisecond)
		}
		n, err := p.peers.Read(buf[:1+rnd.IntN(len(buf))])
		if err := got.take(buf[:n]); err != nil {
			p.k.Errorf("the peer: %v", err)
		}
		p.reads.Store(got.have)
		if err != nil {
			break
		}
	}
	if got.have > p.says.total() || len(got.last) > 0 && string(got.last) != words {
		p.k.Errorf("the peer has read %d bytes of %d, and then %.20q", got.have, p.says.total(), got.last)
	}
	p.peers.Close()
}

// write has the peer write, as much as is taken at once.
func (p *party) write(n int) {
	p.wildly.Lock()
	defer p.wildly.Unlock()
	p.peers.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, _ = p.peers.Write(piece(p.wrote, n))
	p.wrote += int64(n)
}

// act does something, as random as can be.
func (p *party) act(tr transport.Transport, rnd *rand.Rand) {
	flush := func() { p.s.Conn.Flush() }
	switch n := rnd.IntN(1000); {
	case n < 200:
		p.says.say(rnd.Int64N(1 << rnd.IntN(17)))
		p.s.Conn.Wake()
	case n < 500:
		p.says.say(rnd.Int64N(1 << rnd.IntN(17)))
		p.s.Conn.Loop().Post(transport.Do(flush))
	case n < 700:
		p.write(rnd.IntN(1 << rnd.IntN(17)))
	case n < 800:
		p.frozen.Store(!p.frozen.Load())
	case n < 850:
		p.s.Conn.Wake()
	case n < 900:
		p.s.Conn.Resume()
	case n < 905:
		tr.Each(func(s transport.Session) {
			if s.(*Script).IsGone() {
				p.k.Error("Each meets one that is gone")
			}
			s.(*Script).Conn.Wake()
		})
	case n < 910:
		p.doomed.Store(true)
		p.s.Conn.End(errTest)
	case n < 915:
		p.doomed.Store(true)
		p.peers.Close()
	case n < 920:
		p.doomed.Store(true)
		abort(p.peers)
	case n < 925:
		p.doomed.Store(true)
		p.says.finish()
		p.s.Conn.Wake()
	case n < 930:
		p.doomed.Store(true)
		if c, ok := p.peers.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
	default:
		for range rnd.IntN(100) {
			runtime.Gosched()
		}
	}
}

// settle ends the wild time: everybody reads, and what was said must arrive,
// without anybody waking for it.
func (p *party) settle() {
	k := p.k
	p.frozen.Store(false)
	p.wild.Lock()
	p.stop = true
	p.wild.Unlock()
	p.s.Conn.Resume()
	if p.doomed.Load() {
		p.s.Conn.End(errTest) // should it not have been enough
	} else {
		if p.s.IsGone() {
			k.Errorf("one is gone that nobody ended: %v", p.s.IsOver())
			return
		}
		Until(k, "the peer has read everything", func() bool { return p.reads.Load() == p.says.total() })
		p.wildly.Lock()
		wrote := p.wrote
		p.wildly.Unlock()
		Until(k, "the session has heard everything", func() bool { return p.heard.Load() == wrote })
		p.s.Conn.End(errTest)
	}
	p.s.IsOver()
	<-p.over
}

// Many connections, many goroutines that do what they like with them, and all
// that was promised holds: what arrives is what was said, in order, whole where nobody
// broke it off, and no call of the session is out of turn.
func (k *kit) everythingAtOnce() {
	rnd := Random(k)
	o := Slow
	o.Tick = 10 * time.Millisecond
	tr := k.open(o)
	const actors, parties = 8, 64
	var current [parties]atomic.Pointer[party]
	var all []*party
	add := func(i int) {
		p := k.newParty(tr, rnd.Uint64())
		p.s.Start()
		seed := rnd.Uint64()
		go p.listen(rand.New(rand.NewPCG(seed, 0)))
		current[i].Store(p)
		all = append(all, p)
	}
	for i := range current {
		add(i)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range actors {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 0))
		wg.Go(func() {
			for !stop.Load() {
				current[rnd.IntN(parties)].Load().act(tr, rnd)
			}
		})
	}
	wild := time.Duration(k.times(1500)) * time.Millisecond
	for until := time.Now().Add(wild); time.Now().Before(until) && len(all) < 2000; time.Sleep(time.Millisecond) {
		for i := range current {
			if current[i].Load().s.IsGone() {
				add(i)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	var said, heard int64
	for _, p := range all {
		p.settle()
		said, heard = said+p.reads.Load(), heard+p.heard.Load()
	}
	k.Logf("%d connections, %d MiB said, %d MiB heard", len(all), said>>20, heard>>20)
}
