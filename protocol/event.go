package protocol

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// What a server says, and the fields that it has besides id and channel:
//
//	welcome      protocol, session, auth, subject, expires, heartbeat, limits, position
//	ok           what the command asked for: subject, expires, position, time, gap, more, count, members, messages
//	error        code, message, retry
//	message      pattern, position, predecessor, time, sender, key, encoding, data
//	gap          pattern, reason, missed, position
//	join, leave  count, members, omitted
//	response     data
//	renew        expires
//	unsubscribed code, message
//	heartbeat
//	bye          code, message, retry
const (
	WelcomeEvent      = "welcome"
	OKEvent           = "ok"
	ErrorEvent        = "error"
	MessageEvent      = "message"
	GapEvent          = "gap"
	JoinEvent         = "join"
	LeaveEvent        = "leave"
	ResponseEvent     = "response"
	RenewEvent        = "renew"
	UnsubscribedEvent = "unsubscribed"
	HeartbeatEvent    = "heartbeat"
	ByeEvent          = "bye"
)

// Why something is missing at a gap; joins and leaves at one whose reason is [Presence].
const (
	Expired    = "expired"
	Lost       = "lost"
	Outrun     = "outrun"
	Skipped    = "skipped"
	Superseded = "superseded"
	Forbidden  = "forbidden"
)

// Required is the auth of a welcome after which nothing is heard before an [Auth].
const Required = "required"

// An Event is what a server says: all fields that anything it says can have,
// in the order in which they are written. What is empty is left out; Members
// and Messages are written if they are not nil.
type Event struct {
	Type        string            `json:"type"`
	ID          string            `json:"id,omitzero"` // of the command that this answers
	Protocol    string            `json:"protocol,omitzero"`
	Session     string            `json:"session,omitzero"`
	Auth        string            `json:"auth,omitzero"`      // Required, or nothing
	Subject     string            `json:"subject,omitzero"`   // who the client is
	Expires     int               `json:"expires,omitzero"`   // milliseconds until its token does; 0: never
	Heartbeat   int               `json:"heartbeat,omitzero"` // milliseconds
	Limits      *Limits           `json:"limits,omitzero"`
	Channel     string            `json:"channel,omitzero"`
	Pattern     string            `json:"pattern,omitzero"`
	Reason      string            `json:"reason,omitzero"`
	Missed      int64             `json:"missed,omitzero"`   // how many messages; 0: that is not known
	Position    string            `json:"position,omitzero"` // where reading goes on
	Predecessor string            `json:"predecessor,omitzero"`
	Time        time.Time         `json:"time,omitzero"` // to the millisecond
	Sender      string            `json:"sender,omitzero"`
	Key         string            `json:"key,omitzero"`
	Encoding    string            `json:"encoding,omitzero"`
	Data        json.RawMessage   `json:"data,omitzero"` // one JSON value
	Code        string            `json:"code,omitzero"`
	Message     string            `json:"message,omitzero"` // a sentence for people
	Retry       int               `json:"retry,omitzero"`   // milliseconds; 0: trying again would end the same way
	Gap         bool              `json:"gap,omitzero"`
	More        bool              `json:"more,omitzero"`
	Count       *int              `json:"count,omitzero"`
	Members     []Member          `json:"members,omitzero"`
	Omitted     int               `json:"omitted,omitzero"`
	Messages    []json.RawMessage `json:"messages,omitzero"` // as AppendMessage writes them
}

// Limits are what a server permits a client.
type Limits struct {
	Message       int `json:"message"` // bytes of a message's payload
	Subscriptions int `json:"subscriptions"`
	Repeat        int `json:"repeat,omitempty"` // milliseconds for which a publish may be repeated; 0: not told
}

// A Member is one who is in a channel.
type Member struct {
	Session string    `json:"session"`
	Name    string    `json:"name,omitempty"` // empty: nobody in particular
	Since   time.Time `json:"since"`          // to the millisecond
}

// Record returns the message that an event of the type message is.
func (e *Event) Record() Message {
	return Message{
		Channel: e.Channel, Pattern: e.Pattern, Position: e.Position, Predecessor: e.Predecessor, Time: e.Time,
		Sender: e.Sender, Key: e.Key, Encoding: e.Encoding, Data: e.Data,
	}
}

