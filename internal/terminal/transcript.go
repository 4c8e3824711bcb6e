package terminal

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

const (
	maxEntries   = 5000     // kept for scrolling back
	maxKept      = 16 << 20 // bytes kept for scrolling back
	maxShown     = 16 << 10 // bytes of one message that are shown; the rest is counted
	maxNameWidth = 16       // cells that align; a longer name pushes its own line only
	maxChannel   = 24       // cells of a channel's name
	timeWidth    = 8        // HH:MM:SS
)

// kind says how an entry is drawn.
type kind byte

const (
	said   kind = iota // a message that arrived
	binary             // a binary message that arrived; text says how long it was
	own                // a line of one's own, where the server does not send it back
	notice             // the server itself speaking
)

// An entry is one message as it is kept: printable already, not yet wrapped.
type entry struct {
	kind    kind
	stamp   string // HH:MM:SS
	name    string // who spoke, or empty
	channel string // where, or empty if that is plain
	text    string // may hold line breaks; each line is printable

	rows []string // as drawn, for the layout numbered gen
	gen  int
}

// stamped is what a Fanfare server makes of a plain text: the server's local
// time and, if the sender has a name, the name; or the star of a notice of the
// server's own.
var stamped = regexp.MustCompile(`^\[(\d\d:\d\d:\d\d)\] (?:([^\s:][^:\n]{0,31}): )?(\* )?`)

// newEntry reads a text as a message. Without a stamp of the server's, the
// stamp is the time it arrived.
func newEntry(at time.Time, text string) entry {
	e := entry{kind: said, stamp: at.Format(time.TimeOnly)}
	if m := stamped.FindStringSubmatch(text); m != nil {
		e.stamp, e.name = m[1], Printable(m[2])
		if m[3] != "" && m[2] == "" {
			e.kind = notice
		} else {
			m[0] = m[0][:len(m[0])-len(m[3])]
		}
		text = text[len(m[0]):]
	}
	e.text = shown(text)
	return e
}

// shown makes a message's text printable, line by line, and cuts what is too
// long.
func shown(text string) string {
	more := 0
	if len(text) > maxShown {
		end := maxShown
		for end > maxShown-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		more = len(text) - end
		text = text[:end]
	}
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\n")
	for i, line := range lines {
		lines[i] = Printable(strings.TrimSuffix(line, "\r"))
	}
	text = strings.Join(lines, "\n")
	if more > 0 {
		text += fmt.Sprintf(" … (%s more bytes)", grouped(more))
	}
	return text
}

// grouped writes n with commas: 1,048,576.
func grouped(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// A transcript is what has been said, newest last, and where the reader stands
// in it. It belongs to the model.
type transcript struct {
	entries []entry
	bytes   int // of all entries' text
	width   int // cells in a row
	method  ansi.Method
	names   int // width of the names' column; grows with the names seen
	gen     int // the layout's number: entries of another are drawn again
	offset  int // rows between the last one drawn and the newest; 0 follows what arrives
	unseen  int // entries that arrived while offset was not 0
}

// add appends entries. A reader who has scrolled up keeps what they see in
// place.
func (t *transcript) add(entries ...entry) {
	if drop := len(entries) - maxEntries; drop > 0 {
		entries = entries[drop:]
	}
	for _, e := range entries {
		t.bytes += len(e.text)
		if w := min(t.method.StringWidth(e.name), maxNameWidth); w > t.names {
			t.names = w
			t.gen++
		}
		t.entries = append(t.entries, e)
	}
	if t.offset > 0 {
		t.unseen += len(entries)
		for i := len(t.entries) - len(entries); i < len(t.entries); i++ {
			t.offset += len(t.rowsOf(i))
		}
	}
	t.trim()
}

func (t *transcript) trim() {
	drop := max(0, len(t.entries)-maxEntries)
	for i := range drop {
		t.bytes -= len(t.entries[i].text)
	}
	for t.bytes > maxKept && drop < len(t.entries)-1 {
		t.bytes -= len(t.entries[drop].text)
		drop++
	}
	clear(t.entries[:drop])
	t.entries = t.entries[drop:]
}

// resize changes the width and, with it, every row.
func (t *transcript) resize(width int, m ansi.Method) {
	if width == t.width && m == t.method {
		return
	}
	t.width, t.method = width, m
	t.gen++
}

// scroll moves up by n rows (down when negative) in a window of height rows.
func (t *transcript) scroll(n, height int) {
	t.offset = max(0, t.offset+n)
	if t.offset > 0 { // not beyond the first row
		room := t.offset + height
		for i := len(t.entries) - 1; i >= 0 && room > 0; i-- {
			room -= len(t.rowsOf(i))
		}
		t.offset = max(0, t.offset-max(0, room))
	}
	if t.offset == 0 {
		t.unseen = 0
	}
}

// view returns the height rows that are to be seen, or fewer if there are no
// more.
func (t *transcript) view(height int) []string {
	if height <= 0 {
		return nil
	}
	var rows []string // newest first
	skip := t.offset
	for i := len(t.entries) - 1; i >= 0 && len(rows) < height; i-- {
		r := t.rowsOf(i)
		for j := len(r) - 1; j >= 0 && len(rows) < height; j-- {
			if skip > 0 {
				skip--
				continue
			}
			rows = append(rows, r[j])
		}
	}
	for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
		rows[i], rows[j] = rows[j], rows[i]
	}
	return rows
}

