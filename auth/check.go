package auth

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxSubject  = 255 // bytes; of a role and of a token's id, too
	maxName     = 64  // characters
	maxRoles    = 256
	maxPatterns = 256  // of each right
	maxLimit    = 1e12 // of messages, bytes, …: above, something else was meant
)

// check returns an error that says what of an identity can never have been meant:
// for whoever wrote it. It has nothing of it but its patterns.
func (id *Identity) check() error {
	switch {
	case !printable(id.Subject), len(id.Subject) > maxSubject:
		return fmt.Errorf("the subject must be UTF-8 without control characters, %d bytes at most", maxSubject)
	case !printable(id.Name), utf8.RuneCountInString(id.Name) > maxName, id.Name != strings.TrimSpace(id.Name):
		return fmt.Errorf("the name must be UTF-8 without control characters or white space around it, %d characters at most", maxName)
	case !printable(id.Token), len(id.Token) > maxSubject:
		return fmt.Errorf("the token's id must be UTF-8 without control characters, %d bytes at most", maxSubject)
	case len(id.Roles) > maxRoles:
		return fmt.Errorf("there are %d roles, and can be %d", len(id.Roles), maxRoles)
	}
	for _, role := range id.Roles {
		if role == "" || !printable(role) || len(role) > maxSubject {
			return fmt.Errorf("a role must have a name, without control characters, %d bytes at most", maxSubject)
		}
	}
	for _, right := range Rights {
		if n := len(id.Allow[right]); n > maxPatterns {
			return fmt.Errorf("%s has %d patterns, and can have %d", right, n, maxPatterns)
		}
		for _, pattern := range id.Allow[right] {
			if err := CheckPattern(pattern); err != nil {
				return fmt.Errorf("%s: %w", right, err)
			}
		}
	}
	for _, limit := range []float64{id.Limits.Messages, id.Limits.Bytes, float64(id.Limits.Subscriptions), float64(id.Limits.Connections)} {
		if !(limit >= 0 && limit <= maxLimit) { // nor NaN
			return errors.New("a limit is below 0, or so high that it is none: leave it out, and the server's own counts")
		}
	}
	return nil
}

// spread completes what somebody wrote of rights: who may hear a channel may see
// who is there and what was said, unless that is spoken of apart.
func spread(allow map[Right][]string) map[Right][]string {
	if heard, ok := allow[Subscribe]; ok {
		for _, right := range []Right{Presence, History} {
			if _, own := allow[right]; !own {
				allow[right] = heard
			}
		}
	}
	return allow
}

// printable reports whether s is UTF-8 without control characters. The character
// that decoders put for what they cannot read is refused with them, or two
// subjects could become one.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) })
}
