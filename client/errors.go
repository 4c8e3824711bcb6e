package client

import (
	"errors"
	"fmt"

	"fanfare/protocol"
)

// An Error is what the server refuses with: a code for programs, which is
// stable, and a sentence for people. docs/protocol.md lists the codes. The client uses
// some of them itself where it knows what the server would say.
type Error = protocol.Error

// ErrClosed is what calls get after Close of the client or the subscription.
var ErrClosed = errors.New("client: closed")

// ErrFull is in the chain of the error of a command for which the queue has no
// room. The error says which limit that is.
var ErrFull = errors.New("client: the queue is full")

// An UncertainError says that something was sent and it cannot be known
// whether the server did it.
type UncertainError struct {
	// Channel and ID are those of a publish, which may be repeated:
	// [PublishOptions.ID] makes it one message, for as long as the server
	// remembers ids. Both are empty for a request.
	Channel, ID string
	// Err is why there is no answer.
	Err error
}

func (e *UncertainError) Error() string {
	if e.ID == "" {
		return fmt.Sprintf("client: the request may have been handled: %v", e.Err)
	}
	return fmt.Sprintf("client: the message to %s may have been published: %v", e.Channel, e.Err)
}

func (e *UncertainError) Unwrap() error { return e.Err }

// A GapError stands between two messages of a subscription where others are
// missing. It is not the end: the next message follows.
type GapError struct {
	Channel  string // the channel or pattern of the subscription
	Reason   string // see docs/protocol.md: expired, lost, outrun, skipped, superseded, forbidden
	Missed   int    // how many are missing; 0: not known
	Position string // where reading goes on
}

func (e *GapError) Error() string {
	how := "messages"
	switch e.Missed {
	case 0:
	case 1:
		how = "1 message"
	default:
		how = fmt.Sprintf("%d messages", e.Missed)
	}
	return fmt.Sprintf("client: %s of %s missing here (%s)", how, e.Channel, e.Reason)
}

// A RefusedError is an answer to the handshake that is no WebSocket.
type RefusedError struct {
	Status int // of HTTP
	// Err is an [*Error] where the server said so in its answer, as Fanfare does.
	Err error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("client: the server refused with %d: %v", e.Status, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }
