// Package broker is the contract between a Fanfare server and whatever orders
// and keeps its messages, and the broker that is there without any setup:
// [Memory].
//
// A broker gives each message its [Position], keeps a channel's history, and
// delivers messages to every server that declared interest in the channel.
// The law of the contract is the test kit in brokertest: what passes it is a
// broker.
//
// # What a broker promises
//
// All messages of a broker are counted by one count. Within one channel, and
// over all channels that fit a pattern, every server is delivered the same
// messages in the same order, and positions grow in that order. A message is in history before it
// is delivered, and before its publisher is told so; so whoever asks for
// history after either finds it there. From [Broker.Subscribe]'s answer on no
// message is missing: everything after the position it names is delivered.
//
// # Names and patterns
//
// Where a method takes a name to read from, it may be a channel's or a pattern
// ([IsPattern]), which stands for all channels that fit it ([Fits]), also those
// to which nobody has published yet.
//
// # Powers that not every broker has
//
// They are interfaces of their own: [Retainer]. Patterns are in the contract;
// who cannot do them answers [ErrNoPatterns].
package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrClosed is what a publish, a subscription or a look into history gets
// from a broker that was closed.
var ErrClosed = errors.New("broker: closed")

// ErrIDReused is what a publish gets whose ID is that of another message, with
// another payload or key, in the same channel.
var ErrIDReused = errors.New("broker: the id was used for another message")

// ErrNoPatterns is what a broker that cannot do patterns answers to one.
var ErrNoPatterns = errors.New("broker: this broker cannot do patterns")

// A Position is a place among all messages of a broker: right after the message
// that carries it. So a place in one channel is one in every channel and in
// every pattern. The zero Position stands before the oldest message kept.
type Position struct {
	// Epoch changes when the broker's count was lost; offsets of two epochs
	// cannot be compared. Never zero in a position that a broker gave.
	Epoch uint64
	// Offset grows with each message, from 1, not necessarily by one: within a
	// channel there are as many missing as were published to others.
	Offset uint64
}

// IsZero reports whether p is the place before the oldest message kept.
func (p Position) IsZero() bool { return p == Position{} }

// String returns "epoch-offset", both decimal; "0" for the zero Position.
func (p Position) String() string {
	var b [41]byte // two numbers of 20 digits
	return string(p.Append(b[:0]))
}

// Append appends what String returns to b.
func (p Position) Append(b []byte) []byte {
	if p.IsZero() {
		return append(b, '0')
	}
	b = strconv.AppendUint(b, p.Epoch, 10)
	b = append(b, '-')
	return strconv.AppendUint(b, p.Offset, 10)
}

// ParsePosition reads what [Position.String] wrote.
func ParsePosition(s string) (Position, error) {
	if s == "0" {
		return Position{}, nil
	}
	epoch, offset, ok := strings.Cut(s, "-")
	e, err1 := strconv.ParseUint(epoch, 10, 64)
	o, err2 := strconv.ParseUint(offset, 10, 64)
	p := Position{e, o}
	// The round trip refuses signs, leading zeros and whatever else has two spellings.
	if !ok || err1 != nil || err2 != nil || e == 0 || p.String() != s {
		return Position{}, fmt.Errorf("%.40q is no position: it is written epoch-offset, as in 1763800000000-42, and 0 means the oldest message kept", s)
	}
	return p, nil
}

// A Message is one publication. Once it was given to [Broker.Publish] nobody
// changes it but the broker, which fills in Position, Prev and Time; once it
// was delivered nobody changes it at all, and all share it.
//
// Where a broker forgot which message was before it, Prev is a later place: in
// any case nothing of the channel is between Prev and Position.
type Message struct {
	Channel  string
	Position Position
	Prev     uint64    // offset of the message before it in the channel, same epoch; 0: none
	Time     time.Time // when the broker took it
	Sender   string    // who says so, 64 characters at most, none a control character; empty: nobody in particular
	Key      string    // what it is the newest value of, UTF-8, 255 bytes at most; empty: nothing
	Binary   bool      // Payload is any bytes; otherwise it is UTF-8
	Payload  []byte

	// ID makes a publish repeatable: another one to the same channel with the
	// same ID is the same message, for as long as the broker remembers. 128
	// bytes at most; empty: none. Readers do not see it: it is empty in what a
	// broker delivers.
	ID string
}

