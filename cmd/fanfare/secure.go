package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// streams bound what one connection of HTTP/2 may take. That headers take 16 KiB at
// most, however many frames they come in, MaxHeaderBytes sees to; that streams
// which are opened and reset at once do not pile up, net/http does by itself.
func streams() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: 250,
		// A reader of whom nothing is heard, as live readers over HTTP/2 are, and
		// one that takes nothing: both must be found dead.
		SendPingTimeout:  25 * time.Second,
		PingTimeout:      10 * time.Second,
		WriteByteTimeout: 20 * time.Second,
	}
}

// secure reports whether the server speaks TLS.
func (s *settings) secure() bool { return s.tlsCert != "" || len(s.acmeDomains) > 0 }

// checkTLS returns an error unless the settings for TLS and for proxies make sense together.
func (s *settings) checkTLS() error {
	switch {
	case s.tlsCert == "" && s.tlsKey != "":
		return usage(errors.New("--tls-key alone makes no TLS: say with --tls-cert where the certificate is"))
	case s.tlsCert != "" && len(s.acmeDomains) > 0:
		return usage(errors.New("--tls-cert and --acme-domain both say where the certificate comes from: give one of them"))
	case len(s.acmeDomains) == 0 && (s.acmeEmail != "" || s.acmeCache != "" || s.acmeDirectory != ""):
		return usage(errors.New("--acme-email, --acme-cache and --acme-directory need --acme-domain: say for which names there is to be a certificate"))
	case s.httpRedirect != "" && !s.secure():
		return usage(errors.New("--http-redirect leads to https, which needs --tls-cert or --acme-domain"))
	case s.hsts > 0 && !s.secure() && !s.behindProxy:
		return usage(errors.New("--hsts is for https, which needs --tls-cert or --acme-domain, or a proxy that does it (--behind-proxy)"))
	case s.proxyProtocol && len(s.proxies) == 0 && !strings.HasPrefix(s.listen, "unix:"):
		return usage(errors.New("--proxy-protocol is spoken by trusted proxies alone, and none is named: add --trusted-proxy with its address"))
	}
	return nil
}

// A lock is how the server speaks TLS.
type lock struct {
	config    *tls.Config
	names     []string                        // by which the server is known
	challenge func(http.Handler) http.Handler // answers what comes over plain HTTP to prove a name; nil: nothing does
	tend      func(context.Context)           // sees to it until the context ends
}

// name is the name under which the server at an address is to be asked for: the
// address, if it is known by that, else the first name.
func (l *lock) name(address string) string {
	if !slices.Contains(l.names, address) {
		for _, name := range l.names {
			if !strings.Contains(name, "*") {
				return name
			}
		}
	}
	return address
}

// tls returns the lock, or nil if the server speaks no TLS.
func (s *service) tls(now *settings) (*lock, error) {
	switch {
	case now.tlsCert != "":
		c, err := openCertificate(now.tlsCert, now.tlsKey, s.log)
		if err != nil {
			return nil, err
		}
		return &lock{
			config: &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12},
			names:  known(c.now.Load().Leaf),
			tend:   func(ctx context.Context) { c.watch(ctx, certificatePoll) },
		}, nil
	case len(now.acmeDomains) > 0:
		return s.acme(now)
	}
	return nil, nil
}

// acme has an authority of ACME (RFC 8555) give certificates, over the server's own
// port (TLS-ALPN-01, RFC 8737) and over that of --http-redirect, if there is one
// (HTTP-01).
func (s *service) acme(now *settings) (*lock, error) {
	cache, err := acmeCache(now.acmeCache)
	if err != nil {
		return nil, err
	}
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS,
		Cache:  autocert.DirCache(cache),
		Email:  now.acmeEmail,
		// Whoever comes names a host. For others than ours nobody is asked.
		HostPolicy: func(_ context.Context, name string) error {
			if host, _, err := net.SplitHostPort(name); err == nil {
				name = host // of a proof by HTTP, where it is what stands in Host
			}
			if !slices.Contains(s.now.Load().acmeDomains, name) {
				return fmt.Errorf("%.100q is not among --acme-domain", name)
			}
			return nil
		},
	}
	if now.acmeDirectory != "" {
		m.Client = &acme.Client{DirectoryURL: now.acmeDirectory}
	}
	config := m.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	give := config.GetCertificate
	var alarm alarm
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := give(hello)
		if err != nil && slices.Contains(s.now.Load().acmeDomains, strings.ToLower(hello.ServerName)) && alarm.ring() {
			s.log.Error("no certificate; the authority must reach this server at the name's port 443, or at port 80 with --http-redirect", "name", hello.ServerName, "error", err)
		}
		return c, err
	}
	return &lock{
		config:    config,
		names:     now.acmeDomains,
		challenge: m.HTTPHandler,
		tend: func(ctx context.Context) {
			s.log.Info("certificates come by ACME", "names", strings.Join(now.acmeDomains, ", "), "authority", cmp.Or(now.acmeDirectory, autocert.DefaultACMEDirectory), "cache", cache)
			for _, name := range now.acmeDomains { // now, and not when the first visitor waits
				if ctx.Err() != nil {
					return
				}
				if c, err := config.GetCertificate(modern(name)); err == nil {
					s.log.Info("a certificate by ACME", "name", name, "expires", day(c.Leaf.NotAfter))
				}
			}
		},
	}, nil
}

