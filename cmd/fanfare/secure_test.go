package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"fanfare"
	"fanfare/websocket"
)

// An authority gives certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// give gives a certificate for localhost, with a serial number, and its key.
func (a *authority) give(serial int64, from, to time.Time) (cert, key string) {
	a.t.Helper()
	own := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: from, NotAfter: to,
	}, a.cert, own.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func (a *authority) good(serial int64) (cert, key string) {
	return a.give(serial, time.Now().Add(-time.Hour), time.Now().Add(800*time.Hour))
}

func (a *authority) trust(protocols ...string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, NextProtos: protocols}
}

// place writes files in a directory as Kubernetes does: in a directory of their
// own, to which a symbolic link leads that is changed in one stroke.
func place(t *testing.T, dir, version, cert, key string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
		t.Fatal(err)
	}
	written(t, filepath.Join(dir, version, "tls.crt"), cert)
	written(t, filepath.Join(dir, version, "tls.key"), key)
	if err := os.Chmod(filepath.Join(dir, version, "tls.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(version, filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
}

// Who is connected stays so while the certificate changes, and a broken one is not
// taken.
func TestCertificateChanges(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	cert, key := a.good(7)
	place(t, dir, "1", cert+a.pem, key)
	said, at := secureDaemon(t, "--tls-cert", filepath.Join(dir, "data", "tls.crt"), "--tls-key", filepath.Join(dir, "data", "tls.key"))
	conn, _, err := websocket.Dial(t.Context(), "wss://"+at+"/x", &websocket.DialOptions{TLSConfig: a.trust()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	shows(t, a, at, 7)

	cert, key = a.good(8)
	place(t, dir, "2", cert+a.pem, key)
	said.says("a new certificate")
	shows(t, a, at, 8)

	cert, _ = a.good(9)
	place(t, dir, "3", cert, key) // of another request
	said.says("the certificate stays as it is")
	said.says("does not belong to the certificate")
	shows(t, a, at, 8)

	said.errs.reset()
	cert, key = a.give(10, time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
	place(t, dir, "4", cert, key)
	said.says("has expired")
	shows(t, a, at, 8)

	if err := conn.Write(t.Context(), websocket.Text, []byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(t.Context()); err != nil || !strings.HasSuffix(string(got), "still here") {
		t.Errorf("who was connected all the time reads %q, %v", got, err)
	}
}

// secureDaemon is daemon with TLS.
func secureDaemon(t *testing.T, args ...string) (said *program, at string) {
	t.Helper()
	_, said, at = daemon(t, args...)
	return said, at
}

// shows checks the serial number of the certificate that a newcomer is shown.
func shows(t *testing.T, a *authority, at string, serial int64) {
	t.Helper()
	conn, err := tls.Dial("tcp", at, a.trust())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0].SerialNumber; got.Int64() != serial {
		t.Errorf("certificate number %v is shown, want %d", got, serial)
	}
}

func TestBadCertificates(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.good(1)
	other, _ := a.good(2)
	damaged := func(kind string) string { // a key that is none, and is said to be of a kind
		return strings.Replace(strings.ReplaceAll(key, "PRIVATE KEY", kind), "MIG", "AAA", 1)
	}
	for name, c := range map[string]struct{ cert, key, want string }{
		"swapped":     {key, cert, "holds a private key and no certificate: are the two files swapped?"},
		"mismatch":    {other, key, "does not belong to the certificate"},
		"order":       {a.pem + cert, key, "must stand first, and stands in place 2"},
		"no PEM":      {"hello", key, "holds no certificate in PEM"},
		"no key":      {cert, "hello", "holds no key in PEM"},
		"two certs":   {cert, cert, "holds a certificate and no private key"},
		"damaged":     {strings.Replace(cert, "MII", "AAA", 1), key, "certificate number 1 is damaged"},
		"encrypted":   {cert, damaged("ENCRYPTED PRIVATE KEY"), "openssl pkey"},
		"bad key":     {cert, damaged("RSA PRIVATE KEY"), "the key is damaged"},
		"no cert":     {"-----BEGIN X-----\n-----END X-----\n", key, "holds no certificate, but a X"},
		"fine":        {cert + a.pem, key, ""},
		"in one file": {key + cert, "", ""},
	} {
		dir := t.TempDir()
		certFile, keyFile := filepath.Join(dir, "c"), filepath.Join(dir, "k")
		written(t, certFile, c.cert)
		if c.key == "" {
			keyFile = certFile
		} else {
			written(t, keyFile, c.key)
		}
		_, err := loadPair(certFile, keyFile)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestExpiry(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	for name, c := range map[string]struct {
		from, to time.Duration
		want     string
	}{
		"fine":    {-time.Hour, 800 * time.Hour, ""},
		"soon":    {-800 * time.Hour, 100 * time.Hour, "expires soon"},
		"short":   {-100 * time.Hour, 100 * time.Hour, ""}, // made to live so long
		"expired": {-800 * time.Hour, -time.Hour, "has expired, and nobody will accept it"},
	} {
		file := filepath.Join(dir, name)
		cert, key := a.give(1, time.Now().Add(c.from), time.Now().Add(c.to))
		written(t, file, cert+key)
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		keeper, err := openCertificate(file, "", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		keeper.advise()
		keeper.expiry(time.Now().Add(time.Second)) // not said twice
		if n := strings.Count(log.String(), "expire"); c.want == "" && n > 0 || c.want != "" && strings.Count(log.String(), c.want) != 1 {
			t.Errorf("%s: %s", name, &log)
		}
		if !strings.Contains(log.String(), "chmod 600") {
			t.Errorf("%s: nobody is told that the key can be read: %s", name, &log)
		}
	}
}

// house serves a Fanfare server as serve does, over TLS.
func house(t *testing.T, times timeouts) (*authority, *fanfare.Server, string) {
	t.Helper()
	a, file := newAuthority(t), filepath.Join(t.TempDir(), "pem")
	cert, key := a.good(1)
	written(t, file, cert+key)
	keeper, err := openCertificate(file, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	core, err := fanfare.New(fanfare.Config{Logger: slog.New(slog.DiscardHandler), WriteTimeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server := newHTTPServer(core, slog.New(slog.DiscardHandler), times)
	server.TLSConfig = &tls.Config{GetCertificate: keeper.get, MinVersion: tls.VersionTLS12}
	l, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := core.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		_ = server.Close()
		<-done
	})
	return a, core, l.Addr().String()
}

// HTTP over TLS is HTTP/2, its live readers too.
func TestHTTP2(t *testing.T) {
	a, core, at := house(t, serveTimeouts())
	transport := &http2.Transport{TLSClientConfig: a.trust()}
	defer transport.CloseIdleConnections()
	browser := &http.Client{Transport: transport, Timeout: patience}
	request, _ := http.NewRequest(http.MethodGet, "https://"+at+"/x", nil)
	request.Header.Set("Accept", "text/event-stream")
	resp, err := browser.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("it is %s", resp.Proto)
	}
	connected(t, core, 1)
	post, err := browser.Post("https://"+at+"/x", "text/plain", strings.NewReader("over HTTP/2"))
	if err != nil || post.StatusCode != http.StatusOK || post.ProtoMajor != 2 {
		t.Fatalf("%v, %v", post, err)
	}
	post.Body.Close()
	for lines := bufio.NewScanner(resp.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the message did not come: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), "over HTTP/2") {
			break
		}
	}
}

// A WebSocket over HTTP/2 (RFC 8441) is not offered, and who tries has that stream refused.
func TestNoWebSocketOverHTTP2(t *testing.T) {
	a, core, at := house(t, serveTimeouts())
	conn, err := tls.Dial("tcp", at, a.trust("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	_ = framer.WriteSettings()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", at}, {":path", "/x"}, {"sec-websocket-version", "13"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for refused := false; !refused; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if offered, _ := f.Value(http2.SettingEnableConnectProtocol); offered != 0 {
				t.Error("WebSockets over HTTP/2 are offered")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID != 1 || f.ErrCode != http2.ErrCodeProtocol {
				t.Errorf("it is refused with %v", f)
			}
			refused = true
		case *http2.HeadersFrame, *http2.GoAwayFrame:
			t.Fatalf("it is answered %v", f)
		}
	}
	if n := core.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions have begun", n)
	}
	_ = framer.WritePing(false, [8]byte{1}) // the connection goes on
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

// One who opens streams and resets them at once, 20,000 times, is cut or served,
// and the others are served meanwhile.
func TestRapidReset(t *testing.T) {
	a, _, at := house(t, serveTimeouts())
	conn, err := tls.Dial("tcp", at, a.trust("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(conn)
	framer := http2.NewFramer(out, nil)
	_ = framer.WriteSettings()
	head := readerHead(at)
	attack := make(chan error, 1)
	all.Go(func() {
		for i := range 20_000 {
			id := uint32(2*i + 1)
			if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndStream: true, EndHeaders: true}); err != nil {
				attack <- err
				return
			}
			if err := framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
				attack <- err
				return
			}
		}
		attack <- out.Flush()
	})
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: a.trust()}, Timeout: patience}
	defer web.CloseIdleConnections()
	asked, worst := 0, time.Duration(0)
	for {
		began := time.Now()
		resp, err := web.Get("https://" + at + "/-/healthz")
		if err != nil {
			t.Fatalf("another is not served: %v", err)
		}
		resp.Body.Close()
		asked++
		worst = max(worst, time.Since(began))
		select {
		case err := <-attack:
			t.Logf("others asked %d times, and waited %v at most; the attack ended with %v", asked, worst, err)
			if worst > 2*time.Second {
				t.Errorf("another waited %v", worst)
			}
			return
		default:
		}
	}
}

// readerHead is the head of a request for server-sent events, which may be sent many times.
func readerHead(at string) []byte {
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	encoder.SetMaxDynamicTableSize(0) // else the second would go by what the first said
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", at}, {":path", "/x"}, {"accept", "text/event-stream"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return head.Bytes()
}

// A head in too many pieces, and a large one, end the connection or the request.
func TestContinuationFlood(t *testing.T) {
	a, _, at := house(t, serveTimeouts())
	conn, err := tls.Dial("tcp", at, a.trust("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _, _ = io.Copy(io.Discard, conn) })
	defer conn.Close()
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, nil)
	_ = framer.WriteSettings()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	encoder.SetMaxDynamicTableSize(0)
	_ = encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("~", 12<<10)}) // Huffman makes it longer, so it is not used
	err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes()})
	sent := 0
	for ; err == nil && sent < 10_000; sent++ {
		err = framer.WriteContinuation(1, false, head.Bytes())
	}
	if err == nil {
		t.Errorf("%d continuations were taken, of 12 KiB each", sent)
	}
	t.Logf("cut after %d continuations of 12 KiB: %v", sent, err)
}

