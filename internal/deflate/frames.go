package deflate

import (
	"encoding/binary"

	"fanfare/internal/frame"
)

// Frames appends whole frames of a server's to dst, and of those that are whole
// messages each of over bytes or more deflated, where that makes it smaller. It
// is for bytes of our own: the frames must be well-formed.
func Frames(dst, frames []byte, over, bits int) []byte {
	for len(frames) > 0 {
		head, length := 2, int(frames[1]&0x7F)
		switch length {
		case 126:
			head, length = 4, int(binary.BigEndian.Uint16(frames[2:]))
		case 127:
			head, length = 10, int(binary.BigEndian.Uint64(frames[2:]))
		}
		op, fin, payload := frame.Opcode(frames[0]&0x0F), frames[0]&0x80 != 0, frames[head:head+length]
		if (op == frame.Text || op == frame.Binary) && fin && length >= over {
			dst = AppendFrame(dst, op, payload, bits)
		} else {
			dst = append(dst, frames[:head+length]...)
		}
		frames = frames[head+length:]
	}
	return dst
}

// AppendFrame appends one whole message to dst as a server sends it, deflated
// where that makes it smaller.
func AppendFrame(dst []byte, op frame.Opcode, p []byte, bits int) []byte {
	packed := Append(make([]byte, 0, len(p)/2+64), p, bits, nil)
	if len(packed) >= len(p) || !Bears(len(p), len(packed)) {
		return frame.Append(dst, op, p)
	}
	dst = frame.AppendHeader(dst, frame.Header{Opcode: op, Fin: true, Rsv1: true, Length: int64(len(packed))})
	return append(dst, packed...)
}
