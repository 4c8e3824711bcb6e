package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fanfare"
	"fanfare/internal/handshake"
)

// settings are what `fanfare serve` can be told: by a flag, by the environment,
// and under the same name by the configuration file.
type settings struct {
	listen           string
	open             bool
	grace            time.Duration
	heartbeat        time.Duration
	heartbeatTimeout time.Duration
	maxMessage       size
	compression      bool
	compressOver     size
	maxSubscriptions int
	idWindow         time.Duration
	origins          []string
	hosts            []string
	adminListen      string // empty: nowhere
	adminOpen        bool
	tlsCert, tlsKey  string
	acmeDomains      []string
	acmeEmail        string
	acmeCache        string
	acmeDirectory    string
	httpRedirect     string
	behindProxy      bool
	hsts             time.Duration
	channels         []fanfare.ChannelConfig // the first that says a setting counts; an empty pattern: for all channels
	logLevel         string
	logFormat        string
	auth             authSettings
	limitSettings
}

func defaultSettings() *settings {
	return &settings{
		listen:           "127.0.0.1:8765",
		grace:            10 * time.Second,
		heartbeat:        25 * time.Second,
		heartbeatTimeout: 10 * time.Second,
		maxMessage:       1 << 20,
		compression:      true,
		compressOver:     256,
		maxSubscriptions: 1000,
		idWindow:         5 * time.Minute,
		logLevel:         "info",
		logFormat:        "text",
		limitSettings:    defaultLimits(),
	}
}

// atStart are the settings of which others than those at its start do not reach a
// program that runs. They have one value each.
var atStart = []string{
	"acme-cache", "acme-directory", "acme-email", "admin-listen", "admin-open", "behind-proxy", "compress-over", "compression", "handshake-timeout", "heartbeat",
	"heartbeat-timeout", "hsts", "http-redirect", "id-window", "listen", "log-format", "max-header", "max-message", "open", "proxy-protocol", "tls-cert", "tls-key",
}

// flags returns flags that set s, whose present values are their defaults.
func (s *settings) flags() *pflag.FlagSet {
	flags := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	flags.Var(&value[string]{&s.listen, "string", listenAddress}, "listen", "address to listen on: host:port, or unix:/path/to.sock")
	flags.Var(&value[bool]{&s.open, "bool", yesOrNo}, "open", "allow an address that others can reach, though nobody is asked who they are")
	flags.Lookup("open").NoOptDefVal = "true"
	flags.Var(&value[time.Duration]{&s.grace, "duration", duration}, "grace", "how long a shutdown waits for clients to leave")
	flags.Var(&value[time.Duration]{&s.heartbeat, "duration", duration}, "heartbeat", "ping a client after so much silence")
	flags.Var(&value[time.Duration]{&s.heartbeatTimeout, "duration", duration}, "heartbeat-timeout", "drop a client that did not answer a ping for so long")
	flags.Var(&s.maxMessage, "max-message", "the largest message, over a WebSocket or in a POST")
	flags.Var(&value[bool]{&s.compression, "bool", yesOrNo}, "compression", "compress messages for WebSocket clients that offer it")
	flags.Lookup("compression").NoOptDefVal = "true"
	flags.Var(&s.compressOver, "compress-over", "compress messages of this size and more; 1: all")
	flags.Var(&value[int]{&s.maxSubscriptions, "int", from(1)}, "max-subscriptions", "how many channels and patterns one connection may read")
	flags.Var(&value[time.Duration]{&s.idWindow, "duration", duration}, "id-window", "for how long a message that is published again with the same id is known again")
	flags.Var(&list{&s.origins, ",", func(s string) error { return handshake.CheckOrigins([]string{s}) }}, "origin", `let web pages of this origin connect too, "https://app.example.com" or "*.example.com"; repeatable`)
	flags.Var(&value[string]{&s.adminListen, "string", adminAddress}, "admin-listen", "also serve the operators' pages, /-/metrics and more, without asking who comes, on this address: 127.0.0.1:8766, or unix:/path/to.sock")
	flags.Var(&value[bool]{&s.adminOpen, "bool", yesOrNo}, "admin-open", "allow an --admin-listen that others can reach, since only operators do")
	flags.Lookup("admin-open").NoOptDefVal = "true"
	flags.Var(&list{&s.hosts, ",", checkHost}, "host", `without --open: answer for this name too, as a reverse proxy passes it on, "chat.example.com"; repeatable`)
	flags.StringVar(&s.tlsCert, "tls-cert", s.tlsCert, "speak TLS with the certificate in this file (PEM), which has those that lead to the root behind it; read again when it changes")
	flags.StringVar(&s.tlsKey, "tls-key", s.tlsKey, "the file of the private key for --tls-cert (PEM); default: in the same file")
	flags.Var(&list{&s.acmeDomains, ",", checkDomain}, "acme-domain", `speak TLS with a certificate for this name that Let's Encrypt gives, "chat.example.com", and agree to its terms; repeatable`)
	flags.StringVar(&s.acmeEmail, "acme-email", s.acmeEmail, "where the authority can reach you")
	flags.StringVar(&s.acmeCache, "acme-cache", s.acmeCache, "directory for certificates from ACME; default: fanfare/acme among the user's caches")
	flags.Var(&value[string]{&s.acmeDirectory, "URL", checkURL}, "acme-directory", "another authority than Let's Encrypt, by the URL of its ACME directory")
	flags.Var(&value[string]{&s.httpRedirect, "string", tcpAddress}, "http-redirect", `listen here too, "0.0.0.0:80", to send plain HTTP to https, and for ACME's proof by HTTP`)
	flags.Var(&value[time.Duration]{&s.hsts, "duration", duration}, "hsts", "have browsers ask this host over https only, on all its ports, for so long")
	flags.Var(&value[bool]{&s.behindProxy, "bool", yesOrNo}, "behind-proxy", "a proxy in front does TLS: no warning that there is none here")
	flags.Lookup("behind-proxy").NoOptDefVal = "true"
	for _, c := range channelSettings {
		flags.Var(&byChannel{c, &s.channels}, c.name, fmt.Sprintf(`%s; with a pattern for some channels, "%s"; repeatable`, c.usage, c.example))
	}
	flags.Var(&value[string]{&s.logLevel, "string", oneOf("debug", "info", "warn", "error")}, "log-level", "debug, info, warn or error")
	flags.Var(&value[string]{&s.logFormat, "string", oneOf("text", "json")}, "log-format", "text or json")
	s.auth.flags(flags)
	s.limitSettings.flags(flags)
	return flags
}

