package netend

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for a busy machine; what a test waits for comes at once.
const patience = 20 * time.Second

type pair func(t *testing.T) (ours, peers net.Conn)

func pipe(t *testing.T) (net.Conn, net.Conn) {
	ours, peers := net.Pipe()
	t.Cleanup(func() { ours.Close(); peers.Close() })
	peers.SetDeadline(time.Now().Add(patience))
	return ours, peers
}

func tcp(t *testing.T) (net.Conn, net.Conn) { return dialed(t, "tcp", "127.0.0.1:0") }

func unix(t *testing.T) (net.Conn, net.Conn) {
	// Not t.TempDir: the name of a Unix socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "netend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dialed(t, "unix", filepath.Join(dir, "socket"))
}

func dialed(t *testing.T, network, address string) (ours, peers net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peers, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); peers.Close() })
	peers.SetDeadline(time.Now().Add(patience))
	return ours, peers
}

// over connects by TLS, over whatever else.
func over(connect pair) pair {
	return func(t *testing.T) (net.Conn, net.Conn) {
		t.Helper()
		house := httptest.NewUnstartedServer(nil) // for its certificate
		house.StartTLS()
		defer house.Close()
		ours, peers := connect(t)
		server := tls.Server(ours, &tls.Config{Certificates: house.TLS.Certificates})
		client := tls.Client(peers, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}) // 1.3 has tickets on the way
		shaken := make(chan error, 1)
		go func() { shaken <- client.Handshake() }()
		if err := errors.Join(server.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		return server, client
	}
}

// hidden is a connection as listeners wrap them.
type hidden struct{ net.Conn }

func wrapped(t *testing.T) (net.Conn, net.Conn) {
	ours, peers := pipe(t)
	return hidden{ours}, peers
}

// A peer that takes little, all the time, may take as long as it likes; over TLS
// little is 16 KiB.
func TestSlowIsNotStuck(t *testing.T) {
	const timeout = time.Second
	for name, tt := range map[string]struct {
		connect    pair
		size, each int
	}{
		"pipe":    {pipe, 8 << 10, 256},
		"wrapped": {wrapped, 8 << 10, 256},
		"TLS":     {over(pipe), 640 << 10, 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, peers := tt.connect(t)
			text := bytes.Repeat([]byte("slow but steady\n"), tt.size/16)
			written := make(chan error, 1)
			began := time.Now()
			go func() {
				rest, err := Write(ours, text, timeout, ours.SetWriteDeadline)
				if len(rest) > 0 && err == nil {
					err = errors.New("there is a rest, and no error")
				}
				written <- err
			}()
			var got []byte
			buf := make([]byte, tt.each)
			for pace := time.NewTicker(50 * time.Millisecond); len(got) < tt.size; <-pace.C {
				n, err := io.ReadFull(peers, buf)
				if got = append(got, buf[:n]...); err != nil {
					t.Fatalf("the peer was cut after %d of %d bytes: %v, %v", len(got), tt.size, err, <-written)
				}
			}
			if err := <-written; err != nil || !bytes.Equal(got, text) {
				t.Errorf("%v, or what arrived is not what was written", err)
			}
			if d := time.Since(began); d < timeout {
				t.Errorf("the peer was done after %v: this tests nothing", d)
			}
		})
	}
}

// One that takes nothing has the timeout.
func TestStuck(t *testing.T) {
	const timeout = 400 * time.Millisecond
	for name, connect := range map[string]pair{"TCP": tcp, "Unix": unix, "pipe": pipe, "TLS": over(tcp), "wrapped": wrapped} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, _ := connect(t)
			text := make([]byte, 64<<20) // more than any system holds
			var took []time.Time         // when a deadline was set
			rest, err := Write(ours, text, timeout, func(d time.Time) error {
				took = append(took, time.Now())
				return ours.SetWriteDeadline(d)
			})
			if err != ErrStuck || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%v, want ErrStuck", err)
			}
			if len(rest) == 0 || len(rest) > len(text) {
				t.Errorf("%d of %d bytes are left", len(rest), len(text))
			}
			if d := time.Since(took[0]); d < timeout || d > timeout+patience {
				t.Errorf("the peer had %v", d)
			}
			// A socket is looked at every quarter, and none of the last four took anything.
			if name == "TCP" && len(took) < looks {
				t.Errorf("looked %d times", len(took))
			}
		})
	}
}

