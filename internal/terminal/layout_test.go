package terminal

import (
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"
)

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		name        string
		in          string
		first, rest int
		want        []string
	}{
		{"fits", "hello world", 11, 11, []string{"hello world"}},
		{"at a space", "hello brave world", 11, 11, []string{"hello brave", "world"}},
		{"other width for the rest", "aa bb cc dd", 3, 6, []string{"aa", "bb cc", "dd"}},
		{"a word too long", "abcdefghij", 4, 4, []string{"abcd", "efgh", "ij"}},
		{"a long word after a short one", "ab abcdefghij", 6, 6, []string{"ab", "abcdef", "ghij"}},
		{"Chinese breaks anywhere", "今天天气很好", 5, 5, []string{"今天", "天气", "很好"}},
		{"mixed", "see 今天天气", 7, 7, []string{"see 今", "天天气"}},
		{"leading spaces stay", "  if x {", 20, 20, []string{"  if x {"}},
		{"inner runs of spaces stay", "a   b 你", 20, 20, []string{"a   b 你"}},
		{"a run of spaces at the break goes", "aaa    bbb", 5, 5, []string{"aaa", "bbb"}},
		{"trailing spaces do not make a row", "aaaa      ", 4, 4, []string{"aaaa"}},
		{"an indent is no row", "   abcdef gh", 6, 6, []string{"   abc", "def gh"}},
		{"empty", "", 5, 5, []string{""}},
		{"no room at all", "你a", 0, 0, []string{"你", "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wrap(c.in, c.first, c.rest, ansi.GraphemeWidth); !slices.Equal(got, c.want) {
				t.Errorf("wrap(%q, %d, %d) = %q, want %q", c.in, c.first, c.rest, got, c.want)
			}
		})
	}
}

func TestWrapKeepsEverythingInside(t *testing.T) {
	piece := rapid.OneOf(rapid.Just(" "), rapid.Just("  "), rapid.Just("你"), rapid.Just("👩‍👩‍👧"), rapid.Just("e\u0301"), rapid.Just("🇨🇭"),
		rapid.StringMatching(`[a-z-]{1,9}`), rapid.Map(rapid.String(), Printable))
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOf(piece).Draw(t, "pieces"), "")
		first, rest := rapid.IntRange(2, 30).Draw(t, "first"), rapid.IntRange(2, 30).Draw(t, "rest")
		m := rapid.SampledFrom([]ansi.Method{ansi.GraphemeWidth, ansi.WcWidth}).Draw(t, "method")
		rows := wrap(in, first, rest, m)
		without := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		if got := without(strings.Join(rows, "")); got != without(in) {
			t.Fatalf("wrap(%q) lost something: %q", in, rows)
		}
		for i, row := range rows {
			limit := rest
			if i == 0 {
				limit = first
			}
			if w := m.StringWidth(row); w > limit && m.StringWidth(strings.TrimRight(row, " ")) > limit && len([]rune(row)) > 1 && !oneCluster(row, m) {
				t.Fatalf("row %q of wrap(%q, %d, %d) is %d cells wide", row, in, first, rest, w)
			}
		}
	})
}

func oneCluster(s string, m ansi.Method) bool {
	c, _ := cluster(s, m)
	return len(c) == len(s)
}
