// Package netend is how we treat the other end of a [net.Conn], TLS or not: how
// long a write waits for it, and how a connection ends so that the last words
// still arrive. The server and the WebSocket package must mean the same by it.
package netend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// ErrStuck is a timeout: the peer took nothing of what was written.
var ErrStuck = fmt.Errorf("netend: the peer takes nothing: %w", os.ErrDeadlineExceeded)

// grain is how much is written at a time where progress shows only when a write
// returns. It is what a TLS record holds.
const grain = 16 << 10

// looks is how often we look at what a socket has taken within a timeout. So a
// peer that is stuck is found out after a timeout and a quarter at most, and one
// that takes little is asked more often than the system would wake us.
const looks = 4

// Write writes b, however long it takes, as long as the peer takes something of
// it within every timeout; else the error is [ErrStuck]. On an error it returns
// what is left of b.
//
// What a peer has taken is what its system has: that of a slow reader may take
// nothing until it has room for much. Over TLS a write that timed out cannot be
// taken up again and tells nothing while it lasts, so there it is the next 16 KiB,
// or less if there is no more, that the peer must take within the timeout.
//
// deadline sets the write deadline, or says why there is to be no more writing.
// A timeout that is not positive is none, and sets no deadline.
func Write(nc net.Conn, b []byte, timeout time.Duration, deadline func(time.Time) error) (rest []byte, err error) {
	patience, most := 1, grain
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		patience, most = looks, len(b)
	}
	for empty := 0; len(b) > 0; {
		var until time.Time
		if timeout > 0 {
			until = time.Now().Add(timeout / time.Duration(patience))
		}
		if err := deadline(until); err != nil {
			return b, err
		}
		n, err := nc.Write(b[:min(len(b), most)])
		b = b[n:]
		switch {
		case err == nil || n > 0 && IsTimeout(err):
			empty = 0
		case !IsTimeout(err):
			return b, err
		default:
			if empty++; empty == patience {
				return b, ErrStuck
			}
		}
	}
	return nil, nil
}

// IsTimeout reports whether err is a timeout of the network's.
func IsTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// EndWriting ends our direction, so that the peer can read to its end and
// still speak. Closing outright while the peer's bytes are unread would make the
// system send a reset, and that may overtake our last words. It reports whether
// the peer can see this end; not so where a listener has wrapped its connections.
//
// TLS has an end of its own, which not everybody takes for one, so the one of TCP
// follows it.
func EndWriting(nc net.Conn) bool {
	if t, ok := nc.(*tls.Conn); ok {
		_ = t.CloseWrite() // what is wrong with the connection, whoever reads notices
		EndWriting(t.NetConn())
		return true
	}
	h, ok := nc.(interface{ CloseWrite() error })
	if ok {
		_ = h.CloseWrite()
	}
	return ok
}

// HangUp closes the connection. TLS says so to the peer, and would wait for five
// seconds until one that does not read has taken that: here for patience. With
// none it is not said at all.
func HangUp(nc net.Conn, patience time.Duration) {
	if t, ok := nc.(*tls.Conn); ok {
		if patience <= 0 {
			_ = t.NetConn().Close()
		} else {
			defer time.AfterFunc(patience, func() { _ = t.NetConn().Close() }).Stop()
		}
	}
	_ = nc.Close() // whatever it says, it is closed
}
