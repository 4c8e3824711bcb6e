package descriptors

import (
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"fanfare/internal/netend"
)

const (
	silence    = time.Second            // of a connection that may then be closed for somebody else's sake
	question   = 5 * time.Millisecond   // for one who is turned away to ask: what it asks comes right behind the connection
	answer     = time.Second            // to write so little on a new connection never takes any time
	farewell   = 10 * time.Millisecond  // for the rest of what it asks, which would reset the connection and destroy the answer
	pause      = 100 * time.Millisecond // before the next try when there is nothing that could be done
	retryAfter = 2                      // seconds, told to who is turned away
)

// A Listener accepts connections for one [http.Server] also when the last
// descriptor is taken, where net/http alone would wait, and log each time. When
// they are scarce it closes who has been silent longest, for a second at least: a
// connection on which nothing was asked yet, or nothing more. If there is nobody
// like that and none is left, it gives up a descriptor that it keeps for this,
// and answers the newcomer 503 on it.
//
// Set the server's ConnState to [Listener.ConnState].
type Listener struct {
	net.Listener
	log   *slog.Logger
	spare *os.File // of the goroutine in Accept; nil while it is given up

	mu     sync.Mutex
	silent *list.List // of silent connections, who has been so longest first
	place  map[net.Conn]*list.Element
}

type silentConn struct {
	net.Conn
	since time.Time
}

// NewListener makes a Listener of another, of TCP or Unix sockets.
func NewListener(l net.Listener, log *slog.Logger) *Listener {
	return &Listener{Listener: l, log: log, silent: list.New(), place: map[net.Conn]*list.Element{}}
}

// Accept implements [net.Listener]. One goroutine may call it.
func (l *Listener) Accept() (net.Conn, error) {
	l.keep()
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
			// Linux says so before it looks whether anybody has come.
			if !l.closeSilent() && !l.give() {
				time.Sleep(pause) // somebody was quicker; whoever comes waits in the kernel
			}
		case err != nil:
			l.give()
			return nil, err
		case l.keep():
			for Scarce() && l.closeSilent() { // they are in the way of those who would stay
			}
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

// refusal is the answer that the server itself gives (errors.go), where there is
// no server yet.
func refusal() []byte {
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = Code, Reason()
	text, _ := json.Marshal(body) // strings only: it cannot fail
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Retry-After: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable), len(text), retryAfter, text)
}

// ConnState is what the server calls when a connection's state changes.
func (l *Listener) ConnState(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.place[conn]; ok {
		l.silent.Remove(e)
		delete(l.place, conn)
	}
	if state == http.StateNew || state == http.StateIdle {
		l.place[conn] = l.silent.PushBack(silentConn{conn, time.Now()})
	}
}

// closeSilent closes the connection that has been silent longest, and reports
// whether there was one.
func (l *Listener) closeSilent() bool {
	l.mu.Lock()
	e := l.silent.Front()
	if e == nil || time.Since(e.Value.(silentConn).since) < silence {
		l.mu.Unlock()
		return false
	}
	conn := l.silent.Remove(e).(silentConn)
	delete(l.place, conn.Conn)
	l.mu.Unlock()
	_ = conn.Close() // has given the descriptor back when it returns
	Refused(l.log)
	return true
}
