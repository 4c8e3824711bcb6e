package websocket

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"time"
)

// The defaults of [AcceptOptions] and [DialOptions].
const (
	defaultLimit            = 1 << 20
	defaultCompressOver     = 256
	defaultQueue            = 16
	defaultPingInterval     = 25 * time.Second
	defaultPingTimeout      = 10 * time.Second
	defaultMessageTimeout   = time.Minute
	defaultWriteTimeout     = 10 * time.Second
	defaultCloseTimeout     = 5 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
)

// Compression is how an end deals with permessage-deflate (RFC 7692).
//
// Whatever is chosen, a message that inflates to more than the limit is not
// inflated beyond it, nor one of more than 16 MiB beyond a hundred times of what it came as;
// the connection ends with 1009. And where secrets and what strangers chose are
// compressed together, the length of what is sent can tell about the
// secrets (the attacks CRIME and BREACH): switch it off there.
type Compression uint8

const (
	// CompressionOn compresses each message on its own (no context takeover, either
	// way): what is needed for that is borrowed and given back, so connections
	// cost no more memory than without.
	CompressionOn Compression = iota
	// CompressionOff offers and agrees to none.
	CompressionOff
	// CompressionTakeover lets a message refer to those before it, unless the
	// peer does not want that. Short messages that are alike get much smaller, and a connection
	// holds up to 32 KiB each way for it.
	CompressionTakeover
)

// AcceptOptions are a server's. Nil or zero gives good defaults.
type AcceptOptions struct {
	// Subprotocols that we speak, the one we like best first. When the client
	// offers none of them, the connection has none; see [Conn.Subprotocol].
	Subprotocols []string
	// Origins of web pages that may connect besides those of this host: hosts
	// ("*.example.com", "localhost:*", as in [path.Match], in any case) or scheme
	// and host ("https://example.com"). "*" is every page, and then any web site may act
	// with the cookies of whoever visits it. Programs that send no Origin are
	// always let in: it protects people's browsers, not the server. With a pattern
	// that could never match, Accept refuses every request and its error says why.
	Origins []string

	// Limit is the largest message accepted, in bytes; default 1 MiB. A larger
	// one, compressed or not, ends the connection with 1009. A connection may hold about
	// twice that much, and three times while it inflates.
	Limit int64
	// Compression says whether messages are compressed where the peer can do it
	// (permessage-deflate, RFC 7692); default yes, each on its own. See [Compression].
	Compression Compression
	// CompressOver is how many bytes a message must have to go out compressed;
	// default 256, negative: any. Smaller ones hardly get smaller still. What was
	// compressed by the peer is always read.
	CompressOver int
	// Queue is how many frames are read ahead of Read; default 16, never more
	// than Limit bytes.
	Queue int
	// PingInterval of silence is followed by a ping; default 25 s, negative
	// never. Most proxies cut what is silent for a minute.
	PingInterval time.Duration
	// PingTimeout is how long the peer may take to show a sign of life after
	// that ping; default 10 s, negative for ever: then a peer that vanished is
	// noticed only by writing.
	PingTimeout time.Duration
	// MessageTimeout is how long the peer may take for one message, from its
	// first byte to its last; default 1 min, negative for ever. Then the connection
	// ends with 1008. A peer that streams one message for longer needs more. Time in which
	// nobody reads at this end does not count.
	MessageTimeout time.Duration
	// WriteTimeout is how long a write may make no progress before the
	// connection counts as dead; default 10 s, negative for ever: then one
	// frozen peer holds its writers as long as it likes. Over TLS the peer must take
	// the next 16 KiB in that time, because nothing less can be seen there.
	WriteTimeout time.Duration
	// CloseTimeout bounds the closing handshake, all of it; default 5 s.
	CloseTimeout time.Duration
}

