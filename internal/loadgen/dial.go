package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fanfare/internal/deflate"
	"fanfare/internal/handshake"
)

// handshakeTimeout bounds one connection's coming about.
const handshakeTimeout = 10 * time.Second

// key is that of RFC 6455's example. A client must choose its key at random
// (section 4.1), so that it notices a cache that answers in the server's
// place; with one key for all the request is written once, and the answer that is right
// is known.
const key = "dGhlIHNhbXBsZSBub25jZQ=="

// A DialError says why no connection came about.
type DialError struct {
	// Response is the server's, if it answered, with the first 4 KiB of its body.
	Response *http.Response
	Err      error
}

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// A dialer opens connections to one URL, directly: a proxy would be measured
// too.
type dialer struct {
	network, address string
	tls              *tls.Config // nil: none
	request          []byte
	compress         bool
	sources          []net.Addr
}

func newDialer(c *Config) (*dialer, error) {
	scheme, unix := strings.CutSuffix(c.URL.Scheme, "+unix")
	d := &dialer{network: "tcp"}
	u := *c.URL
	u.User = nil
	switch {
	case unix:
		var path string
		d.network = "unix"
		d.address, path, _ = strings.Cut(u.Path, ":")
		u = url.URL{Scheme: scheme, Host: "localhost", Path: path, RawQuery: u.RawQuery}
	case u.Port() == "":
		d.address = net.JoinHostPort(u.Hostname(), map[string]string{"ws": "80", "wss": "443"}[scheme])
	default:
		d.address = u.Host
	}
	switch scheme {
	case "ws":
	case "wss":
		d.tls = &tls.Config{}
		if c.TLS != nil {
			d.tls = c.TLS.Clone()
		}
		if d.tls.ServerName == "" {
			d.tls.ServerName = u.Hostname()
		}
		d.tls.NextProtos = []string{"http/1.1"}
	default:
		return nil, fmt.Errorf("the scheme %q is not ws or wss", c.URL.Scheme)
	}
	for _, a := range c.Sources {
		d.sources = append(d.sources, net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	}
	if unix && len(d.sources) > 0 {
		return nil, errors.New("a Unix socket is connected to without a source address")
	}

	offer := ""
	if d.compress = c.Compress; d.compress {
		offer = deflate.Offer(false)
	}
	request := (&handshake.Asking{
		Extensions: offer, URL: &u, User: c.URL.User, Header: c.Header, Subprotocols: c.Subprotocols, Origin: c.Origin, Agent: "fanfare bench", Key: key,
	}).Request()
	var b bytes.Buffer
	if err := request.Write(&b); err != nil {
		return nil, fmt.Errorf("the handshake cannot be written: %w", err)
	}
	d.request = b.Bytes()
	return d, nil
}

// dial opens the i-th connection. arrived is what came behind the answer. The
// error is a *DialError.
func (d *dialer) dial(ctx context.Context, i int) (conn net.Conn, arrived []byte, err error) {
	var answer *http.Response
	defer func() {
		if err != nil {
			if conn != nil {
				_ = conn.Close()
			}
			err = &DialError{answer, explainLimit(err)}
		}
	}()
	deadline := time.Now().Add(handshakeTimeout)
	dial := net.Dialer{Deadline: deadline, KeepAlive: -1}
	if len(d.sources) > 0 {
		dial.LocalAddr = d.sources[i%len(d.sources)]
	}
	conn, err = dial.DialContext(ctx, d.network, d.address)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(deadline); err != nil {
		return conn, nil, err
	}
	if d.tls != nil {
		secure := tls.Client(conn, d.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return conn, nil, err
		}
		conn = secure
	}
	if _, err := conn.Write(d.request); err != nil {
		return conn, nil, fmt.Errorf("sending the handshake: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(conn, 64<<10))
	answer, err = http.ReadResponse(r, nil)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return conn, nil, errors.New("the server closed the connection without an answer to the handshake")
	case err != nil:
		return conn, nil, fmt.Errorf("reading the answer to the handshake: %w", err)
	case answer.StatusCode != http.StatusSwitchingProtocols:
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // as much as comes
		answer.Body = io.NopCloser(bytes.NewReader(body))
		err = fmt.Errorf("the server refused with %s", answer.Status)
		if to := answer.Header.Get("Location"); to != "" {
			err = fmt.Errorf("the server redirects to %s: give that URL", to)
		}
		return conn, nil, err
	case answer.Header.Get("Sec-WebSocket-Accept") != handshake.AcceptKey(key):
		return conn, nil, errors.New("the server's Sec-WebSocket-Accept does not answer our key")
	case answer.Header.Get("Sec-WebSocket-Extensions") != "" && !d.compress:
		return conn, nil, errors.New("the server uses an extension that was not offered")
	}
	if d.compress {
		switch _, ok, err := deflate.Check(answer.Header["Sec-Websocket-Extensions"], false); {
		case err != nil:
			return conn, nil, err
		case !ok:
			return conn, nil, errors.New("the server does not compress: leave out --compress")
		}
	}
	if n := r.Buffered(); n > 0 {
		arrived = make([]byte, n)
		_, _ = io.ReadFull(r, arrived) // n bytes are there
	}
	if !stop() {
		return conn, nil, ctx.Err()
	}
	return conn, arrived, conn.SetDeadline(time.Time{})
}

// explainLimit says what to do about the limits of this machine.
func explainLimit(err error) error {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return fmt.Errorf("this process may have no more file descriptors: raise the limit (ulimit -n, both soft and hard), or take fewer connections (%w)", err)
	case errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("this machine has no more file descriptors: raise fs.file-max, or take fewer connections (%w)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("no free port is left on the source address, or it is none of this machine's: give more addresses with --sources (%w)", err)
	}
	return err
}

// gather opens n connections, at most abreast at once, the first one before the
// others, and calls each with every one, from several goroutines at once, and with how long it took.
// When each returns false it gives up, with the error of that call.
func (d *dialer) gather(ctx context.Context, n, abreast int, each func(i int, conn net.Conn, arrived []byte, took time.Duration, err error) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	one := func() bool {
		i := int(next.Add(1)) - 1
		if i >= n || ctx.Err() != nil {
			return false
		}
		began := time.Now()
		conn, arrived, err := d.dial(ctx, i)
		if err != nil && ctx.Err() != nil {
			return false
		}
		if !each(i, conn, arrived, time.Since(began), err) {
			failed.CompareAndSwap(nil, &err)
			cancel()
			return false
		}
		if i == 0 && err == nil { // a name is looked up once
			if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
				d.address = a.String()
			}
		}
		return true
	}
	one()
	var workers sync.WaitGroup
	for range min(n, abreast) {
		workers.Go(func() {
			for one() {
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
