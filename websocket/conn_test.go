package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// A message that comes after a Read was cancelled belongs to the next Read,
// also when the first fragments were there already.
func TestCancelledReadLosesNothing(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		for i := range 50 {
			ctx, cancel := context.WithCancel(context.Background())
			go cancel() // before, while or after the message comes
			want := fmt.Sprint("message ", i)
			sent := make(chan error, 1)
			go func() { sent <- bob.Write(testContext(t), Text, []byte(want)) }()
			if _, got, err := alice.Read(ctx); err == nil {
				if string(got) != want {
					t.Fatalf("%q, want %q", got, want)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			} else {
				wantMessage(t, alice, Text, want)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
		w, err := bob.Writer(testContext(t), Text)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "first, ")
		ctx, cancel := context.WithCancel(context.Background())
		half := make(chan error, 1)
		go func() {
			_, _, err := alice.Read(ctx)
			half <- err
		}()
		if _, err := bob.Ping(testContext(t)); err != nil { // the fragment before it has arrived
			t.Fatal(err)
		}
		cancel()
		if err := <-half; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "second")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, alice, Text, "first, second")
		if _, _, err := alice.Read(ctx); !errors.Is(err, context.Canceled) {
			t.Error("a dead context:", err)
		}
	})
}

// Alice's cancelled Writes either did not happen or are whole; whatever else is
// written comes whole and in order. Bob reads slowly, so that writes block.
func TestCancelledWrite(t *testing.T) {
	bothWays(t, &AcceptOptions{Queue: 1, Compression: CompressionOff}, func(t *testing.T, alice, bob *Conn) {
		narrow(alice, bob)
		big := strings.Repeat("x", 1<<18)
		var cancelled int
		must := map[string]bool{}
		var order []string
		for i := range 40 { // far more than sockets hold, until one is stuck
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			data := fmt.Sprint(i, " ", big[:len(big)-10])
			err := alice.Write(ctx, Text, []byte(data))
			cancel()
			order = append(order, fmt.Sprint(i))
			if err == nil {
				must[fmt.Sprint(i)] = true
			} else if errors.Is(err, context.DeadlineExceeded) {
				cancelled++
			} else {
				t.Fatal(err)
			}
		}
		if cancelled == 0 {
			t.Fatal("no write was cancelled: the test shows nothing")
		}
		last := make(chan error, 1)
		go func() { last <- alice.Write(testContext(t), Text, []byte("last")) }()
		at := 0
		for {
			_, data, err := bob.Read(testContext(t))
			if err != nil {
				t.Fatal(err)
			}
			if string(data) == "last" {
				break
			}
			id, rest, _ := strings.Cut(string(data), " ")
			if rest != big[:len(big)-10] {
				t.Fatalf("message %s is not whole", id)
			}
			for at < len(order) && order[at] != id {
				at++
			}
			if at == len(order) {
				t.Fatalf("message %s is out of order or there twice", id)
			}
			at++
			delete(must, id)
		}
		if err := <-last; err != nil {
			t.Error(err)
		}
		if len(must) > 0 {
			t.Errorf("written and lost: %v", must)
		}
	})
}

// narrow makes the sockets hold little, so that writes block soon.
func narrow(conns ...*Conn) {
	for _, c := range conns {
		_ = c.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		_ = c.conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
	}
}

