//go:build !386 && !s390x

package reactor

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"fanfare/internal/netend"
	"fanfare/internal/transport"

	"golang.org/x/sys/unix"
)

// A Conn implements [transport.Conn]. It is as small as a line of the processor's
// cache: an idle connection is this, a slot in the loop's table, and the session.
type Conn struct {
	loop    *loop             // static
	session transport.Session // static after start, which is on the loop

	paused atomic.Bool // nothing is read
	queued atomic.Bool // Run is on its way; whoever sets it brings the connection into the loop's tasks

	// Owned by the loop's goroutine, after Start.
	over     bool // closed
	readable bool // there may be something to read
	thorough bool // a read that finds less than it could take is not the last: the peer ended its direction, or marked something as urgent
	deaf     bool // the session wants nothing more; what arrives is thrown away
	blocked  bool // the kernel has no room for rest
	mute     bool // our direction is ended
	late     bool // among the loop's slow
	fd       int32
	slot     uint32
	waited   uint32 // ticks since the peer took something of what is written, or, when mute, since we ended our direction
	unacked  uint32 // bytes that the peer's system had not taken at the last tick, while blocked
	held     *held  // what a write left, or, before Start, what was read before Accept; nil: nothing
}

// held are bytes that could not go where they belong yet. Others may share them.
type held struct {
	bytes []byte
	last  bool // nothing follows them
}

// Loop implements [transport.Conn].
func (c *Conn) Loop() transport.Loop { return c.loop }

// Start implements [transport.Conn].
func (c *Conn) Start(s transport.Session) {
	c.loop.Post(transport.Do(func() { c.start(s) }))
}

func (c *Conn) start(s transport.Session) {
	c.session = s
	c.loop.seat(c)
	early := c.held
	c.held = nil
	if c.loop.closing {
		c.end(transport.ErrClosed)
		return
	}
	netend.BoundUnsent(int(c.fd))
	// What arrived since is reported at once, as an edge of its own.
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET&0xFFFFFFFF, Fd: int32(c.slot)}
	if err := unix.EpollCtl(c.loop.fd, unix.EPOLL_CTL_ADD, int(c.fd), &event); err != nil {
		c.end(os.NewSyscallError("epoll_ctl", err))
		return
	}
	if early != nil {
		c.loop.read += int64(len(early.bytes))
		c.deaf = !c.session.Receive(early.bytes)
	}
	c.Flush() // for a Wake that came too early
}

// Wake implements [transport.Conn].
func (c *Conn) Wake() {
	if !c.queued.Swap(true) {
		c.loop.Post(c)
	}
}

// Run implements [transport.Task]: it writes what there is, a little. Reading is
// for catchUp: one who floods us is woken all the time, to be answered, and
// must not come before those who wait for a message.
func (c *Conn) Run() (more bool) {
	c.queued.Store(false)
	if c.write() || c.readable && !c.paused.Load() {
		c.later()
	}
	return false
}

// later puts c among the loop's slow, unless it is there.
func (c *Conn) later() {
	if !c.late && !c.over {
		c.late = true
		c.loop.slow = append(c.loop.slow, c)
	}
}

// catchUp is c's turn among the slow: it reads and writes, a little of each.
func (c *Conn) catchUp() {
	c.late = false
	more := c.read()
	if c.write() || more {
		c.later()
	}
}

// happened takes what epoll has to say.
func (c *Conn) happened(events uint32) {
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLPRI) != 0 {
		c.thorough = true
	}
	if events&unix.EPOLLOUT != 0 {
		c.blocked = false
	}
	if events&^unix.EPOLLOUT != 0 {
		c.readable = true
	}
	if c.late {
		return // it has more than others already, and its turn will come
	}
	if c.read() || c.held != nil && !c.blocked {
		c.later()
	}
}

// Flush implements [transport.Conn].
func (c *Conn) Flush() (busy bool) {
	if c.write() {
		c.later()
	}
	return c.blocked
}

// Pause implements [transport.Conn].
func (c *Conn) Pause() { c.paused.Store(true) }

// Resume implements [transport.Conn].
func (c *Conn) Resume() {
	c.paused.Store(false)
	c.Wake()
}

// End implements [transport.Conn].
func (c *Conn) End(err error) {
	c.loop.Post(transport.Do(func() { c.end(err) }))
}

