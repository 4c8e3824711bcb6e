package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode/utf8"

	"fanfare/client"
	"fanfare/internal/terminal"
	"fanfare/websocket"
)

// lineReader reads lines of any length and keeps no more than a limit of each.
// One goroutine uses it.
type lineReader struct {
	r      *bufio.Reader
	limit  int
	number int // of the last line read, from 1 on
}

func newLineReader(r io.Reader, limit int64) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), limit: int(limit)}
}

// next returns the next line without its line break (LF, or CRLF) and how many
// bytes it has. line is nil if they are more than the limit; the rest of the
// line has been read all the same. A last line may lack its line break. At the
// end, io.EOF.
func (l *lineReader) next() (line []byte, length int, err error) {
	var kept []byte
	var last byte // of what was read before part
	for {
		part, err := l.r.ReadSlice('\n')
		length += len(part)
		if len(kept) <= l.limit+2 {
			kept = append(kept, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			last = part[len(part)-1]
			continue
		case err != nil && (length == 0 || !errors.Is(err, io.EOF)):
			return nil, 0, err
		}
		l.number++
		if err == nil { // there is a line break
			length--
			if n := len(part); n > 1 {
				last = part[n-2]
			}
			if last == '\r' {
				length--
			}
		}
		if length > l.limit {
			return nil, length, nil
		}
		kept = kept[:length]
		if kept == nil {
			kept = []byte{}
		}
		return kept, length, nil
	}
}

// sendLines hands over each line of in to be sent as a text message. A line that
// cannot be sent is reported and left out. It returns how many there were, and
// how many of them were left out.
func sendLines(in io.Reader, limit int64, std stdio, send func(line []byte, number int) error) (all, left int, err error) {
	lines := newLineReader(in, limit)
	for {
		line, length, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return lines.number, left, nil
		case err != nil:
			return lines.number, left, fmt.Errorf("reading standard input: %w", err)
		case line == nil:
			std.say("line %d was not sent: it has %d bytes, and --max-message allows %d", lines.number, length, limit)
			left++
			continue
		case !utf8.Valid(line): // RFC 6455, section 5.6: a text message is UTF-8
			std.say("line %d was not sent: it is not UTF-8, as a text message must be", lines.number)
			left++
			continue
		}
		var refused *client.Error
		switch err := send(line, lines.number); {
		case errors.As(err, &refused):
			std.say("line %d was not sent: %v", lines.number, refused)
			left++
		case err != nil:
			return lines.number, left, err
		}
	}
}

// leftOut is the error of so many lines that were not sent; nil: none.
func leftOut(all, left int) error {
	if left == 0 {
		return nil
	}
	return fmt.Errorf("%d of %s were not sent", left, several(all, "line"))
}

// A printer writes messages to standard output, one at a time.
type printer struct {
	// static
	out  io.Writer
	safe bool // out is a terminal: nothing may drive it

	mu  sync.Mutex
	buf []byte // guarded by mu, as is writing to out

	unread atomic.Bool // nobody reads any more
}

var errUnread = errors.New("nobody reads what is printed")

// newPrinter makes a printer. When nobody reads any more, stop is called with
// errUnread.
func newPrinter(out io.Writer, stop context.CancelCauseFunc) *printer {
	p := &printer{out: out, safe: isTerminal(out)}
	if f, ok := out.(*os.File); ok && !p.safe {
		whenUnread(f, func() {
			p.unread.Store(true)
			stop(errUnread)
		})
	}
	return p
}

// message writes a message and a line break: on a terminal made harmless, else
// byte for byte.
func (p *printer) message(typ websocket.MessageType, data []byte) error {
	switch {
	case !p.safe:
		return p.line(data)
	case typ == websocket.Binary:
		return p.line(fmt.Appendf(nil, "<binary, %d bytes>", len(data)))
	}
	return p.line([]byte(terminal.Printable(string(data))))
}

// said writes a message of a Fanfare server: in JSON, or as message does, after
// its channel and a tab if that is named.
func (p *printer) said(m *client.Message, named, asJSON bool) error {
	if asJSON {
		return p.line(eventLine(m))
	}
	text := stamped(m)
	if m.Binary() && p.safe {
		text = fmt.Appendf(nil, "<binary, %d bytes>", len(text))
	}
	if named {
		text = append([]byte(m.Channel+"\t"), text...)
	}
	return p.message(websocket.Text, text)
}

// line writes a line in one call. When nobody reads any more it returns
// errStop: `| head -1` is no failure.
func (p *printer) line(data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buf = append(append(p.buf[:0], data...), '\n')
	_, err := p.out.Write(p.buf)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		p.unread.Store(true)
		return errStop
	}
	return fmt.Errorf("writing standard output: %w", err)
}
