package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fanfare"
	"fanfare/client"
	"fanfare/protocol"
	"fanfare/websocket"
)

// dialFlags are the flags of every client: where to, and as whom.
type dialFlags struct {
	headers      []string
	subprotocols []string
	origin       string
	insecure     bool
	authorities  authorities
	name         string
	token        secret
	tokenFile    string
	maxMessage   size
	channels     []string

	// Of those that listen.
	since    string
	slow     string
	history  int
	presence bool

	// Of those that only speak.
	key, id string

	// For tests.
	times websocket.DialOptions // how long things may take
	pause backoff
}

func (f *dialFlags) register(cmd *cobra.Command) {
	f.maxMessage = 1 << 20
	flags := cmd.Flags()
	flags.VarP(&list{&f.headers, "\n", checkHeader}, "header", "H", `send a header with the handshake, "Name: value"; repeatable`)
	flags.Var(&list{&f.subprotocols, ",", checkToken}, "subprotocol", "offer a subprotocol, the best first; repeatable")
	flags.StringVar(&f.origin, "origin", "", "send this Origin, as a browser would")
	flags.BoolVar(&f.insecure, "insecure", false, "do not verify the server's certificate: whoever is between can read and write everything")
	flags.Var(&f.authorities, "ca", "trust certificates of the authorities in this file (PEM) too")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) {
		if f.insecure {
			cmd.PrintErrln("fanfare: warning: --insecure: the server may be anybody, and whoever is between can read and write everything; --ca FILE trusts an authority of your own")
		}
	}
	flags.StringVar(&f.name, "name", "", "the name to speak under (?name= in the URL); a server that wants a token takes it from there")
	f.registerToken(cmd)
	flags.Var(&f.maxMessage, "max-message", "the largest message sent or accepted")
	flags.Var(&list{&f.channels, ",", checkName}, "channel", `a channel of a Fanfare server, besides the URL's if that names one; repeatable`)
}

// registerListening adds the flags of the commands that listen.
func (f *dialFlags) registerListening(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Lookup("channel").Usage = `a channel of a Fanfare server, or a pattern such as "sensors/*/temperature" or "chat/**", besides the URL's channel if that names one; repeatable`
	flags.StringVar(&f.since, "since", "", "first replay what came after this position (?since= in the URL)")
	flags.Var(&value[int]{&f.history, "int", from(1)}, "history", "first show so many of each channel's newest messages, 1000 at most")
	flags.BoolVar(&f.presence, "presence", false, "tell who is there, who comes and who goes")
	flags.StringVar(&f.slow, "slow", "", "what the server is to do if this reads too slowly: catch-up, skip, latest or close (?slow= in the URL; default: what the server says)")
}

// authorities is a flag for a file of certificates that are trusted besides the
// system's.
type authorities struct {
	file string
	pool *x509.CertPool // nil: the system's alone
}

func (a *authorities) Type() string   { return "file" }
func (a *authorities) String() string { return a.file }
func (a *authorities) Set(file string) error {
	text, err := os.ReadFile(file) // #nosec G304: who starts the program names it
	if err != nil {
		return err
	}
	if a.pool, err = x509.SystemCertPool(); err != nil {
		a.pool = x509.NewCertPool()
	}
	if !a.pool.AppendCertsFromPEM(text) {
		return errors.New(`it holds no certificate in PEM, which begins with "-----BEGIN CERTIFICATE-----"`)
	}
	a.file = file
	return nil
}

// checkName checks a channel's name or a pattern.
func checkName(name string) error {
	if isPattern(name) {
		return fanfare.CheckPattern(name)
	}
	return fanfare.CheckChannel(name)
}

func isPattern(name string) bool { return strings.Contains(name, "*") }

func checkHeader(s string) error {
	name, value, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return errors.New(`a header is written "Name: value"`)
	case reserved(name):
		return fmt.Errorf("the header %s belongs to the handshake and cannot be set; for Sec-WebSocket-Protocol there is --subprotocol", name)
	case !isToken(name):
		return fmt.Errorf("%q is not a header's name", name)
	case strings.ContainsFunc(strings.TrimSpace(value), func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7F }):
		return fmt.Errorf("the value of the header %s has a character that headers must not have", name)
	}
	return nil
}

// reserved reports whether a header is the handshake's own (RFC 6455, section
// 4.1).
func reserved(name string) bool {
	name = strings.ToLower(name)
	return name == "connection" || name == "upgrade" || strings.HasPrefix(name, "sec-websocket-")
}

