package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// State is what a connection is doing.
type State int

const (
	Connecting State = iota // an attempt is under way
	Connected
	Waiting // for the next attempt
)

// A Status is what the screen tells about the connection.
type Status struct {
	State  State
	Next   time.Time // Waiting: when the next attempt begins
	Reason string    // Waiting: why, for people
}

// Options says what a Screen shows and where what is typed goes.
type Options struct {
	Target string // what one is connected to; shown in the status line
	Name   string // who one is there, or empty

	// Send takes a line typed. It must not block. An error is shown, and the
	// line stays in the input to be changed.
	Send func(line string) error

	Input   io.Reader // default os.Stdin
	Output  io.Writer // default os.Stdout
	Environ []string  // default os.Environ(); TERM, NO_COLOR and the like are read from it

	// Width and Height, in cells, where Output is not a terminal that can be
	// asked.
	Width, Height int
}

// maxBatch is how many events may wait for the screen before those who bring
// them have to wait too: a flood of messages slows its connection down instead
// of filling memory.
const maxBatch = 4096

// A Screen is the interactive screen of one connection. Make it with [New],
// show it with [Screen.Run]; all other methods may be called from any
// goroutine.
type Screen struct {
	// static
	opt  Options
	wake chan struct{} // one token: batch is not empty
	done chan struct{} // closed when Run returns

	// guarded by mu
	mu    sync.Mutex
	batch []tea.Msg
	room  chan struct{} // not nil: somebody waits for batch to be taken; closed then
}

// New makes a screen that nobody sees yet.
func New(opt Options) *Screen {
	if opt.Input == nil {
		opt.Input = os.Stdin
	}
	if opt.Output == nil {
		opt.Output = os.Stdout
	}
	if opt.Environ == nil {
		opt.Environ = os.Environ()
	}
	return &Screen{opt: opt, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Text shows a text message that arrived at a time.
func (s *Screen) Text(at time.Time, text string) { s.post(newEntry(at, text), true) }

// Said shows what somebody said: channel is empty where there is only one, and
// name if it is nobody in particular.
func (s *Screen) Said(at time.Time, channel, name, text string) {
	s.post(entry{kind: said, stamp: at.Format(time.TimeOnly), name: Printable(name), channel: Printable(channel), text: shown(text)}, true)
}

// Notice shows what nobody said, but has to be known.
func (s *Screen) Notice(at time.Time, text string) {
	s.post(entry{kind: notice, stamp: at.Format(time.TimeOnly), text: shown(text)}, true)
}

// Here says who is there; empty: that is not known.
func (s *Screen) Here(people string) { s.post(here(people), false) }

// Binary says that a binary message of n bytes arrived.
func (s *Screen) Binary(at time.Time, n int) {
	s.post(entry{kind: binary, stamp: at.Format(time.TimeOnly), text: fmt.Sprintf("<binary, %s bytes>", grouped(n))}, true)
}

// Sent shows a line of one's own, for servers that do not send it back.
func (s *Screen) Sent(at time.Time, line string) {
	s.post(entry{kind: own, stamp: at.Format(time.TimeOnly), text: shown(line)}, true)
}

// Status says what the connection is doing now.
func (s *Screen) Status(st Status) { s.post(st, false) }

// Waiting says which lines have not been sent yet, oldest first.
func (s *Screen) Waiting(lines []string) { s.post(waiting(lines), false) }

// Leave ends Run once everything posted before has been shown.
func (s *Screen) Leave() { s.post(leave{}, false) }

type (
	waiting []string
	here    string
	leave   struct{}
	batch   []tea.Msg
	tick    int // the countdown's next second; the number of the status it counts for
)

// post hands msg to the model. With wait it waits while the model has more than
// enough to do; without, it may be called from Options.Send, within the model.
func (s *Screen) post(msg tea.Msg, wait bool) {
	s.mu.Lock()
	for wait && len(s.batch) >= maxBatch {
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-s.done:
			return
		}
		s.mu.Lock()
	}
	_, lines := msg.(waiting)
	if last := len(s.batch) - 1; lines && last >= 0 {
		if _, older := s.batch[last].(waiting); older {
			s.batch = s.batch[:last] // it says all there is to say
		}
	}
	s.batch = append(s.batch, msg)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // a token is there already
	}
}

