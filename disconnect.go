package fanfare

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/internal/transport"
	"fanfare/protocol"
)

// ending is why a connection ended, as counters and the log name it.
type ending uint8

const (
	byClient      ending = iota // the client closed
	byLoss                      // the connection ended without a close
	byShutdown                  // we shut down
	bySilence                   // no answer to a heartbeat
	bySlowness                  // lagged too far, and the policy is Close
	byStuck                     // took nothing of what was written
	byBreach                    // broke the protocol
	byTimeout                   // took too long for a message, or to answer a close
	byNobody                    // did not say who it is, or nobody knows it
	byExpiry                    // its token expired
	byRevocation                // who it is was revoked
	byRights                    // may not be here, or not any more
	byUnavailable               // nobody could tell who it is
	byCrowd                     // who it is has too many connections
	byFailure                   // could not be let in, by no fault of its own
	endings                     // how many there are
)

func (e ending) String() string {
	return [...]string{"client", "lost", "shutdown", "silent", "slow", "stuck", "protocol", "timeout", "unauthenticated", "expired", "revoked", "forbidden",
		"auth_unavailable", "too_many_connections", "internal"}[e]
}

// code is what bye calls it.
func (e ending) code() string {
	switch e {
	case byShutdown:
		return "shutting_down"
	case bySlowness:
		return "too_slow"
	case byExpiry:
		return "token_expired"
	}
	return e.String()
}

// retryAfter is after how long a client may come back.
const retryAfter = time.Second

// A disconnect is how we end a connection: the code says to a program whether
// to come back (1001, 1011 and 1013: yes; 1002, 1003, 1007, 1008, 1009: not
// without doing something else), the reason says why to a person.
type disconnect struct {
	why    ending
	code   frame.Code
	reason string
}

// returns reports whether coming back makes sense.
func (d *disconnect) returns() bool {
	return d.code == frame.GoingAway || d.code == frame.InternalError || d.code == frame.TryAgainLater
}

// bye is what is said about it last.
func (d *disconnect) bye() *protocol.Event {
	e := &protocol.Event{Type: protocol.ByeEvent, Code: d.why.code(), Message: d.reason}
	if d.returns() {
		e.Retry = int(retryAfter.Milliseconds())
	}
	return e
}

func (d *disconnect) Error() string { return fmt.Sprintf("%d %s", d.code, d.reason) }

var goingAway = &disconnect{byShutdown, frame.GoingAway, "the server is shutting down; come back in a moment"}

// because returns how a connection ends that err ends; nil: its peer is not there
// to hear it.
func (s *Server) because(err error) *disconnect {
	var d *disconnect
	switch {
	case errors.As(err, &d):
		return d
	case errors.Is(err, transport.ErrWriteTimeout):
		return s.stuck()
	case errors.Is(err, transport.ErrClosed):
		return goingAway
	}
	return nil
}

func (s *Server) silent() *disconnect {
	return &disconnect{bySilence, frame.InternalError, fmt.Sprintf("nothing was heard for %v, and a ping got no answer within %v", s.cfg.Heartbeat, s.cfg.HeartbeatTimeout)}
}

func (s *Server) stuck() *disconnect {
	return &disconnect{byStuck, frame.TryAgainLater, fmt.Sprintf("you read nothing for %v", s.cfg.WriteTimeout)}
}

func tooSlow(c *feed.Cursor) *disconnect {
	return &disconnect{bySlowness, frame.TryAgainLater, fmt.Sprintf("you lag more than %d bytes behind; resume with ?since=%s", c.Limit(), c.Seen())}
}

func (s *Server) unfinished() *disconnect {
	return &disconnect{byTimeout, frame.PolicyViolation, fmt.Sprintf("a message must be complete within %v", s.cfg.MessageTimeout)}
}

// Codes of our own (RFC 6455, section 7.4.2) for who comes back only with another
// token, or not at all. They are the statuses of HTTP, behind a 4.
const (
	unauthenticated frame.Code = 4401
	forbidden       frame.Code = 4403
)

func (s *Server) tooLate() *disconnect {
	return &disconnect{byNobody, unauthenticated, fmt.Sprintf("you did not say who you are within %v", s.trust().Timeout)}
}

// unknown is for who said who it is, and is not let in because of that.
func unknown(e *Error) *disconnect {
	if e.Code == errUnavailable.Code {
		return &disconnect{byUnavailable, frame.TryAgainLater, closeReason(e.Message)}
	}
	return &disconnect{byNobody, unauthenticated, closeReason(e.Message)}
}

// barred is for who is known, and may not be here, or cannot be now.
func barred(e *Error) *disconnect {
	switch e.Code {
	case "forbidden":
		return &disconnect{byRights, forbidden, closeReason(e.Message)}
	case "too_many_connections":
		return &disconnect{byCrowd, frame.TryAgainLater, closeReason(e.Message)}
	}
	return &disconnect{byFailure, frame.TryAgainLater, closeReason(e.Message)}
}

var (
	silentNobody = &disconnect{byNobody, unauthenticated, `the first message must say who you are: {"type":"auth","token":"..."}`}
	expired      = &disconnect{byExpiry, unauthenticated, "your token has expired; come back with a new one"}
	revoked      = &disconnect{byRevocation, forbidden, "your access was revoked"}
	noRights     = &disconnect{byRights, forbidden, "you may not read this channel any more"}
)

// maxCloseReason is the longest reason of a close frame (RFC 6455, section 5.5).
const maxCloseReason = 123

// closeReason is a text as a close frame has it.
func closeReason(text string) string {
	if len(text) > maxCloseReason {
		text = strings.ToValidUTF8(text[:maxCloseReason], "")
	}
	return text
}

// breach is how a session ends whose client broke the protocol.
func (s *session) breach(err *frame.Error) *disconnect {
	if err.Code == frame.MessageTooBig {
		s.server.reached(byMessageSize, "channel", s.who.Load().home, "name", s.who.Load().name, "session", idText(s.id))
	}
	return &disconnect{byBreach, err.Code, err.Reason}
}
