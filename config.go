package fanfare

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/handshake"
)

// A Policy is what becomes of a reader that lags too far behind.
type Policy uint8

const (
	// CatchUp: it reads on from history as fast as it can, and is told of a
	// gap only when history does not reach back to it. The default.
	CatchUp = Policy(feed.CatchUp) + 1
	// Skip: it goes on with the newest message, after being told how many it missed.
	Skip = Policy(feed.Skip) + 1
	// Latest: it goes on with the newest message for each key, after being
	// told how many it missed. For tickers and game state.
	Latest = Policy(feed.Latest) + 1
	// Close: it is disconnected, with a code that invites it to come back.
	Close = Policy(feed.Close) + 1
)

// String returns the policy's name: catch-up, skip, latest or close; "default"
// for zero.
func (p Policy) String() string {
	if p == 0 {
		return "default"
	}
	return p.feeds().String()
}

// ParsePolicy reads a policy's name.
func ParsePolicy(name string) (Policy, error) {
	for p := CatchUp; p <= Close; p++ {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no policy for slow readers; there are catch-up, skip, latest and close", name)
}

// feeds is the policy as package feed has it.
func (p Policy) feeds() feed.Policy { return feed.Policy(max(p, CatchUp) - 1) }

// ChannelConfig are settings for some channels.
type ChannelConfig struct {
	// Pattern says for which: a channel's name, in which a segment may be "*",
	// for any one, and the last may be "**", for whatever follows, at least one:
	// "tick/*", "chat/**".
	Pattern string
	// The rest is as in [Config]. Zero: not said here.
	History      int
	HistoryAge   time.Duration
	HistoryBytes int
	SlowReaders  Policy
	MaxLag       int
	// Messages is how many messages a second clients may publish to each of the channels;
	// negative: no limit. See [Limits.ChannelMessages].
	Messages float64
}

// slowness is what becomes of slow readers.
type slowness struct {
	policy Policy // 0: not said
	maxLag int    // bytes; 0: not said
}

// or returns s, and of d what s does not say.
func (s slowness) or(d slowness) slowness {
	return slowness{cmp.Or(s.policy, d.policy), cmp.Or(s.maxLag, d.maxLag)}
}

// channel is what the settings say for a channel: each setting as the first
// pattern has it that fits and says it. Who reads a pattern reads many channels at
// once, and has what counts for all.
func (c *Config) channel(name string) ChannelConfig {
	is := ChannelConfig{Pattern: name}
	if !broker.IsPattern(name) {
		for i := range c.Channels {
			if some := &c.Channels[i]; broker.Fits(some.Pattern, name) {
				is.add(some)
			}
		}
	}
	is.add(&ChannelConfig{"", c.History, c.HistoryAge, c.HistoryBytes, c.SlowReaders, c.MaxLag, c.Limits.ChannelMessages})
	return is
}

// add takes from more what c does not say.
func (c *ChannelConfig) add(more *ChannelConfig) {
	c.History = cmp.Or(c.History, more.History)
	c.HistoryAge = cmp.Or(c.HistoryAge, more.HistoryAge)
	c.HistoryBytes = cmp.Or(c.HistoryBytes, more.HistoryBytes)
	c.SlowReaders = cmp.Or(c.SlowReaders, more.SlowReaders)
	c.MaxLag = cmp.Or(c.MaxLag, more.MaxLag)
	c.Messages = cmp.Or(c.Messages, more.Messages)
}

func (c *ChannelConfig) slowness() slowness { return slowness{c.SlowReaders, c.MaxLag} }

// retention is what a feed keeps, of settings that say everything.
func (c *ChannelConfig) retention() feed.Retention {
	return feed.Retention{Count: max(0, c.History), Age: c.HistoryAge, Bytes: int64(c.HistoryBytes), Keys: maxKeys}
}

// Config says how a [Server] works. The zero value is a good server; each
// field says its default.
type Config struct {
	// Broker orders and keeps the messages. Default: a [broker.Memory]. The server
	// starts it and Shutdown closes it. A broker that can keep channels differently
	// long (a [broker.Retainer], as Memory is) keeps them as the History settings
	// say, here and in Channels; its own do not count then.
	Broker broker.Broker

	// History is how many messages of a channel are kept, by the broker and, while
	// it has subscribers, at hand. Default 256; negative: none, and then nobody can
	// resume.
	History int
	// HistoryAge is how long. Default one hour.
	HistoryAge time.Duration
	// HistoryBytes is how much of a channel, in bytes of messages with 128 for
	// each. Default 1 MiB. While a channel has subscribers, a message that one
	// of them was sent is there encoded too, so a channel in use can cost twice
	// this; the newest messages by key, for the policy Latest, come on top, as
	// much again. A server whose clients may name channels at will pays it for
	// each of them.
	HistoryBytes int

	// MaxMessage is the largest message in bytes, over a WebSocket or as the
	// body of a POST. Default 1 MiB. In JSON, over fanfare.v1, a byte of it may take six: a client can make
	// the server hold up to that much, and over everything else twice this much.
	MaxMessage int

	// MaxSubscriptions is how many channels and patterns one connection may read
	// at a time. Default 1,000.
	MaxSubscriptions int
	// IDWindow is for how long a publication that is repeated with the same id is
	// known again, by the default broker. Default 5 minutes.
	IDWindow time.Duration

	// Heartbeat is after how much silence a client is pinged. Default 25
	// seconds: proxies tend to cut what is silent for 60.
	Heartbeat time.Duration
	// HeartbeatTimeout is how long after the ping something must have come
	// back. Default 10 seconds.
	HeartbeatTimeout time.Duration
	// WriteTimeout is how long a client, or rather its system, may take nothing
	// of what is written to it; over TLS, how long it may take for the next 16
	// KiB. Default 10 seconds. A system with a large buffer takes nothing for a
	// while when its program reads very little.
	WriteTimeout time.Duration
	// CloseTimeout is how long a client may take to answer a close. Default 5 seconds.
	CloseTimeout time.Duration
	// MessageTimeout is how long a client may take for one message, from its
	// first byte to its last. Default one minute.
	MessageTimeout time.Duration

	// Compression is for WebSocket clients that offer it. Default: messages of 256
	// bytes and more are compressed.
	Compression Compression

	// SlowReaders is what becomes of a client that lags more than MaxLag
	// behind. Default CatchUp. A client may ask for another with ?slow=.
	SlowReaders Policy
	// MaxLag is how many bytes of messages a client may lag before SlowReaders
	// applies. Default 1 MiB. This much may be kept in memory for the slowest
	// client of a channel, besides history; and for each client that cannot be
	// written to, the 64 KiB that were begun.
	MaxLag int
	// Channels are settings for some channels. Where several fit a channel, the
	// first that says a setting counts for that setting.
	Channels []ChannelConfig

	// Auth says who is asked who clients are, and what they may do. Default: nobody
	// is asked, and everybody who can reach the server may read and write every channel.
	Auth *AuthConfig

	// Hooks let the program take part in what clients do. Default: none.
	Hooks Hooks

	// Origins are the web pages that may connect and publish besides those of
	// this server's own host: "https://app.example.com", or a host pattern such
	// as "*.example.com". "*" lets every page in: then any web site can act
	// for whoever visits it. Requests without an Origin header, which are not
	// a web page's, are not held to it.
	Origins []string

	// Limits bound what clients can cost. Default: see there.
	Limits Limits
	// Proxies are the networks of reverse proxies, of which X-Forwarded-For is believed: from
	// there come the addresses that Limits are about. Default: none. A network that has others in it
	// than proxies lets them say to be whoever they want. Unix sockets are always a proxy's.
	Proxies []netip.Prefix

	// AdminHosts are the names by which [Server.Admin] may be asked for, besides
	// localhost and addresses, such as a proxy passes on. Default: none.
	AdminHosts []string

	// Logger gets one line for each connection's end (debug) and for what an
	// operator should know. Event loops call it too, so it should not wait for
	// long: a pipe that nobody reads would stop them. Default: slog.Default.
	Logger *slog.Logger
}

// withDefaults returns c with its zero fields filled in, or an error that
// names the field that makes no sense.
func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"HistoryAge", &c.HistoryAge, time.Hour},
		{"IDWindow", &c.IDWindow, 5 * time.Minute},
		{"Heartbeat", &c.Heartbeat, 25 * time.Second},
		{"HeartbeatTimeout", &c.HeartbeatTimeout, 10 * time.Second},
		{"WriteTimeout", &c.WriteTimeout, 10 * time.Second},
		{"CloseTimeout", &c.CloseTimeout, 5 * time.Second},
		{"MessageTimeout", &c.MessageTimeout, time.Minute},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("fanfare: Config.%s is %v; it must be positive, or zero for the default of %v", d.name, *d.value, d.def)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"HistoryBytes", &c.HistoryBytes, 1 << 20},
		{"MaxMessage", &c.MaxMessage, 1 << 20},
		{"MaxSubscriptions", &c.MaxSubscriptions, 1000},
		{"MaxLag", &c.MaxLag, 1 << 20},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("fanfare: Config.%s is %d; it must be positive, or zero for the default of %d", n.name, *n.value, n.def)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if c.History == 0 {
		c.History = 256
	}
	if c.SlowReaders > Close {
		return c, fmt.Errorf("fanfare: Config.SlowReaders is %d; it must be CatchUp, Skip, Latest or Close", c.SlowReaders)
	}
	for i, ch := range c.Channels {
		if err := CheckPattern(ch.Pattern); err != nil {
			return c, fmt.Errorf("fanfare: Config.Channels[%d].Pattern: %w", i, err)
		}
		if ch.SlowReaders > Close || ch.MaxLag < 0 {
			return c, fmt.Errorf("fanfare: Config.Channels[%d] has SlowReaders %d and MaxLag %d; they must be one of the policies and a number of bytes, or zero for what Config says", i, ch.SlowReaders, ch.MaxLag)
		}
		if ch.HistoryAge < 0 || ch.HistoryBytes < 0 {
			return c, fmt.Errorf("fanfare: Config.Channels[%d] has HistoryAge %v and HistoryBytes %d; they must be positive, or zero for what Config says", i, ch.HistoryAge, ch.HistoryBytes)
		}
	}
	if err := c.Limits.check(); err != nil {
		return c, err
	}
	for i, p := range c.Proxies {
		if !p.IsValid() {
			return c, fmt.Errorf("fanfare: Config.Proxies[%d] is no network; make it with netip.ParsePrefix(\"10.0.0.0/8\")", i)
		}
	}
	if err := handshake.CheckOrigins(c.Origins); err != nil {
		return c, fmt.Errorf("fanfare: Config.Origins: %w", err)
	}
	if c.Auth != nil {
		var err error
		if c.Auth, err = c.Auth.withDefaults(); err != nil {
			return c, err
		}
	}
	// The caller may go on with his slices, to Reload for one.
	c.Channels, c.Origins, c.Proxies = slices.Clone(c.Channels), slices.Clone(c.Origins), slices.Clone(c.Proxies)
	c.AdminHosts = slices.Clone(c.AdminHosts)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Broker == nil {
		c.Broker = broker.NewMemory(&broker.MemoryOptions{History: c.History, HistoryAge: c.HistoryAge, HistoryBytes: c.HistoryBytes, IDWindow: c.IDWindow})
	}
	return c, nil
}

// maxKeys is for how many keys of a channel the newest message is remembered,
// for readers that want that. The key that was silent longest is forgotten first.
const maxKeys = 4096

// tick is how often time is looked at: often enough for the shortest of the
// times that are counted in ticks, and no oftener.
func (c *Config) tick() time.Duration {
	shortest := min(c.Heartbeat, c.HeartbeatTimeout, c.WriteTimeout, c.CloseTimeout, c.MessageTimeout)
	if c.Auth != nil {
		shortest = min(shortest, c.Auth.Timeout)
	}
	return min(max(shortest/5, 5*time.Millisecond), time.Second)
}

// ticks returns how many ticks d lasts, at least.
func (c *Config) ticks(d time.Duration) int {
	return int((d + c.tick() - 1) / c.tick())
}
