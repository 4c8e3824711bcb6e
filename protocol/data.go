package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// PayloadOf returns what a channel keeps of a client's data, which is JSON
// with an encoding of "" or [Encoding]: the text that a string stands for, the
// JSON text of any other value, or the bytes of base64 (binary is true). It
// shares no memory with data. A string stays JSON if its text would be taken
// for JSON on the way back ("42"), or would not come back whole (half a
// surrogate pair). So what was said as JSON comes back as the same JSON.
//
// The error has the code bad_data.
func PayloadOf(data json.RawMessage, encoding string) (payload []byte, binary bool, err *Error) {
	bad := func(format string, a ...any) ([]byte, bool, *Error) {
		return nil, false, &Error{Code: "bad_data", Message: fmt.Sprintf(format, a...)}
	}
	s := scanner{text: data}
	s.space()
	start := s.at
	switch {
	case len(data) == 0:
		return bad(`there is no data: it may be any JSON value, such as "Hello", 42, null or {"a":1}`)
	case !s.value(MaxLevels):
		return bad("data: %s", s.explain())
	}
	value := data[start:s.at]
	switch s.space(); {
	case s.at != len(data):
		s.wrong("its end")
		return bad("data: %s", s.explain())
	case !utf8.Valid(value):
		return bad("data is not UTF-8; send other bytes as base64, with \"encoding\":\"base64\"")
	case encoding != "" && encoding != Encoding:
		return bad("encoding is %.40q, and there is only base64; leave it out for any JSON value", encoding)
	case value[0] != '"' && encoding == Encoding:
		return bad("with \"encoding\":\"base64\" data is a string of base64")
	case value[0] != '"':
		return bytes.Clone(value), false, nil
	}
	text, whole := unquote(value)
	if encoding == Encoding {
		payload := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(payload, text)
		if err != nil {
			return bad("data is not base64 (%v): it uses A-Z a-z 0-9 + / and = at the end", err)
		}
		return payload[:n], true, nil
	}
	if !whole || IsJSON(text) {
		return bytes.Clone(value), false, nil
	}
	return bytes.Clone(text), false, nil
}

// DataOf is how a message's payload travels: JSON text of at most [MaxLevels]
// levels as it is, but on one line; other text as a JSON string; bytes as a
// string with the encoding [Encoding].
func DataOf(payload []byte, binary bool) (data json.RawMessage, encoding string) {
	if binary {
		encoding = Encoding
	}
	f := formOf(payload, binary)
	return f.append(make([]byte, 0, f.room(payload)), payload), encoding
}

// A form is how a payload is written as data.
type form int

const (
	asJSON form = iota
	asString
	asBase64
)

func formOf(payload []byte, binary bool) form {
	switch {
	case binary:
		return asBase64
	case IsJSON(payload):
		return asJSON
	}
	return asString
}

// room is how many bytes append appends at most, where a text is UTF-8.
func (f form) room(payload []byte) int {
	switch f {
	case asJSON:
		return len(payload)
	case asBase64:
		return len(`""`) + base64.StdEncoding.EncodedLen(len(payload))
	}
	room := len(`""`) + len(payload)
	for at := plain(payload); at < len(payload); at += plain(payload[at:]) {
		room += int(extra[payload[at]])
		at++
	}
	return room + bytes.Count(payload, lineSeparators)*(len(`\u2028`)-len("\u2028"))
}

func (f form) append(dst, payload []byte) []byte {
	switch f {
	case asJSON:
		return appendLine(dst, payload)
	case asBase64:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, payload)
		return append(dst, '"')
	}
	return appendString(dst, payload)
}
