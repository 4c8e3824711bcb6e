package main

import (
	"strings"
	"testing"
)

// Whoever cannot send one more line is told which limit it was.
func TestTheQueueSaysWhichLimit(t *testing.T) {
	for want, size := range map[string]int{"1,000 lines": 1, "4 MiB": 1 << 20} {
		l := newLink(linkConfig{})
		var err error
		for n := 0; err == nil && n <= queueMessages; n++ {
			err = l.trySend(&outgoing{data: make([]byte, size)})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lines of %d bytes until it is full: %v, want %q in it", size, err, want)
		}
	}
	l := newLink(linkConfig{})
	if err := l.trySend(&outgoing{data: make([]byte, 2*queueBytes)}); err != nil {
		t.Errorf("one line alone may be as long as it likes: %v", err)
	}
}