// Eight people speak at once on each end, whole and in fragments, while pings
// fly: every message arrives whole, and each one's messages in order.
func TestConcurrentWriters(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const people, each = 8, 40
	bothWays(t, &AcceptOptions{Limit: 1 << 20}, func(t *testing.T, alice, bob *Conn) {
		speak := func(c *Conn, who int, rng *rand.Rand) error {
			for i := range each {
				body := fmt.Sprint(who, " ", i, " ", strings.Repeat(string(rune('a'+who)), rng.IntN(3000)))
				if i%3 > 0 {
					if err := c.Write(testContext(t), Binary, []byte(body)); err != nil {
						return err
					}
					continue
				}
				w, err := c.Writer(testContext(t), Text)
				if err != nil {
					return err
				}
				for body != "" {
					n := 1 + rng.IntN(len(body))
					if _, err := io.WriteString(w, body[:n]); err != nil {
						return err
					}
					body = body[n:]
				}
				if err := w.Close(); err != nil {
					return err
				}
			}
			return nil
		}
		hear := func(c *Conn) error {
			var next [people]int
			for range people * each {
				_, data, err := c.Read(testContext(t))
				if err != nil {
					return err
				}
				var who, i int
				if _, err := fmt.Sscan(string(data), &who, &i); err != nil {
					return err
				}
				if i != next[who] {
					return fmt.Errorf("%d's message %d came, want %d", who, i, next[who])
				}
				next[who]++
				rest := data[len(fmt.Sprint(who, " ", i, " ")):]
				if len(bytes.Trim(rest, string(rune('a'+who)))) > 0 {
					return fmt.Errorf("%d's message %d is mixed with others", who, i)
				}
			}
			return nil
		}
		var all sync.WaitGroup
		run := func(f func() error) {
			all.Go(func() {
				if err := f(); err != nil {
					t.Error(err)
				}
			})
		}
		for _, c := range []*Conn{alice, bob} {
			for who := range people {
				run(func() error { return speak(c, who, rand.New(rand.NewPCG(seed, uint64(who)))) })
			}
			run(func() error { return hear(c) })
			for range 4 {
				run(func() error {
					for range 20 {
						if _, err := c.Ping(testContext(t)); err != nil {
							return err
						}
					}
					return nil
				})
			}
		}
		all.Wait()
	})
}

// Pings go between the fragments of a message, and a Reader sees each fragment as it comes.
func TestStreaming(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		w, err := alice.Writer(testContext(t), Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "\xF0\x9F"); err != nil { // half an emoji
			t.Fatal(err)
		}
		kind, r, err := bob.Reader(testContext(t))
		if err != nil || kind != Text {
			t.Fatal(kind, err)
		}
		p := make([]byte, 10)
		if n, err := r.Read(p); string(p[:n]) != "\xF0\x9F" || err != nil {
			t.Fatalf("%q, %v", p[:n], err)
		}
		if _, err := alice.Ping(testContext(t)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		waiting := make(chan error, 1)
		go func() { waiting <- alice.Write(ctx, Text, []byte("another")) }()
		_, _ = io.WriteString(w, "\x98\x80 done")
		cancel() // another message cannot begin within this one
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(r); string(rest) != "\x98\x80 done" || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
		if _, err := w.Write([]byte("late")); err == nil {
			t.Error("a message went on after its end")
		}
		// What is not read of a message is skipped.
		go func() {
			for _, s := range []string{"left alone", "wanted"} {
				w, err := alice.Writer(testContext(t), Binary)
				if err != nil {
					return
				}
				_, _ = io.WriteString(w, s[:4])
				_, _ = io.WriteString(w, s[4:])
				_ = w.Close()
			}
		}()
		_, r, err = bob.Reader(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, p[:2]); err != nil {
			t.Fatal(err)
		}
		wantMessage(t, bob, Binary, "wanted")
		if _, err := r.Read(p); err == nil || err == io.EOF {
			t.Error("a skipped message was read on:", err)
		}
	})
}

// A Writer's Close waits no longer than its context, and ends the message all the
// same: it arrives whole, and another may begin.
func TestWriterCloseAfterItsContext(t *testing.T) {
	bothEndsWith(t, -1, func(t *testing.T, w *wire, c *Conn) {
		narrow(c)
		ctx, cancel := context.WithCancel(context.Background())
		out, err := c.Writer(ctx, Binary)
		if err != nil {
			t.Fatal(err)
		}
		const size = 8 << 20 // more than the system holds for one who does not read
		written := make(chan error, 1)
		go func() {
			_, err := out.Write(make([]byte, size))
			written <- err
		}()
		if _, err := w.r.Peek(1); err != nil { // it has begun
			t.Fatal(err)
		}
		cancel()
		if err := <-written; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- out.Close() }()
		select {
		case err := <-closed:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want the context's error", err)
			}
		case <-time.After(patience):
			t.Fatal("Close waits for a peer that does not read, though its context has ended")
		}
		go func() { _ = c.Write(testContext(t), Text, []byte("next")) }()
		w.want(part(2, string(make([]byte, size))), whole(0, ""), whole(1, "next"))
	})
}

