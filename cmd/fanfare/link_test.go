package main

import (
	"fmt"
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

// A server that floods with pongs does not fill our memory, and the last
// position told between two messages is the one that counts.
func TestFloodOfPositions(t *testing.T) {
	l := newLink(linkConfig{})
	l.meet("1-0")
	for messages := range int64(3) {
		for i := range 1000 {
			l.reached(fmt.Appendf(nil, "1-%d", 1000*messages+int64(i)), messages)
		}
	}
	if len(l.told) != 3 {
		t.Errorf("%d positions are remembered for 3 messages", len(l.told))
	}
	for read, want := range []string{"1-999", "1-1999", "1-2999"} {
		if l.moveOn(int64(read)); l.position != want {
			t.Errorf("after %d messages the position is %s, want %s", read, l.position, want)
		}
	}
	if len(l.told) != 0 {
		t.Errorf("%d positions are left", len(l.told))
	}
}
