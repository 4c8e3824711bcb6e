//go:build !386 && !s390x

package reactor

import (
	"encoding/binary"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fanfare/internal/tally"
	"fanfare/internal/transport"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is what is read at once. A peer that floods has a turn for each.
	bufferSize = 16 << 10
	// turn is how long tasks run before the sockets are asked again.
	turn = 2 * time.Millisecond
)

// A loop is a goroutine that owns connections.
type loop struct {
	epoll *os.File        // static; open for as long as the goroutine runs
	raw   syscall.RawConn // static; of epoll
	fd    int             // static; of epoll
	bell  int             // static; an eventfd that wakes the loop
	done  chan struct{}   // closed when the goroutine ended
	spoke time.Duration   // static; between two visits of the wheel
	ends  *sync.WaitGroup // static; the reactor's
	load  atomic.Int32    // connections, and those about to be

	writeTimeout, closeTimeout uint32 // static; in ticks

	// Owned by the goroutine.
	conns   []*Conn  // by slot; nil: free
	free    []uint32 // the free slots
	buf     []byte   // what is read, until the session has taken it
	events  []unix.EpollEvent
	got     int                // how many events there are
	seen    int                // and how many were seen to
	poll    func(uintptr) bool // fills events; kept, since making it would allocate
	tasks   []transport.Task   // to run, in this order
	slow    []*Conn            // to run when the tasks had their turn: they were kept waiting, or have more than others
	next    time.Time          // of the wheel's visits
	at      int                // the wheel's spoke
	closing bool               // ends as soon as nobody is left
	began   time.Time          // this turn
	hurried bool               // this turn's reading took all of a turn's time: the rest of the events is for the next
	read    int64              // bytes since it began
	written int64

	// What the goroutine tells others at the end of each turn.
	turns             *tally.Histogram // how long they took, in ns
	didRead, didWrite atomic.Int64
	leftOver          atomic.Int32 // tasks and slow

	mu     sync.Mutex // guards the following
	queue  []transport.Task
	asleep bool // the goroutine waits, or is about to: ring the bell
}

func newLoop(o transport.Options, ends *sync.WaitGroup) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	l := &loop{
		fd: fd, bell: bell, done: make(chan struct{}), ends: ends,
		spoke:        max(o.Tick/spokes, time.Millisecond),
		writeTimeout: ticks(o.WriteTimeout, o.Tick), closeTimeout: ticks(o.CloseTimeout, o.Tick),
		buf: make([]byte, bufferSize), events: make([]unix.EpollEvent, 256),
		turns: tally.NewHistogram(turnTimes...),
	}
	// Edge-triggered, so that it need never be read.
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: -1})
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that os knows it for one that can be waited for
	}
	l.epoll = os.NewFile(uintptr(fd), "epoll")
	if err == nil {
		l.raw, err = l.epoll.SyscallConn()
	}
	if err == nil {
		err = l.epoll.SetReadDeadline(time.Time{}) // an error says that the poller does not take it
	}
	if err != nil {
		l.epoll.Close()
		unix.Close(bell)
		return nil, err
	}
	l.poll = func(uintptr) bool {
		l.got = ready(l.fd, l.events)
		return l.got > 0
	}
	go l.run()
	return l, nil
}

// ticks returns how many ticks d lasts, at least.
func ticks(d, tick time.Duration) uint32 { return uint32((d + tick - 1) / tick) }

// ring is what is written to an eventfd: a number of 64 bits, which it adds. It is
// a small one in the machine's order of bytes: a large one could be added only
// a few times.
var ring = binary.NativeEndian.AppendUint64(nil, 1)

// Post implements [transport.Loop].
func (l *loop) Post(t transport.Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, t)
	if l.asleep {
		l.asleep = false
		unix.Write(l.bell, ring)
	}
}

// run is the loop's life.
func (l *loop) run() {
	defer close(l.done)
	defer unix.Close(l.bell) // nobody rings it: the loop is not asleep, and never will be
	defer l.epoll.Close()
	for !l.closing || l.load.Load() > 0 {
		if l.seen == l.got {
			l.seen, l.got = 0, 0
			if l.idle() {
				l.wait()
			} else {
				l.got = ready(l.fd, l.events)
			}
		}
		l.began, l.hurried = time.Now(), false
		for l.seen < l.got && !l.hurried {
			l.seen++
			l.happened(&l.events[l.seen-1])
		}
		l.work()
		l.report(l.visit())
		// Others need the processor too: a loop that is always busy would keep
		// it until the scheduler takes it away, every 10 ms.
		runtime.Gosched()
	}
}

