package main

import (
	"fmt"
	"testing"
)

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
