package protocol

import (
	"encoding/json"
	"fmt"
	"math"

	"fanfare/broker"
)

// What a client says, and the fields that it has besides id and channel:
//
//	subscribe    since, presence, slow
//	unsubscribe
//	publish      key, encoding, data
//	history      since, limit
//	presence     limit
//	request      method, data
//	ping
//	auth         token
const (
	Subscribe   = "subscribe"
	Unsubscribe = "unsubscribe"
	Publish     = "publish"
	History     = "history"
	Presence    = "presence"
	Request     = "request"
	Ping        = "ping"
	Auth        = "auth"
)

// A Command is what a client says. Fields that its type does not have are empty.
type Command struct {
	Type     string          `json:"type"`
	ID       string          `json:"id,omitempty"`       // 1 to 128 bytes; empty: there is none
	Channel  string          `json:"channel,omitempty"`  // not checked; empty: that of the URL
	Since    string          `json:"since,omitempty"`    // a position; empty: there is none
	Presence bool            `json:"presence,omitempty"` // the wish for it
	Slow     string          `json:"slow,omitempty"`     // a policy's name; empty: the channel's settings count
	Key      string          `json:"key,omitempty"`      // 255 bytes at most
	Method   string          `json:"method,omitempty"`
	Token    string          `json:"token,omitempty"`
	Limit    *int            `json:"limit,omitempty"` // in its bounds; nil: there is none
	Encoding string          `json:"encoding,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"` // one JSON value; nil: there is none
}

// ParseCommand reads what a client says. Strings are copies, Data is a part of
// text. With an error the Command holds ID and Channel if they could be read,
// for the answer.
//
// Channel, Key and Method are checked as far as a string's form goes; the
// payload of a publish is checked by [Command.Payload].
func ParseCommand(text []byte) (Command, *Error) { return parseCommand(text, "") }

// ParseLine reads a line of many publishes: a publish whose type may be left out.
func ParseLine(text []byte) (Command, *Error) { return parseCommand(text, Publish) }

// Payload returns what a channel keeps of a publish, as [PayloadOf] does.
func (c *Command) Payload() (payload []byte, binary bool, err *Error) {
	return PayloadOf(c.Data, c.Encoding)
}

// Append appends the command as JSON, on one line. Data must be one JSON value.
func (c *Command) Append(dst []byte) []byte {
	o := begin(dst, c.Type)
	o.text("id", c.ID)
	o.text("channel", c.Channel)
	o.text("since", c.Since)
	o.flag("presence", c.Presence)
	o.text("slow", c.Slow)
	o.text("key", c.Key)
	o.text("method", c.Method)
	o.text("token", c.Token)
	if c.Limit != nil {
		o.number("limit", int64(*c.Limit))
	}
	o.text("encoding", c.Encoding)
	o.data("data", c.Data)
	return o.end()
}

func parseCommand(text []byte, implied string) (Command, *Error) {
	var f fields
	f.read(text)
	c := Command{
		ID:      f.text("bad_id", "id", f.id, 1, maxID),
		Type:    f.typ(implied),
		Channel: f.text("bad_channel", "channel", f.channel, 1, math.MaxInt),
	}
	if f.err != nil {
		return c, f.err
	}
	full := c
	switch full.Type {
	case Subscribe:
		full.Since = f.position(f.since)
		full.Presence = f.flag("bad_presence", "presence", f.presence)
		full.Slow = f.policy(f.slow)
	case Publish:
		full.Key = f.text("bad_key", "key", f.key, 0, maxKey)
		full.Encoding = f.text("bad_data", "encoding", f.encoding, 1, math.MaxInt)
		full.Data = f.data
	case History:
		full.Since = f.position(f.since)
		full.Limit = f.limited(f.limit, 1)
	case Presence:
		full.Limit = f.limited(f.limit, 0)
	case Request:
		full.Method = f.text("unknown_method", "method", f.method, 1, math.MaxInt)
		full.Data = f.data
		switch {
		case c.ID == "":
			f.refuse("bad_id", `a request needs an id, such as "1", which its response repeats`)
		case f.method == nil:
			f.refuse("unknown_method", `a request needs a method, such as "time"`)
		}
	case Auth:
		full.Token = f.text("bad_json", "token", f.token, 0, math.MaxInt)
	}
	if f.err != nil {
		return c, f.err
	}
	return full, nil
}

