// Package transporttest is the law of [transport.Transport]: what passes [Run]
// is a transport. It holds only what every one can fulfil, over TCP; what one
// promises beyond (other kinds of connections, how little an idle one costs) its own
// tests hold, for which a [Script] is a session that watches over the contract.
//
// A leak of goroutines the kit leaves to its caller's TestMain; descriptors it counts.
package transporttest

import (
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"fanfare/internal/transport"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: another one each time")

// Random returns a source of random numbers and prints its seed.
func Random(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Patience is for a busy machine; what a test waits for comes at once.
const Patience = 20 * time.Second

// Slow is what tests that wait for no timeout set them to.
var Slow = transport.Options{Tick: time.Hour, WriteTimeout: Patience, CloseTimeout: Patience, Loops: 2}

// errTest is what the kit's tests end connections with.
var errTest = errors.New("ended by the test")

// A law is a part of the contract.
type law struct {
	name string
	over kind // what kind of connection it takes, at least
	test func(*kit)
}

// A kind is what a connection can do.
type kind int

const (
	anything kind = iota // what [net.Conn] says
	overTCP              // a system in between that buffers, directions that end alone, resets
)

var laws = []law{
	{"Conversation", anything, (*kit).conversation},
	{"StartComesLater", anything, (*kit).startComesLater},
	{"WakeIsNeverLost", anything, (*kit).wakeIsNeverLost},
	{"SlowPeerMissesNothing", anything, (*kit).slowPeerMissesNothing},
	{"Then", anything, (*kit).then},
	{"Flush", overTCP, (*kit).flush},
	{"Last", overTCP, (*kit).last},
	{"CloseTimeout", overTCP, (*kit).closeTimeout},
	{"PeerEndsFirst", overTCP, (*kit).peerEndsFirst},
	{"Reset", overTCP, (*kit).reset},
	{"End", anything, (*kit).end},
	{"EndWhileWriting", anything, (*kit).endWhileWriting},
	{"WriteTimeout", anything, (*kit).writeTimeout},
	{"Pause", anything, (*kit).pause},
	{"EndWhilePaused", anything, (*kit).endWhilePaused},
	{"Tick", anything, (*kit).tick},
	{"Each", overTCP, (*kit).each},
	{"Loops", overTCP, (*kit).loops},
	{"Tasks", overTCP, (*kit).tasks},
	{"TasksAndConnectionsTakeTurns", overTCP, (*kit).turns},
	{"Close", overTCP, (*kit).close},
	{"CloseWhileAccepting", overTCP, (*kit).closeWhileAccepting},
	{"GoneIsLast", anything, (*kit).goneIsLast},
	{"EverythingAtOnce", anything, (*kit).everythingAtOnce},
}

// Run holds the transport that fresh returns to the contract, over TCP. Fresh is
// called for each test; the kit closes it.
func Run(t *testing.T, fresh func(transport.Options) transport.Transport) {
	run(t, fresh, TCP, append(laws, ofThisSystem...), overTCP)
}

// RunOver holds it to what does not depend on TCP, over connections of another kind.
func RunOver(t *testing.T, fresh func(transport.Options) transport.Transport, connect Pair) {
	run(t, fresh, connect, laws, anything)
}

func run(t *testing.T, fresh func(transport.Options) transport.Transport, connect Pair, laws []law, over kind) {
	for _, l := range laws {
		if l.over <= over {
			t.Run(l.name, func(t *testing.T) { l.test(&kit{T: t, fresh: fresh, connect: connect, over: over}) })
		}
	}
}

// A kit is one test of a transport.
type kit struct {
	*testing.T
	fresh   func(transport.Options) transport.Transport
	connect Pair
	over    kind
}

// sub runs a part of the test.
func (k *kit) sub(name string, f func(k *kit)) {
	k.Run(name, func(t *testing.T) { f(&kit{T: t, fresh: k.fresh, connect: k.connect, over: k.over}) })
}

// times returns n over TCP, and less over other kinds of connections, of which
// several are tried.
func (k *kit) times(n int) int {
	if k.over == anything {
		return max(1, n/3)
	}
	return n
}

// open returns a transport that is closed when the test ends.
func (k *kit) open(o transport.Options) transport.Transport { return Open(k.T, k.fresh, o) }

// script connects, and hands one end to tr without starting.
func (k *kit) script(tr transport.Transport, early []byte) (s *Script, peers net.Conn) {
	k.Helper()
	ours, peers := k.connect(k.T)
	return Accept(k.T, tr, ours, early), peers
}

// Open returns a transport that is closed when the test ends, and then holds
// it to its word: no descriptor is left.
func Open(t testing.TB, fresh func(transport.Options) transport.Transport, o transport.Options) transport.Transport {
	t.Helper()
	before := Descriptors(t)
	tr := fresh(o)
	t.Cleanup(func() {
		tr.Close()
		Until(t, "all descriptors are closed", func() bool { return Descriptors(t) <= before })
	})
	return tr
}

// Descriptors returns how many files are open; 0 where the system does not tell.
func Descriptors(t testing.TB) int {
	t.Helper()
	// The first socket makes the runtime open descriptors of its own, which stay.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// Until waits for what is about to happen.
func Until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", Patience, what)
		}
	}
}

// A Pair makes two ends of a connection, ours and the peer's, which is closed
// with the test, and whose patience is [Patience].
type Pair func(t testing.TB) (ours, peers net.Conn)

// TCP connects over the loopback.
func TCP(t testing.TB) (ours, peers net.Conn) {
	t.Helper()
	return Dialed(t, new(net.ListenConfig), new(net.Dialer), "tcp", "127.0.0.1:0")
}

// Dialed connects to a listener that is there for this one connection.
func Dialed(t testing.TB, lc *net.ListenConfig, d *net.Dialer, network, address string) (ours, peers net.Conn) {
	t.Helper()
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peers, err = d.DialContext(t.Context(), network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peers.Close() })
	peers.SetDeadline(time.Now().Add(Patience))
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, peers
}

// Write has the peer write.
func Write(t testing.TB, peers net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(peers, text); err != nil {
		t.Fatal(err)
	}
}

// Reads wants exactly this text to arrive next.
func Reads(t testing.TB, peers net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(peers, got); err != nil || string(got) != want {
		t.Fatalf("the peer reads %.100q (%d bytes) and %v, want %.100q (%d bytes)", got[:n], n, err, want, len(want))
	}
}

// ReadsEnd wants the text to be all that arrives.
func ReadsEnd(t testing.TB, peers net.Conn, want string) {
	t.Helper()
	got, err := io.ReadAll(peers)
	if err != nil || string(got) != want {
		t.Fatalf("until the end the peer reads %.100q (%d bytes) and %v, want %.100q (%d bytes)", got, len(got), err, want, len(want))
	}
}

// closeWrite ends the peer's direction.
func closeWrite(peers net.Conn) { peers.(interface{ CloseWrite() error }).CloseWrite() }

// abort closes the peer's end, with a reset where there is such a thing.
func abort(peers net.Conn) {
	if c, ok := peers.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	peers.Close()
}