// next is the command that brings what has been posted into the model.
func (s *Screen) next() tea.Msg {
	select {
	case <-s.wake:
	case <-s.done:
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := batch(s.batch)
	s.batch = nil
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	return b
}

// Run shows the screen until the person leaves, [Screen.Leave] is called or ctx
// ends, and restores the terminal. What was last to be seen of the conversation
// stays in the terminal. An error means that the terminal failed.
func (s *Screen) Run(ctx context.Context) error {
	defer close(s.done)
	m := newModel(s.opt, s.next)
	opts := []tea.ProgramOption{
		tea.WithContext(ctx),
		tea.WithInput(s.opt.Input),
		tea.WithOutput(s.opt.Output),
		tea.WithEnvironment(s.opt.Environ),
	}
	if s.opt.Width > 0 {
		opts = append(opts, tea.WithWindowSize(s.opt.Width, s.opt.Height))
	}
	_, err := tea.NewProgram(m, opts...).Run()
	if errors.Is(err, tea.ErrProgramPanic) {
		return err
	}
	m.said.offset = 0
	if rows := m.said.view(m.height - 2); len(rows) > 0 {
		lipgloss.Fprintln(s.opt.Output, strings.Join(rows, "\n")) // with the colours that Output and NO_COLOR allow
	}
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// A model is the screen's state; all of it belongs to the program's event loop.
type model struct {
	opt    Options
	next   tea.Cmd
	now    func() time.Time
	width  int
	height int
	method ansi.Method // how the terminal counts widths

	said    transcript
	line    input
	waiting []string

	here     string // who is there; empty: not known
	status   Status
	statusNo int    // counts the statuses, so that an old countdown knows it is old
	trouble  string // why the last line could not be sent; until the next key
}

func newModel(opt Options, next tea.Cmd) *model {
	m := &model{opt: opt, next: next, now: time.Now, width: 80, height: 24, method: ansi.WcWidth, line: newInput()}
	m.said.resize(m.width, m.method)
	return m
}

func (m *model) Init() tea.Cmd { return m.next }

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case batch:
		return m, m.take(msg)
	case tick:
		if int(msg) == m.statusNo {
			return m, m.countDown()
		}
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 1), max(msg.Height, 1)
		m.said.resize(m.width, m.method)
		m.said.scroll(0, m.rows())
	case tea.ModeReportMsg:
		if msg.Mode == ansi.ModeUnicodeCore && (msg.Value == ansi.ModeReset || msg.Value == ansi.ModeSet || msg.Value == ansi.ModePermanentlySet) {
			m.method = ansi.GraphemeWidth
			m.said.resize(m.width, m.method)
		}
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		m.trouble = ""
		return m, m.line.update(msg)
	}
	return m, nil
}

// take is for what was posted: all of it, then one drawing.
func (m *model) take(b batch) tea.Cmd {
	cmds := []tea.Cmd{m.next}
	var entries []entry
	for _, msg := range b {
		switch msg := msg.(type) {
		case entry:
			entries = append(entries, msg)
		case waiting:
			m.waiting = msg
		case here:
			m.here = string(msg)
		case Status:
			m.status = msg
			m.statusNo++
			if msg.State == Waiting {
				cmds = append(cmds, m.countDown())
			}
		case leave:
			cmds = append(cmds, tea.Quit)
		}
	}
	m.said.add(entries...)
	return tea.Batch(cmds...)
}

func (m *model) countDown() tea.Cmd {
	no := tick(m.statusNo)
	return tea.Tick(time.Second, func(time.Time) tea.Msg { return no })
}

func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	m.trouble = ""
	switch k.String() {
	case "ctrl+c":
		return tea.Quit
	case "ctrl+d":
		if m.line.value() == "" {
			return tea.Quit
		}
	case "ctrl+z":
		return tea.Suspend
	case "ctrl+l":
		return tea.ClearScreen
	case "enter", "ctrl+j": // what was typed before the terminal was ours arrives with line feeds
		return m.enter()
	case "up", "ctrl+p":
		m.line.recall(-1)
		return nil
	case "down", "ctrl+n":
		m.line.recall(+1)
		return nil
	case "pgup":
		m.said.scroll(max(1, m.rows()-1), m.rows())
		return nil
	case "pgdown":
		m.said.scroll(-max(1, m.rows()-1), m.rows())
		return nil
	case "shift+up":
		m.said.scroll(1, m.rows())
		return nil
	case "shift+down":
		m.said.scroll(-1, m.rows())
		return nil
	case "ctrl+home":
		m.said.scroll(1<<30, m.rows())
		return nil
	case "ctrl+end", "esc":
		m.said.scroll(-1<<30, m.rows())
		return nil
	}
	return m.line.update(k)
}

