// Package transport is the door between sessions and what moves their bytes:
// the event loops of internal/reactor, or the goroutines of internal/stream.
//
// A transport knows nothing of WebSocket, channels or feeds. It sees a
// [Session]: bytes in, bytes out, a tick for time, and the end. The session
// sees a [Conn]: wake me, end me, and the [Loop] where work for many sessions
// is done.
//
// # Two laws
//
// A session's methods and a loop's tasks do not block: they are other
// connections' time too. And Wake only queues: it is called under locks that
// Next takes, so it must not lead to Next on the same goroutine.
package transport

import (
	"errors"
	"net"
	"time"

	"fanfare/internal/tally"
)

// A Session is what a connection serves. Receive, Next, LastWords and Tick may be called
// by different goroutines, but none of them twice at once; Gone is the last
// call of all.
type Session interface {
	// Receive takes bytes that arrived, and may change them until it returns.
	// It reports whether the session wants more; if not, what still arrives is
	// read and thrown away, so that the peer can read our last words in peace.
	Receive(b []byte) (more bool)
	// Next returns what to write now, which must not change later, and what
	// follows. Nothing to write says the same as Wait, unless it is the end.
	Next() (b []byte, then Then)
	// LastWords returns what is still to be said when the peer is stuck, or the
	// connection is being ended before all was written up to Next's Last. It is written behind what
	// was begun if that is possible without waiting. It is called once, by
	// whoever called Receive or Next.
	LastWords(err error) []byte
	// Tick is called about every Options.Tick.
	Tick()
	// Gone says that the connection is over, and why: io.EOF when the peer
	// ended it, the error given to End, or the network's. Nothing of it is
	// left then.
	Gone(err error)
}

// Then is what follows the bytes that Next returned.
type Then uint8

const (
	Wait Then = iota // nothing, until Wake is called
	More             // Next has more to give
	Last             // nothing ever: our direction of the connection ends, and, when the peer ended its own or CloseTimeout passed, all of it
)

// A Conn is a session's connection.
type Conn interface {
	// Start begins to serve s. It is called once.
	Start(s Session)
	// Wake says that Next has something to give. It only queues. Any goroutine
	// may call it, whatever locks it holds, also before Start.
	Wake()
	// Flush writes what the session has, now if that is possible, and reports
	// whether the peer keeps it waiting: what was begun has not been taken, and
	// nothing else is written until it is. Only a task of the connection's loop
	// may call it, holding no lock that Next takes.
	Flush() (busy bool)
	// Pause stops the reading, until Resume. Called within Receive, it is that
	// Receive's last; called elsewhere, which any goroutine may do, one more may
	// follow. What the peer sends meanwhile waits in the network, and then at the
	// peer's; that it is gone is not noticed either, unless by a write.
	Pause()
	Resume()
	// End ends the connection at once; Gone will be told err. What the session
	// has as last words is tried, without waiting. Any goroutine may call it,
	// after Start; a second call changes nothing.
	End(err error)
	// Loop returns the loop that the connection belongs to, for good.
	Loop() Loop
}

// A Loop runs tasks, one at a time, in the order in which they came. Each
// connection belongs to one, so that what concerns many connections can be done
// by several loops at once without meeting.
type Loop interface {
	// Post has t run soon. It does not wait. Any goroutine may call it.
	Post(t Task)
}

// A Task is work for the sessions of one loop.
type Task interface {
	// Run does a little: a few hundred writes at most. If there is more to do
	// it says so, and is called again when others had their turn.
	Run() (more bool)
}

// Do is a task that is done in one go.
type Do func()

// Run implements [Task].
func (f Do) Run() bool { f(); return false }

// A Transport serves connections. Its methods may be called from any goroutine.
type Transport interface {
	// Accept takes over nc, of which early was read already. The connection can
	// be woken at once, but nothing is read, written or told before Start, which
	// must follow. On an error nc is the caller's still: ErrClosed after
	// Close, or what the system said.
	Accept(nc net.Conn, early []byte) (Conn, error)
	// Each has f called soon for every session that was started before, and not
	// yet Gone. It does not wait.
	Each(f func(Session))
	// Loops returns the transport's loops; the same slice each time.
	Loops() []Loop
	// Name is the transport's: "reactor" or "stream".
	Name() string
	// Load says what the transport did and has to do. It asks no connection, and
	// costs the same however many there are.
	Load() Load
	// Close ends all connections with ErrClosed and waits until all were told
	// Gone. So it must not be called by a session or a task.
	Close()
}

// Load is what a transport did, since it began, and has to do.
type Load struct {
	Read, Written int64 // bytes, of the connections that were started
	Loops         []LoopLoad
}

// LoopLoad is the same of a loop, where loops are goroutines that do turns.
type LoopLoad struct {
	Turns *tally.Histogram // how long each turn took, in ns: from its events to its last task
	Queue int              // tasks and connections that wait for a turn
}

// Options are a transport's settings. All are needed.
type Options struct {
	Tick         time.Duration // between two calls of Session.Tick
	WriteTimeout time.Duration // how long a peer may take nothing of what is written
	CloseTimeout time.Duration // how long a peer may take to end its direction after we ended ours
	Loops        int           // how many Loops
}

// ErrWriteTimeout is the end of a connection whose peer is stuck.
var ErrWriteTimeout = errors.New("transport: the peer took nothing of what was written within the write timeout")

// ErrClosed is the end of the connections that a transport had when it was closed.
var ErrClosed = errors.New("transport: closed")
