package websocket

import (
	"cmp"
	"unicode/utf8"

	"fanfare/internal/deflate"
	"fanfare/internal/frame"
)

// packing is what a connection needs on which messages may be compressed
// (RFC 7692).
type packing struct {
	// static
	bits int // our window is 2^bits bytes; 0: 15
	over int // what is shorter goes out as it is

	out *deflate.Window // ours; nil: none is taken over. Owned by whoever holds the message turn

	// owned by run
	in      *deflate.Window // the peer's; nil: none is taken over
	message frame.Message   // compressed, under way
	inside  bool            // there is one
}

func newPacking(bits int, takeover bool, peersBits int, peerTakesOver bool, over int) *packing {
	p := &packing{bits: bits, over: max(0, cmp.Or(over, defaultCompressOver))}
	if takeover {
		p.out = deflate.NewWindow(bits)
	}
	if peerTakesOver {
		p.in = deflate.NewWindow(peersBits)
	}
	return p
}

// packs reports whether a message that has, or begins with, so many bytes goes
// out compressed.
func (p *packing) packs(n int) bool { return p != nil && n >= p.over }

// unpack takes the next data frame. ok reports whether out is one to deliver:
// a frame of a message that was not compressed, as it came, or a compressed message, whole.
func (p *packing) unpack(f frame.Frame, limit int64) (out frame.Frame, ok bool, err error) {
	if p == nil || !p.inside && !f.Rsv1 {
		return f, true, nil
	}
	packed, whole := p.message.Add(f)
	if p.inside = !whole; !whole {
		return f, false, nil
	}
	b, broken := deflate.Inflate(packed, limit, p.in)
	if broken != nil {
		return f, false, broken
	}
	if f.Opcode == frame.Text && !utf8.Valid(b) {
		return f, false, &frame.Error{Code: InvalidPayload, Reason: "a text message is not UTF-8"}
	}
	return frame.Frame{Opcode: f.Opcode, First: true, Fin: true, Payload: b}, true, nil
}
