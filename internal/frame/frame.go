// Package frame is RFC 6455 as bytes: headers, masks, UTF-8, close codes and a
// push parser. It knows no sockets and starts no goroutine; every transport
// and both ends of a connection share it.
//
// # The wire
//
// A frame is a header and a payload (RFC 6455, section 5.2):
//
//	byte 0   FIN, RSV1, RSV2, RSV3, opcode (4 bits)
//	byte 1   MASK, length (7 bits): 0–125, or 126, or 127
//	+2       the length, big endian, when the 7 bits say 126
//	+8       the length, big endian, top bit zero, when they say 127
//	+4       the masking key, when MASK is set: always from a client, never from a server
//	...      the payload, XORed with the key when MASK is set
//
// A message is one Text or Binary frame, or one without FIN followed by
// Continuation frames up to one with FIN. Control frames (Close, Ping, Pong)
// may stand between the fragments of a message, are never fragmented and
// carry 125 bytes at most.
//
// # Two ways to hurt yourself
//
// [Parser.Push] unmasks in place, so the bytes pushed are changed; and the
// payload that a [Handler] sees is valid only until it returns.
package frame

import (
	"encoding/binary"
	"slices"
)

// Opcode is a frame's kind (RFC 6455, section 5.2; IANA WebSocket Opcode registry).
type Opcode byte

// The opcodes of RFC 6455, section 11.8. All others are reserved.
const (
	Continuation Opcode = 0x0 // payload: the next part of the message under way
	Text         Opcode = 0x1 // payload: UTF-8
	Binary       Opcode = 0x2 // payload: any bytes
	Close        Opcode = 0x8 // payload: nothing, or code (2 bytes, big endian) and reason (UTF-8, 123 bytes at most)
	Ping         Opcode = 0x9 // payload: up to 125 bytes, sent back in a Pong
	Pong         Opcode = 0xA // payload: the Ping's; an unsolicited Pong needs no answer
)

// Control reports whether frames of this kind are control frames
// (RFC 6455, section 5.5).
func (o Opcode) Control() bool { return o&0x8 != 0 }

func (o Opcode) known() bool { return o <= Binary || o >= Close && o <= Pong }

// String returns the opcode's name in RFC 6455, in lower case.
func (o Opcode) String() string {
	switch o {
	case Continuation:
		return "continuation"
	case Text:
		return "text"
	case Binary:
		return "binary"
	case Close:
		return "close"
	case Ping:
		return "ping"
	case Pong:
		return "pong"
	}
	return "reserved"
}

const (
	// MaxHeader is the length of the longest header: two bytes, an 8-byte
	// length and a 4-byte key.
	MaxHeader = 14
	// MaxControl is the longest payload of a control frame (RFC 6455, section 5.5).
	MaxControl = 125
	// MaxReason is the longest close reason: what MaxControl leaves after the code.
	MaxReason = MaxControl - 2
)

const (
	finBit  = 0x80
	rsv1Bit = 0x40
	rsvBits = 0x70
	opBits  = 0x0F
	maskBit = 0x80
	lenBits = 0x7F
)

// A Header is what stands before a payload.
type Header struct {
	Opcode Opcode
	Fin    bool
	Rsv1   bool // the message is compressed (RFC 7692, section 6)
	Masked bool
	Key    [4]byte // the masking key; meaningful only when Masked
	Length int64   // of the payload, in bytes
}

// AppendHeader appends h to dst in its shortest form and returns the extended slice.
func AppendHeader(dst []byte, h Header) []byte {
	b0 := byte(h.Opcode)
	if h.Fin {
		b0 |= finBit
	}
	if h.Rsv1 {
		b0 |= rsv1Bit
	}
	var b1 byte
	if h.Masked {
		b1 = maskBit
	}
	switch {
	case h.Length <= 125:
		dst = append(dst, b0, b1|byte(h.Length))
	case h.Length <= 0xFFFF:
		dst = append(dst, b0, b1|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(h.Length))
	default:
		dst = append(dst, b0, b1|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(h.Length))
	}
	if h.Masked {
		dst = append(dst, h.Key[:]...)
	}
	return dst
}

// Append appends one whole, unmasked frame to dst, as a server sends it, and
// returns the extended slice.
func Append(dst []byte, op Opcode, payload []byte) []byte {
	dst = slices.Grow(dst, MaxHeader-len(Header{}.Key)+len(payload))
	dst = AppendHeader(dst, Header{Opcode: op, Fin: true, Length: int64(len(payload))})
	return append(dst, payload...)
}

// AppendMasked appends one masked frame to dst, as a client sends it, and
// returns the extended slice. The payload itself is left as it is.
func AppendMasked(dst []byte, op Opcode, fin bool, key [4]byte, payload []byte) []byte {
	dst = AppendHeader(dst, Header{Opcode: op, Fin: fin, Masked: true, Key: key, Length: int64(len(payload))})
	start := len(dst)
	dst = append(dst, payload...)
	Mask(dst[start:], key, 0)
	return dst
}

// Mask XORs b in place with key, as if b began at byte pos of its payload
// (RFC 6455, section 5.3). Masking twice gives back the original.
func Mask(b []byte, key [4]byte, pos int64) {
	var k [4]byte
	for i := range k {
		k[i] = key[(pos+int64(i))&3]
	}
	word := uint64(binary.LittleEndian.Uint32(k[:]))
	word |= word << 32
	for len(b) >= 32 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
		binary.LittleEndian.PutUint64(b[8:], binary.LittleEndian.Uint64(b[8:])^word)
		binary.LittleEndian.PutUint64(b[16:], binary.LittleEndian.Uint64(b[16:])^word)
		binary.LittleEndian.PutUint64(b[24:], binary.LittleEndian.Uint64(b[24:])^word)
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= k[i&3]
	}
}