// DialOptions are a client's. Nil or zero gives good defaults.
type DialOptions struct {
	// Header goes out with the handshake. "Host" replaces the Host header; the
	// handshake's own (Connection, Upgrade, Sec-WebSocket-…) cannot be set.
	Header http.Header
	// Subprotocols are offered to the server, the one we like best first.
	Subprotocols []string
	// Origin is what a browser would send as the page's origin. Default none.
	Origin string
	// TLSConfig for wss and https. Nil verifies the server against the system's authorities.
	TLSConfig *tls.Config
	// Proxy chooses a proxy for the request, whose URL has the scheme http or
	// https; a nil URL is none, so a function that returns nil goes without.
	// Default: HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment. Schemes:
	// http, https, socks5 and socks5h (in both, the proxy resolves names). User and password come from the proxy's URL.
	Proxy func(*http.Request) (*url.URL, error)
	// Dial opens the connection to the server, or to its proxy, instead of a
	// [net.Dialer]. The network is "tcp", or "unix" for ws+unix.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// OnPong is told of each pong with a payload that answers no [Conn.Ping]
	// (RFC 6455, section 5.5.3, permits those), and how many messages had
	// arrived before it; Read may still be behind. It is called by the goroutine
	// that reads from the network, so it must not wait, and payload is valid
	// only until it returns.
	OnPong func(payload []byte, messages int64)
	// HandshakeTimeout bounds all of Dial; default 10 s, negative for ever.
	HandshakeTimeout time.Duration

	// Limit is the largest message accepted, in bytes; default 1 MiB. A larger
	// one, compressed or not, ends the connection with 1009. A connection may hold about
	// twice that much, and three times while it inflates.
	Limit int64
	// Compression says whether messages are compressed where the peer can do it
	// (permessage-deflate, RFC 7692); default yes, each on its own. See [Compression].
	Compression Compression
	// CompressOver is how many bytes a message must have to go out compressed;
	// default 256, negative: any. Smaller ones hardly get smaller still. What was
	// compressed by the peer is always read.
	CompressOver int
	// Queue is how many frames are read ahead of Read; default 16, never more
	// than Limit bytes.
	Queue int
	// PingInterval of silence is followed by a ping; default 25 s, negative
	// never.
	PingInterval time.Duration
	// PingTimeout is how long the peer may take to show a sign of life after
	// that ping; default 10 s, negative for ever.
	PingTimeout time.Duration
	// MessageTimeout is how long the peer may take for one message, from its
	// first byte to its last; default 1 min, negative for ever. Then the connection
	// ends with 1008. A peer that streams one message for longer needs more. Time in which
	// nobody reads at this end does not count.
	MessageTimeout time.Duration
	// WriteTimeout is how long a write may make no progress before the
	// connection counts as dead; default 10 s, negative for ever: then one
	// frozen peer holds its writers as long as it likes. Over TLS the peer must take
	// the next 16 KiB in that time, because nothing less can be seen there.
	WriteTimeout time.Duration
	// CloseTimeout bounds the closing handshake, all of it; default 5 s.
	CloseTimeout time.Duration
}

// settings are what a Conn keeps of either.
type settings struct {
	limit          int64
	queue          int
	pingInterval   time.Duration // not positive: never
	pingTimeout    time.Duration // not positive: for ever
	messageTimeout time.Duration // not positive: for ever
	writeTimeout   time.Duration // not positive: for ever
	closeTimeout   time.Duration
	onPong         func(payload []byte, messages int64) // may be nil
}

func (o *AcceptOptions) settings() settings {
	return settings{o.Limit, o.Queue, o.PingInterval, o.PingTimeout, o.MessageTimeout, o.WriteTimeout, o.CloseTimeout, nil}.withDefaults()
}

func (o *DialOptions) settings() settings {
	return settings{o.Limit, o.Queue, o.PingInterval, o.PingTimeout, o.MessageTimeout, o.WriteTimeout, o.CloseTimeout, o.OnPong}.withDefaults()
}

func (s settings) withDefaults() settings {
	return settings{
		limit:          cmp.Or(max(s.limit, 0), defaultLimit),
		queue:          cmp.Or(max(s.queue, 0), defaultQueue),
		pingInterval:   cmp.Or(s.pingInterval, defaultPingInterval),
		pingTimeout:    cmp.Or(s.pingTimeout, defaultPingTimeout),
		messageTimeout: cmp.Or(s.messageTimeout, defaultMessageTimeout),
		writeTimeout:   cmp.Or(s.writeTimeout, defaultWriteTimeout),
		closeTimeout:   cmp.Or(max(s.closeTimeout, 0), defaultCloseTimeout),
		onPong:         s.onPong,
	}
}
