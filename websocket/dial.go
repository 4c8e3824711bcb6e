package websocket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"

	"fanfare/internal/deflate"
	"fanfare/internal/handshake"
	"fanfare/internal/netend"
)

const (
	// mostHeader is the largest header of a response, and the most of a refusal's body that is kept.
	mostHeader = 64 << 10
	// mostRedirects is how many redirects are followed.
	mostRedirects = 10
	// refusalTimeout bounds the wait for the body of a refusal.
	refusalTimeout = 2 * time.Second
)

// Dial opens a connection to a URL of the scheme ws, wss (http and https mean
// the same) or ws+unix, which names a socket and behind a colon the path to ask for:
//
//	ws://localhost:8765/chat/general
//	wss://user:password@example.com/
//	ws+unix:///run/fanfare.sock:/chat/general
//
// Redirects are followed, ten at most, never from wss to ws, and without
// credentials to another host. When the server answers but refuses, the response is
// returned too, with as much of its body as came, 64 KiB at most. The
// connection outlives ctx.
func Dial(ctx context.Context, rawURL string, o *DialOptions) (*Conn, *http.Response, error) {
	if o == nil {
		o = &DialOptions{}
	}
	t, err := parseTarget(rawURL)
	if err != nil {
		return nil, nil, err
	}
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	timeout := o.HandshakeTimeout
	if timeout == 0 {
		timeout = defaultHandshakeTimeout
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, &slowHandshake{timeout})
		defer cancel()
	}
	d := &dialing{o: o, header: o.Header.Clone(), subprotocols: o.Subprotocols}
	for redirects := 0; ; redirects++ {
		conn, resp, err := d.attempt(ctx, t)
		if err == nil || resp == nil {
			return conn, resp, d.explain(ctx, t, err)
		}
		next, follow, redirect := redirected(t, resp)
		switch {
		case !follow:
			return nil, resp, d.explain(ctx, t, err)
		case redirect != nil:
			return nil, resp, d.explain(ctx, t, redirect)
		case redirects == mostRedirects:
			return nil, resp, d.explain(ctx, t, fmt.Errorf("more than %d redirects", mostRedirects))
		}
		if !sameParty(t, next) {
			d.dropCredentials()
		}
		t = next
	}
}

type slowHandshake struct{ timeout time.Duration }

func (e *slowHandshake) Error() string {
	return fmt.Sprintf("no connection within %v (the handshake timeout)", e.timeout)
}

func (e *slowHandshake) Timeout() bool { return true }

func (e *slowHandshake) Is(target error) bool { return target == context.DeadlineExceeded }

// A target is a URL taken apart.
type target struct {
	url    *url.URL // scheme http or https, host in ASCII; no user, no fragment
	user   *url.Userinfo
	socket string // path of a Unix socket; "": TCP
}

func (t *target) secure() bool { return t.url.Scheme == "https" }

// addr returns host and port to connect to.
func (t *target) addr() string {
	port := t.url.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[t.secure()]
	}
	return net.JoinHostPort(t.url.Hostname(), port)
}

// String leaves out what must not be logged: passwords and, in the query, tokens.
func (t *target) String() string {
	scheme := map[bool]string{false: "ws", true: "wss"}[t.secure()]
	if t.socket != "" {
		return scheme + "+unix://" + t.socket + ":" + t.url.EscapedPath()
	}
	return scheme + "://" + t.url.Host + t.url.EscapedPath()
}

func parseTarget(raw string) (*target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err // the URL itself may hold a password
		}
		return nil, fmt.Errorf("websocket: the URL cannot be understood: %w", err)
	}
	t := &target{url: &url.URL{Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}, user: u.User}
	scheme, unix := strings.CutSuffix(strings.ToLower(u.Scheme), "+unix")
	switch scheme {
	case "ws", "http":
		t.url.Scheme = "http"
	case "wss", "https":
		t.url.Scheme = "https"
	case "":
		return nil, errors.New("websocket: the URL has no scheme; it begins with ws:// or wss://")
	default:
		return nil, fmt.Errorf("websocket: the URL's scheme is %q; it must be ws or wss", u.Scheme)
	}
	if unix {
		if u.Host != "" {
			return nil, errors.New("websocket: a Unix socket's URL has three slashes: ws+unix:///path/to.sock:/channel")
		}
		t.socket, t.url.Path, _ = strings.Cut(u.Path, ":")
		t.url.RawPath = ""
		t.url.Host = "localhost"
		if t.socket == "" {
			return nil, errors.New("websocket: the URL names no socket: ws+unix:///path/to.sock:/channel")
		}
	} else if u.Hostname() == "" {
		return nil, errors.New("websocket: the URL names no host")
	}
	if host := u.Hostname(); !isASCII(host) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return nil, fmt.Errorf("websocket: the URL's host: %w", err)
		}
		if port := u.Port(); port != "" {
			ascii = net.JoinHostPort(ascii, port)
		}
		t.url.Host = ascii
	}
	if t.url.Path == "" {
		t.url.Path = "/"
	}
	return t, nil
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// check refuses options that could only lead to a puzzling failure later.
func (o *DialOptions) check() error {
	for name := range o.Header {
		switch canonical := textproto.CanonicalMIMEHeaderKey(name); {
		case canonical == "Sec-Websocket-Protocol":
			return errors.New("websocket: set DialOptions.Subprotocols instead of the header Sec-WebSocket-Protocol")
		case canonical == "Connection" || canonical == "Upgrade" || strings.HasPrefix(canonical, "Sec-Websocket-"):
			return fmt.Errorf("websocket: the header %s is the handshake's own and cannot be set", name)
		case !httpguts.ValidHeaderFieldName(name):
			return fmt.Errorf("websocket: %q cannot be the name of a header", name)
		}
		for _, value := range o.Header[name] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("websocket: the header %s has a value with control characters", name)
			}
		}
	}
	for i, subprotocol := range o.Subprotocols {
		if !httpguts.ValidHeaderFieldName(subprotocol) { // both are tokens (RFC 6455, section 4.1, item 10)
			return fmt.Errorf("websocket: %q cannot be a subprotocol: it must be one word of letters, digits and !#$%%&'*+-.^_`|~", subprotocol)
		}
		if slices.Contains(o.Subprotocols[:i], subprotocol) {
			return fmt.Errorf("websocket: the subprotocol %q is there twice", subprotocol)
		}
	}
	if !httpguts.ValidHeaderFieldValue(o.Origin) {
		return errors.New("websocket: DialOptions.Origin has control characters")
	}
	return nil
}

