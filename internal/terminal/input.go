package terminal

import (
	"strings"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

const maxPast = 1000 // lines remembered

// input is the line being typed and those typed before. The editing is
// textinput's; what it gets wrong for text that is not one cell a character
// (the place of the cursor, half an emoji after a backspace) is done here. It
// belongs to the model.
type input struct {
	edit  textinput.Model
	past  []string // lines entered, oldest first
	at    int      // which of past is shown; len(past) is the draft
	draft string   // what was typed before going through past
	left  int      // the first rune shown, where the line is longer than the window
}

func newInput() input {
	e := textinput.New()
	e.Prompt = ""
	e.SetVirtualCursor(false)
	e.Focus()
	// The arrow keys are ours: textinput would go through suggestions with
	// them.
	e.KeyMap.NextSuggestion = key.NewBinding()
	e.KeyMap.PrevSuggestion = key.NewBinding()
	e.KeyMap.AcceptSuggestion = key.NewBinding()
	return input{edit: e}
}

func (in *input) value() string { return in.edit.Value() }

// take returns the line, remembers it and begins an empty one.
func (in *input) take() string {
	line := in.edit.Value()
	if n := len(in.past); line != "" && (n == 0 || in.past[n-1] != line) {
		in.past = append(in.past, line)
		if len(in.past) > maxPast {
			in.past = in.past[1:]
		}
	}
	in.at, in.draft, in.left = len(in.past), "", 0
	in.edit.Reset()
	return line
}

// recall shows an older line (-1) or a newer one (+1); beyond the newest waits
// the draft.
func (in *input) recall(step int) {
	to := min(max(in.at+step, 0), len(in.past))
	if to == in.at {
		return
	}
	if in.at == len(in.past) {
		in.draft = in.edit.Value()
	}
	in.at = to
	if to == len(in.past) {
		in.edit.SetValue(in.draft)
	} else {
		in.edit.SetValue(in.past[to])
	}
	in.edit.CursorEnd()
	in.left = 0
}

// update edits the line. A key that moves or deletes one character does so for
// what a person sees as one, however many code points it is made of.
func (in *input) update(msg tea.Msg) tea.Cmd {
	times := 1
	if k, ok := msg.(tea.KeyPressMsg); ok {
		m := in.edit.KeyMap
		runes, pos := []rune(in.edit.Value()), in.edit.Position()
		switch {
		case key.Matches(k, m.CharacterBackward), key.Matches(k, m.DeleteCharacterBackward):
			times = lastCluster(string(runes[:pos]))
		case key.Matches(k, m.CharacterForward), key.Matches(k, m.DeleteCharacterForward):
			if pos < len(runes) {
				c, _ := cluster(string(runes[pos:]), ansi.GraphemeWidth)
				times = len([]rune(c))
			}
		}
	}
	var cmd tea.Cmd
	for range times {
		in.edit, cmd = in.edit.Update(msg)
	}
	return cmd
}

// lastCluster returns how many runes make up the last character of s; at least
// one.
func lastCluster(s string) int {
	n := 1
	for s != "" {
		c, _ := cluster(s, ansi.GraphemeWidth)
		n = len([]rune(c))
		s = s[len(c):]
	}
	return n
}

// view returns what of the line is to be seen in width cells, and the cell that
// the cursor stands in.
func (in *input) view(width int, m ansi.Method) (string, int) {
	runes, pos := []rune(in.edit.Value()), in.edit.Position()
	in.left = min(in.left, pos)
	w := func(s []rune) int { return m.StringWidth(Printable(string(s))) }
	if w(runes) < width {
		in.left = 0
	}
	for in.left < pos && w(runes[in.left:pos]) >= width { // the cursor needs a cell of its own
		c, _ := cluster(string(runes[in.left:]), m)
		in.left += len([]rune(c))
	}
	if in.left == pos && pos > 0 && pos == len(runes) { // show something of what stands before
		in.left = max(0, pos-width/2)
	}
	var b strings.Builder
	used := 0
	for rest := string(runes[in.left:]); rest != ""; {
		c, _ := cluster(rest, m)
		rest = rest[len(c):]
		c = Printable(c)
		cw := m.StringWidth(c)
		if used+cw > width {
			break
		}
		used += cw
		b.WriteString(c)
	}
	return b.String(), w(runes[in.left:pos])
}