// The bytes that were taken count, also when they are the first of a write that
// then comes to a halt.
func TestStuckInTheMiddle(t *testing.T) {
	ours, peers := pipe(t)
	text := []byte("taken, and not taken")
	go io.ReadFull(peers, make([]byte, len("taken, ")))
	began := time.Now()
	rest, err := Write(ours, text, 200*time.Millisecond, ours.SetWriteDeadline)
	if err != ErrStuck || string(rest) != "and not taken" {
		t.Errorf("%q is left, %v", rest, err)
	}
	if d := time.Since(began); d < 400*time.Millisecond {
		t.Errorf("cut after %v: what was taken did not renew the timeout", d)
	}
}

func TestWriteStops(t *testing.T) {
	enough := errors.New("enough")
	ours, peers := pipe(t)
	if rest, err := Write(ours, []byte("text"), time.Hour, func(time.Time) error { return enough }); err != enough || string(rest) != "text" {
		t.Errorf("%q is left, %v", rest, err)
	}
	peers.Close()
	if rest, err := Write(ours, []byte("text"), time.Hour, ours.SetWriteDeadline); err != io.ErrClosedPipe || string(rest) != "text" {
		t.Errorf("%q is left, %v", rest, err)
	}
	// Without a timeout there is no deadline.
	ours, peers = pipe(t)
	go io.Copy(io.Discard, peers)
	if _, err := Write(ours, []byte("text"), 0, func(d time.Time) error {
		if !d.IsZero() {
			t.Errorf("a deadline in %v", time.Until(d))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// The peer sees the end on every layer, and can speak on.
func TestEndWriting(t *testing.T) {
	for name, connect := range map[string]pair{"TCP": tcp, "Unix": unix, "TLS": over(tcp)} {
		t.Run(name, func(t *testing.T) {
			ours, peers := connect(t)
			if _, err := io.WriteString(ours, "last words"); err != nil {
				t.Fatal(err)
			}
			if !EndWriting(ours) {
				t.Error("says that the peer cannot see it")
			}
			if got, err := io.ReadAll(peers); string(got) != "last words" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if secure, ok := peers.(*tls.Conn); ok {
				// The same to those who look at TCP's end.
				if n, err := secure.NetConn().Read(make([]byte, 100)); n != 0 || err != io.EOF {
					t.Errorf("TCP goes on: %d bytes, %v", n, err)
				}
			}
			if _, err := io.WriteString(peers, "I see"); err != nil {
				t.Error(err)
			}
			heard := make([]byte, 5)
			ours.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(ours, heard); string(heard) != "I see" {
				t.Errorf("%q, %v", heard, err)
			}
		})
	}
	ours, _ := wrapped(t)
	if EndWriting(ours) {
		t.Error("says that a hidden connection's end can be seen")
	}
}

// TLS's own goodbye is not waited for when the peer does not read.
func TestHangUp(t *testing.T) {
	for _, patience := range []time.Duration{0, 200 * time.Millisecond} {
		ours, peers := over(tcp)(t)
		text := make([]byte, 64<<20)
		if _, err := Write(ours.(*tls.Conn).NetConn(), text, 100*time.Millisecond, ours.SetWriteDeadline); err != ErrStuck {
			t.Fatal(err)
		}
		began := time.Now()
		HangUp(ours, patience)
		if d := time.Since(began); d < patience || d > 4*time.Second {
			t.Errorf("with a patience of %v it took %v", patience, d)
		}
		if _, err := ours.(*tls.Conn).NetConn().Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("still open: %v", err)
		}
		peers.Close()
	}
	ours, peers := over(tcp)(t)
	HangUp(ours, time.Second)
	if _, err := peers.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("TLS says no goodbye: %v", err)
	}
}
