package fanfare

import (
	"fmt"
	"strings"
)

// CheckPattern returns nil if pattern can be a [ChannelConfig]'s: a channel's
// name, in which a segment may be "*", and the last "**".
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
	if CheckChannel(strings.Join(segments, "/")) != nil {
		return fmt.Errorf(`%.80q is no pattern: it is a channel's name in which a segment may be *, for any one, and the last **, for all that follows, as in "tick/*" and "chat/**"`, pattern)
	}
	return nil
}
