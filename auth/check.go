package auth

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxSubject = 255 // bytes
	maxName    = 64  // characters
)

// check returns an error that says what of an identity can never have been meant:
// for whoever wrote it, not for the client.
func (id *Identity) check() error {
	control := func(s string) bool { return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) }
	switch {
	case control(id.Subject), len(id.Subject) > maxSubject:
		return fmt.Errorf("the subject must be UTF-8 without control characters, %d bytes at most", maxSubject)
	case control(id.Name), utf8.RuneCountInString(id.Name) > maxName, id.Name != strings.TrimSpace(id.Name):
		return fmt.Errorf("the name must be UTF-8 without control characters or white space around it, %d characters at most", maxName)
	}
	for _, role := range id.Roles {
		switch {
		case role == "" || control(role):
			return errors.New("a role must have a name, without control characters")
		case role == Anonymous || role == Authenticated:
			return fmt.Errorf("the role %s is had without being said", role)
		}
	}
	for _, right := range Rights {
		for _, pattern := range id.Allow[right] {
			if err := CheckPattern(pattern); err != nil {
				return fmt.Errorf("%s: %w", right, err)
			}
		}
	}
	return nil
}
