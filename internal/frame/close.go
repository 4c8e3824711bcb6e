package frame

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Code is a close code: a number for machines (RFC 6455, section 7.4; IANA
// WebSocket Close Code Number registry).
type Code uint16

// The codes of the registry. Those marked "never sent" describe an end
// that no close frame announced.
const (
	NormalClosure      Code = 1000
	GoingAway          Code = 1001 // the server shuts down, or the page is left
	ProtocolError      Code = 1002
	UnsupportedData    Code = 1003
	NoStatus           Code = 1005 // never sent: the close frame had no code
	Abnormal           Code = 1006 // never sent: the connection ended without a close frame
	InvalidPayload     Code = 1007 // text that is not UTF-8
	PolicyViolation    Code = 1008
	MessageTooBig      Code = 1009
	MandatoryExtension Code = 1010 // from a client: the server did not agree to an extension
	InternalError      Code = 1011
	ServiceRestart     Code = 1012
	TryAgainLater      Code = 1013
	BadGateway         Code = 1014
	TLSHandshake       Code = 1015 // never sent: TLS failed
)

// Sendable reports whether a close frame may carry c (RFC 6455, section 7.4.2:
// the registry's codes, 3000–3999 for frameworks, 4000–4999 for anyone).
func (c Code) Sendable() bool {
	switch {
	case c >= 3000 && c <= 4999:
		return true
	case c < 1000 || c > 1014:
		return false
	}
	return c != 1004 && c != NoStatus && c != Abnormal
}

// String returns what the code means, in a few words.
func (c Code) String() string {
	switch c {
	case NormalClosure:
		return "normal closure"
	case GoingAway:
		return "going away"
	case ProtocolError:
		return "protocol error"
	case UnsupportedData:
		return "unsupported data"
	case NoStatus:
		return "no code given"
	case Abnormal:
		return "connection lost"
	case InvalidPayload:
		return "invalid payload"
	case PolicyViolation:
		return "policy violation"
	case MessageTooBig:
		return "message too big"
	case MandatoryExtension:
		return "extension missing"
	case InternalError:
		return "internal error"
	case ServiceRestart:
		return "service restart"
	case TryAgainLater:
		return "try again later"
	case BadGateway:
		return "bad gateway"
	case TLSHandshake:
		return "TLS handshake failed"
	}
	switch {
	case c >= 4000 && c <= 4999:
		return "application code"
	case c >= 3000 && c <= 3999:
		return "framework code"
	}
	return "unknown code"
}

// An Error is a breach of the protocol. Its code is the one to close with.
type Error struct {
	Code   Code
	Reason string // for people; fits a close frame
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Code, e.Reason) }

// AppendClose appends the payload of a close frame to dst: code and reason,
// or nothing for [NoStatus]. A code that must not be sent becomes
// [InternalError]; bytes of the reason that are not UTF-8 become U+FFFD, and
// a reason that is too long is cut at a character's end.
func AppendClose(dst []byte, code Code, reason string) []byte {
	if code == NoStatus {
		return dst
	}
	if !code.Sendable() {
		code = InternalError
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	room := MaxReason
	for _, r := range reason {
		n := utf8.RuneLen(r)
		if n > room {
			break
		}
		dst = utf8.AppendRune(dst, r)
		room -= n
	}
	return dst
}

// ParseClose reads the payload of a close frame. Without a code the code is
// [NoStatus]. Errors are of type [*Error]: one byte, a code that must not be
// sent (1002), or a reason that is not UTF-8 (1007); RFC 6455, section 5.5.1.
func ParseClose(payload []byte) (Code, string, error) {
	switch {
	case len(payload) == 0:
		return NoStatus, "", nil
	case len(payload) == 1:
		return 0, "", &Error{ProtocolError, "a close frame has no payload or at least two bytes"}
	}
	code := Code(binary.BigEndian.Uint16(payload))
	if !code.Sendable() {
		return 0, "", &Error{ProtocolError, fmt.Sprintf("close code %d must not be sent", uint16(code))}
	}
	if !utf8.Valid(payload[2:]) {
		return 0, "", &Error{InvalidPayload, "the close reason is not UTF-8"}
	}
	return code, string(payload[2:]), nil
}
