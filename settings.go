package fanfare

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"fanfare/broker"
)

// maxName is the longest name of a client in characters.
const maxName = 64

// settings are what the query says, on every face of a URL. The strings are
// copies: they live as long as a session or a message, and must not keep the
// request line that they are pieces of.
type settings struct {
	name   string    // ?name=, of who speaks; empty: nobody in particular
	client string    // ?client=
	key    string    // ?key=, of what is published; empty: none
	since  *Position // ?since=, where reading begins; nil: not said
	slow   Policy    // ?slow=, what becomes of a reader that lags; 0: not said
}

// settingsOf reads them. What a face has no use for must be well-formed all the same.
func settingsOf(r *http.Request) (settings, error) {
	query := r.URL.Query()
	set := settings{name: strings.Clone(query.Get("name")), key: strings.Clone(query.Get("key")), client: strings.Clone(query.Get("client"))}
	if err := checkName(set.name); err != nil {
		return settings{}, err
	}
	if err := checkKey(set.key); err != nil {
		return settings{}, err
	}
	if v := query.Get("since"); v != "" {
		since, err := broker.ParsePosition(v)
		if err != nil {
			return settings{}, errorf("bad_since", "since: %v", err)
		}
		set.since = &since
	}
	if v := query.Get("slow"); v != "" {
		slow, err := ParsePolicy(v)
		if err != nil {
			return settings{}, errorf("bad_slow", "slow: %v", err)
		}
		set.slow = slow
	}
	return set, nil
}

// checkName returns nil if name can be a client's, or empty.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return errorf("bad_name", "a name must be UTF-8")
	case utf8.RuneCountInString(name) > maxName:
		return errorf("bad_name", "the name has %d characters, and a name may have %d", utf8.RuneCountInString(name), maxName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return errorf("bad_name", "a name may not contain control characters")
	case name != strings.TrimSpace(name):
		return errorf("bad_name", "a name may not begin or end with white space")
	}
	return nil
}