// dialing is one call of Dial.
type dialing struct {
	o            *DialOptions
	header       http.Header
	subprotocols []string
}

// explain says in an error what was tried, and names the reason of a timeout.
func (d *dialing) explain(ctx context.Context, t *target, err error) error {
	if err == nil {
		return nil
	}
	if end, ok := ctx.Deadline(); ok && netend.IsTimeout(err) && !time.Now().Before(end) {
		<-ctx.Done() // the connection's deadline may come a moment before the context's own
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
	}
	return fmt.Errorf("websocket: dialing %s: %w", t, err)
}

// dropCredentials forgets what was meant for one party only.
func (d *dialing) dropCredentials() {
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Host"} {
		d.header.Del(name)
	}
	// Tokens may travel as a subprotocol, the only header that a browser can set.
	d.subprotocols = slices.DeleteFunc(slices.Clone(d.subprotocols), func(s string) bool { return strings.HasPrefix(s, "bearer.") })
}

// redirected returns where the response sends us. follow is false when it is no redirect.
func redirected(from *target, resp *http.Response) (next *target, follow bool, err error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, false, nil
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, false, nil
	}
	u, err := from.url.Parse(location)
	if err != nil {
		return nil, true, errors.New("the server redirects to what is no URL")
	}
	next, err = parseTarget(u.String())
	switch {
	case err != nil:
		return nil, true, fmt.Errorf("the server redirects elsewhere: %w", err)
	case next.socket != "":
		return nil, true, errors.New("the server redirects to a Unix socket of this machine, which is not followed")
	case from.secure() && !next.secure():
		return nil, true, fmt.Errorf("the server redirects from wss to %s, which is not encrypted; it is not followed", next)
	case from.socket != "" && next.url.Host == from.url.Host:
		next.socket = from.socket // a path on the same server
	}
	if next.user == nil && sameParty(from, next) {
		next.user = from.user
	}
	return next, true, nil
}

// sameParty reports whether credentials for one are fit for the other: the same
// host and port, or the same host when TLS is gained.
func sameParty(a, b *target) bool {
	if a.socket != b.socket || !strings.EqualFold(a.url.Hostname(), b.url.Hostname()) {
		return false
	}
	if a.secure() == b.secure() {
		return a.addr() == b.addr()
	}
	return b.secure() && strings.HasSuffix(a.addr(), ":80") && strings.HasSuffix(b.addr(), ":443")
}

// attempt tries one URL. A response without a connection is a refusal.
func (d *dialing) attempt(ctx context.Context, t *target) (_ *Conn, _ *http.Response, err error) {
	conn, err := d.connect(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	taken := false
	defer func() {
		if !taken {
			_ = conn.Close()
		}
	}()
	// Reads and writes obey deadlines only, so the end of ctx becomes one.
	stop := interruptOnDone(ctx, conn)
	defer stop()
	if t.secure() {
		secure := tls.Client(conn, d.tlsConfig(t.url.Hostname()))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, nil, err
		}
		conn = secure
	}
	key := newKey()
	if err := d.request(t, key).Write(conn); err != nil {
		return nil, nil, fmt.Errorf("sending the handshake: %w", err)
	}
	resp, r, err := readResponse(conn, http.MethodGet)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer to the handshake: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, resp, refused(conn, resp)
	}
	resp.Body = http.NoBody
	subprotocol, err := checkResponse(resp, key, d.subprotocols)
	var pack *packing
	if err == nil {
		pack, err = d.packing(resp.Header["Sec-Websocket-Extensions"])
	}
	if err != nil {
		return nil, resp, err
	}
	if !stop() {
		return nil, nil, ctx.Err()
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	var arrived []byte
	if n := r.Buffered(); n > 0 {
		ahead, _ := r.Peek(n) // n bytes are there: no error is possible
		arrived = bytes.Clone(ahead)
	}
	taken = true
	return newConn(conn, arrived, true, subprotocol, pack, d.o.settings()), resp, nil
}

