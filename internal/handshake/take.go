package handshake

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"runtime"
	"strings"
	"time"
)

// answerTimeout is how long the 101 may take to go out. It fits into any
// socket buffer; only a peer that was dead before would need longer.
const answerTimeout = 10 * time.Second

// Agreed is what the 101 says besides. Neither may be text of the request's.
type Agreed struct {
	Subprotocol string // "": none
	Extensions  string // as it stands in Sec-WebSocket-Extensions; "": none
}

// Take ends HTTP on the request's connection. It hijacks, so wrappers of w
// with an Unwrap method work, writes the 101 response with the headers of extra
// (less those that are the handshake's own), clears all deadlines that
// the HTTP server had set, and returns the connection and the bytes that had
// already arrived behind the request. The request must have passed [Check].
//
// When the connection cannot be had, the error is a [*Refusal] and w can
// still answer with it. After any other error the connection is closed and w is spent.
func Take(w http.ResponseWriter, r *http.Request, agreed Agreed, extra http.Header) (net.Conn, []byte, error) {
	if r.ProtoMajor >= 2 {
		return nil, nil, tooNew(r)
	}
	return takeOver(w, response(r, agreed, extra))
}

// TakeStream ends HTTP on the request's connection by an answer whose body is
// all that is written to it from now on: status 200, the headers of h less
// those that are the connection's own, and first, the body's beginning. What the
// client still says is nobody's. As with [Take], w can still answer after a
// [*Refusal], if in another way, and after any other error it is spent.
func TakeStream(w http.ResponseWriter, h http.Header, first []byte) (net.Conn, error) {
	own := http.Header{"Connection": {"close"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	// What a middleware has to say about a coding of its own is not true here.
	b := answer("200 OK", own, h, func(name string) bool { return connectionsOwn(name) || name == "Content-Encoding" })
	conn, _, err := takeOver(w, append(b, first...))
	return conn, err
}

// A Barer is a connection that wraps another for as long as it begins, to read who is behind
// a proxy for one. Bare returns that other one, and what was read of it and not taken yet; the
// wrapper is not used again. So an event loop can have it.
type Barer interface {
	Bare() (net.Conn, []byte)
}

// takeOver hijacks the connection and writes the answer.
func takeOver(w http.ResponseWriter, answer []byte) (net.Conn, []byte, error) {
	conn, arrived, err := hijack(w)
	if err != nil {
		return nil, nil, &Refusal{http.StatusInternalServerError, "no_hijack", hidden(w, err), nil}
	}
	if b, ok := conn.(Barer); ok {
		var more []byte
		conn, more = b.Bare()
		arrived = append(arrived, more...)
	}
	// Past deadlines of ReadTimeout and WriteTimeout go too.
	_ = conn.SetDeadline(time.Time{})
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	if _, err := conn.Write(answer); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("answering the request: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("clearing the HTTP server's deadlines: %w", err)
	}
	return conn, arrived, nil
}

// hijack returns the connection and a copy of what net/http had read ahead.
// It goes the way of [http.ResponseController], outermost writer first, with
// two differences for wrappers whose Hijack asserts, and panics, that the
// writer right within has one too (gin's): a chain that ends in a writer
// without a connection is refused before anybody is asked, so that the refusal can still
// be written, and after such a panic the way goes on inwards.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	if _, ok := innermost(w).(http.Hijacker); !ok {
		return nil, nil, http.ErrNotSupported
	}
	err := error(http.ErrNotSupported)
	for w != nil {
		if h, ok := w.(http.Hijacker); ok {
			var conn net.Conn
			var rw *bufio.ReadWriter
			if conn, rw, err = ask(h); err == nil {
				var arrived []byte
				if n := rw.Reader.Buffered(); n > 0 {
					ahead, _ := rw.Reader.Peek(n) // n bytes are there: no error is possible
					arrived = bytes.Clone(ahead)
				}
				return conn, arrived, nil
			}
			if _, asserted := err.(*runtime.TypeAssertionError); !asserted {
				return nil, nil, err
			}
		}
		w = unwrap(w)
	}
	return nil, nil, err
}

// ask calls Hijack and turns a failed type assertion within it into an error.
func ask(h http.Hijacker) (conn net.Conn, rw *bufio.ReadWriter, err error) {
	defer func() {
		if v := recover(); v != nil {
			failed, ok := v.(*runtime.TypeAssertionError)
			if !ok {
				panic(v)
			}
			err = failed
		}
	}()
	return h.Hijack()
}

func unwrap(w http.ResponseWriter) http.ResponseWriter {
	if u, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return nil
}

func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		inner := unwrap(w)
		if inner == nil {
			return w
		}
		w = inner
	}
}

// hidden says who stands in the way of the connection and what to do.
func hidden(w http.ResponseWriter, err error) string {
	if errors.Is(err, http.ErrHijacked) {
		return "the connection was already taken over by another handler"
	}
	if last := innermost(w); err == http.ErrNotSupported {
		return fmt.Sprintf("the middleware type %T hides the connection: give it a method Unwrap() http.ResponseWriter, "+
			"or mount the WebSocket outside of it", last)
	}
	return fmt.Sprintf("the connection cannot be taken over from %T: %v; mount the WebSocket outside of the middleware", w, err)
}

// NoStream is the refusal of an answer that goes on, where w cannot write it
// piece by piece.
func NoStream(w http.ResponseWriter) *Refusal {
	return &Refusal{http.StatusInternalServerError, "no_stream", fmt.Sprintf("the middleware type %T hides how to write an answer that goes on: "+
		"give it a method Unwrap() http.ResponseWriter, or mount Fanfare outside of it", innermost(w)), nil}
}

// response is the 101 (RFC 6455, section 4.2.2).
func response(r *http.Request, agreed Agreed, extra http.Header) []byte {
	own := http.Header{
		"Connection":           {"Upgrade"},
		"Upgrade":              {"websocket"},
		"Sec-Websocket-Accept": {AcceptKey(r.Header.Get("Sec-Websocket-Key"))},
	}
	if agreed.Subprotocol != "" {
		own["Sec-Websocket-Protocol"] = []string{agreed.Subprotocol}
	}
	if agreed.Extensions != "" {
		own["Sec-Websocket-Extensions"] = []string{agreed.Extensions}
	}
	return answer("101 Switching Protocols", own, extra, func(name string) bool {
		return connectionsOwn(name) || strings.HasPrefix(name, "Sec-Websocket-")
	})
}

// answer is the head of an answer. Of extra it takes what ours reports false for.
func answer(status string, own, extra http.Header, ours func(name string) bool) []byte {
	for name, values := range extra {
		if name = textproto.CanonicalMIMEHeaderKey(name); !ours(name) {
			own[name] = values
		}
	}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 " + status + "\r\n")
	_ = own.Write(&b) // it makes CR and LF in values harmless; a bytes.Buffer has no errors
	b.WriteString("\r\n")
	return b.Bytes()
}

// connectionsOwn reports whether the header is not the caller's to set: it
// says what protocol follows, or where a body ends.
func connectionsOwn(name string) bool {
	switch name {
	case "Upgrade", "Connection", "Keep-Alive", "Content-Length", "Transfer-Encoding", "Trailer":
		return true
	}
	return false
}