// Size is what the message counts for against limits in bytes.
func (m *Message) Size() int {
	return len(m.Payload) + len(m.Sender) + len(m.Key) + messageOverhead
}

// messageOverhead is what a message costs besides its strings, so that empty
// messages are not free.
const messageOverhead = 128

// A Query asks for a part of the history of a channel or a pattern.
type Query struct {
	// Since: only messages after it. Zero: from the oldest kept.
	Since Position
	// Limit: at most so many. Zero: all, but of a pattern the newest MaxPage at
	// most.
	Limit int
	// Tail: the newest Limit of them instead of the oldest.
	Tail bool
}

// MaxPage is how many messages a page of a pattern has without a limit.
const MaxPage = 10_000

// A Page is a part of the history of a channel or a pattern, oldest message
// first: by offset, whatever channel a message is of.
type Page struct {
	Messages []*Message
	// Position is where reading goes on: that of the last message here, or,
	// without one, what Subscribe would answer.
	Position Position
	// Gap: messages after Query.Since are no longer kept, or may have been, or
	// its epoch is not the broker's, or it names a place that is yet to come.
	// Messages then begin with the oldest kept. A zero Since has no gap, unless
	// MaxPage left something out.
	Gap bool
	// Missed is how many messages the gap lost, where that is known; otherwise 0.
	Missed uint64
	// More: the limit left newer messages out.
	More bool
}

// A Broker orders, keeps and carries messages. All methods may be called from
// any goroutine. A broker copies the channel names it remembers, since the
// caller's may be a piece of a request.
type Broker interface {
	// Start is called once, before anything else. From then on deliver is
	// called with every message in which Subscribe declared interest, once
	// however often it did: in order of offset within a channel and over all
	// channels of a pattern, and for neither twice at once. Whose interest
	// it is the caller finds out by Channel. deliver does not block, and does
	// not call the broker.
	Start(deliver func(*Message)) error

	// Publish takes a message, of which Channel, Sender, Key, Binary, Payload
	// and ID are set, and does not wait. done is called exactly once, maybe
	// before Publish returns, maybe on another goroutine: with the position
	// when the message is in history as durably as the broker promises, or
	// with the error when it is not known to be. done does not block.
	// Messages published to a channel by calls one after the other keep that
	// order, whatever goroutines make them.
	//
	// A message whose Channel and ID are those of one that was published not
	// long ago is not published again: done gets the position of that one, or,
	// if Payload, Binary or Key differ, ErrIDReused. If that one is still under
	// way, the second gets what the first gets. The ID of a publish that failed
	// is free again. The broker says how long "not long ago" is.
	Publish(m *Message, done func(Position, error))

	// History answers a query about a channel or a pattern. A channel that
	// nobody ever published to is empty, not an error. Asking changes nothing.
	History(ctx context.Context, name string, q Query) (Page, error)

	// Subscribe declares this server's interest in a channel or a pattern. It
	// answers with the position of a channel's newest message (or, where that
	// is forgotten, a place after it), and for a pattern with that of the
	// newest of all: everything after it will be delivered, maybe before
	// Subscribe has returned, and nothing up to it because of this interest. A
	// second call for the same name is an error of the caller's and may panic;
	// after Unsubscribe it is none.
	Subscribe(ctx context.Context, name string) (Position, error)

	// Unsubscribe ends the interest, and does not wait for a network: others
	// wait for its end. A message that is on its way may still be delivered.
	Unsubscribe(name string)

	// Close ends the broker. Publishes that were taken are completed or
	// failed before it returns; afterwards everything answers ErrClosed.
	Close() error
}

// A Retention says how much history a channel has: as much as all permit. Zero
// values mean what the broker does by default.
type Retention struct {
	Messages int           // negative: none
	Age      time.Duration // of a message
	Bytes    int           // [Message.Size] of all together; the newest message is kept even if it alone is more
}

// A Retainer is a broker that can keep some channels' history longer than
// others'.
type Retainer interface {
	// Retain has the broker ask of for each channel. It may be called at any
	// time, and again when settings change: a channel has the new values from
	// its next publish or look into history on, or a minute later. of is quick,
	// does not call the broker, and is called by any goroutine.
	Retain(of func(channel string) Retention)
}