// modern is what a client says that speaks what all speak today.
func modern(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{
		ServerName:       name,
		CipherSuites:     []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
	}
}

// acmeCache is the directory for accounts and certificates. It is made, and must be
// writable: authorities give few certificates for one name in a week.
func acmeCache(dir string) (string, error) {
	if dir == "" {
		dir, _, _ = strings.Cut(os.Getenv("STATE_DIRECTORY"), ":") // systemd's
		if dir == "" {
			cache, err := os.UserCacheDir()
			if err != nil {
				return "", fmt.Errorf("--acme-cache: there is no directory of this user's for certificates (%w): name one", err)
			}
			dir = filepath.Join(cache, "fanfare")
		}
		dir = filepath.Join(dir, "acme")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("--acme-cache: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return "", fmt.Errorf("--acme-cache: nothing can be kept there: %w", err)
	}
	probe.Close()
	return dir, os.Remove(probe.Name())
}

// checkDomain is the check of --acme-domain.
func checkDomain(name string) error {
	_, notIP := netip.ParseAddr(name)
	switch {
	case notIP == nil:
		return errors.New("it is an address, and ACME here is for names")
	case strings.Contains(name, "*"):
		return errors.New("a certificate for all names below one needs proof by DNS, which is not done here: name each, or bring a certificate with --tls-cert")
	case name != strings.ToLower(name), strings.ContainsFunc(name, func(r rune) bool { return r > 0x7F }):
		return errors.New("give the name in lower case and ASCII: xn--…")
	case !strings.Contains(strings.Trim(name, "."), "."), strings.HasSuffix(name, "."), checkHost(name) != nil:
		return errors.New("it must be a host's full name alone, as in chat.example.com")
	}
	return nil
}

// checkURL is the check of --acme-directory.
func checkURL(text string) (string, error) {
	if u, err := url.Parse(text); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", errors.New("it must be a URL of https, such as https://ca.example.com/acme/directory")
	}
	return text, nil
}

// tcpAddress reads the address of --http-redirect.
func tcpAddress(text string) (string, error) {
	if _, _, err := net.SplitHostPort(text); err != nil {
		return "", errors.New("it must be host:port, such as 0.0.0.0:80")
	}
	return text, nil
}

// toHTTPS sends whoever comes over plain HTTP to the same place of the server at
// port. Only questions: what was sent in the clear is lost, and its sender
// must notice.
func toHTTPS(port string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			refuseJSON(w, http.StatusForbidden, "https_only", "this is for https only, and what was sent just now went over the network unprotected: change the URL, and any token that was in it")
			return
		case host == "" || strings.ContainsAny(host, "/\\@?# "):
			refuseJSON(w, http.StatusBadRequest, "bad_host", "the request names no host")
			return
		}
		if port != "443" {
			host = net.JoinHostPort(host, port)
		} else if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
		w.WriteHeader(http.StatusPermanentRedirect)
	})
}

// redirect serves --http-redirect until ctx ends, beside the server at addr.
func (s *service) redirect(address string, addr net.Addr, lock *lock, t timeouts) (stop func(), err error) {
	listener, err := listen(address)
	if err != nil {
		return nil, fmt.Errorf("--http-redirect: %w", err)
	}
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		port = "443" // a Unix socket, behind something that listens there
	}
	handler := toHTTPS(port)
	if lock.challenge != nil {
		handler = lock.challenge(handler)
	}
	server := newHTTPServer(handler, s.log, t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("--http-redirect has failed; the server goes on", "error", err)
		}
	}()
	s.log.Info("plain HTTP is sent to https", "address", listener.Addr().String())
	return func() {
		_ = server.Close()
		<-done
	}, nil
}

// strict says to browsers that this host is to be asked over https only, for so
// long (RFC 6797).
func strict(age time.Duration, next http.Handler) http.Handler {
	value := fmt.Sprintf("max-age=%d", int(age.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", value)
		next.ServeHTTP(w, r)
	})
}

// warnOpen says loudly that everything that is said here can be read on the way.
func (s *service) warnOpen(now *settings) {
	const why = "everything, tokens too, goes over the network unprotected: whoever is between can read and change it. " +
		"Give a certificate (--tls-cert, --tls-key) or have one given (--acme-domain), or say with --behind-proxy that a proxy in front does TLS"
	s.std.say("warning: others can reach %s, and there is no TLS: %s", now.listen, why)
	s.log.Warn("others can reach this address, and there is no TLS", "listen", now.listen)
}

// An alarm rings at most once a minute. Any goroutine may ring it.
type alarm struct{ last atomic.Int64 }

func (a *alarm) ring() bool {
	now, last := time.Now().Unix(), a.last.Load()
	return now-last >= 60 && a.last.CompareAndSwap(last, now)
}

// connectionErrors take to a logger what net/http has to say of single connections.
// That a stranger's TLS is torn is no matter for whoever runs the server, and a
// thousand of them would fill his disk.
type connectionErrors struct{ log *slog.Logger }

func (e connectionErrors) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	level := slog.LevelWarn
	if strings.HasPrefix(text, "http: TLS handshake error") || strings.HasPrefix(text, "http2:") {
		level = slog.LevelDebug
	}
	e.log.Log(context.Background(), level, text)
	return len(p), nil
}
