package fanfare

import (
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"fanfare/broker"
)

const (
	// maxName is the longest name of a client in characters.
	maxName = 64
	// A client's own key has so many characters: too many to guess, and few
	// enough to keep.
	minClient, maxClient = 16, 64
	// A page of history has defaultLimit messages, or ?limit= up to maxLimit.
	defaultLimit = 100
	maxLimit     = 1000
)

// settings are what the query says, on every face of a URL. The strings are
// copies: they live as long as a session or a message, and must not keep the
// request line that they are pieces of.
type settings struct {
	name   string    // ?name=, of who speaks; empty: nobody in particular
	key    string    // ?key=, of what is published; empty: none
	client string    // ?client=, whose publications belong together, over whatever they come; empty: not said. A secret of the client's
	since  *Position // ?since=, where reading begins; nil: not said
	slow   Policy    // ?slow=, what becomes of a reader that lags; 0: not said
	limit  int       // ?limit=, of a page; 0: not said

	wire *wire // of who came over a WebSocket and has yet to say who it is
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
	if err := checkClient(set.client); err != nil {
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
	if v := query.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxLimit {
			return settings{}, errorf("bad_limit", "limit is %.40q; it must be a number from 1 to %d", v, maxLimit)
		}
		set.limit = n
	}
	return set, nil
}

// scope is whose ids count as one sender's in a POST, for scoped: those of
// the client, wherever it speaks; or else of all that a subject posts under a name.
func (who *speaker) scope() string {
	if who.client != "" {
		return clientScope(who.subject(), who.client)
	}
	return "post " + who.subject() + "\x01" + who.name
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

// checkClient returns nil if client can be a client's key, or is empty. What is
// wrong does not name it: it is a secret.
func checkClient(client string) error {
	switch n := utf8.RuneCountInString(client); {
	case client == "":
		return nil
	case !utf8.ValidString(client) || strings.ContainsFunc(client, unicode.IsControl):
		return errorf("bad_client", "client must be UTF-8 without control characters")
	case n < minClient || n > maxClient:
		return errorf("bad_client", "client has %d characters, and must have %d to %d: make up a random one, once, and tell nobody else", n, minClient, maxClient)
	}
	return nil
}