// rowsOf returns entry i as rows, drawing it if the layout changed.
func (t *transcript) rowsOf(i int) []string {
	e := &t.entries[i]
	if e.rows == nil || e.gen != t.gen {
		e.rows, e.gen = t.draw(e), t.gen
	}
	return e.rows
}

// draw lays an entry out in columns: time, name (aligned right), text. Where
// the window is too narrow for columns, the text follows the name and goes on
// under the time.
func (t *transcript) draw(e *entry) []string {
	const gap = 2
	first := dim.Render(e.stamp) + strings.Repeat(" ", gap)
	at := timeWidth + gap
	if e.kind == own || e.kind == notice {
		mark := "›"
		if e.kind == notice {
			mark = "·"
		}
		if t.names > 0 {
			first += pad(mark, t.names, t.method) + strings.Repeat(" ", gap)
			at += t.names + gap
		} else {
			first += mark + " "
			at += 2
		}
		first = dim.Render(ansi.Strip(first))
	} else if t.names > 0 {
		w := t.method.StringWidth(e.name)
		first += strings.Repeat(" ", max(0, t.names-w)) + paint(e.name) + strings.Repeat(" ", gap)
		at += max(t.names, w) + gap
	}
	if e.channel != "" {
		channel := fit(e.channel, maxChannel, t.method)
		first += dim.Render(channel) + strings.Repeat(" ", gap)
		at += t.method.StringWidth(channel) + gap
	}
	hang := min(at, timeWidth+gap+t.names+gap)
	if t.names == 0 {
		hang = at
	}
	if t.width-hang < 24 {
		hang = 2
	}
	style := plain
	switch e.kind {
	case own, binary, notice:
		style = dim
	}
	indent := strings.Repeat(" ", hang)
	var rows []string
	if t.width-at < 8 { // no room beside so long a name
		rows = append(rows, fit(first, t.width, t.method))
		first, at = indent, hang
	}
	for line := range strings.SplitSeq(e.text, "\n") {
		for _, row := range wrap(line, t.width-at, t.width-hang, t.method) {
			rows = append(rows, first+style.Render(row))
			first, at = indent, hang
		}
	}
	return rows
}

var (
	plain = lipgloss.NewStyle()
	dim   = lipgloss.NewStyle().Faint(true)

	// Colours that can be read on a dark and on a light background.
	palette = []string{"32", "64", "133", "166", "37", "98", "136", "167", "71", "68", "170", "101"}
)

// paint gives a name its colour, the same one each time.
func paint(name string) string {
	if name == "" {
		return ""
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	c := palette[h.Sum32()%uint32(len(palette))]
	return lipgloss.NewStyle().Foreground(lipgloss.Color(c)).Bold(true).Render(name)
}
