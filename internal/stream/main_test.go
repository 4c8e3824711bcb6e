package stream_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"fanfare/internal/stream"
	"fanfare/internal/transport"
	"fanfare/internal/transport/transporttest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fresh(o transport.Options) transport.Transport { return stream.New(o) }

func open(t *testing.T, o transport.Options) transport.Transport {
	t.Helper()
	return transporttest.Open(t, fresh, o)
}

func TestTransport(t *testing.T) { transporttest.Run(t, fresh) }

func TestTransportOverOtherConnections(t *testing.T) {
	for name, connect := range map[string]transporttest.Pair{"pipe": pipe, "Unix": unix, "TLS": secure} {
		t.Run(name, func(t *testing.T) { transporttest.RunOver(t, fresh, connect) })
	}
}

func pipe(t testing.TB) (net.Conn, net.Conn) {
	ours, peers := net.Pipe()
	t.Cleanup(func() { peers.Close() })
	peers.SetDeadline(time.Now().Add(transporttest.Patience))
	return ours, peers
}

func unix(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	// Not t.TempDir: the name of a Unix socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "stream")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return transporttest.Dialed(t, new(net.ListenConfig), new(net.Dialer), "unix", filepath.Join(dir, "socket"))
}

// hidden is a connection as listeners wrap them: without CloseWrite.
type hidden struct{ net.Conn }

func wrapped(t testing.TB) (net.Conn, net.Conn) {
	ours, peers := transporttest.TCP(t)
	return hidden{ours}, peers
}

// secure connects by TLS, over TCP.
func secure(t testing.TB) (net.Conn, net.Conn) { return secureOver(t, transporttest.TCP) }

// certificates are those of a server in a test.
var certificates = sync.OnceValue(func() []tls.Certificate {
	house := httptest.NewUnstartedServer(nil)
	house.StartTLS()
	defer house.Close()
	return house.TLS.Certificates
})

func secureOver(t testing.TB, connect transporttest.Pair) (net.Conn, net.Conn) {
	t.Helper()
	ours, peers := connect(t)
	server := tls.Server(ours, &tls.Config{Certificates: certificates()})
	client := tls.Client(peers, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// goroutines waits until so many goroutines read and write for connections, of
// all transports there are.
func goroutines(t *testing.T, readers, writers int, when string) {
	t.Helper()
	buf := make([]byte, 4<<20)
	for deadline := time.Now().Add(transporttest.Patience); ; time.Sleep(5 * time.Millisecond) {
		all := buf[:runtime.Stack(buf, true)]
		r := bytes.Count(all, []byte("internal/stream.(*Conn).read("))
		w := bytes.Count(all, []byte("internal/stream.(*Conn).write("))
		if r == readers && w == writers {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %d goroutines read and %d write, want %d and %d", when, r, w, readers, writers)
		}
	}
}
