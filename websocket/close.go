package websocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"fanfare/internal/frame"
	"fanfare/internal/netend"
)

// Code is a close code, a number for machines (RFC 6455, section 7.4).
// Applications choose theirs from 4000 to 4999.
type Code = frame.Code

// The codes of RFC 6455 and of its registry at IANA.
const (
	NormalClosure      = frame.NormalClosure
	GoingAway          = frame.GoingAway
	ProtocolError      = frame.ProtocolError
	UnsupportedData    = frame.UnsupportedData
	NoStatus           = frame.NoStatus
	Abnormal           = frame.Abnormal
	InvalidPayload     = frame.InvalidPayload
	PolicyViolation    = frame.PolicyViolation
	MessageTooBig      = frame.MessageTooBig
	MandatoryExtension = frame.MandatoryExtension
	InternalError      = frame.InternalError
	ServiceRestart     = frame.ServiceRestart
	TryAgainLater      = frame.TryAgainLater
	BadGateway         = frame.BadGateway
	TLSHandshake       = frame.TLSHandshake
)

// A CloseError is what calls return when the connection has ended: how, and
// who ended it.
type CloseError struct {
	// Code is that of the close frame that came first; [NoStatus] when it had
	// none; [Abnormal] when there was no close frame at all.
	Code   Code
	Reason string // for people
	// Local says that this end began: Close or CloseNow was called, the peer
	// broke the protocol or a limit, or it gave no sign of life.
	Local bool

	cause error
}

func (e *CloseError) Error() string {
	who := "the peer closed the connection"
	switch {
	case e.Local:
		who = "this end closed the connection"
	case e.Code == Abnormal:
		who = "the connection was lost"
	}
	if e.Reason == "" {
		return fmt.Sprintf("websocket: %s: %d %s", who, uint16(e.Code), e.Code)
	}
	return fmt.Sprintf("websocket: %s: %d %s: %s", who, uint16(e.Code), e.Code, e.Reason)
}

// Unwrap returns the network's error, if it was one that ended the connection.
func (e *CloseError) Unwrap() error { return e.cause }

// Is reports that an end of our own making is also a [net.ErrClosed].
func (e *CloseError) Is(target error) bool { return e.Local && target == net.ErrClosed }

// CloseCode returns the code of the [*CloseError] in err's chain, and 0 when there is none.
func CloseCode(err error) Code {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	return 0
}

// Close tells the peer code and reason, after whatever Write calls are waiting
// to be written, waits for its answer, and closes the connection. It takes no
// longer than the close timeout. What arrives until the peer's answer can
// still be read, as far as the queue holds it.
//
// ctx bounds only the waiting. When it ends first, or had ended before, Close
// returns its error, and the connection is closed in the background all the
// same: [Conn.Done] tells when.
//
// The error tells what did not happen in order; the connection is gone all the
// same. A code that must not be sent becomes 1011; [NoStatus] sends none. A
// reason is cut after 123 bytes. Close on a connection that the peer has closed,
// or that is closed already, waits for its end and returns nil.
func (c *Conn) Close(ctx context.Context, code Code, reason string) error {
	var misuse error
	if !code.Sendable() && code != NoStatus {
		misuse = fmt.Errorf("websocket: close code %d must not be sent, 1011 went out instead", uint16(code))
		code = InternalError
	}
	if c.setEnd(&CloseError{Code: code, Reason: reason, Local: true}) {
		c.queueClose(code, reason, false)
		c.boundEnd()
	} else {
		misuse = nil
	}
	select {
	case <-c.done:
	default:
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.end.Lock()
	defer c.end.Unlock()
	switch {
	case c.end.met:
		return misuse
	case !c.end.err.Local && c.end.err.Code == Abnormal:
		return c.end.err
	case c.end.err.cause != nil || c.end.err.Code == Abnormal:
		return nil // this end closed it without a handshake before, on purpose
	}
	return fmt.Errorf("websocket: the peer did not complete the closing handshake (the close timeout is %v)", c.set.closeTimeout)
}

// parting is what CloseNow leaves of the closing handshake's time.
const parting = time.Second

// CloseNow closes the connection at once and tells the peer nothing. It returns
// when the socket is closed and no goroutine is left. It may be deferred: after
// Close it does nothing, and after a Read that failed, because the peer closed or
// broke the protocol, it lets the closing handshake come to its end, for a second
// at most. There is nothing else that it waits for, so it takes no context.
func (c *Conn) CloseNow() error {
	c.setEnd(&CloseError{Code: Abnormal, Reason: "closed without a handshake", Local: true, cause: net.ErrClosed})
	c.end.Lock()
	leave := c.end.parting
	c.end.Unlock()
	if leave {
		select {
		case <-c.done:
			return nil
		case <-time.After(parting):
		}
	}
	c.abort()
	<-c.done
	return nil
}

// setEnd records why the connection ends and reports whether it is the first to do so.
func (c *Conn) setEnd(err *CloseError) bool {
	c.end.Lock()
	defer c.end.Unlock()
	if c.end.err != nil {
		return false
	}
	c.end.err = err
	close(c.ended)
	return true
}

// part records that the rest of the closing handshake has begun, and whether
// the peer's close frame has come.
func (c *Conn) part(met bool) {
	c.end.Lock()
	defer c.end.Unlock()
	c.end.parting, c.end.met = true, met
}

// boundEnd starts the closing handshake's timer, once.
func (c *Conn) boundEnd() {
	c.end.Lock()
	defer c.end.Unlock()
	if c.end.bound == nil {
		c.end.bound = time.AfterFunc(c.set.closeTimeout, c.abort)
	}
}

// abort closes the socket under everybody, once. Run sees to the rest.
func (c *Conn) abort() {
	c.end.Lock()
	select {
	case <-c.gone:
		c.end.Unlock()
		return
	default:
	}
	close(c.gone)
	met := c.end.met
	if c.end.bound != nil {
		c.end.bound.Stop()
	}
	if c.end.alive != nil {
		c.end.alive.Stop()
		c.end.alive = nil
	}
	c.end.Unlock()
	if met {
		netend.HangUp(c.conn, goodbye)
	} else {
		netend.HangUp(c.conn, 0)
	}
}

// goodbye is how long TLS may take to say its own, after the closing handshake.
const goodbye = 250 * time.Millisecond
