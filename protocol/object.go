package protocol

import (
	"slices"
	"strconv"
	"time"
)

// An object appends a message's members. What is empty is left out.
type object struct{ dst []byte }

func begin(dst []byte, kind string) object {
	o := object{append(slices.Grow(dst, 128), `{"type":`...)}
	o.dst = appendString(o.dst, []byte(kind))
	return o
}

func (o *object) name(name string) {
	o.dst = append(append(append(o.dst, `,"`...), name...), `":`...)
}

func (o *object) text(name, value string) {
	if value != "" {
		o.name(name)
		o.dst = appendString(o.dst, []byte(value))
	}
}

func (o *object) flag(name string, value bool) {
	if value {
		o.name(name)
		o.dst = append(o.dst, "true"...)
	}
}

func (o *object) number(name string, value int64) {
	o.name(name)
	o.dst = strconv.AppendInt(o.dst, value, 10)
}

func (o *object) count(name string, value int64) {
	if value != 0 {
		o.number(name, value)
	}
}

func (o *object) time(name string, value time.Time) {
	if !value.IsZero() {
		o.name(name)
		o.dst = appendTime(o.dst, value)
	}
}

// data appends a JSON value as it is, but on one line.
func (o *object) data(name string, value []byte) {
	if value != nil {
		o.name(name)
		o.dst = appendLine(o.dst, value)
	}
}

func (o *object) end() []byte { return append(o.dst, '}') }

// appendTime appends a time in quotes: UTC, RFC 3339 with milliseconds.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = append(dst, '"')
	dst = appendDigits(dst, year, 1000)
	dst = append(dst, '-')
	dst = appendDigits(dst, int(month), 10)
	dst = append(dst, '-')
	dst = appendDigits(dst, day, 10)
	dst = append(dst, 'T')
	dst = appendDigits(dst, hour, 10)
	dst = append(dst, ':')
	dst = appendDigits(dst, minute, 10)
	dst = append(dst, ':')
	dst = appendDigits(dst, second, 10)
	dst = append(dst, '.')
	dst = appendDigits(dst, t.Nanosecond()/int(time.Millisecond), 100)
	return append(dst, 'Z', '"')
}

// appendDigits appends as many digits of n as unit has.
func appendDigits(dst []byte, n, unit int) []byte {
	for ; unit > 0; unit /= 10 {
		dst = append(dst, '0'+byte(n/unit%10))
	}
	return dst
}
