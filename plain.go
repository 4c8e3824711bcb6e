package fanfare

import (
	"bytes"
	"fmt"
	"time"

	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// The plain conversation is what a client speaks that asked for no
// subprotocol:
//
//	client → server   a text            is published
//	                  a binary message  is published
//	server → client   [HH:MM:SS] text           a text of nobody in particular
//	                  [HH:MM:SS] alice: text    a text of somebody
//	                  {"type":…}                a text that is a JSON object, byte for byte
//	                  a binary message          byte for byte
//	                  [HH:MM:SS] * …            a notice of the server's own
//	                  Ping "epoch-offset"       after silence; the position reached
//	                  Pong "epoch-offset"       behind each message, to clients that asked for it
//
// The time is the server's local time.

// plainForm is how messages look in the plain conversation.
var plainForm = &feed.Form{Encode: appendPlain}

// plainWithPosition is the same, and behind each message its position, in a
// Pong that nobody asked for: RFC 6455, section 5.5.3, permits that, and
// clients that do not look for it do not see it.
var plainWithPosition = &feed.Form{Encode: func(dst []byte, m *Message) []byte {
	return frame.Append(appendPlain(dst, m), frame.Pong, m.Position.Append(nil))
}}

func appendPlain(dst []byte, m *Message) []byte {
	switch {
	case m.Binary:
		return frame.Append(dst, frame.Binary, m.Payload)
	case isTyped(m.Payload):
		return frame.Append(dst, frame.Text, m.Payload)
	}
	length := len("[15:04:05] ") + len(m.Payload)
	if m.Sender != "" {
		length += len(m.Sender) + len(": ")
	}
	dst = frame.AppendHeader(dst, frame.Header{Opcode: frame.Text, Fin: true, Length: int64(length)})
	dst = appendStamp(dst, m.Time)
	if m.Sender != "" {
		dst = append(dst, m.Sender...)
		dst = append(dst, ": "...)
	}
	return append(dst, m.Payload...)
}

// plainNotice returns the frame of a notice. What a client says can look like
// one; whoever must be sure reads positions.
func plainNotice(text string) []byte {
	b := appendStamp(make([]byte, 0, 16+len(text)), time.Now())
	b = append(b, "* "...)
	return frame.Append(nil, frame.Text, append(b, text...))
}

// gapText says what a gap is to a person.
func gapText(g feed.Gap) string {
	what := "messages"
	if g.Missed == 1 {
		what = "message"
	}
	switch {
	case g.Reason >= feed.Expired && g.Missed < 0:
		return "history does not reach back to where you were; messages may be missing here"
	case g.Reason >= feed.Expired:
		return fmt.Sprintf("%d %s no longer kept", g.Missed, what)
	}
	return fmt.Sprintf("%d %s skipped", g.Missed, what)
}

func appendStamp(dst []byte, t time.Time) []byte {
	return t.Local().AppendFormat(dst, "[15:04:05] ")
}

// isTyped reports whether a text is a JSON object, a message with a type of
// its own, that goes out as it came. One that is nested too deeply is none.
func isTyped(text []byte) bool {
	trimmed := bytes.TrimLeft(text, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{' && protocol.IsJSON(trimmed)
}
