package fanfare

import (
	"cmp"
	"net/http"
	"runtime"
	"unicode/utf8"

	"fanfare/internal/deflate"
	"fanfare/internal/frame"
	"fanfare/internal/handshake"
)

// Compression says how the server compresses messages for WebSocket clients
// that can inflate them (permessage-deflate, RFC 7692). The zero value compresses.
//
// Each message stands alone: it is compressed once for all its readers, and an
// idle connection holds nothing for it. What a client sends is inflated up to
// MaxMessage and not further. And where secrets and what strangers chose are in one message,
// its length can tell about the secrets (the attacks CRIME and BREACH).
type Compression struct {
	// Off agrees to no compression.
	Off bool
	// Over is how many bytes a message must have to go out compressed. Default
	// 256; negative: any. Smaller ones hardly get smaller still.
	Over int
}

const defaultCompressOver = 256

// over is the threshold.
func (c *Compression) over() int { return max(0, cmp.Or(c.Over, defaultCompressOver)) }

// A packing is a wire, and the window of those who read it: 2^bits bytes.
type packing struct {
	*wire
	bits uint8
}

// windows are those that messages are compressed for, so that not every client
// can have them compressed anew for itself.
var windows = [...]uint8{15, 12, 9, 8}

// packings are the wires on which messages are compressed.
func (c *Compression) packings() map[packing]*wire {
	all := make(map[packing]*wire)
	for _, w := range []*wire{plainWire, plainWithPosition, v1Wire} {
		for _, bits := range windows {
			all[packing{w, bits}] = newWire(func(dst []byte, pattern string, m *Message) []byte {
				return deflate.Frames(dst, w.encode(nil, pattern, m), c.over(), int(bits))
			})
		}
	}
	return all
}

// wire is how messages look over w for clients with a window of 2^bits bytes; 0:
// not compressed.
func (s *Server) wire(w *wire, bits uint8) *wire {
	if bits == 0 {
		return w
	}
	return s.packings[packing{w, bits}]
}

// compress chooses from what a client offers: what it is answered, and its
// window, 0 for no compression. Neither side takes its context over.
func (s *Server) compress(r *http.Request) (answer string, bits uint8, err error) {
	if s.cfg.Compression.Off {
		return "", 0, nil
	}
	p, ok, err := deflate.Accept(r.Header["Sec-Websocket-Extensions"], false)
	if err != nil {
		return "", 0, handshake.BadExtensions(err)
	}
	if !ok {
		return "", 0, nil
	}
	for _, bits = range windows {
		if p.ServerBits == 0 || int(bits) <= p.ServerBits {
			break
		}
	}
	if p.ServerBits != 0 {
		p.ServerBits = int(bits)
	}
	return p.String(), bits, nil
}

// packed is frames of the server's own, compressed if the client can inflate them.
func (s *session) packed(frames []byte) []byte {
	if s.bits == 0 || len(frames) < s.server.cfg.Compression.over() {
		return frames
	}
	return deflate.Frames(nil, frames, s.server.cfg.Compression.over(), int(s.bits))
}

// frameRules are what a kind of client is held to, without compression and with it.
type frameRules struct{ loose, packed frame.Rules }

func newRules(limit int64) frameRules {
	return frameRules{frame.Rules{Masked: true, Limit: limit}, frame.Rules{Masked: true, Limit: limit, Compressed: true}}
}

// rules are those of the moment.
func (s *session) rules() *frame.Rules {
	r := s.talk().rules(s.server)
	if s.who.Load().waits {
		r = &pendingRules
	}
	if s.bits != 0 {
		return &r.packed
	}
	return &r.loose
}

// saidPacked is said, of a compressed message. What stays small is
// inflated at once; a kilobyte can also become a megabyte, and for that
// the others on the loop do not wait.
func (s *session) saidPacked(frames int, isBinary bool, p []byte) error {
	s.mu.Lock()
	s.spent(frames, 0)
	waits, out := s.waits(), s.out
	if out {
		s.babble()
	}
	s.mu.Unlock()
	if out {
		return nil
	}
	limit := s.rules().Limit
	if !waits && len(p) <= maxInline {
		text, err := inflate(isBinary, p, min(limit, maxInline))
		if err == nil {
			s.mu.Lock()
			s.spent(0, max(0, len(text)-len(p))) // what counts is what it is
			s.mu.Unlock()
			s.said(0, isBinary, text)
			return nil
		}
		if limit <= maxInline || err.Code != frame.MessageTooBig {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.park(isBinary, true, p)
	s.goOn()
	return nil
}

// inflating has so many at a time inflate what is large: it bounds memory and
// leaves processors to others.
var inflating = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// unpack inflates what was parked, and has it count as what it became. It
// reports false when the client is to go.
func (s *session) unpack(isBinary bool, p []byte) ([]byte, bool) {
	inflating <- struct{}{}
	text, err := inflate(isBinary, p, s.rules().Limit)
	<-inflating
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unanswered -= weight(p)
		s.closeSeen = true
		s.expel(s.breach(err))
		return nil, false
	}
	s.unanswered += weight(text) - weight(p)
	s.spent(0, max(0, len(text)-len(p)))
	return text, true
}

func inflate(isBinary bool, p []byte, limit int64) ([]byte, *frame.Error) {
	text, err := deflate.Inflate(p, limit, nil)
	if err == nil && !isBinary && !utf8.Valid(text) {
		err = &frame.Error{Code: frame.InvalidPayload, Reason: "a text message is not UTF-8"}
	}
	return text, err
}
