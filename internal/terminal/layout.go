package terminal

import (
	"strings"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// Widths are counted in cells, and terminals disagree about emoji that are
// joined from several: one that understands Unicode's clusters (mode 2027) says
// so, and then the renderer and this package count clusters; of all others both
// assume the old way, one width per character.

// cluster returns the first user-perceived character of s and its width.
func cluster(s string, m ansi.Method) (string, int) {
	if s[0] >= 0x20 && s[0] < utf8.RuneSelf && (len(s) == 1 || s[1] < utf8.RuneSelf) {
		return s[:1], 1
	}
	return ansi.FirstGraphemeCluster(s, m)
}

// wrap breaks one line of printable text into rows, the first no wider than
// width, those after it no wider than rest (at least two cells each, so that
// any character fits). It breaks at spaces where it can, and beside wide
// characters, which are written without spaces. Spaces at a break are left out;
// all others stay.
func wrap(s string, width, rest int, m ansi.Method) []string {
	width, rest = max(width, 2), max(rest, 2)
	if len(s) <= width && isASCII(s) {
		return []string{s}
	}
	var rows []string
	start, used := 0, 0 // the row under way: s[start:i], used cells
	cut, next := 0, 0   // the last place to break: the row ends at cut, the next begins at next
	breaks := false     // there is such a place in this row
	inked := false      // this row has more than its indent
	for i := 0; i < len(s); {
		c, w := cluster(s[i:], m)
		if used+w > width && c != " " && i > start {
			if !breaks {
				cut, next = i, i
			}
			rows = append(rows, s[start:cut])
			start, used, breaks, inked, width = next, 0, false, false, rest
			i = next // what moved down is measured again: the new row may be narrower
			continue
		}
		i += len(c)
		used += w
		switch {
		case c == " " && !inked: // a row of nothing but its indent would be none
		case c == " ":
			if !breaks || next != i-1 { // the first of a run of spaces ends the row
				cut = i - 1
			}
			next, breaks = i, true
		case w == 2:
			cut, next, breaks, inked = i, i, true, true
		default:
			inked = true
		}
	}
	last := s[start:]
	if used > width { // only spaces may hang over
		last = strings.TrimRight(last, " ")
	}
	return append(rows, last)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// fit cuts s to width cells, with an ellipsis where something is missing.
func fit(s string, width int, m ansi.Method) string {
	if width <= 0 {
		return ""
	}
	return m.Truncate(s, width, "…")
}

// pad puts spaces before s until it is width cells wide.
func pad(s string, width int, m ansi.Method) string {
	return strings.Repeat(" ", max(0, width-m.StringWidth(s))) + s
}
