package fanfare

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fanfare/broker"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern  string
		fit, not []string // separated by blanks
	}{
		{"lobby", strings.Fields("lobby"), strings.Fields("lob lobby/a Lobby")},
		{"*", strings.Fields("lobby ü"), strings.Fields("a/b")},
		{"**", strings.Fields("lobby a/b a/b/c"), nil},
		{"tick/*", strings.Fields("tick/btc"), strings.Fields("tick tick/btc/usd tock/btc ticks/btc")},
		{"*/state", strings.Fields("game/state"), strings.Fields("state game/state/1 a/game/state")},
		{"a/*/c", strings.Fields("a/b/c"), strings.Fields("a/c a/b/b/c")},
		{"chat/**", strings.Fields("chat/a chat/a/b/c"), strings.Fields("chat chats/a")},
		{"*/**", strings.Fields("a/b a/b/c"), strings.Fields("a")},
		{"a.b", strings.Fields("a.b"), strings.Fields("aXb")},
		{strings.Repeat("*/", 127) + "*", []string{strings.Repeat("x/", 127) + "x"}, strings.Fields("x")},
	} {
		if err := CheckPattern(c.pattern); err != nil {
			t.Errorf("%q: %v", c.pattern, err)
		}
		for _, name := range c.fit {
			if !broker.Fits(c.pattern, name) {
				t.Errorf("%q does not fit %q", name, c.pattern)
			}
		}
		for _, name := range c.not {
			if broker.Fits(c.pattern, name) {
				t.Errorf("%q fits %q", name, c.pattern)
			}
		}
	}
	for _, bad := range []string{
		"", "/", "/tick/*", "tick/", "tick//*", "tick/b*", "**/state", "a/**/b", "a**", "***", "a/***", "-/*", "-", "../*", "a/./*", "a\n", "\xFF", strings.Repeat("*/", 128) + "*",
	} {
		if err := CheckPattern(bad); err == nil || !strings.Contains(err.Error(), `as in "tick/*" and "chat/**"`) {
			t.Errorf("CheckPattern(%q) = %v", bad, err)
		}
	}
}

// Patterns mean what the plainest translation into a regular expression means.
func TestPatternsAgainstRegexp(t *testing.T) {
	path := func(segments ...string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(segments), 1, 5).Draw(t, "segments"), "/")
		})
	}
	patterns, names := path("a", "b", "ab", "a.", "*", "**", "a*"), path("a", "b", "ab", "a.", "aa")
	rapid.Check(t, func(t *rapid.T) {
		pattern, name := patterns.Draw(t, "pattern"), names.Draw(t, "name")
		segments := strings.Split(pattern, "/")
		valid := true
		for i, segment := range segments {
			switch {
			case segment == "*":
				segments[i] = "[^/]+"
			case segment == "**" && i == len(segments)-1:
				segments[i] = ".+"
			case strings.Contains(segment, "*"):
				valid = false
			default:
				segments[i] = regexp.QuoteMeta(segment)
			}
		}
		if err := CheckPattern(pattern); (err == nil) != valid {
			t.Fatalf("CheckPattern(%q) = %v", pattern, err)
		}
		if !valid {
			return
		}
		model := regexp.MustCompile("^" + strings.Join(segments, "/") + "$")
		if got := broker.Fits(pattern, name); got != model.MatchString(name) {
			t.Fatalf("fits(%q, %q) = %v", pattern, name, got)
		}
	})
}
