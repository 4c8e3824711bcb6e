package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fanfare"
	"fanfare/internal/descriptors"
)

const (
	maxHeaderBytes = 16 << 10        // of a request; net/http allows 4 KiB more
	idleTimeout    = 2 * time.Minute // between two requests on a kept connection
)

// timeouts bound what a stranger may take of the server before there is a
// WebSocket.
type timeouts struct {
	header time.Duration // for the head of a request
	answer time.Duration // from there to the end of the answer
}

func serveTimeouts() timeouts { return timeouts{header: 10 * time.Second, answer: 2 * time.Minute} }

// newHTTPServer makes a server that no stranger can hold up. The logger gets
// what net/http has to say of single connections.
func newHTTPServer(handler http.Handler, logger *slog.Logger, t timeouts) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: t.header,
		WriteTimeout:      t.answer, // WebSockets are no longer net/http's, so not for them
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

type serveFlags struct {
	listen           string
	open             bool
	grace            time.Duration
	heartbeat        time.Duration
	heartbeatTimeout time.Duration
	maxMessage       size
	origins          []string
	hosts            []string
	history          int
	historyAge       time.Duration
	slowReaders      []string
	maxLag           []string
	logLevel         string
	logFormat        string
}

func serveCommand(std stdio) *cobra.Command {
	f := serveFlags{maxMessage: 1 << 20}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the broadcast server. When it is ready it says so on standard error, with
the URL to open in a browser.

It listens on this machine only. An address that others can reach needs
--open, because nobody is asked who they are: everyone who reaches the port
may read and write every channel. The other way out is a reverse proxy on this
machine that asks; if it passes on the name it was asked for, say that name
with --host, since otherwise only localhost and addresses are answered.

A client that reads too slowly makes nobody wait. When it lags more than
--max-lag behind, --slow-readers says what becomes of it, unless its URL says
?slow=: with catch-up it reads on from history as far as that reaches, with
skip it goes on with the newest message, with latest with the newest for each
key, and with close it is disconnected, with code 1013 and the position to
resume from. It is told how many messages it missed. Where several patterns
fit a channel, the first counts.

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
  fanfare serve --slow-readers 'tick/*=latest'     # who lags there goes on with the newest for each ?key=
  fanfare serve --slow-readers skip --max-lag 64KiB --max-lag 'files/**=16MiB'
  FANFARE_LISTEN=127.0.0.1:9000 fanfare serve`,
		Args: arguments(cobra.NoArgs, "serve takes flags only, such as --listen 127.0.0.1:9000"),
		RunE: func(*cobra.Command, []string) error { return serve(f, std) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8765", "address to listen on: host:port, or unix:/path/to.sock")
	flags.BoolVar(&f.open, "open", false, "allow an address that others can reach, though nobody is asked who they are")
	flags.DurationVar(&f.grace, "grace", 10*time.Second, "how long a shutdown waits for clients to leave")
	flags.DurationVar(&f.heartbeat, "heartbeat", 25*time.Second, "ping a client after so much silence")
	flags.DurationVar(&f.heartbeatTimeout, "heartbeat-timeout", 10*time.Second, "drop a client that did not answer a ping for so long")
	flags.Var(&f.maxMessage, "max-message", "the largest message, over a WebSocket or in a POST")
	flags.Var(&list{&f.origins, ",", nil}, "origin", `let web pages of this origin connect too, "https://app.example.com" or "*.example.com"; repeatable`)
	flags.Var(&list{&f.hosts, ",", checkHost}, "host", `without --open: answer for this name too, as a reverse proxy passes it on, "chat.example.com"; repeatable`)
	flags.IntVar(&f.history, "history", 256, "messages kept for each channel; 0 keeps none")
	flags.DurationVar(&f.historyAge, "history-age", time.Hour, "how long they are kept")
	flags.Var(channelSetting(slowReaders).flag(&f.slowReaders), "slow-readers", `what becomes of a client that lags: catch-up, skip, latest or close; with a pattern for some channels, "tick/*=latest"; repeatable (default catch-up)`)
	flags.Var(channelSetting(maxLag).flag(&f.maxLag), "max-lag", `how far it may lag before that, in bytes of messages; with a pattern for some channels, "tick/*=64KiB"; repeatable (default 1MiB)`)
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	return cmd
}

// config is what the flags mean to fanfare.New. Errors are wrong usage.
func (f *serveFlags) config(std stdio) (fanfare.Config, error) {
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"grace", f.grace}, {"heartbeat", f.heartbeat}, {"heartbeat-timeout", f.heartbeatTimeout}, {"history-age", f.historyAge},
	} {
		if d.value <= 0 {
			return fanfare.Config{}, usage(fmt.Errorf("--%s is %v: it must be longer than nothing", d.flag, d.value))
		}
	}
	if f.history < 0 {
		return fanfare.Config{}, usage(fmt.Errorf("--history is %d: it must be 0 or more", f.history))
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fanfare.Config{}, usage(fmt.Errorf("--log-level is %q: it must be debug, info, warn or error", f.logLevel))
	}
	var handler slog.Handler
	switch options := (&slog.HandlerOptions{Level: level}); f.logFormat {
	case "text":
		handler = slog.NewTextHandler(std.err, options)
	case "json":
		handler = slog.NewJSONHandler(std.err, options)
	default:
		return fanfare.Config{}, usage(fmt.Errorf("--log-format is %q: it must be text or json", f.logFormat))
	}
	history := f.history
	if history == 0 {
		history = -1 // fanfare.Config's zero is its default
	}
	cfg := fanfare.Config{
		Heartbeat:        f.heartbeat,
		HeartbeatTimeout: f.heartbeatTimeout,
		MaxMessage:       int(f.maxMessage),
		Origins:          f.origins,
		History:          history,
		HistoryAge:       f.historyAge,
		Logger:           slog.New(handler),
	}
	channelSetting(slowReaders).apply(f.slowReaders, &cfg)
	channelSetting(maxLag).apply(f.maxLag, &cfg)
	return cfg, nil
}

// serve runs the server until it is told to end by a signal.
func serve(f serveFlags, std stdio) error {
	interrupted, stop := untilInterrupted(func() {
		std.say("shutting down, for at most %v; Ctrl-C again ends at once", f.grace)
	})
	defer stop()
	return serveUntil(interrupted, f, serveTimeouts(), std)
}

// serveUntil runs the server until interrupted ends.
func serveUntil(interrupted context.Context, f serveFlags, t timeouts, std stdio) error {
	cfg, err := f.config(std)
	if err != nil {
		return err
	}
	if !f.open {
		if err := onlyLocal(f.listen); err != nil {
			return err
		}
	}
	listener, err := listen(f.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	srv, err := fanfare.New(cfg)
	if err != nil {
		return usage(errors.New(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "fanfare: "), "Config.")))
	}
	handler := http.Handler(srv)
	if !f.open && !strings.HasPrefix(f.listen, "unix:") {
		handler = onlyHosts(f.hosts, srv)
	}
	server := newHTTPServer(handler, cfg.Logger, t)
	guarded := descriptors.NewListener(listener, server, cfg.Logger)
	if limit := descriptors.Limit(); limit > 0 {
		cfg.Logger.Info("file descriptors", "limit", limit, "connections", descriptors.Room())
	}
	serving, ended := context.WithCancel(context.Background())
	defer ended()
	go giveBack(serving, quietFor)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(guarded) }()
	std.say("ready, open %s", readyURL(listener.Addr()))
	select {
	case err := <-failed:
		return fmt.Errorf("the server failed: %w", err)
	case <-interrupted.Done():
	}

	ctx, cancel := context.WithTimeout(context.Background(), f.grace)
	defer cancel()
	// The port stays open meanwhile, so that newcomers and health checks hear
	// 503 rather than nothing.
	err = srv.Shutdown(ctx)
	if err2 := server.Shutdown(ctx); err == nil {
		err = err2
	}
	if err != nil {
		_ = server.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("not everyone had left after --grace %v; they were cut off", f.grace)
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
		return usage(fmt.Errorf(`%s is %s, and nobody would be asked who they are: everyone who can reach it could read and write every channel. Either keep it to this machine (--listen 127.0.0.1:8765, if need be behind a reverse proxy that asks), or say with --open that you mean it`, address, what))
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
	return usage(fmt.Errorf("--listen is %q: it must be host:port, such as 127.0.0.1:8765, or unix:/path/to.sock", address))
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
		return nil, fmt.Errorf("%s is in use, perhaps by a fanfare that runs already: stop it, or take another port, for example --listen %s", address, freeNear(address))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("you may not listen on %s: ports below 1024 are reserved; take a higher one, for example --listen 127.0.0.1:8765", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: take one that is, for example --listen 127.0.0.1:8765", address)
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
func readyURL(addr net.Addr) string {
	if addr.Network() == "unix" {
		return fmt.Sprintf("http://localhost/ over the socket %s (curl --unix-socket %[1]s http://localhost/)", addr)
	}
	host, port, _ := net.SplitHostPort(addr.String())
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/"
}