// fields are the values of a command's fields as they stand in its text; nil:
// it is not there. What is read of them is empty once there is an error, and
// the first error counts.
type fields struct {
	kind, id, channel, since, presence, slow, key, method, token, limit, encoding, data []byte

	err *Error
}

func (f *fields) refuse(code, format string, a ...any) {
	if f.err == nil {
		f.err = &Error{Code: code, Message: fmt.Sprintf(format, a...)}
	}
}

// read finds the fields. Of two with the same name the last counts.
func (f *fields) read(text []byte) {
	f.err = readObject(text, MaxLevels+1, func(name, value []byte) {
		switch string(name) {
		case "type":
			f.kind = value
		case "id":
			f.id = value
		case "channel":
			f.channel = value
		case "since":
			f.since = value
		case "presence":
			f.presence = value
		case "slow":
			f.slow = value
		case "key":
			f.key = value
		case "method":
			f.method = value
		case "token":
			f.token = value
		case "limit":
			f.limit = value
		case "encoding":
			f.encoding = value
		case "data":
			f.data = value
		}
	})
}

// typ returns the type, one of our constants; implied is that of a message
// that names none.
func (f *fields) typ(implied string) string {
	if f.kind == nil {
		if implied == "" {
			f.refuse("bad_json", `the message has no type, such as in {"type":"ping"}`)
		}
		return implied
	}
	named, ok := stringOf(f.kind)
	if !ok {
		f.refuse("bad_json", `type is %.40s, and must be a string, such as in {"type":"ping"}`, f.kind)
		return ""
	}
	for _, known := range [...]string{Publish, Ping, Subscribe, Unsubscribe, History, Presence, Request, Auth} {
		if string(named) == known && (implied == "" || known == implied) {
			return known
		}
	}
	if implied != "" {
		f.refuse("unknown_type", "the type %.40q is none that can stand here: only %s can, and it may be left out", named, implied)
		return ""
	}
	f.refuse("unknown_type", "there is no type %.40q; there are subscribe, unsubscribe, publish, history, presence, request, ping and auth", named)
	return ""
}

// text reads a string of least to most bytes; without one it is empty.
func (f *fields) text(code, name string, value []byte, least, most int) string {
	if value == nil {
		return ""
	}
	text, ok := stringOf(value)
	switch {
	case !ok && name == "token": // whatever it is, it is not to be told
		f.refuse(code, "token must be a string in quotes")
	case !ok:
		f.refuse(code, "%s is %.40s, and must be a string in quotes", name, value)
	case len(text) < least:
		f.refuse(code, "%s is empty; leave it out instead", name)
	case len(text) > most:
		f.refuse(code, "%s has %d bytes, and may have %d", name, len(text), most)
	default:
		return string(text)
	}
	return ""
}

func (f *fields) position(value []byte) string {
	since := f.text("bad_since", "since", value, 1, math.MaxInt)
	if since != "" {
		if _, err := broker.ParsePosition(since); err != nil {
			f.refuse("bad_since", "since: %v", err)
		}
	}
	return since
}

func (f *fields) policy(value []byte) string {
	slow := f.text("bad_slow", "slow", value, 1, math.MaxInt)
	switch slow {
	case "", "catch-up", "skip", "latest", "close":
	default:
		f.refuse("bad_slow", "slow is %.40q; there are catch-up, skip, latest and close", slow)
	}
	return slow
}

func (f *fields) flag(code, name string, value []byte) bool {
	if value == nil {
		return false
	}
	flag, ok := boolOf(value)
	if !ok {
		f.refuse(code, "%s is %.40s, and must be true or false", name, value)
	}
	return flag
}

func (f *fields) limited(value []byte, least int64) *int {
	if value == nil {
		return nil
	}
	n, ok := intOf(value)
	if !ok || n < least || n > maxLimit {
		f.refuse("bad_limit", "limit is %.40s, and must be a whole number from %d to %d", value, least, maxLimit)
		return nil
	}
	limit := int(n)
	return &limit
}
