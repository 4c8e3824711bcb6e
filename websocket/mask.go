package websocket

import (
	"crypto/rand"
	"sync"
)

// masks are the masking keys of a client's frames. They must be unpredictable
// to whoever chooses the payload (RFC 6455, sections 5.3 and 10.3), so they come
// from the system's cryptographic source, 64 at a time.
type masks struct {
	mu   sync.Mutex
	pool []byte // nil on a server
}

func (m *masks) next() (key [4]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pool) == 0 {
		m.pool = make([]byte, 256)
		_, _ = rand.Read(m.pool) // it never fails
	}
	copy(key[:], m.pool)
	m.pool = m.pool[len(key):]
	return key
}