func TestTextMustBeUTF8(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		if err := alice.Write(testContext(t), Text, []byte("\xFF")); err == nil {
			t.Error("text that is not UTF-8 was sent")
		}
		if err := alice.Write(testContext(t), 9, []byte("x")); err == nil {
			t.Error("a ping was sent as a message")
		}
		send(t, alice, Text, "fine all the same")
		wantMessage(t, bob, Text, "fine all the same")
		w, err := alice.Writer(testContext(t), Text)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "half \xF0\x9F")
		if err := w.Close(); CloseCode(err) != InvalidPayload {
			t.Error(err)
		}
		wantEnd(t, bob, InvalidPayload, false)
		wantEnd(t, alice, InvalidPayload, true)
	})
}

// With the queue full the sender feels it, and nothing is lost.
func TestBackPressure(t *testing.T) {
	bothWays(t, &AcceptOptions{Compression: CompressionOff}, func(t *testing.T, alice, bob *Conn) {
		narrow(alice, bob)
		data := strings.Repeat("x", 1<<17)
		const n = 40 // 5 MiB: more than bob's queue and both sockets hold
		sent := make(chan int, n)
		go func() {
			defer close(sent)
			for i := range n {
				if alice.Write(testContext(t), Binary, []byte(fmt.Sprint(i, " ", data))) != nil {
					return
				}
				sent <- i
			}
		}()
		// Nobody reads: the writes come to a halt long before the end.
		count, quiet := 0, time.NewTimer(time.Second)
		for halted := false; !halted; {
			select {
			case _, more := <-sent:
				if !more {
					t.Fatal("the sender never felt that nobody reads")
				}
				count++
				quiet.Reset(300 * time.Millisecond)
			case <-quiet.C:
				halted = true
			}
		}
		for i := range n {
			wantMessage(t, bob, Binary, fmt.Sprint(i, " ", data))
		}
		t.Logf("halted after %d of %d", count, n)
	})
}

// What was said before the end is heard before the end.
func TestMessagesBeforeTheClose(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		for i := range 10 {
			send(t, alice, Text, fmt.Sprint(i))
		}
		closed := make(chan error, 1)
		go func() { closed <- alice.Close(testContext(t), GoingAway, "lunch") }()
		for i := range 10 {
			wantMessage(t, bob, Text, fmt.Sprint(i))
			send(t, bob, Text, fmt.Sprint("answer ", i)) // alice has said goodbye and listens still
		}
		for i := range 10 {
			wantMessage(t, alice, Text, fmt.Sprint("answer ", i))
		}
		end := wantEnd(t, bob, GoingAway, false)
		if end.Reason != "lunch" || !strings.Contains(end.Error(), "peer") {
			t.Error(end)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		end = wantEnd(t, alice, GoingAway, true)
		if !errors.Is(end, net.ErrClosed) {
			t.Error(end)
		}
		for _, c := range []*Conn{alice, bob} {
			if err := c.Write(testContext(t), Text, nil); CloseCode(err) != GoingAway {
				t.Error(err)
			}
			if _, err := c.Writer(testContext(t), Text); CloseCode(err) != GoingAway {
				t.Error(err)
			}
			if _, err := c.Ping(testContext(t)); CloseCode(err) != GoingAway {
				t.Error(err)
			}
			if err := c.Close(testContext(t), NormalClosure, "again"); err != nil {
				t.Error(err)
			}
			if CloseCode(c.Err()) != GoingAway {
				t.Error(c.Err())
			}
		}
	})
}

// Both say goodbye at the same moment, from several goroutines each.
func TestCloseTogether(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		var all sync.WaitGroup
		for _, c := range []*Conn{alice, bob} {
			for range 3 {
				all.Go(func() {
					if err := c.Close(testContext(t), 4000, "together"); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		for _, c := range []*Conn{alice, bob} {
			if CloseCode(c.Err()) != 4000 {
				t.Error(c.Err())
			}
		}
	})
}

func TestCloseCodes(t *testing.T) {
	tests := []struct {
		give, want Code
		reason     string
		misuse     bool
	}{
		{NormalClosure, NormalClosure, "", false},
		{NoStatus, NoStatus, "", false},
		{4999, 4999, strings.Repeat("é", 61), false},
		{1006, InternalError, "", true},
		{0, InternalError, "", true},
		{5000, InternalError, "", true},
	}
	for _, tt := range tests {
		bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
			if err := alice.Close(testContext(t), tt.give, tt.reason); (err != nil) != tt.misuse {
				t.Error(tt.give, err)
			}
			if end := wantEnd(t, bob, tt.want, false); end.Reason != tt.reason {
				t.Error(end)
			}
		})
	}
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		_ = alice.Close(testContext(t), 4000, strings.Repeat("é", 100))
		if end := wantEnd(t, bob, 4000, false); end.Reason != strings.Repeat("é", 61) {
			t.Errorf("%d bytes of reason", len(end.Reason))
		}
	})
	if CloseCode(nil) != 0 || CloseCode(io.EOF) != 0 {
		t.Error("no CloseError has no code")
	}
}

