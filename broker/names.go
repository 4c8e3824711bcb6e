package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the longest name of a channel in bytes.
const MaxName = 255

// CheckName returns nil if name can be a channel's, and otherwise an error that
// says which rule it breaks: a path of segments divided by "/", UTF-8 without
// control characters, 255 bytes at most; no segment is empty, ".", "..", or
// contains "*" (patterns do), and the first is not "-".
func CheckName(name string) error {
	if rule := broken(name); rule != nil {
		return fmt.Errorf("%.80q is no channel's name: %w", name, rule)
	}
	return nil
}

// broken returns the rule that a name breaks.
func broken(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > MaxName:
		return fmt.Errorf("it has %d bytes, and a name may have %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("it is not UTF-8")
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("it contains a control character")
	case strings.Contains(name, "*"):
		return errors.New("it contains *, as patterns do: one can read those, and publish to channels")
	case name == "-" || strings.HasPrefix(name, "-/"):
		return errors.New("what begins with -/ is the server's own")
	}
	for segment := range strings.SplitSeq(name, "/") {
		switch segment {
		case "":
			return errors.New("two slashes follow each other, or it begins or ends with one")
		case ".", "..":
			return errors.New("a segment is a dot, or two")
		}
	}
	return nil
}

// CheckPattern returns nil if pattern is a channel's name in which a segment may be
// "*", and the last "**".
func CheckPattern(pattern string) error {
	plain := pattern
	if head, ok := strings.CutSuffix(pattern, "**"); ok && (head == "" || strings.HasSuffix(head, "/")) {
		plain = head + "x"
	}
	segments := strings.Split(plain, "/")
	for i, segment := range segments {
		if segment == "*" {
			segments[i] = "x" // no longer than what it stands for
		}
	}
	if broken(strings.Join(segments, "/")) != nil {
		return fmt.Errorf(`%.80q is no pattern: it is a channel's name in which a segment may be *, for any one, and the last **, for all that follows, as in "tick/*" and "chat/**"`, pattern)
	}
	return nil
}
