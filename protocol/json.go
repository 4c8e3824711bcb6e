package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Reading and writing JSON is done here by hand, for three reasons: names of
// fields are exact (encoding/json takes "Type" for "type"), values stay as
// they were written, byte for byte, and every message goes through here.

// IsJSON reports whether a text is a JSON value of at most [MaxLevels] levels.
// White space around it is permitted.
func IsJSON(text []byte) bool {
	s := scanner{text: text}
	s.space()
	if s.value(MaxLevels) {
		s.space()
	}
	return s.fault == "" && s.at == len(text)
}

// A scanner walks through a JSON text. After a fault it stands where that is.
type scanner struct {
	text  []byte
	at    int
	fault string // what was expected here, or deep; empty: none so far
}

// readObject calls visit with each name and value of an object of at most so
// many levels. What it calls with is a part of text, but for a name with
// escapes. The error has the code bad_json, or bad_data if data has too many
// levels.
func readObject(text []byte, levels int, visit func(name, value []byte)) *Error {
	if !utf8.Valid(text) {
		return &Error{Code: "bad_json", Message: "the message is not UTF-8"}
	}
	s := scanner{text: text}
	if s.space(); s.peek() != '{' {
		return &Error{Code: "bad_json", Message: `a message is a JSON object, such as {"type":"ping"}`}
	}
	var member []byte
	if s.object(levels, &member, visit) {
		if s.space(); s.at == len(text) {
			return nil
		}
		s.wrong("the end")
	}
	if s.fault == deep && string(member) == "data" {
		return &Error{Code: "bad_data", Message: "data: " + s.explain()}
	}
	return &Error{Code: "bad_json", Message: "the message is not JSON: " + s.explain()}
}

// stringOf returns the text of a JSON value that is a string, and whether it is.
func stringOf(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	text, _ := unquote(value)
	return text, true
}

// intOf returns a JSON value that is a number without a fraction or an
// exponent, and whether it is.
func intOf(value []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}

// boolOf returns a JSON value that is true or false, and whether it is.
func boolOf(value []byte) (is, ok bool) {
	return value[0] == 't', value[0] == 't' || value[0] == 'f'
}

// deep is the fault of a value with too many levels.
const deep = "fewer levels of arrays and objects"

// wrong notes that something else was expected, and returns false.
func (s *scanner) wrong(expected string) bool {
	s.fault = expected
	return false
}

