package main

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
)

// behindProxies returns a listener whose connections have the addresses that trusted
// proxies say by the PROXY protocol, within a timeout. A proxy must say one: else whoever asks it
// could. Of others nothing is taken for it. Unix sockets are always a proxy's.
func behindProxies(l net.Listener, trusted func() []netip.Prefix, timeout time.Duration) net.Listener {
	return proxyListener{&proxyproto.Listener{
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

type proxyListener struct{ net.Listener }

func (l proxyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if wrapped, ok := conn.(*proxyproto.Conn); ok {
		return &proxied{Conn: wrapped}, err
	}
	return conn, err
}

// proxied is a connection by way of a proxy.
type proxied struct{ *proxyproto.Conn }

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