// read takes what is there to the session, one buffer at most, and reports whether
// there may be more.
func (c *Conn) read() (more bool) {
	if !c.readable || c.over || c.paused.Load() {
		return false
	}
	n, errno := recv(int(c.fd), c.loop.buf)
	switch {
	case errno == syscall.EAGAIN:
		c.readable = false
		return false
	case errno == syscall.EINTR:
		return true
	case errno != 0:
		c.end(os.NewSyscallError("read", errno))
		return false
	case n == 0:
		c.end(io.EOF)
		return false
	}
	c.loop.read += int64(n)
	if !c.deaf {
		c.deaf = !c.session.Receive(c.loop.buf[:n])
	}
	if n >= much {
		c.loop.hurried = time.Since(c.loop.began) > turn
	}
	// Less than there was room for means that nothing is left, and that the next
	// byte will be an edge (epoll(7)).
	c.readable = n == len(c.loop.buf) || c.thorough
	return c.readable && !c.over && !c.paused.Load()
}

// much is for how many bytes at once it pays to look at the clock: they may be
// thousands of messages.
const much = 4 << 10

// batches is how many slices of the session's a connection writes in one turn.
const batches = 2

// write writes what there is as far as the kernel has room, two slices of the
// session's at most, and reports whether there may be more that it has room for.
func (c *Conn) write() (more bool) {
	if c.blocked || c.mute || c.over || c.session == nil {
		return false
	}
	if h := c.held; h != nil {
		c.held = nil
		if !c.place(h.bytes, h.last) {
			return false
		}
		if h.last {
			c.endWriting()
			return false
		}
	}
	for range batches {
		b, then := c.session.Next()
		if len(b) > 0 && !c.place(b, then == transport.Last) {
			return false
		}
		if then == transport.Last {
			c.endWriting()
			return false
		}
		if then == transport.Wait || len(b) == 0 {
			return false
		}
	}
	return true
}

// place writes b, after which nothing follows if it is the last, and reports
// whether the kernel had room for all of it. It writes to c only if it must: in
// a broadcast to many that is a line of the processor's cache for each.
func (c *Conn) place(b []byte, last bool) bool {
	n, errno := send(int(c.fd), b)
	for errno == syscall.EINTR {
		n, errno = send(int(c.fd), b)
	}
	if errno != 0 && errno != syscall.EAGAIN {
		c.end(os.NewSyscallError("write", errno))
		return false
	}
	c.loop.written += int64(max(n, 0))
	if n > 0 && c.waited != 0 {
		c.waited = 0
	}
	if n == len(b) {
		return true
	}
	// The kernel says when there is room again.
	c.held, c.blocked = &held{b[max(n, 0):], last}, true
	return false
}

// endWriting ends our direction, so that the peer can read to its end and still
// speak: closing outright while its bytes are unread would make the system send
// a reset, and that may overtake our last words.
func (c *Conn) endWriting() {
	c.mute, c.waited = true, 0
	unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

// tick is what happens once a tick, when the wheel comes by.
func (c *Conn) tick() {
	if c.blocked || c.mute {
		c.waited++
	}
	if c.blocked {
		// The kernel calls for more only when a good part of what it holds has
		// gone; a slow peer that takes a little all the time is not stuck.
		if n := unacked(int(c.fd)); n < c.unacked {
			c.unacked, c.waited = n, 0
		} else {
			c.unacked = n
		}
	}
	switch {
	case c.mute && c.waited > c.loop.closeTimeout:
		c.end(os.ErrDeadlineExceeded)
	case c.blocked && c.waited > c.loop.writeTimeout:
		c.end(transport.ErrWriteTimeout)
	default:
		c.session.Tick()
	}
}

// end is the one place where a connection ends.
func (c *Conn) end(err error) {
	if c.over {
		return
	}
	if !c.mute {
		c.speakLast(err)
	}
	c.over = true
	unix.Close(int(c.fd)) // which takes it from epoll too
	c.loop.unseat(c)
	c.held = nil
	c.session.Gone(err)
	c.loop.ends.Done()
}

// speakLast tries to write the rest of what was begun and the last words,
// without waiting.
func (c *Conn) speakLast(err error) {
	words := c.session.LastWords(err)
	if len(words) == 0 {
		return
	}
	fd := int(c.fd)
	var rest []byte
	if c.held != nil {
		rest = c.held.bytes
	}
	netend.MakeRoom(fd, len(rest)+len(words))
	n, _ := send(fd, rest)
	c.loop.written += int64(max(n, 0))
	if n == len(rest) || len(rest) == 0 {
		n, _ = send(fd, words)
		c.loop.written += int64(max(n, 0))
	}
}