func checkToken(s string) error {
	if !isToken(s) {
		return fmt.Errorf("%q is not a subprotocol: it must be one word without separators", s)
	}
	return nil
}

// isToken reports whether s is a token of HTTP (RFC 9110, section 5.6.2): what
// names a header, and a subprotocol (RFC 6455, section 4.1).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7F || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// target is the URL of an argument with what the flags put into it. What it says
// itself and no flag does is the flags' from then on.
func (f *dialFlags) target(arg string) (*url.URL, error) {
	for i, s := range f.subprotocols { // RFC 6455, section 4.1, item 10: each one once
		if slices.Contains(f.subprotocols[:i], s) {
			return nil, usage(fmt.Errorf("the subprotocol %q is there twice", s))
		}
	}
	u, err := parseTarget(arg)
	if err != nil {
		return nil, usage(err)
	}
	q := u.Query()
	for setting, value := range map[string]*string{"name": &f.name, "slow": &f.slow, "since": &f.since, "key": &f.key} {
		if *value == "" {
			*value = q.Get(setting)
		} else {
			q.Set(setting, *value)
			u.RawQuery = q.Encode()
		}
	}
	if f.slow != "" {
		if _, err := fanfare.ParsePolicy(f.slow); err != nil {
			return nil, usage(fmt.Errorf("--slow: %w", err))
		}
	}
	if give := f.tokens(); give != nil {
		if _, err := give(context.Background()); err != nil {
			return nil, usage(err)
		}
		if err := checkSecret(string(f.token)); err != nil {
			return nil, usage(fmt.Errorf("--token: %w", err))
		}
	}
	switch {
	case f.history > 1000:
		return nil, usage(fmt.Errorf("--history is %d: it may be 1000 at most", f.history))
	case f.history > 0 && f.since != "":
		return nil, usage(errors.New("--history and --since both say where to begin: give one of them"))
	case len(f.subprotocols) > 0 && f.ours() != "":
		return nil, usage(fmt.Errorf("%s needs %s, which is offered if no --subprotocol is: with one, what is typed goes out as it is", f.ours(), protocol.Subprotocol))
	}
	return u, nil
}

// ours is what can be asked of Fanfare servers only, and was; empty: nothing.
func (f *dialFlags) ours() string {
	switch {
	case len(f.channels) > 0:
		return "--channel"
	case f.presence:
		return "--presence"
	case f.history > 0:
		return "--history"
	case f.id != "":
		return "--id"
	}
	return ""
}

// options are what the flags mean to websocket.Dial.
func (f *dialFlags) options() websocket.DialOptions {
	o := f.times
	o.Header = http.Header{}
	o.Subprotocols = f.subprotocols
	o.Origin = f.origin
	o.Limit = int64(f.maxMessage)
	for _, h := range f.headers {
		name, value, _ := strings.Cut(h, ":")
		o.Header.Add(name, strings.TrimSpace(value))
	}
	if give := f.tokens(); give != nil {
		if token, err := give(context.Background()); err == nil {
			o.Header.Set("Authorization", "Bearer "+token)
		}
	}
	if f.insecure || f.authorities.pool != nil {
		o.TLSConfig = &tls.Config{RootCAs: f.authorities.pool, InsecureSkipVerify: f.insecure} // #nosec G402: what --insecure is for
	}
	return o
}

// A server is one that answered: a Fanfare server, or another.
type server struct {
	client *client.Client // nil: it is another
	home   string         // the client's: the channel that the URL names
	conn   *websocket.Conn
	again  *url.URL // the other's, without where to begin reading the first time
}

// meet connects to the server at u, and finds out whether it is a Fanfare server.
// If patient, it tries until there is a connection, or there never will be. It tells
// how that goes. The error has its exit code.
func (f *dialFlags) meet(ctx context.Context, u *url.URL, patient bool, tell func(linkState)) (*server, error) {
	pause := f.pause
	for {
		tell(linkState{})
		s, answer, err := f.tryToMeet(ctx, u)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, &exitError{exitConnect, fmt.Errorf("no connection to %s came about: %w", visible(u), context.Cause(ctx))}
		}
		failure := explainDial(u, answer, err)
		if failure.final || !patient {
			return nil, &exitError{exitConnect, failure}
		}
		wait := max(pause.next(), failure.retryAfter)
		tell(linkState{wait: wait, reason: failure.Error()})
		sleep(ctx, wait)
	}
}

