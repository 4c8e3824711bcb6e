package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"fanfare/internal/handshake"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// connect opens the connection to the target, through its proxy if it has one.
// TLS to the target itself comes after.
func (d *dialing) connect(ctx context.Context, t *target) (net.Conn, error) {
	if t.socket != "" {
		return d.dial(ctx, "unix", t.socket)
	}
	via, err := d.proxyFor(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("choosing a proxy: %w", err)
	}
	if via == nil {
		return d.dial(ctx, "tcp", t.addr())
	}
	var conn net.Conn
	switch via.Scheme {
	case "http", "https":
		conn, err = d.tunnel(ctx, via, t.addr())
	case "socks5", "socks5h":
		conn, err = d.socks(ctx, via, t.addr())
	default:
		err = errors.New("its scheme must be http, https, socks5 or socks5h")
	}
	if err != nil {
		return nil, fmt.Errorf("through the proxy %s://%s: %w", via.Scheme, via.Host, err)
	}
	return conn, nil
}

// proxyFor returns the target's proxy; nil is none.
func (d *dialing) proxyFor(ctx context.Context, t *target) (*url.URL, error) {
	if d.o.Proxy == nil {
		return httpproxy.FromEnvironment().ProxyFunc()(t.url)
	}
	u := *t.url
	return d.o.Proxy((&http.Request{Method: http.MethodGet, URL: &u, Host: u.Host, Header: http.Header{}}).WithContext(ctx))
}

func (d *dialing) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.o.Dial != nil {
		return d.o.Dial(ctx, network, addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// tunnel asks an HTTP proxy for a connection to addr (RFC 9110, section 9.3.6).
func (d *dialing) tunnel(ctx context.Context, via *url.URL, addr string) (_ net.Conn, err error) {
	hop := &target{url: via}
	conn, err := d.dial(ctx, "tcp", hop.addr())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	stop := interruptOnDone(ctx, conn)
	defer stop()
	if hop.secure() {
		secure := tls.Client(conn, d.proxyTLSConfig(via.Hostname()))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	h := http.Header{"User-Agent": {"fanfare"}}
	if via.User != nil {
		h.Set("Proxy-Authorization", handshake.BasicAuth(via.User))
	}
	connect := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: h}
	if err := connect.Write(conn); err != nil {
		return nil, err
	}
	resp, r, err := readResponse(conn, http.MethodConnect)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("it refused with %s", status(resp))
	}
	if r.Buffered() > 0 {
		return nil, errors.New("it sent more than the answer to CONNECT")
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return conn, nil
}

// proxyTLSConfig is the caller's, less what is meant for the server.
func (d *dialing) proxyTLSConfig(host string) *tls.Config {
	config := d.tlsConfig(host)
	config.ServerName = host
	return config
}

// socks asks a SOCKS proxy for a connection to addr (RFC 1928). The proxy resolves names.
func (d *dialing) socks(ctx context.Context, via *url.URL, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if via.User != nil {
		password, _ := via.User.Password()
		auth = &proxy.Auth{User: via.User.Username(), Password: password}
	}
	host := via.Host
	if via.Port() == "" {
		host = net.JoinHostPort(via.Hostname(), "1080")
	}
	dialer, err := proxy.SOCKS5("tcp", host, auth, dialFunc(d.dial))
	if err != nil {
		return nil, err
	}
	return dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

func (f dialFunc) Dial(network, addr string) (net.Conn, error) {
	return f(context.Background(), network, addr)
}
