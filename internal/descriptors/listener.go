package descriptors

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"fanfare/internal/netend"
)

const (
	question = 5 * time.Millisecond   // for one who is turned away to ask: what it asks comes right behind the connection
	answer   = time.Second            // to write so little on a new connection never takes any time
	farewell = 10 * time.Millisecond  // for the rest of what it asks, which would reset the connection and destroy the answer
	pause    = 100 * time.Millisecond // before the next try when there is nothing that could be done
)

// A Listener accepts connections for a [http.Server] also when the last
// descriptor is taken, where net/http alone would wait, and log each time. While
// they are scarce the server keeps no connection between two requests. Once none
// is left, the Listener gives up a descriptor that it keeps for this, and answers
// the newcomer 503 on it.
type Listener struct {
	net.Listener
	server *http.Server
	log    *slog.Logger
	spare  *os.File // of the goroutine in Accept; nil while it is given up
}

// NewListener makes a Listener of another, of TCP or Unix sockets, for that
// server to serve. Whether the server keeps connections alive is then up to it.
func NewListener(l net.Listener, server *http.Server, log *slog.Logger) *Listener {
	Open()
	return &Listener{Listener: l, server: server, log: log}
}

// Accept implements [net.Listener]. One goroutine may call it.
func (l *Listener) Accept() (net.Conn, error) {
	l.keep()
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			// Linux says so before it looks whether anybody has come.
			l.server.SetKeepAlivesEnabled(false)
			if !l.give() {
				time.Sleep(pause) // somebody was quicker; whoever comes waits in the kernel
			}
		case err != nil:
			l.give()
			return nil, err
		case l.keep():
			l.server.SetKeepAlivesEnabled(!Scarce()) // false also closes those that are kept
			return conn, nil
		default:
			l.turnAway(conn)
			l.keep()
		}
	}
}

// keep reports whether we have the spare descriptor, or got it again.
func (l *Listener) keep() bool {
	if l.spare == nil {
		l.spare, _ = os.Open(os.DevNull)
	}
	return l.spare != nil
}

// give gives the spare descriptor up, and reports whether there was one.
func (l *Listener) give() bool {
	if l.spare == nil {
		return false
	}
	_ = l.spare.Close()
	l.spare = nil
	return true
}

// turnAway tells a connection that we are full, and closes it.
func (l *Listener) turnAway(conn net.Conn) {
	defer conn.Close()
	Refused(l.log)
	// Some clients take an answer that precedes what they ask for a fault. The
	// times are short, since all others wait meanwhile.
	_ = conn.SetReadDeadline(time.Now().Add(question))
	asked, _ := conn.Read(make([]byte, 16<<10))
	_ = conn.SetWriteDeadline(time.Now().Add(answer))
	if _, err := conn.Write(refusal()); err == nil && netend.EndWriting(conn) && asked > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.CopyN(io.Discard, conn, 1<<20)
	}
}

// refusal is what the server would answer, where there is no server yet.
func refusal() []byte {
	text := fmt.Sprintf(`{"error":{"code":%q,"message":%q}}`, Code, Reason()) // ASCII without escapes
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Retry-After: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable), len(text), RetryAfter, text)
}