func TestMessagesIterator(t *testing.T) {
	for _, code := range []Code{NormalClosure, GoingAway, NoStatus, 4001} {
		server, client := pair(t, nil, nil)
		go func() {
			for i := range 3 {
				_ = server.Write(context.Background(), Text, []byte(fmt.Sprint(i)))
			}
			_ = server.Close(context.Background(), code, "")
		}()
		var got []string
		var last error
		for m, err := range client.Messages(testContext(t)) {
			got, last = append(got, string(m.Data)), err
		}
		switch code {
		case 4001:
			if CloseCode(last) != 4001 || len(got) != 4 {
				t.Error(got, last)
			}
		default:
			if last != nil || len(got) != 3 {
				t.Error(code, got, last)
			}
		}
	}
}

// The peer never reads and never answers the close frame: Close gives up in time.
func TestCloseTimeout(t *testing.T) {
	bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
		start := time.Now()
		if err := c.Close(testContext(t), NormalClosure, ""); err == nil {
			t.Error("an unanswered close frame is no closing handshake")
		}
		if d := time.Since(start); d < 200*time.Millisecond || d > 5*time.Second {
			t.Errorf("took %v with a close timeout of 200 ms", d)
		}
		wantEnd(t, c, NormalClosure, true)
	}, 200*time.Millisecond)
}

// A Close that gives up waiting leaves the closing to go on behind it: the peer
// is told, can still answer, and the connection ends in order or after the close timeout.
func TestCancelledClose(t *testing.T) {
	bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
		ctx, cancel := context.WithCancel(context.Background())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- c.Close(ctx, 4000, "soon") }()
		w.want(closing(4000, ""))
		cancel()
		if err := <-gaveUp; err != context.Canceled {
			t.Errorf("%v, want the context's error", err)
		}
		select {
		case <-c.Done():
			t.Error("the connection did not wait for the peer's answer")
		default:
		}
		w.send(0, whole(1, "a last word"), closing(4000, ""))
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		wantMessage(t, c, Text, "a last word")
		if err := c.Close(testContext(t), NormalClosure, ""); err != nil {
			t.Error("it ended in order, and yet:", err)
		}
		if err := c.Close(ctx, NormalClosure, ""); err != nil {
			t.Error("nothing is left to wait for, and yet:", err)
		}
	}, 0)
	bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
		dead, cancel := context.WithCancel(context.Background())
		cancel()
		if err := c.Close(dead, 4000, "now"); err != context.Canceled {
			t.Errorf("%v, want the context's error", err)
		}
		w.want(closing(4000, ""))
		wantEnd(t, c, 4000, true) // the close timeout's doing
	}, 200*time.Millisecond)
}

// bothEnds runs the story at a server's Conn and at a client's.
func bothEnds(t *testing.T, story func(*testing.T, *wire, *Conn), closeTimeout time.Duration) {
	t.Run("accept", func(t *testing.T) {
		conns := make(chan *Conn, 1)
		over := make(chan struct{})
		url := serve(t, &AcceptOptions{CloseTimeout: closeTimeout}, func(c *Conn) {
			conns <- c
			<-over
		})
		t.Cleanup(func() { close(over) })
		w := toAccept(t, url)
		story(t, w, <-conns)
	})
	t.Run("dial", func(t *testing.T) {
		w, c := toDial(t, &DialOptions{CloseTimeout: closeTimeout})
		story(t, w, c)
	})
}

// RFC 6455, section 7.1.1: the server ends TCP, the client waits for it.
func TestServerEndsTCP(t *testing.T) {
	bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
		go func() { _ = c.Close(context.Background(), NormalClosure, "") }()
		w.want(closing(1000, ""))
		w.send(0, closing(1000, ""))
		if w.client { // the Conn is a server: the FIN comes without ours
			if _, _, err := w.read(); err != io.EOF {
				t.Error(err)
			}
			return
		}
		_ = w.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
		if _, _, err := w.read(); err == io.EOF {
			t.Error("the client ended TCP before the server")
		}
	}, 0)
}