// TLS that is torn: stalled, halved, ended early, no TLS at all.
func TestTornTLS(t *testing.T) {
	a, _, at := house(t, timeouts{header: 300 * time.Millisecond, answer: time.Minute})
	hello := clientHello(t)
	var all sync.WaitGroup
	for i := range 400 {
		all.Go(func() {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			switch i % 4 {
			case 0: // nothing at all
			case 1:
				_, _ = conn.Write(hello[:len(hello)/2])
			case 2:
				_, _ = conn.Write(hello)
			case 3:
				_, _ = conn.Write(hello[:5])
				return
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("a handshake that stalls is not ended: %v", err)
			}
		})
	}
	all.Wait()
	shows(t, a, at, 1)

	resp, err := http.Get("http://" + at + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTPS") {
		t.Errorf("plain HTTP is answered %s, %s", resp.Status, body)
	}
	start(t, "publish", "ws://"+at+"/x", "hello").ends(exitConnect, "write wss:// instead of ws://")
}

// clientHello is the first thing that a client says.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() { _ = tls.Client(near, &tls.Config{ServerName: "localhost"}).Handshake() }()
	hello := make([]byte, 16<<10)
	n, err := far.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return hello[:n]
}

// The command line's clients trust an authority that they are told of, and warn
// where they trust everybody.
func TestClientsTrust(t *testing.T) {
	a, _, at := house(t, serveTimeouts())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	written(t, ca, a.pem)
	start(t, "publish", "--ca", ca, "wss://"+at+"/x", "hello").ends(exitFine)
	p := start(t, "publish", "wss://"+at+"/x", "hello")
	p.ends(exitConnect, "--ca FILE")
	start(t, "publish", "--insecure", "wss://"+at+"/x", "hello").ends(exitFine, "warning: --insecure")
	start(t, "publish", "--ca", ca+"x", "wss://"+at+"/x", "hello").ends(exitUsage, "no such file")
}

