package frame

// Message joins the frames of a message. The zero value is ready. A message
// of one frame passes through without a copy.
type Message struct {
	parts []byte
}

// Add takes the next data frame. When it was the message's last, it returns
// the whole payload, valid until the next Add and no longer than f.Payload is,
// and true.
func (m *Message) Add(f Frame) ([]byte, bool) {
	if f.First && f.Fin {
		return f.Payload, true
	}
	if f.First {
		m.parts = nil
	}
	m.parts = append(m.parts, f.Payload...)
	if !f.Fin {
		return nil, false
	}
	whole := m.parts
	m.parts = nil
	return whole, true
}

// Held returns the bytes kept for the message under way.
func (m *Message) Held() int { return cap(m.parts) }
