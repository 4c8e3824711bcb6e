package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fanfare"
	"fanfare/internal/descriptors"
)

const (
	idleTimeout = 2 * time.Minute // between two requests on a kept connection
)

// timeouts bound what a stranger may take of the server before there is a
// WebSocket.
type timeouts struct {
	header time.Duration // for the head of a request; 0: what the settings say
	answer time.Duration // from there to the end of the answer
}

func serveTimeouts() timeouts { return timeouts{answer: 2 * time.Minute} }

// newHTTPServer makes a server that no stranger can hold up. The logger gets
// what net/http has to say of single connections.
func newHTTPServer(handler http.Handler, logger *slog.Logger, t timeouts) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: t.header,
		WriteTimeout:      t.answer, // WebSockets are no longer net/http's, so not for them
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    int(defaultLimits().maxHeader), // net/http allows 4 KiB more
		ErrorLog:          log.New(connectionErrors{logger}, "", 0),
		HTTP2:             streams(),
	}
}

func serveCommand(std stdio) *cobra.Command {
	s := service{std: std, given: defaultSettings()}
	check := false
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the broadcast server. When it is ready it says so on standard error, with
the URL to open in a browser.

It listens on this machine only, and asks nobody who they are: everyone who
reaches the port may read and write every channel. An address that others can
reach needs --open therefore, or somebody who is asked: --auth-keys, a file of
keys that fanfare token makes; --auth-jwt-secret-file or --auth-jwks, for JSON
Web Tokens; or all that the section auth of the configuration file can say, with
rules of who may do what. Who has a token may then do what it says, or
everything, and everybody else nothing. The other way out is a reverse proxy on this
machine that asks; if it passes on the name it was asked for, say that name
with --host, since otherwise only localhost and addresses are answered as long
as a client without a token may do something.

A client that reads too slowly makes nobody wait. When it lags more than
--max-lag behind, --slow-readers says what becomes of it, unless its URL says
?slow=: with catch-up it reads on from history as far as that reaches, with
skip it goes on with the newest message, with latest with the newest for each
key, and with close it is disconnected, with code 1013 and the position to
resume from. It is told how many messages it missed.

History and slow readers can be set for some channels, by pattern. Where
several patterns fit a channel, the first that says a setting counts for it.

--config names a file, in YAML, with any of these settings under the same
names, and with a list of channels:

  history: 1000
  origin: [https://app.example.com, "*.example.org"]
  channels:
    - pattern: tick/*
      slow-readers: latest
      max-lag: 64KiB

Flags and the environment win over it. On SIGHUP it is read again: what can
change while the server runs does so, for everyone who is there, and the log
says what did and what needs a new start. A file with a mistake is refused with its
line, and the settings stay as they are. --check only reads it, and says what
is wrong.

On Linux event loops serve the connections over TCP; over Unix sockets, and on
other systems, each has goroutines of its own. With FANFARE_TRANSPORT=stream in
the environment all have: to find out whether the loops are to blame for
something.

SIGINT (Ctrl-C) and SIGTERM end it kindly: newcomers get 503, everyone
connected is told 1001 and has --grace to leave. A second signal ends it at
once, with exit code 1.`,
		Example: `  fanfare serve
  fanfare serve --listen 127.0.0.1:0               # any free port; the ready line names it
  fanfare serve --listen unix:/run/fanfare.sock    # behind a reverse proxy
  fanfare serve --listen 0.0.0.0:8765 --open       # for everyone who can reach it
  fanfare serve --listen 0.0.0.0:8765 --auth-keys keys     # for who has a key: fanfare token --help
  fanfare serve --listen 0.0.0.0:443 --auth-keys keys --tls-cert cert.pem --tls-key key.pem
  fanfare serve --slow-readers 'tick/*=latest'     # who lags there goes on with the newest for each ?key=
  fanfare serve --history 100 --history 'chat/**=10000' --history-age 'chat/**=168h'
  fanfare serve --config fanfare.yaml              # then kill -HUP to have it read again
  fanfare serve --config fanfare.yaml --check
  FANFARE_LISTEN=127.0.0.1:9000 fanfare serve`,
		Args: arguments(cobra.NoArgs, "serve takes flags only, such as --listen 127.0.0.1:9000"),
		RunE: func(*cobra.Command, []string) error {
			switch {
			case !check:
				return s.serve()
			case s.config == "":
				return usage(errors.New("--check reads a configuration file: say which with --config"))
			}
			now, err := s.settings()
			if err == nil && now.tlsCert != "" {
				_, err = loadPair(now.tlsCert, cmp.Or(now.tlsKey, now.tlsCert))
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(std.out, "%s: ok\n", s.config)
			return nil
		},
	}
	flags := cmd.Flags()
	s.flags = s.given.flags()
	flags.AddFlagSet(s.flags)
	flags.StringVar(&s.config, "config", "", "a file, in YAML, with settings for what neither flags nor the environment say; read again on SIGHUP")
	flags.BoolVar(&check, "check", false, "only read the file, say what is wrong with it, and exit")
	return cmd
}

// A service is `fanfare serve`.
type service struct {
	// static once it serves
	std    stdio
	given  *settings      // from flags and the environment, else the defaults
	flags  *pflag.FlagSet // given's
	config string         // the configuration file's name; empty: none
	log    *slog.Logger
	server *fanfare.Server
	asks   *asker // nil: nobody is asked who clients are; reload replaces it

	level slog.LevelVar
	now   atomic.Pointer[settings] // what counts; reload replaces it
}

// settings reads the configuration file, if there is one.
func (s *service) settings() (*settings, error) {
	now := s.given
	if s.config != "" {
		var err error
		if now, err = withFile(s.config, s.given, s.flags.Changed); err != nil {
			return nil, err
		}
	}
	if err := now.auth.resolve(); err != nil {
		return nil, err
	}
	if err := now.checkTLS(); err != nil {
		return nil, err
	}
	if err := now.onlyOperators(); err != nil {
		return nil, err
	}
	if !now.open && !now.auth.on() {
		if err := onlyLocal(now.listen); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// reload reads the configuration file anew, and has the server go on with what it
// says now.
func (s *service) reload() {
	next, err := s.settings()
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			s.log.Error("the settings stay as they are", "error", strings.TrimSpace(line)) // TrimSpace: the line break
		}
		return
	}
	was := s.now.Load()
	before, after := was.flags(), next.flags()
	for _, name := range atStart {
		then, wanted := before.Lookup(name).Value.String(), after.Lookup(name)
		if wanted.Value.String() != then {
			s.log.Warn("a setting takes effect at the next start", "setting", name, "now", then, "then", wanted.Value.String())
			_ = wanted.Value.Set(then) // it is one already
		}
	}
	if was.auth.on() != next.auth.on() {
		s.log.Warn("a setting takes effect at the next start", "setting", "auth")
		next.auth = was.auth
	}
	if acme := len(was.acmeDomains) > 0; acme != (len(next.acmeDomains) > 0) {
		s.log.Warn("a setting takes effect at the next start", "setting", "acme-domain", "now", strings.Join(was.acmeDomains, ","), "then", strings.Join(next.acmeDomains, ","))
		next.acmeDomains = was.acmeDomains
	}
	cfg := next.config()
	cfg.Logger = s.log
	asks := s.asks
	if asks != nil {
		if !asks.serves(&next.auth) {
			if asks, err = next.auth.ask(s.log); err != nil {
				s.log.Error("the settings stay as they are", "error", err)
				return
			}
		}
		cfg.Auth = asks.config(&next.auth)
	}
	if err := s.server.Reload(cfg); err != nil {
		s.log.Error("the settings stay as they are", "error", err)
		if asks != s.asks {
			asks.end()
		}
		return
	}
	if asks != s.asks {
		s.asks.end()
		asks.guard(s.server, s.asks, s.log)
		s.asks = asks
	}
	s.now.Store(next)
	s.level.Set(min(was.logs(), next.logs(), slog.LevelInfo)) // this is said in any case
	s.log.Info("read the configuration again", "file", s.config, "changed", changes(was.facts(), next.facts()))
	s.level.Set(next.logs())
}

// serve runs the server until it is told to end by a signal.
func (s *service) serve() error {
	interrupted, stop := untilInterrupted(func() {
		s.std.say("shutting down, for at most %v; Ctrl-C again ends at once", s.now.Load().grace)
	})
	defer stop()
	return s.serveUntil(interrupted, serveTimeouts())
}

// serveUntil runs the server until interrupted ends.
func (s *service) serveUntil(interrupted context.Context, t timeouts) error {
	hangups := make(chan os.Signal, 1)
	if s.config != "" { // else a terminal that hangs up ends us, as is usual
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
	}
	now, err := s.settings()
	if err != nil {
		return err
	}
	s.now.Store(now)
	s.level.Set(now.logs())
	s.log = now.logger(s.std.err, &s.level)
	lock, err := s.tls(now)
	if err != nil {
		return err
	}
	listener, err := listen(now.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	cfg := now.config()
	cfg.Logger = s.log
	if now.auth.on() {
		if s.asks, err = now.auth.ask(s.log); err != nil {
			return usage(err)
		}
		defer func() { s.asks.end() }()
		cfg.Auth = s.asks.config(&now.auth)
	}
	if s.server, err = fanfare.New(cfg); err != nil {
		return usage(errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "fanfare: "), "Config.")))
	}
	if s.asks != nil {
		s.asks.guard(s.server, nil, s.log)
	}
	handler := http.Handler(s.server)
	public := onlyLocal(now.listen) != nil
	if public && lock == nil && !now.behindProxy {
		s.warnOpen(now)
	}
	if lock == nil && !now.open && !strings.HasPrefix(now.listen, "unix:") { // over TLS a browser compares the name with the certificate's
		handler = onlyHosts(func() ([]string, bool) {
			now := s.now.Load()
			return now.hosts, public || !now.auth.anonymous()
		}, s.server)
	}
	if now.hsts > 0 {
		handler = strict(now.hsts, handler)
	}
	t.header = cmp.Or(t.header, now.handshakeTimeout)
	server := newHTTPServer(handler, s.log, t)
	server.MaxHeaderBytes = int(now.maxHeader)
	if now.proxyProtocol {
		listener = behindProxies(listener, func() []netip.Prefix { return s.now.Load().networks() }, t.header, s.log)
	}
	guarded := descriptors.NewListener(listener, server, s.log)
	if limit := descriptors.Limit(); limit > 0 {
		s.log.Info("file descriptors", "limit", limit, "connections", descriptors.Room())
	}
	serving, ended := context.WithCancel(context.Background())
	defer ended()
	go giveBack(serving, quietFor)
	failed := make(chan error, 1)
	if lock != nil {
		server.TLSConfig = lock.config
		go func() { failed <- server.ServeTLS(guarded, "", "") }()
	} else {
		go func() { failed <- server.Serve(guarded) }()
	}
	if now.httpRedirect != "" {
		stop, err := s.redirect(now.httpRedirect, listener.Addr(), lock, t)
		if err != nil {
			return errors.Join(err, s.server.Shutdown(context.Background()), server.Close())
		}
		defer stop()
	}
	if lock != nil {
		go lock.tend(serving) // not before a proof by HTTP can be answered
	}
	ready := "ready, open " + readyURL(listener.Addr(), lock)
	if now.adminListen != "" {
		at, stop, err := s.administer(now.adminListen, t)
		if err != nil {
			return errors.Join(err, s.server.Shutdown(context.Background()), server.Close())
		}
		defer stop() // behind the shutdown, which can be watched so
		ready += ", for operators " + readyURL(at, nil)
	}
	s.std.say("%s", ready)
	for running := true; running; {
		select {
		case err := <-failed:
			return fmt.Errorf("the server failed: %w", err)
		case <-hangups:
			s.reload()
		case <-interrupted.Done():
			running = false
		}
	}

	grace := s.now.Load().grace
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// The port stays open meanwhile, so that newcomers and health checks hear
	// 503 rather than nothing.
	err = s.server.Shutdown(ctx)
	if err2 := server.Shutdown(ctx); err == nil {
		err = err2
	}
	if err != nil {
		_ = server.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("not everyone had left after --grace %v; they were cut off", grace)
		}
		return fmt.Errorf("shutting down: %w", err)
	}
	return nil
}

// onlyLocal returns an error unless address can be reached from this machine
// only.
func onlyLocal(address string) error {
	if strings.HasPrefix(address, "unix:") {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return badAddress(address)
	}
	refuse := func(what string) error {
		return usage(fmt.Errorf(`%s is %s, and nobody would be asked who they are: everyone who can reach it could read and write every channel. Either say who is asked (--auth-keys, --auth-jwt-secret-file, --auth-jwks, or auth in the configuration file), or keep it to this machine (--listen 127.0.0.1:8765, if need be behind a reverse proxy that asks), or say with --open that you mean it`, address, what))
	}
	if host == "" {
		return refuse("every address of this machine")
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return fmt.Errorf("--listen: no address is known for %s (%v): give an IP address, such as 127.0.0.1", host, err)
		}
	}
	for _, ip := range ips {
		switch ip = ip.Unmap(); {
		case ip.IsUnspecified():
			return refuse("every address of this machine")
		case !ip.IsLoopback():
			return refuse("an address that others may reach")
		}
	}
	return nil
}

func badAddress(address string) error {
	return usage(fmt.Errorf("--listen is %q: %w", address, errBadAddress))
}

// listen opens the address, which is host:port or unix:path.
func listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(path)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, badAddress(address)
	}
	// Heartbeats find out who is gone, and timeouts before there are any, so
	// the system's own probes, four settings for each connection, are not needed.
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", address)
	var unknown *net.AddrError
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use, perhaps by a fanfare that runs already: stop it, or take another port, for example %s", address, freeNear(address))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("you may not listen on %s: ports below 1024 are reserved; take a higher one, for example 127.0.0.1:8765, or give the program that right (CAP_NET_BIND_SERVICE)", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: take one that is, for example 127.0.0.1:8765", address)
	case errors.As(err, &unknown):
		return nil, badAddress(address)
	}
	return nil, fmt.Errorf("--listen %s: %w", address, err)
}

// freeNear is address with the next port up that is free, or with port 0.
func freeNear(address string) string {
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	for i := 1; i <= 20 && n > 0 && n+i <= 65535; i++ {
		near := net.JoinHostPort(host, strconv.Itoa(n+i))
		if l, err := net.Listen("tcp", near); err == nil {
			l.Close()
			return near
		}
	}
	return net.JoinHostPort(host, "0")
}

// listenUnix opens a Unix socket. One that a dead process left behind is
// removed.
func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, badAddress("unix:")
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		conn, dialErr := net.DialTimeout("unix", path, time.Second)
		switch {
		case dialErr == nil:
			conn.Close()
			return nil, fmt.Errorf("somebody listens on %s already: stop it, or take another path", path)
		case errors.Is(dialErr, syscall.ECONNREFUSED):
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("%s was left behind, and cannot be removed: %w", path, err)
			}
			l, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("--listen unix:%s: %w", path, err)
	}
	return l, nil
}

// readyURL is where a browser on this machine finds the server.
func readyURL(addr net.Addr, lock *lock) string {
	scheme, insecure := "http", ""
	if lock != nil {
		scheme, insecure = "https", "-k "
	}
	if addr.Network() == "unix" {
		return fmt.Sprintf("%s://localhost/ over the socket %s (curl %s--unix-socket %[2]s %[1]s://localhost/)", scheme, addr, insecure)
	}
	host, port, _ := net.SplitHostPort(addr.String())
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if lock != nil {
		host = lock.name(host)
		if port == "443" {
			return "https://" + host + "/"
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port) + "/"
}
