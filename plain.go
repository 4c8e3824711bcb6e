package fanfare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"fanfare/auth"
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

// plain is the plain conversation. Its state is the session's: one subscription.
type plain struct{}

func (plain) face() face { return plainFace }

func (plain) rules(s *Server) *frameRules { return &s.plainRules }

// hear implements [conversation]: it publishes.
func (plain) hear(s *session, isBinary bool, text []byte) bool {
	if s.server.cfg.Hooks.Publish != nil || s.who.Load().waits || s.server.mentionsAuth(text) {
		return false
	}
	m, answer := s.plainly(isBinary, text), s.plainAnswer(text)
	s.mu.Lock()
	s.owe(text)
	s.mu.Unlock()
	err := s.who.Load().may(auth.Publish, m.Channel)
	if err == nil {
		err = s.server.mayReach(m.Channel)
	}
	if err != nil {
		answer(Position{}, err)
		return true
	}
	s.publish(m, answer)
	return true
}

// act implements [conversation]: it asks the hook, and publishes; or finds out who
// the client is.
func (plain) act(s *session, isBinary bool, text []byte) {
	who := s.who.Load()
	switch token := s.server.tokenIn(text); {
	case token != nil:
		notice := plainNotice("welcome")
		if _, err := s.authenticate(*token); err != nil {
			notice = plainNotice("not authenticated: " + s.server.known(err).Message)
		}
		s.answered(weight(text), notice, "", Position{})
		return
	case who.waits:
		s.refuse(silentNobody)
		s.answered(weight(text), nil, "", Position{})
		return
	}
	m, answer := s.plainly(isBinary, text), s.plainAnswer(text)
	err := who.may(auth.Publish, m.Channel)
	if err == nil {
		err = s.server.allow(who.context(s.server.life), m)
	}
	if err != nil {
		answer(Position{}, err)
		return
	}
	s.publish(m, answer)
}

// tokenIn returns the token of a text that says who the client is, which is then
// nobody else's to read, also if something else is wrong with it; nil: it is a message.
func (s *Server) tokenIn(text []byte) *string {
	if !s.mentionsAuth(text) {
		return nil
	}
	var said struct {
		Type  any
		Token any
	}
	if json.Unmarshal(text, &said) != nil || said.Type != protocol.Auth {
		return nil
	}
	token, _ := said.Token.(string) // another one is nobody's
	return &token
}

// mentionsAuth reports whether a text may be one in which there is a token. It looks
// at it only, so that a long one can be read elsewhere than on the loop.
func (s *Server) mentionsAuth(text []byte) bool {
	return s.trust() != nil && bytes.Contains(text, []byte(`"auth"`))
}

// plainly makes a message of what the client said.
func (s *session) plainly(isBinary bool, text []byte) *Message {
	who := s.who.Load()
	return &Message{Channel: who.home, Sender: who.name, Key: who.key, Binary: isBinary, Payload: bytes.Clone(text)}
}

// plainAnswer returns what takes the broker's answer to what the client said, or
// the hook's.
func (s *session) plainAnswer(text []byte) func(Position, error) {
	w := weight(text)
	return func(pos Position, err error) {
		var notice []byte
		if err != nil {
			notice = plainNotice("not published: " + s.server.known(err).Message)
		}
		s.answered(w, notice, s.who.Load().home, pos)
	}
}

func (plain) read(s *session) []byte {
	if s.sub.audience == nil {
		return nil
	}
	b, gap := s.take(&s.sub, plainFace)
	if gap.Missed != 0 {
		s.server.stats.miss(gap)
		return plainNotice(gapText(gap))
	}
	return b
}

func (plain) pending(s *session) bool { return s.sub.audience != nil && s.sub.cursor.Pending() }

func (plain) each(s *session, f func(*subscription, subscriber)) {
	if s.sub.audience != nil {
		f(&s.sub, s)
	}
}

// ping implements [conversation]: a ping says how far the client was taken.
func (plain) ping(s *session) []byte {
	if s.sub.audience == nil {
		return nil
	}
	return s.sub.cursor.Seen().Append(nil)
}

// readHome implements [conversation]. The ping says from where it reads.
func (plain) readHome(s *session, at place) {
	s.server.attach(&s.sub, at, s.conn.Loop(), s)
	s.ping = true
	s.conn.Wake()
}

// renew implements [conversation]: there is no word for it.
func (plain) renew(*speaker) []byte { return nil }

func (plain) dismiss(s *session) {
	if s.sub.audience != nil && !s.who.Load().keeps(auth.Subscribe, s.sub.audience.channel.name, &s.sub.cursor) {
		s.expel(noRights)
	}
}

func (plain) heartbeat() []byte { return nil }

func (plain) warn(e *Error) []byte { return plainNotice(e.Message) }

func (plain) bye(*disconnect) []byte { return nil }

func (plain) end() {}

func (plain) busy() bool { return false }

// plainWire is how messages look in the plain conversation.
var plainWire = newWire(appendPlain)

// plainWithPosition is the same, and behind each message its position, in a
// Pong that nobody asked for: RFC 6455, section 5.5.3, permits that, and
// clients that do not look for it do not see it.
var plainWithPosition = newWire(func(dst []byte, pattern string, m *Message) []byte {
	return frame.Append(appendPlain(dst, pattern, m), frame.Pong, m.Position.Append(nil))
})

func appendPlain(dst []byte, pattern string, m *Message) []byte {
	switch {
	case pattern != "": // a bare text could not say where it is from
		return frame.Append(dst, frame.Text, protocol.AppendMessage(nil, pattern, m))
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
