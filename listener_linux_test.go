package fanfare

import (
	"bytes"
	"runtime"
	"testing"
)

// An idle reader of server-sent events is two objects, and no goroutine.
func TestIdleListenerBudget(t *testing.T) {
	t.Setenv("FANFARE_TRANSPORT", "reactor")
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := bare(t, s)
	const n = 2000
	join := func(n int) {
		before := int(s.present.Load())
		flockAs(t, addr, n, "HTTP/1.1 200", "Accept: text/event-stream")
		soon(t, "they are in", func() bool { return s.Stats().Sessions == before+n })
	}
	join(100) // what is there once
	goroutines := runtime.NumGoroutine()
	before := settled()
	join(n)
	soon(t, "net/http's goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
	after := settled()
	size := int64(after.HeapAlloc-before.HeapAlloc) / n
	objects := float64(after.HeapObjects-before.HeapObjects) / n
	t.Logf("%d bytes in %.2f objects for each idle listener", size, objects)
	if size > 320 {
		t.Errorf("an idle listener costs %d bytes of the heap, 320 were meant at most", size)
	}
	if objects > 2.2 {
		t.Errorf("an idle listener costs %.2f objects, 2 were meant: the listener and the connection", objects)
	}
}

// Nor does a delivery allocate anything: one message is encoded once.
func TestListenerDeliveryBudget(t *testing.T) {
	t.Setenv("FANFARE_TRANSPORT", "reactor")
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := bare(t, s)
	const n, messages = 1000, 50
	fds := flockAs(t, addr, n, "HTTP/1.1 200", "Accept: text/event-stream")
	buf := make([]byte, 4096)
	first, last := []byte("id: "), []byte(`"data":"budget"}`+"\n\n")
	round := func() {
		if _, err := s.Publish(t.Context(), &Message{Channel: "crowd", Payload: []byte("budget")}); err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if got := read(t, fd, buf); !bytes.HasPrefix(got, first) || !bytes.HasSuffix(got, last) {
				t.Fatalf("%q", got)
			}
		}
	}
	round()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range messages {
		round()
	}
	runtime.ReadMemStats(&after)
	each := float64(after.Mallocs-before.Mallocs) / messages
	t.Logf("%.1f allocations for a message to %d", each, n)
	if each > 40 {
		t.Errorf("%.1f allocations for a message to %d listeners: deliveries allocate", each, n)
	}
}