// enter is for a finished line.
func (m *model) enter() tea.Cmd {
	text := m.line.value()
	switch strings.TrimSpace(text) {
	case "":
		return nil
	case "exit":
		return tea.Quit
	}
	if err := m.opt.Send(text); err != nil {
		m.trouble = err.Error()
		return nil
	}
	m.line.take()
	m.said.scroll(-1<<30, m.rows()) // whoever speaks wants to see the answer
	return nil
}

// The screen from top to bottom: what was said, lines that wait to be sent, the
// status, the line being typed. A window too low for all of it keeps the last
// ones.

// waitingRows is how many rows the waiting lines get.
func (m *model) waitingRows() int {
	return max(0, min(len(m.waiting), 5, m.height-3))
}

// rows is how many rows are left for what was said.
func (m *model) rows() int { return max(0, m.height-2-m.waitingRows()) }

func (m *model) View() tea.View {
	rows := m.said.view(m.rows())
	for len(rows) < m.rows() { // what was said stands right above the status
		rows = append([]string{""}, rows...)
	}
	rows = append(rows, m.waitingView()...)
	if m.height > 1 {
		rows = append(rows, m.statusView())
	}

	prompt := "> "
	if m.width < 12 {
		prompt = ""
	}
	var v tea.View
	room := max(1, m.width-len(prompt))
	text, x := m.line.view(room, m.method)
	if m.line.value() == "" {
		text = dim.Render(fit("write a message; Enter sends it, exit or Ctrl-D leaves", room, m.method))
	}
	rows = append(rows, accent.Render(prompt)+text)
	v.SetContent(strings.Join(rows, "\n"))
	v.Cursor = tea.NewCursor(min(len(prompt)+x, m.width-1), len(rows)-1)
	v.Cursor.Shape = tea.CursorBar
	v.AltScreen = true
	return v
}

func (m *model) waitingView() []string {
	n := m.waitingRows()
	if n == 0 {
		return nil
	}
	shownLines := m.waiting[:n]
	more := len(m.waiting) - n
	if more > 0 {
		shownLines = m.waiting[:n-1]
		more++
	}
	var rows []string
	for _, line := range shownLines {
		rows = append(rows, dim.Render(fit("⋯ "+Printable(line), m.width, m.method)))
	}
	if more > 0 {
		rows = append(rows, dim.Render(fit(fmt.Sprintf("⋯ and %s more wait to be sent", grouped(more)), m.width, m.method)))
	}
	return rows
}

var (
	accent = lipgloss.NewStyle().Bold(true)
	green  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	yellow = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	red    = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
)

// statusView is the line that says how things are: the state, then what matters
// most, then at the right edge what the reader misses by scrolling back.
func (m *model) statusView() string {
	dot, state, detail := yellow.Render("●"), "connecting", m.opt.Target
	switch m.status.State {
	case Connected:
		dot, state = green.Render("●"), "connected"
		if m.here != "" {
			detail = m.here + " · " + detail
		}
	case Waiting:
		state = "reconnecting now"
		if left := m.status.Next.Sub(m.now()); left > 0 {
			state = fmt.Sprintf("reconnecting in %d s", int(left/time.Second)+1)
		}
		detail = m.status.Reason
	}
	if m.trouble != "" {
		dot, state, detail = red.Render("●"), "not sent", m.trouble
	}
	right := ""
	switch {
	case m.said.unseen > 0:
		right = fmt.Sprintf("↓ %s new, Esc", grouped(m.said.unseen))
	case m.said.offset > 0:
		right = "↓ Esc"
	case m.opt.Name != "":
		right = Printable(m.opt.Name)
	}
	room := m.width - 2 - len(state) - 3
	if room < m.method.StringWidth(right)+12 {
		right = ""
	}
	if right != "" {
		room -= m.method.StringWidth(right) + 2
	}
	detail = fit(Printable(detail), room, m.method)
	text := dot + " " + state
	if m.width < len(state)+2 {
		return fit(text, m.width, m.method)
	}
	if detail != "" {
		text += "   " + dim.Render(detail)
	}
	if right != "" {
		text += strings.Repeat(" ", room-m.method.StringWidth(detail)+2) + dim.Render(right)
	}
	return text
}
