package protocol

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"fanfare/broker"
)

// A Message is a publication as it looks on every face of a channel's URL.
type Message struct {
	Channel     string          `json:"channel"`
	Pattern     string          `json:"pattern,omitempty"`     // the subscription that brings it, if that is a pattern
	Position    string          `json:"position"`              // what to resume from after it
	Predecessor string          `json:"predecessor,omitempty"` // position of the message before it in its channel; empty: none in this epoch
	Time        time.Time       `json:"time"`                  // when the server took it, to the millisecond
	Sender      string          `json:"sender,omitempty"`
	Key         string          `json:"key,omitempty"`      // what it is the newest value of
	Encoding    string          `json:"encoding,omitempty"` // of Data
	Data        json.RawMessage `json:"data"`
}

// Payload returns what the channel keeps, as [PayloadOf] does.
func (m *Message) Payload() (payload []byte, binary bool, err error) {
	payload, binary, refusal := PayloadOf(m.Data, m.Encoding)
	if refusal != nil {
		return nil, false, refusal
	}
	return payload, binary, nil
}

// ParseMessage reads what [AppendMessage] wrote.
func ParseMessage(text []byte) (Message, error) {
	e, err := ParseEvent(text)
	switch {
	case err != nil:
		return Message{}, err
	case e.Type != MessageEvent:
		return Message{}, errors.New("protocol: this is no message: its type is " + e.Type)
	}
	return e.Record(), nil
}

// AppendMessage appends the record of a publication: JSON on one line, without
// an end of line. pattern is the subscription that brings it, if that is a
// pattern. It allocates once if dst has no room.
func AppendMessage(dst []byte, pattern string, m *broker.Message) []byte {
	var buf [512]byte // so that dst grows once and by what is needed: history keeps it
	head := append(buf[:0], `{"type":"message","channel":`...)
	head = appendString(head, []byte(m.Channel))
	if pattern != "" {
		head = append(head, `,"pattern":`...)
		head = appendString(head, []byte(pattern))
	}
	head = append(head, `,"position":"`...)
	head = m.Position.Append(head)
	if m.Prev != 0 {
		head = append(head, `","predecessor":"`...)
		head = broker.Position{Epoch: m.Position.Epoch, Offset: m.Prev}.Append(head)
	}
	head = append(head, `","time":`...)
	head = appendTime(head, m.Time)
	if m.Sender != "" {
		head = append(head, `,"sender":`...)
		head = appendString(head, []byte(m.Sender))
	}
	if m.Key != "" {
		head = append(head, `,"key":`...)
		head = appendString(head, []byte(m.Key))
	}
	if m.Binary {
		head = append(head, `,"encoding":"base64"`...)
	}
	head = append(head, `,"data":`...)
	f := formOf(m.Payload, m.Binary)
	if room := len(head) + f.room(m.Payload) + len(`}`); dst == nil {
		dst = make([]byte, 0, room)
	} else {
		dst = slices.Grow(dst, room)
	}
	return append(f.append(append(dst, head...), m.Payload), '}')
}