// interruptOnDone makes reads and writes of conn fail when ctx ends. stop ends
// that and reports whether it came in time; it may be called twice.
func interruptOnDone(ctx context.Context, conn net.Conn) (stop func() bool) {
	cancel := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	stopped := false
	return func() bool {
		stopped = stopped || cancel()
		return stopped
	}
}

func (d *dialing) tlsConfig(host string) *tls.Config {
	config := &tls.Config{}
	if d.o.TLSConfig != nil {
		config = d.o.TLSConfig.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.NextProtos = []string{"http/1.1"}
	return config
}

// newKey returns a Sec-WebSocket-Key (RFC 6455, section 4.1, item 7).
func newKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// request is what we ask of t.
func (d *dialing) request(t *target, key string) *http.Request {
	return (&handshake.Asking{
		URL: t.url, User: t.user, Header: d.header, Subprotocols: d.subprotocols, Extensions: d.offer(), Origin: d.o.Origin, Agent: "fanfare", Key: key,
	}).Request()
}

// offer is what of extensions is asked for; "": nothing.
func (d *dialing) offer() string {
	if d.o.Compression == CompressionOff {
		return ""
	}
	return deflate.Offer(d.o.Compression == CompressionTakeover)
}

// packing holds the server to RFC 7692, section 5.1; nil: nothing is compressed.
func (d *dialing) packing(answer []string) (*packing, error) {
	if d.o.Compression == CompressionOff {
		if len(answer) > 0 {
			return nil, errors.New("the server uses an extension that was not offered")
		}
		return nil, nil
	}
	p, ok, err := deflate.Check(answer, d.o.Compression == CompressionTakeover)
	if err != nil || !ok {
		return nil, err
	}
	return newPacking(p.ClientBits, !p.ClientNoTakeover, p.ServerBits, !p.ServerNoTakeover, d.o.CompressOver), nil
}

// readResponse reads a response's header, no more than mostHeader of it, and
// leaves its body to be read, from the same reader that it returns. Interim
// responses are skipped.
func readResponse(conn net.Conn, method string) (*http.Response, *bufio.Reader, error) {
	limited := &headerReader{r: conn, left: mostHeader}
	r := bufio.NewReader(limited)
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				err = errors.New("the server closed the connection without one")
			}
			if limited.left <= 0 {
				err = errHeaderTooLarge
			}
			return nil, nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			limited.left = -1
			return resp, r, nil
		}
	}
}

var errHeaderTooLarge = fmt.Errorf("the response's header is larger than %d KiB", mostHeader>>10)

// headerReader ends after left bytes; it has no end once left is negative.
type headerReader struct {
	r    io.Reader
	left int
}

func (h *headerReader) Read(p []byte) (int, error) {
	if h.left < 0 {
		return h.r.Read(p)
	}
	if h.left == 0 {
		return 0, errHeaderTooLarge
	}
	n, err := h.r.Read(p[:min(len(p), h.left)])
	h.left -= n
	return n, err
}

// refused reads the refusal's body, bounded in size and time, and returns the error for it.
func refused(conn net.Conn, resp *http.Response) error {
	_ = conn.SetReadDeadline(time.Now().Add(refusalTimeout))
	body, _ := io.ReadAll(io.LimitReader(resp.Body, mostHeader)) // as much as comes
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return fmt.Errorf("the server refused with %s%s", status(resp), beginning(body))
}

// status is the response's status line without what a stranger may hide in it.
func status(resp *http.Response) string {
	text := http.StatusText(resp.StatusCode)
	if text == "" {
		return fmt.Sprint(resp.StatusCode)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, text)
}

// beginning quotes the first line of a body, for an error.
func beginning(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(body), "�")), "\n")
	const most = 200
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	if line == "" {
		return ""
	}
	return fmt.Sprintf(": %q", line)
}

// checkResponse holds the server to RFC 6455, section 4.1, and returns the subprotocol.
func checkResponse(resp *http.Response, key string, offered []string) (string, error) {
	if !handshake.HasToken(resp.Header["Upgrade"], "websocket") || !handshake.HasToken(resp.Header["Connection"], "upgrade") {
		return "", errors.New("the server switches to something that is no WebSocket (Upgrade and Connection headers)")
	}
	if accept := resp.Header["Sec-Websocket-Accept"]; len(accept) != 1 || strings.TrimSpace(accept[0]) != handshake.AcceptKey(key) {
		return "", errors.New("the server's Sec-WebSocket-Accept does not answer our key; a cache or proxy may have answered in its place")
	}
	chosen := resp.Header["Sec-Websocket-Protocol"]
	switch {
	case len(chosen) == 0:
		return "", nil
	case len(chosen) > 1:
		return "", errors.New("the server chose more than one subprotocol")
	case !slices.Contains(offered, chosen[0]):
		return "", errors.New("the server chose a subprotocol that was not offered")
	}
	return chosen[0], nil
}
