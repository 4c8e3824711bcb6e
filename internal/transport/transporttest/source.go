package transporttest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"

	"fanfare/internal/transport"
)

// period is the length of the text that is said over and over: a prime, so that
// hardly any piece can be lost without being missed. Its bytes are less than
// endMark.
const (
	period  = 251
	endMark = 0xFF
)

// pattern is the text for as long as a piece can be.
var pattern = func() []byte {
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i % period)
	}
	return b
}()

// piece returns n bytes of the text, 512 KiB at most, from offset from.
func piece(from int64, n int) []byte {
	at := int(from % period)
	return pattern[at : at+n : at+n]
}

// A check holds what arrives in pieces to the text.
type check struct {
	have int64  // bytes of the text
	last []byte // what came then, from the first endMark on
}

// take takes a piece.
func (c *check) take(b []byte) error {
	if len(c.last) == 0 {
		n := bytes.IndexByte(b, endMark)
		if n < 0 {
			n = len(b)
		}
		if !bytes.Equal(b[:n], piece(c.have, n)) {
			return fmt.Errorf("what arrives behind byte %d is not what was written there", c.have)
		}
		c.have += int64(n)
		b = b[n:]
	}
	c.last = append(c.last, b...)
	return nil
}

// A source is what a session has to say: so much of the text.
type source struct {
	mu            sync.Mutex // guards the following
	said, written int64
	rnd           *rand.Rand
	finished      bool // nothing will be added
}

// say adds n bytes.
func (s *source) say(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished {
		s.said += n
	}
}

// finish says that there will be no more.
func (s *source) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
}

// total returns how much was said.
func (s *source) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// next is the session's Next. It says Wait whenever that is true, so that what
// is added later is asked for only by those who noticed.
func (s *source) next() ([]byte, transport.Then) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(s.said-s.written, 1+s.rnd.Int64N(1<<(6+s.rnd.IntN(13))))
	b := piece(s.written, int(n))
	s.written += n
	switch {
	case s.written < s.said:
		return b, transport.More
	case s.finished:
		return b, transport.Last
	}
	return b, transport.Wait
}