func TestTLSSettings(t *testing.T) {
	for args, want := range map[string]string{
		"--tls-key k": "--tls-key alone",
		"--tls-cert c --acme-domain a.example.com":         "give one of them",
		"--acme-email a@b.example":                         "need --acme-domain",
		"--http-redirect :0":                               "needs --tls-cert",
		"--proxy-protocol":                                 "--proxy-protocol is spoken by trusted proxies alone, and none is named: add --trusted-proxy",
		"--hsts 1h":                                        "--hsts is for https",
		"--acme-domain 192.0.2.1":                          "it is an address",
		"--acme-domain *.example.com":                      "proof by DNS",
		"--acme-domain localhost":                          "full name",
		"--acme-domain A.example.com":                      "lower case",
		"--acme-domain a.example.com --acme-directory x:y": "a URL of https",
	} {
		start(t, append([]string{"serve", "--listen", "127.0.0.1:0"}, strings.Fields(args)...)...).ends(exitUsage, want)
	}
	start(t, "serve", "--listen", "127.0.0.1:0", "--tls-cert", "nowhere.pem").ends(exitOther, "--tls-cert: open nowhere.pem")
}

// An address that others can reach without TLS is warned of, unless a proxy does it.
func TestOpenWithoutTLS(t *testing.T) {
	_, said, _ := daemon(t, "--listen", "0.0.0.0:0", "--open")
	said.says("warning: others can reach 0.0.0.0:0, and there is no TLS")
	_, said, _ = daemon(t, "--listen", "0.0.0.0:0", "--open", "--behind-proxy")
	if strings.Contains(said.errs.String(), "no TLS") {
		t.Errorf("it said %s", said.errs)
	}
}

func TestToHTTPS(t *testing.T) {
	for _, c := range []struct{ method, host, port, want string }{
		{"GET", "chat.example.com", "443", "https://chat.example.com/a?b=c"},
		{"HEAD", "chat.example.com:80", "8443", "https://chat.example.com:8443/a?b=c"},
		{"GET", "[::1]:80", "443", "https://[::1]/a?b=c"},
		{"POST", "chat.example.com", "443", ""},
		{"GET", "", "443", ""},
	} {
		r := httptest.NewRequest(c.method, "/a?b=c", nil)
		r.Host = c.host
		w := httptest.NewRecorder()
		toHTTPS(c.port).ServeHTTP(w, r)
		if got := w.Header().Get("Location"); got != c.want || (c.want == "") != (w.Code >= 400) {
			t.Errorf("%s %s → %d %s, want %q", c.method, c.host, w.Code, got, c.want)
		}
	}
}
