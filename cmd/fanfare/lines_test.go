package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLineReader(t *testing.T) {
	const limit = 10
	long := strings.Repeat("x", 200<<10)
	for _, c := range []struct {
		name, in string
		want     []string // "!n" for a line of n bytes that is too long
	}{
		{"nothing", "", nil},
		{"lines", "a\nbb\n", []string{"a", "bb"}},
		{"no last line break", "a\nbb", []string{"a", "bb"}},
		{"CRLF", "a\r\nbb\r\n\r\n", []string{"a", "bb", ""}},
		{"a carriage return within", "a\rb\n", []string{"a\rb"}},
		{"empty lines", "\n\na\n", []string{"", "", "a"}},
		{"as long as allowed", "0123456789\n0123456789\r\n0123456789", []string{"0123456789", "0123456789", "0123456789"}},
		{"one too long", "0123456789a\nb\n0123456789a\r\nc", []string{"!11", "b", "!11", "c"}},
		{"much too long", long + "\nb\n" + long, []string{fmt.Sprint("!", len(long)), "b", fmt.Sprint("!", len(long))}},
		{"Chinese", "你好\n再见\n", []string{"你好", "再见"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{"whole": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
				l := newLineReader(r, limit)
				var got []string
				for {
					line, length, err := l.next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if line == nil {
						got = append(got, fmt.Sprint("!", length))
						continue
					}
					if len(line) != length {
						t.Errorf("line %q has %d bytes, said are %d", line, len(line), length)
					}
					got = append(got, string(line))
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) || l.number != len(c.want) {
					t.Errorf("%s: %.100q in %d lines, want %.100q", name, got, l.number, c.want)
				}
			}
		})
	}
	l := newLineReader(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(io.ErrUnexpectedEOF)), limit)
	if line, _, err := l.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reader that fails gave the line %q and the error %v", line, err)
	}
}