// tryToMeet is one attempt. A Fanfare server agrees to fanfare.v1, and is asked
// first at its place for that. What has no such place is spoken to plainly where the
// user said. If that is a Fanfare server after all, which its answer shows, it is
// mounted somewhere below the root.
func (f *dialFlags) tryToMeet(ctx context.Context, u *url.URL) (*server, *http.Response, error) {
	options := f.options()
	if len(f.subprotocols) == 0 {
		root := *u
		if len(f.channels) == 0 { // otherwise a slash at the end says that this is no channel
			root.Path = strings.TrimRight(u.Path, "/")
		}
		c, err := f.dialClient(ctx, &root)
		if err == nil {
			return &server{client: c, home: c.Channel()}, nil, nil
		}
		if isTimeout(err) || ctx.Err() != nil {
			return nil, nil, err
		}
		var said *client.Error
		if errors.As(err, &said) && advice(said.Code) != "" { // a Fanfare server, which knows what it does not want
			return nil, nil, &dialFailure{text: explainLoss(u, err), cause: err, final: true}
		}
	}
	conn, answer, err := websocket.Dial(ctx, u.String(), &options)
	if err != nil {
		return nil, answer, err
	}
	if len(f.subprotocols) == 0 && answer.Header.Get("Fanfare-Position") != "" {
		_ = conn.Close(ctx, websocket.NormalClosure, "")
		root, home, err := f.mount(ctx, u)
		if err != nil {
			return nil, nil, err
		}
		c, err := f.dialClient(ctx, root)
		return &server{client: c, home: home}, nil, err
	}
	if flag := f.ours(); flag != "" {
		_ = conn.Close(ctx, websocket.NormalClosure, "")
		return nil, nil, &dialFailure{final: true, text: fmt.Sprintf("%s is for Fanfare servers, and %s does not speak %s here", flag, visible(u), protocol.Subprotocol)}
	}
	again := *u
	if q := u.Query(); q.Has("since") {
		q.Del("since")
		again.RawQuery = q.Encode()
	}
	return &server{conn: conn, again: &again}, nil, nil
}

// mount returns where a Fanfare server is mounted, and which channel u names there:
// so much of u as its welcome does not say.
func (f *dialFlags) mount(ctx context.Context, u *url.URL) (root *url.URL, home string, err error) {
	options := f.options()
	options.Subprotocols = []string{protocol.Subprotocol}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, u.String(), &options)
	if err != nil {
		return nil, "", err
	}
	defer conn.CloseNow()
	_, text, err := conn.Read(ctx)
	if err != nil {
		return nil, "", err
	}
	_ = conn.Close(ctx, websocket.NormalClosure, "")
	welcome, err := protocol.ParseEvent(text)
	at := *u
	at.Path = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), welcome.Channel), "/") + "/"
	return &at, welcome.Channel, err
}

// dialClient connects to a Fanfare server. What the query says of reading is for
// subscriptions, and not for the connection.
func (f *dialFlags) dialClient(ctx context.Context, u *url.URL) (*client.Client, error) {
	at := *u
	q := at.Query()
	q.Del("since")
	q.Del("slow")
	if f.id != "" && !q.Has("client") {
		// Another run with the same id is to be known as the same sender.
		q.Set("client", fmt.Sprintf("%x", sha256.Sum256([]byte("fanfare publish --id "+f.id)))[:32])
	}
	at.RawQuery = q.Encode()
	options := client.Options{
		WebSocket: f.options(), Name: f.name, Token: f.tokens(),
		LeastPause: backoffFirst, MostPause: backoffMost, CloseTimeout: leaving,
	}
	// A message in JSON is longer than what it says, and a page of history is one too.
	options.WebSocket.Limit = max(16<<20, 8*options.WebSocket.Limit)
	return client.Dial(ctx, at.String(), &options)
}

// names are the channels and patterns that are meant at a Fanfare server:
// --channel, and before it the URL's, if that names one or there is no other.
func (f *dialFlags) names(u *url.URL, home string) []string {
	_, path, _ := strings.Cut(u.Path, ":")
	if !strings.HasSuffix(u.Scheme, "+unix") {
		path = u.Path
	}
	if len(f.channels) > 0 && (path == "" || strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/-/connect")) || slices.Contains(f.channels, home) {
		return f.channels
	}
	return append([]string{home}, f.channels...)
}