// config is what the settings mean to fanfare.New, but for the logger
// and for who is asked who clients are.
func (s *settings) config() fanfare.Config {
	cfg := fanfare.Config{
		Heartbeat:        s.heartbeat,
		HeartbeatTimeout: s.heartbeatTimeout,
		MaxMessage:       int(s.maxMessage),
		Compression:      fanfare.Compression{Off: !s.compression, Over: int(s.compressOver)},
		MaxSubscriptions: s.maxSubscriptions,
		IDWindow:         s.idWindow,
		Origins:          s.origins,
		AdminHosts:       s.hosts,
		Limits:           s.limits,
		Proxies:          s.networks(),
	}
	for _, c := range s.channels {
		if c.Pattern != "" {
			cfg.Channels = append(cfg.Channels, c)
			continue
		}
		cfg.History = cmp.Or(cfg.History, c.History)
		cfg.HistoryAge = cmp.Or(cfg.HistoryAge, c.HistoryAge)
		cfg.HistoryBytes = cmp.Or(cfg.HistoryBytes, c.HistoryBytes)
		cfg.SlowReaders = cmp.Or(cfg.SlowReaders, c.SlowReaders)
		cfg.MaxLag = cmp.Or(cfg.MaxLag, c.MaxLag)
		cfg.Limits.ChannelMessages = cmp.Or(cfg.Limits.ChannelMessages, c.Messages)
	}
	return cfg
}

// facts are the settings by name, as they stand in a log. What is said for some
// channels has the name "history of chat/**".
func (s *settings) facts() map[string]string {
	facts := make(map[string]string)
	s.flags().VisitAll(func(f *pflag.Flag) { facts[f.Name] = f.Value.String() })
	for _, c := range slices.Backward(s.channels) { // the first counts
		for _, setting := range channelSettings {
			name := setting.name
			if c.Pattern != "" {
				name += " of " + c.Pattern
			}
			if said := setting.show(&c); said != "" {
				facts[name] = said
			}
		}
	}
	s.auth.facts(facts)
	return facts
}

// changes says for a log what is other in now than in was.
func changes(was, now map[string]string) string {
	var phrases []string
	names := maps.Clone(was)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if was[name] != now[name] {
			phrases = append(phrases, fmt.Sprintf("%s: %s → %s", name, cmp.Or(was[name], "unsaid"), cmp.Or(now[name], "unsaid")))
		}
	}
	if more := len(phrases) - 20; more > 0 {
		phrases = append(phrases[:20], fmt.Sprintf("and %d more", more))
	}
	return cmp.Or(strings.Join(phrases, "; "), "nothing")
}

func (s *settings) logs() (level slog.Level) {
	_ = level.UnmarshalText([]byte(s.logLevel)) // oneOf has checked it
	return level
}

func (s *settings) logger(w io.Writer, level *slog.LevelVar) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// A channelSetting is one that can be said for all channels, or for some by
// pattern.
type channelSetting struct {
	name, usage, example, standard string

	read func(text string, c *fanfare.ChannelConfig) error
	show func(c *fanfare.ChannelConfig) string // empty: not said
}