// The close frame survives though the peer has sent more than was read: a
// socket closed with unread bytes sends a reset, which would eat it.
func TestCloseFrameSurvivesUnreadData(t *testing.T) {
	bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
		go w.send(0, raw{b0: fin | 3, payload: strings.Repeat("x", 1<<20)}, raw{b0: fin | 2, payload: strings.Repeat("x", 1<<20)})
		w.want(closing(1002, ""))
	}, 0)
}

// A connection lost in the middle of a message, in the four ways there are.
func TestLostConnection(t *testing.T) {
	for name, lose := range map[string]func(*wire){
		"FIN": func(w *wire) { _ = w.Conn.(*net.TCPConn).CloseWrite() },
		"RST": func(w *wire) {
			_ = w.Conn.(*net.TCPConn).SetLinger(0)
			_ = w.Close()
		},
		"in a header":  func(w *wire) { _, _ = w.Write([]byte{0x81}); _ = w.Conn.(*net.TCPConn).CloseWrite() },
		"in a message": func(w *wire) { w.send(0, part(1, "half a ")); _ = w.Conn.(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			bothEnds(t, func(t *testing.T, w *wire, c *Conn) {
				w.send(0, whole(1, "before"))
				wantMessage(t, c, Text, "before")
				lose(w)
				if end := wantEnd(t, c, Abnormal, false); end.Unwrap() == nil {
					t.Error("the network's error is lost:", end)
				}
			}, 0)
		})
	}
}

// Nothing is left of connections, however they end: CloseNow, Close and Done
// mean that no goroutine of ours is there any more.
func TestNothingLeft(t *testing.T) {
	url := serve(t, nil, echo)
	for i := range 30 {
		c := dial(t, url, nil)
		send(t, c, Text, "x")
		wantMessage(t, c, Text, "x")
		mark := fmt.Sprintf("(%p", c) // what belongs to a connection has it as an argument
		if goroutinesWith(mark) == "" {
			t.Fatal("an open connection has no goroutine: this tests nothing")
		}
		var others sync.WaitGroup
		switch i % 3 {
		case 0:
			_ = c.Close(testContext(t), NormalClosure, "")
		case 1:
			_ = c.CloseNow()
		case 2:
			others.Go(func() { _ = c.Close(context.Background(), NormalClosure, "") })
			_ = c.CloseNow()
		}
		<-c.Done()
		others.Wait()
		wantNoGoroutine(t, mark) // whoever closed Done may be at its very end
	}
	wantNoGoroutine(t, "websocket.(*Conn).") // the server's neither
}

func wantNoGoroutine(t *testing.T, mark string) {
	t.Helper()
	var left string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if left = goroutinesWith(mark); left == "" {
			return
		}
	}
	t.Fatalf("there is left:\n%s", left)
}

// goroutinesWith returns the stacks that mention the mark.
func goroutinesWith(mark string) string {
	buf := make([]byte, 4<<20)
	var found []string
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, mark) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// 10,000 masking keys: repeats no more often than chance has it. Among so many random
// 32-bit numbers 0.012 pairs are expected; three pairs come once in millions of runs.
func TestMasksAreUnpredictable(t *testing.T) {
	w, c := toDial(t, nil)
	const n = 10_000
	go func() {
		for range n {
			if c.Write(context.Background(), Binary, nil) != nil {
				return
			}
		}
	}()
	seen := map[[4]byte]bool{}
	repeats := 0
	var bits [32]int
	for range n {
		var f [6]byte
		if _, err := io.ReadFull(w.r, f[:]); err != nil || f[0] != fin|2 || f[1] != 0x80 {
			t.Fatal(f, err)
		}
		key := [4]byte(f[2:])
		if seen[key] {
			repeats++
		}
		seen[key] = true
		for i := range bits {
			bits[i] += int(key[i/8] >> (i % 8) & 1)
		}
	}
	if repeats > 2 {
		t.Errorf("%d of %d keys came twice", repeats, n)
	}
	for i, ones := range bits { // ten standard deviations of 50 around 5,000
		if ones < 4500 || ones > 5500 {
			t.Errorf("bit %d is 1 in %d of %d keys", i, ones, n)
		}
	}
}
