package websocket

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"fanfare/internal/frame"
)

// Ping asks the peer for a sign of life and returns how long the answer took.
// Nobody need be reading. When ctx ends first, the connection stays as it was.
func (c *Conn) Ping(ctx context.Context) (rtt time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p := &ping{sent: time.Now(), done: make(chan struct{})}
	_, _ = rand.Read(p.payload[:]) // it never fails; unguessable, so that only an answer answers
	if err := c.pings.add(p); err != nil {
		return 0, err
	}
	f := &outFrame{bytes: c.appendControl(nil, frame.Ping, p.payload[:]), done: make(chan struct{})}
	c.out.addControl(f)
	written := f.done
	for {
		select {
		case <-p.done:
			return p.rtt, p.err
		case <-written:
			if f.err != nil {
				c.pings.remove(p)
				return 0, f.err
			}
			written = nil
		case <-ctx.Done():
			c.out.cancel(f)
			c.pings.remove(p)
			return 0, ctx.Err()
		}
	}
}

// pings are the calls of Ping that wait.
type pings struct {
	sync.Mutex         // guards the following, and rtt and err of those that wait
	waiting    []*ping // oldest first
	err        error   // the connection has ended
}

// ping is one call of Ping.
type ping struct {
	// static
	payload [8]byte
	sent    time.Time
	done    chan struct{} // closed when it was answered, or never will be

	// valid after done; until then guarded by pings
	rtt time.Duration
	err error
}

func (ps *pings) add(p *ping) error {
	ps.Lock()
	defer ps.Unlock()
	if ps.err != nil {
		return ps.err
	}
	ps.waiting = append(ps.waiting, p)
	return nil
}

func (ps *pings) remove(p *ping) {
	ps.Lock()
	defer ps.Unlock()
	for i, other := range ps.waiting {
		if other == p {
			ps.waiting = append(ps.waiting[:i:i], ps.waiting[i+1:]...)
			return
		}
	}
}

// answered takes a pong. It answers the pings before it too, because a peer
// may answer only the newest (RFC 6455, section 5.5.3). It reports whether there
// was such a ping.
func (ps *pings) answered(payload []byte) bool {
	ps.Lock()
	defer ps.Unlock()
	for i, p := range ps.waiting {
		if bytes.Equal(p.payload[:], payload) {
			for _, p := range ps.waiting[:i+1] {
				p.rtt = time.Since(p.sent)
				close(p.done)
			}
			ps.waiting = ps.waiting[i+1:]
			return true
		}
	}
	return false
}

func (ps *pings) finish(err error) {
	ps.Lock()
	defer ps.Unlock()
	ps.err = err
	for _, p := range ps.waiting {
		p.err = err
		close(p.done)
	}
	ps.waiting = nil
}

// keepalive is the timer's: it looks how long the peer has been silent, asks,
// and gives up. Silence is not held against the peer while it is we who do not read, nor
// while our ping waits behind a long message that still makes progress.
func (c *Conn) keepalive() {
	now := c.since()
	heard := c.heard.Load()
	if c.stalled.Load() {
		heard = now
	}
	if c.ownPing != nil {
		select {
		case <-c.ownPing.done:
			if heard > c.ownPing.at {
				c.ownPing = nil
			}
		default:
		}
	}
	silent := time.Duration(now - heard)
	switch {
	case c.ownPing == nil && silent < c.set.pingInterval:
		c.lookAgain(c.set.pingInterval - silent)
		return
	case c.ownPing == nil:
		c.ownPing = &outFrame{bytes: c.appendControl(nil, frame.Ping, nil), done: make(chan struct{})}
		c.out.addControl(c.ownPing)
	default:
		select {
		case <-c.ownPing.done:
			waited := time.Duration(now - c.ownPing.at)
			switch {
			case c.set.pingTimeout <= 0:
				c.ownPing = nil
				c.lookAgain(c.set.pingInterval)
				return
			case waited < c.set.pingTimeout:
				c.lookAgain(c.set.pingTimeout - waited)
				return
			}
			c.presumeDead()
			return
		default: // not written yet: the write timeout sees to it
		}
	}
	if c.set.pingTimeout > 0 {
		c.lookAgain(c.set.pingTimeout)
	} else {
		c.lookAgain(c.set.pingInterval)
	}
}

// lookAgain sets the timer, unless the connection is over.
func (c *Conn) lookAgain(d time.Duration) {
	c.end.Lock()
	defer c.end.Unlock()
	if c.end.alive != nil {
		c.end.alive.Reset(d)
	}
}

// presumeDead ends a connection whose peer does not answer. It is told so all
// the same: it may be only asleep.
func (c *Conn) presumeDead() {
	reason := fmt.Sprintf("nothing came back within %v of a ping", c.set.pingTimeout)
	if !c.setEnd(&CloseError{Code: Abnormal, Reason: reason, Local: true, cause: context.DeadlineExceeded}) {
		return // the closing handshake's bound sees to it
	}
	select {
	case <-c.queueClose(InternalError, reason, true).done:
	case <-time.After(time.Second):
	}
	c.abort()
}