var channelSettings = []channelSetting{
	{
		"history", "messages kept for each channel; 0 keeps none", "chat/**=1000", "256",
		func(text string, c *fanfare.ChannelConfig) error {
			n, err := from(0)(text)
			if c.History = n; n == 0 {
				c.History = -1 // zero is: not said
			}
			return err
		},
		func(c *fanfare.ChannelConfig) string { return said(c.History, strconv.Itoa(max(c.History, 0))) },
	},
	{
		"history-age", "how long messages are kept", "chat/**=24h", "1h0m0s",
		func(text string, c *fanfare.ChannelConfig) (err error) {
			c.HistoryAge, err = duration(text)
			return err
		},
		func(c *fanfare.ChannelConfig) string { return said(c.HistoryAge, c.HistoryAge.String()) },
	},
	{
		"history-bytes", "how much of a channel is kept at most, with 128 bytes for each message", "chat/**=4MiB", "1MiB",
		func(text string, c *fanfare.ChannelConfig) error { return readSize(text, &c.HistoryBytes) },
		func(c *fanfare.ChannelConfig) string { return said(c.HistoryBytes, showSize(c.HistoryBytes)) },
	},
	{
		"slow-readers", "what becomes of a client that lags: catch-up, skip, latest or close", "tick/*=latest", "catch-up",
		func(text string, c *fanfare.ChannelConfig) (err error) {
			c.SlowReaders, err = fanfare.ParsePolicy(text)
			return err
		},
		func(c *fanfare.ChannelConfig) string { return said(c.SlowReaders, c.SlowReaders.String()) },
	},
	{
		"max-lag", "how far a client may lag before --slow-readers counts, in bytes of messages", "tick/*=64KiB", "1MiB",
		func(text string, c *fanfare.ChannelConfig) error { return readSize(text, &c.MaxLag) },
		func(c *fanfare.ChannelConfig) string { return said(c.MaxLag, showSize(c.MaxLag)) },
	},
	{
		"limit-channel-messages", "how many messages a second clients may publish to a channel, together", "chat/**=50", "none",
		func(text string, c *fanfare.ChannelConfig) error { return (&bound{&c.Messages, ""}).Set(text) },
		func(c *fanfare.ChannelConfig) string { return (&bound{&c.Messages, ""}).String() },
	},
}

// said returns text, or nothing for a setting that has its zero value.
func said[T comparable](setting T, text string) string {
	var zero T
	if setting == zero {
		return ""
	}
	return text
}

func readSize(text string, n *int) error {
	var s size
	err := s.Set(text)
	*n = int(s)
	return err
}

func showSize(n int) string {
	s := size(n)
	return s.String()
}

// byChannel is a flag for a channelSetting, which may be given once for all
// channels, as "skip", and once for each pattern, as "tick/*=latest".
type byChannel struct {
	channelSetting
	in *[]fanfare.ChannelConfig
}

func (b *byChannel) Type() string        { return "value" }
func (b *byChannel) separatedBy() string { return "," }

// String returns what counts for all channels.
func (b *byChannel) String() string {
	for _, c := range *b.in {
		if s := b.show(&c); c.Pattern == "" && s != "" {
			return s
		}
	}
	return b.standard
}

func (b *byChannel) Set(text string) error {
	var c fanfare.ChannelConfig
	value := text
	if i := strings.LastIndexByte(text, '='); i >= 0 { // a channel's name may have others
		c.Pattern, value = text[:i], text[i+1:]
		if err := fanfare.CheckPattern(c.Pattern); err != nil {
			return err
		}
	}
	if err := b.read(value, &c); err != nil {
		return err
	}
	for _, before := range *b.in {
		switch said := b.show(&before); {
		case said == "" || before.Pattern != c.Pattern:
		case c.Pattern == "":
			return fmt.Errorf("it is %s for all channels already", said)
		default:
			return fmt.Errorf("it is said for %s already, with %s", c.Pattern, said)
		}
	}
	*b.in = append(*b.in, c)
	return nil
}

// A value is a flag that a function reads.
type value[T any] struct {
	to   *T
	kind string
	read func(string) (T, error)
}

func (v *value[T]) Type() string   { return v.kind }
func (v *value[T]) String() string { return fmt.Sprint(*v.to) }
func (v *value[T]) Set(text string) error {
	read, err := v.read(text)
	if err == nil {
		*v.to = read
	}
	return err
}

func yesOrNo(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, errors.New("it must be true or false")
	}
	return b, nil
}

func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, errors.New("a time is written as in 90s, 1h30m or 24h")
	case d <= 0:
		return 0, errors.New("it must be longer than nothing")
	}
	return d, nil
}

// from reads a whole number that is least or more.
func from(least int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return 0, fmt.Errorf("it must be a whole number, %d or more", least)
		}
		return n, nil
	}
}

func oneOf(words ...string) func(string) (string, error) {
	last := len(words) - 1
	return func(text string) (string, error) {
		if !slices.Contains(words, text) {
			return "", fmt.Errorf("it must be %s or %s", strings.Join(words[:last], ", "), words[last])
		}
		return text, nil
	}
}

// listenAddress reads what to listen on, as far as it can be told without doing so.
func listenAddress(text string) (string, error) {
	path, unix := strings.CutPrefix(text, "unix:")
	if _, _, err := net.SplitHostPort(text); unix && path == "" || !unix && err != nil {
		return "", errBadAddress
	}
	return text, nil
}

var errBadAddress = errors.New("it must be host:port, such as 127.0.0.1:8765, or unix:/path/to.sock")
