package main

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

// behindProxies returns a listener whose connections have the addresses that trusted
// proxies say by the PROXY protocol, within a timeout. A proxy must say one: else whoever asks it
// could. Of others nothing is taken for it. Unix sockets are always a proxy's.
func behindProxies(l net.Listener, trusted func() []netip.Prefix, timeout time.Duration, log *slog.Logger) net.Listener {
	return &proxyListener{log: log, Listener: &proxyproto.Listener{
		Listener: l, ReadHeaderTimeout: timeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			tcp, ok := o.Upstream.(*net.TCPAddr)
			if !ok {
				return proxyproto.REQUIRE, nil
			}
			peer := tcp.AddrPort().Addr().Unmap().WithZone("")
			if slices.ContainsFunc(trusted(), func(p netip.Prefix) bool { return p.Contains(peer) }) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}}
}

type proxyListener struct {
	net.Listener
	log  *slog.Logger
	said atomic.Int64 // when it last said that a header is missing, in Unix nanoseconds
}

func (l *proxyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if wrapped, ok := conn.(*proxyproto.Conn); ok {
		return &proxied{Conn: wrapped, of: l}, err
	}
	return conn, err
}

// proxied is a connection by way of a proxy.
type proxied struct {
	*proxyproto.Conn
	of *proxyListener
}

// Read has it said, once in ten seconds, when a proxy sends no header: it
// or we were set up wrong, and all its clients see is that connections end.
func (c *proxied) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, proxyproto.ErrNoProxyProtocol) {
		if now, last := time.Now().UnixNano(), c.of.said.Load(); now-last > int64(10*time.Second) && c.of.said.CompareAndSwap(last, now) {
			c.of.log.Warn("a trusted proxy sends no PROXY header, and its connections are closed: have it send one, or leave --proxy-protocol out", "proxy", c.Raw().RemoteAddr())
		}
	}
	return n, err
}

// Bare implements [handshake.Barer].
func (c *proxied) Bare() (net.Conn, []byte) {
	// A deadline that has passed: what was read ahead comes, and nothing else.
	_ = c.SetReadDeadline(time.Unix(1, 0))
	var ahead []byte
	for buf := make([]byte, 512); ; {
		n, err := c.Read(buf)
		ahead = append(ahead, buf[:n]...)
		if err != nil {
			break
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	return c.Raw(), ahead
}

// CloseWrite ends our direction, as that of the connection itself.
func (c *proxied) CloseWrite() error {
	if half, ok := c.Raw().(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