// turnTimes are the bounds by which turns are counted. Most are much shorter than a
// turn's time; one of more than a few of them kept everybody waiting.
var turnTimes = []int64{50_000, 100_000, 250_000, 500_000, 1e6, 2_500_000, 5e6, 10e6, 25e6, 100e6, 1e9}

// report tells what the turn that ends now did.
func (l *loop) report(now time.Time) {
	l.turns.Observe(int64(now.Sub(l.began)))
	if l.didRead.Load() != l.read {
		l.didRead.Store(l.read)
	}
	if l.didWrite.Load() != l.written {
		l.didWrite.Store(l.written)
	}
	if left := int32(len(l.tasks) + len(l.slow)); l.leftOver.Load() != left {
		l.leftOver.Store(left)
	}
}

// idle reports whether there is nothing to do, and if so has Post ring the bell.
func (l *loop) idle() bool {
	if len(l.tasks)+len(l.slow) > 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asleep = len(l.queue) == 0
	return l.asleep
}

// wait parks until something happens, or it is time for the wheel.
func (l *loop) wait() {
	// The error is that the deadline has passed, and visit sees to that.
	_ = l.raw.Read(l.poll)
	l.mu.Lock()
	l.asleep = false
	l.mu.Unlock()
}

// happened takes an event to its connection. One that ended a moment ago has
// left its slot; should somebody else have it by now, a read or a write too many
// is all that comes of it.
func (l *loop) happened(e *unix.EpollEvent) {
	if e.Fd < 0 {
		return // the bell
	}
	if c := l.conns[e.Fd]; c != nil {
		c.happened(e.Events)
	}
}

// work runs tasks for a turn's time, those left over and those that came
// since, and then sees to slow readers for a quarter of it. What remains is for
// the next turn.
func (l *loop) work() {
	l.mu.Lock()
	l.tasks = append(l.tasks, l.queue...)
	l.queue = emptied(l.queue)
	l.mu.Unlock()
	if len(l.tasks)+len(l.slow) == 0 {
		return
	}
	spend(&l.tasks, turn, func(t transport.Task) {
		if t.Run() {
			l.tasks = append(l.tasks, t)
		}
	})
	spend(&l.slow, turn/4, (*Conn).catchUp)
}

// spend has do see to what is in list now, one after the other, until the time is
// over, and takes that out. What do adds is for the next turn.
func spend[T any](list *[]T, d time.Duration, do func(T)) {
	until := time.Now().Add(d)
	done := 0
	for n := len(*list); done < n; {
		x := (*list)[done]
		done++
		do(x)
		if time.Now().After(until) {
			break
		}
	}
	*list = without(*list, done)
}

// without returns list without its first n.
func without[T any](list []T, n int) []T {
	rest := copy(list, list[n:])
	clear(list[rest:])
	if rest == 0 {
		return emptied(list)
	}
	return list[:rest]
}

// emptied returns list without its elements, and without its memory if that is much.
func emptied[T any](list []T) []T {
	if cap(list) > 1024 {
		return nil
	}
	clear(list)
	return list[:0]
}

// visit calls a part of the connections when it is time, and returns when it was
// done.
func (l *loop) visit() time.Time {
	now := time.Now()
	if len(l.conns) == len(l.free) {
		if !l.next.IsZero() {
			l.next = time.Time{}
			l.epoll.SetReadDeadline(time.Time{})
		}
		return now
	}
	if now.Before(l.next) {
		return now
	}
	if !l.next.IsZero() {
		for slot := l.at; slot < len(l.conns); slot += spokes {
			if c := l.conns[slot]; c != nil {
				c.tick()
			}
		}
		l.at = (l.at + 1) % spokes
	}
	l.next = now.Add(l.spoke)
	l.epoll.SetReadDeadline(l.next)
	return time.Now()
}

// close ends all connections, and then the loop.
func (l *loop) close() {
	l.closing = true
	for _, c := range l.conns {
		if c != nil {
			c.end(transport.ErrClosed)
		}
	}
}

// seat gives c a slot.
func (l *loop) seat(c *Conn) {
	if n := len(l.free); n > 0 {
		c.slot = l.free[n-1]
		l.free = l.free[:n-1]
		l.conns[c.slot] = c
		return
	}
	c.slot = uint32(len(l.conns))
	l.conns = append(l.conns, c)
}

// unseat takes it back.
func (l *loop) unseat(c *Conn) {
	l.conns[c.slot] = nil
	l.free = append(l.free, c.slot)
	l.load.Add(-1)
}