// Append appends the event as JSON, on one line. Data and Messages must be
// JSON values.
func (e *Event) Append(dst []byte) []byte {
	o := begin(dst, e.Type)
	o.text("id", e.ID)
	o.text("protocol", e.Protocol)
	o.text("session", e.Session)
	o.text("auth", e.Auth)
	o.text("subject", e.Subject)
	o.count("expires", int64(e.Expires))
	o.count("heartbeat", int64(e.Heartbeat))
	if e.Limits != nil {
		o.name("limits")
		o.dst = e.Limits.append(o.dst)
	}
	o.text("channel", e.Channel)
	o.text("pattern", e.Pattern)
	o.text("reason", e.Reason)
	o.count("missed", e.Missed)
	o.text("position", e.Position)
	o.text("predecessor", e.Predecessor)
	o.time("time", e.Time)
	o.text("sender", e.Sender)
	o.text("key", e.Key)
	o.text("encoding", e.Encoding)
	o.data("data", e.Data)
	o.text("code", e.Code)
	o.text("message", e.Message)
	o.count("retry", int64(e.Retry))
	o.flag("gap", e.Gap)
	o.flag("more", e.More)
	if e.Count != nil {
		o.number("count", int64(*e.Count))
	}
	if e.Members != nil {
		o.name("members")
		o.dst = appendList(o.dst, e.Members, func(dst []byte, m Member) []byte { return m.append(dst) })
	}
	o.count("omitted", int64(e.Omitted))
	if e.Messages != nil {
		o.name("messages")
		o.dst = appendList(o.dst, e.Messages, func(dst []byte, m json.RawMessage) []byte { return appendLine(dst, m) })
	}
	return o.end()
}

func (l *Limits) append(dst []byte) []byte {
	dst = fmt.Appendf(dst, `{"message":%d,"subscriptions":%d`, l.Message, l.Subscriptions)
	if l.Repeat != 0 {
		dst = fmt.Appendf(dst, `,"repeat":%d`, l.Repeat)
	}
	return append(dst, '}')
}

func (m *Member) append(dst []byte) []byte {
	dst = appendString(append(dst, `{"session":`...), []byte(m.Session))
	if m.Name != "" {
		dst = appendString(append(dst, `,"name":`...), []byte(m.Name))
	}
	dst = appendTime(append(dst, `,"since":`...), m.Since)
	return append(dst, '}')
}

func appendList[T any](dst []byte, list []T, one func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, item := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, item)
	}
	return append(dst, ']')
}

// ParseEvent reads what a server says. Fields that are not known are ignored,
// and of a type that is not known only the type is read. Data is a part of text.
func ParseEvent(text []byte) (Event, error) {
	var e Event
	var wrong error // the first field with a value that it cannot have
	// A page of history has messages, in a list, with data.
	malformed := readObject(text, MaxLevels+3, func(name, value []byte) {
		if !e.set(string(name), value) && wrong == nil {
			wrong = fmt.Errorf("protocol: %s cannot be %.40s in what a server says", name, value)
		}
	})
	switch {
	case malformed != nil:
		return Event{}, malformed
	case e.Type == "":
		return Event{}, fmt.Errorf("protocol: the server said something without a type: %.80s", text)
	}
	switch e.Type {
	case WelcomeEvent, OKEvent, ErrorEvent, MessageEvent, GapEvent, JoinEvent, LeaveEvent, ResponseEvent,
		RenewEvent, UnsubscribedEvent, HeartbeatEvent, ByeEvent:
		if wrong != nil {
			return Event{}, wrong
		}
		return e, nil
	}
	return Event{Type: e.Type}, nil
}

// set sets a field, and reports whether the value can be that field's. Fields
// that are not known are ignored.
func (e *Event) set(name string, value []byte) bool {
	switch name {
	case "type":
		return setText(&e.Type, value)
	case "id":
		return setText(&e.ID, value)
	case "protocol":
		return setText(&e.Protocol, value)
	case "session":
		return setText(&e.Session, value)
	case "auth":
		return setText(&e.Auth, value)
	case "subject":
		return setText(&e.Subject, value)
	case "expires":
		return setInt(&e.Expires, value)
	case "heartbeat":
		return setInt(&e.Heartbeat, value)
	case "limits":
		return json.Unmarshal(value, &e.Limits) == nil
	case "channel":
		return setText(&e.Channel, value)
	case "pattern":
		return setText(&e.Pattern, value)
	case "reason":
		return setText(&e.Reason, value)
	case "missed":
		return setInt(&e.Missed, value)
	case "position":
		return setText(&e.Position, value)
	case "predecessor":
		return setText(&e.Predecessor, value)
	case "time":
		return e.Time.UnmarshalJSON(value) == nil
	case "sender":
		return setText(&e.Sender, value)
	case "key":
		return setText(&e.Key, value)
	case "encoding":
		return setText(&e.Encoding, value)
	case "data":
		e.Data = value
	case "code":
		return setText(&e.Code, value)
	case "message":
		return setText(&e.Message, value)
	case "retry":
		return setInt(&e.Retry, value)
	case "gap":
		return setFlag(&e.Gap, value)
	case "more":
		return setFlag(&e.More, value)
	case "count":
		e.Count = new(int)
		return setInt(e.Count, value)
	case "members":
		return json.Unmarshal(value, &e.Members) == nil
	case "omitted":
		return setInt(&e.Omitted, value)
	case "messages":
		return json.Unmarshal(value, &e.Messages) == nil
	}
	return true
}

func setText(field *string, value []byte) bool {
	text, ok := stringOf(value)
	*field = string(text)
	return ok
}

func setInt[T int | int64](field *T, value []byte) bool {
	n, ok := intOf(value)
	*field = T(n)
	return ok && n >= 0 && n <= math.MaxInt
}

func setFlag(field *bool, value []byte) (ok bool) {
	*field, ok = boolOf(value)
	return ok
}