// explain says what the fault is to a person.
func (s *scanner) explain() string {
	switch {
	case s.fault == deep:
		return fmt.Sprintf("at byte %d it has more than %d levels of arrays and objects", s.at, MaxLevels)
	case s.at >= len(s.text):
		return fmt.Sprintf("it ends after %d bytes, where %s should follow", len(s.text), s.fault)
	}
	r, _ := utf8.DecodeRune(s.text[s.at:])
	return fmt.Sprintf("at byte %d is %q, where %s should be", s.at, r, s.fault)
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// value walks past a value of at most so many levels.
func (s *scanner) value(levels int) bool {
	switch c := s.peek(); c {
	case '"':
		return s.quoted()
	case '{':
		return s.object(levels, nil, nil)
	case '[':
		return s.array(levels)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if c == '-' || isDigit(c) {
			return s.number()
		}
		return s.wrong("a value")
	}
}

// object walks past an object. If visit is not nil it is called with each name
// and value, and member is the name that it came to last.
func (s *scanner) object(levels int, member *[]byte, visit func(name, value []byte)) bool {
	if levels == 0 {
		return s.wrong(deep)
	}
	s.at++
	if s.space(); s.peek() == '}' {
		s.at++
		return true
	}
	for {
		name := s.at
		if s.peek() != '"' {
			return s.wrong(`a name in quotes`)
		}
		if !s.quoted() {
			return false
		}
		nameEnd := s.at
		if s.space(); s.peek() != ':' {
			return s.wrong(`":"`)
		}
		s.at++
		s.space()
		value := s.at
		if visit != nil {
			*member, _ = unquote(s.text[name:nameEnd])
		}
		if !s.value(levels - 1) {
			return false
		}
		if visit != nil {
			visit(*member, s.text[value:s.at])
		}
		switch s.space(); s.peek() {
		case ',':
			s.at++
			s.space()
		case '}':
			s.at++
			return true
		default:
			return s.wrong(`"," or "}"`)
		}
	}
}

func (s *scanner) array(levels int) bool {
	if levels == 0 {
		return s.wrong(deep)
	}
	s.at++
	if s.space(); s.peek() == ']' {
		s.at++
		return true
	}
	for {
		if !s.value(levels - 1) {
			return false
		}
		switch s.space(); s.peek() {
		case ',':
			s.at++
			s.space()
		case ']':
			s.at++
			return true
		default:
			return s.wrong(`"," or "]"`)
		}
	}
}

func (s *scanner) literal(word string) bool {
	for i := range len(word) {
		if s.peek() != word[i] {
			return s.wrong(word)
		}
		s.at++
	}
	return true
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.at++
	}
	if s.peek() == '0' {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.peek() == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.at++
		if c := s.peek(); c == '+' || c == '-' {
			s.at++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	if !isDigit(s.peek()) {
		return s.wrong("a digit")
	}
	for isDigit(s.peek()) {
		s.at++
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// quoted walks past a string.
func (s *scanner) quoted() bool {
	for s.at++; ; {
		s.at += plain(s.text[s.at:])
		switch s.peek() {
		case '"':
			s.at++
			return true
		case '\\':
			s.at++
			if !s.escape() {
				return false
			}
		default:
			if s.at == len(s.text) {
				return s.wrong(`the quote at a string's end`)
			}
			return s.wrong(`an escape such as \n instead of a control character`)
		}
	}
}

// escape walks past what stands behind a backslash.
func (s *scanner) escape() bool {
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at++
		return true
	case 'u':
		s.at++
		for range 4 {
			if hex[s.peek()] == 0 {
				return s.wrong(`one of the four hexadecimal digits of \u`)
			}
			s.at++
		}
		return true
	}
	return s.wrong(`an escape, one of \" \\ \/ \b \f \n \r \t \u`)
}

var (
	extra [256]byte // by how many bytes a JSON string's escape is longer; 0: the byte stands for itself
	hex   [256]byte // a hexadecimal digit's value and 16; 0: none
)

func init() {
	for c := range byte(' ') {
		extra[c] = uint8(len(`\u0000`) - 1)
	}
	for _, c := range []byte("\"\\\b\f\n\r\t") {
		extra[c] = uint8(len(`\n`) - 1)
	}
	for i := range byte(16) {
		hex["0123456789abcdef"[i]] = i | 16
		hex["0123456789ABCDEF"[i]] = i | 16
	}
}

// unquote returns the text that a JSON string stands for: a part of it, if
// there is no escape in it. It is not whole if one half of a surrogate pair
// is without the other, which stands for no text: then U+FFFD is in its place.
func unquote(quoted []byte) (text []byte, whole bool) {
	quoted = quoted[1 : len(quoted)-1]
	at := bytes.IndexByte(quoted, '\\')
	if at < 0 {
		return quoted, true
	}
	whole = true
	text = make([]byte, 0, len(quoted))
	for at >= 0 {
		text = append(text, quoted[:at]...)
		c := quoted[at+1]
		quoted = quoted[at+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := unit(quoted)
			quoted = quoted[4:]
			if utf16.IsSurrogate(r) {
				second := rune(0)
				if len(quoted) >= 6 && quoted[0] == '\\' && quoted[1] == 'u' {
					second = unit(quoted[2:])
				}
				if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
					whole = false
				} else {
					quoted = quoted[6:]
				}
			}
			text = utf8.AppendRune(text, r)
			at = bytes.IndexByte(quoted, '\\')
			continue
		}
		text = append(text, c)
		at = bytes.IndexByte(quoted, '\\')
	}
	return append(text, quoted...), whole
}

// unit reads four hexadecimal digits.
func unit(digits []byte) (r rune) {
	for _, c := range digits[:4] {
		r = r<<4 | rune(hex[c]&15)
	}
	return r
}

// plain returns how many bytes at the beginning of text stand for themselves in
// a JSON string.
func plain(text []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	at := 0
	for ; len(text)-at >= 8; at += 8 {
		// Eight bytes at once: the lowest bit set in found is in the first byte
		// that is a control character, a quote or a backslash.
		word := binary.LittleEndian.Uint64(text[at:])
		quote, backslash := word^'"'*ones, word^'\\'*ones
		found := (word-' '*ones)&^word | (quote-ones)&^quote | (backslash-ones)&^backslash
		if found &= highs; found != 0 {
			return at + bits.TrailingZeros64(found)/8
		}
	}
	for at < len(text) && extra[text[at]] == 0 {
		at++
	}
	return at
}

// appendString appends a string as JSON, on one line and in UTF-8 whatever it
// contains. U+2028 and U+2029 are escaped too: some readers take them for the
// ends of lines.
func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for {
		n := plain(s)
		dst = appendPlain(dst, s[:n])
		if n == len(s) {
			return append(dst, '"')
		}
		dst = appendEscape(dst, s[n])
		s = s[n+1:]
	}
}

// lineSeparators is how U+2028 and U+2029 begin.
var lineSeparators = []byte("\u2028"[:2])

// appendPlain appends what stands for itself, but for U+2028, U+2029 and what
// is not UTF-8.
func appendPlain(dst, s []byte) []byte {
	if utf8.Valid(s) && !bytes.Contains(s, lineSeparators) {
		return append(dst, s...)
	}
	for _, r := range string(s) {
		switch r {
		case '\u2028':
			dst = append(dst, `\u2028`...)
		case '\u2029':
			dst = append(dst, `\u2029`...)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

func appendEscape(dst []byte, c byte) []byte {
	const digits = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}

// appendLine appends JSON text, which is not changed but that the ends of
// lines in it, which can only be white space, become spaces.
func appendLine(dst []byte, text []byte) []byte {
	start := len(dst)
	dst = append(dst, text...)
	for _, end := range []byte("\n\r") {
		for rest := dst[start:]; ; {
			at := bytes.IndexByte(rest, end)
			if at < 0 {
				break
			}
			rest[at] = ' '
			rest = rest[at+1:]
		}
	}
	return dst
}
