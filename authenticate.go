package fanfare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode"

	"fanfare/auth"
	"fanfare/internal/handshake"
	"fanfare/protocol"
)

// AuthConfig says who is asked who clients are, and what they may do.
type AuthConfig struct {
	// Authenticator finds out who a client is. It is needed. One that is asked about
	// a client without a token, and answers nil, lets it in as anonymous: with what
	// rules grant to that role, and nothing else.
	Authenticator auth.Authenticator
	// Rules grant rights. Default, with none: [auth.Default].
	Rules auth.Rules
	// Cookie is the name of a cookie that may bring the token. Default: no cookie is
	// looked at. Whoever can set cookies for this host can then act for its users;
	// pages of other origins cannot, unless [Config.Origins] names them; "*" names none.
	Cookie string
	// Timeout is how long a client that may do nothing yet may stay without having
	// said who it is, and how long the Authenticator may take. Default 5 seconds.
	Timeout time.Duration
}

// withDefaults returns c with its zero fields filled in.
func (c AuthConfig) withDefaults() (*AuthConfig, error) {
	switch {
	case c.Authenticator == nil:
		return nil, errors.New("fanfare: Config.Auth.Authenticator is nil; say who finds out who clients are, or leave Config.Auth out")
	case c.Timeout < 0:
		return nil, fmt.Errorf("fanfare: Config.Auth.Timeout is %v; it must be positive, or zero for the default of 5s", c.Timeout)
	}
	if err := c.Rules.Check(); err != nil {
		return nil, fmt.Errorf("fanfare: Config.Auth.Rules: %w", err)
	}
	if len(c.Rules) == 0 {
		c.Rules = auth.Default
	}
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	return &c, nil
}

// trust is the AuthConfig of the moment; nil: nobody is asked, and everybody may
// do everything.
func (s *Server) trust() *AuthConfig { return s.now.Load().Auth }

const (
	// maxToken is the longest token in bytes.
	maxToken = 8 << 10
	// maxSubject is the longest subject in bytes.
	maxSubject = 255
	// bearerProtocol is how a subprotocol begins that is a token: a browser's
	// WebSocket can bring nothing else. What is behind it is never told back.
	bearerProtocol = "bearer."
	// plainProtocol is a name for speaking plain. A browser that offers
	// subprotocols insists on one of them, and a token is none to choose.
	plainProtocol = "fanfare.plain"
)

// shown is what a request brought as a token in its URL, which is nobody else's to
// see. It has a type of its own since a context that is printed shows bare strings.
type shown string

type shownKey struct{}

// withoutToken returns the request without ?token=, so that no handler, hook or
// log of ours can tell it, and keeps it aside for identify.
func withoutToken(r *http.Request) *http.Request {
	if q := r.URL.RawQuery; !strings.Contains(q, "token") && !strings.Contains(q, "%") {
		return r
	}
	token := ""
	kept := make([]string, 0, 4)
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || plain != "token" {
			kept = append(kept, pair)
			continue
		}
		if plain, err := url.QueryUnescape(value); token == "" && err == nil {
			token = plain
		}
	}
	query := strings.Join(kept, "&")
	if query == r.URL.RawQuery {
		return r
	}
	r = r.WithContext(context.WithValue(r.Context(), shownKey{}, shown(token)))
	bare := *r.URL
	bare.RawQuery = query
	r.URL, r.RequestURI = &bare, bare.RequestURI()
	return r
}

// token returns what the request shows as a token, by whatever way: the first of
// them counts.
func (s *Server) token(c *AuthConfig, r *http.Request) string {
	for _, value := range r.Header["Authorization"] {
		if scheme, token, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
	}
	for offered := range handshake.Tokens(r.Header["Sec-Websocket-Protocol"]) {
		if token, ok := strings.CutPrefix(offered, bearerProtocol); ok {
			return token
		}
	}
	if token, _ := r.Context().Value(shownKey{}).(shown); token != "" {
		return string(token)
	}
	if c.Cookie != "" && s.meant(r) {
		if cookie, err := r.Cookie(c.Cookie); err == nil {
			return cookie.Value
		}
	}
	return ""
}

// meant reports whether a request's cookies count.
//
// A browser sends cookies also on behalf of a page that its user never meant to
// have a say. So the Origin must be ours, or named: that every page is let in ("*")
// is not enough. There must be one where something can be done; what is only read,
// no other page is shown.
func (s *Server) meant(r *http.Request) bool {
	return s.names(r) && (len(r.Header["Origin"]) > 0 || !handshake.IsUpgrade(r) && r.Method != http.MethodPost)
}

// identify finds out who a request is from; nil: anonymous, or nobody asks. bare is
// the request without tokens, for everybody else.
func (s *Server) identify(r *http.Request) (id *auth.Identity, bare *http.Request, err error) {
	trust := s.trust()
	if trust == nil {
		return nil, r, nil
	}
	bare = withoutTokens(r, trust.Cookie)
	// An Authenticator may know sessions by what browsers send of themselves.
	if !s.meant(r) {
		bare.Header.Del("Cookie")
	}
	if !s.names(r) {
		bare.Header.Del("Authorization")
	}
	id, err = s.ask(r.Context(), trust, auth.Credentials{Token: s.token(trust, r), Request: bare})
	return id, bare, err
}

// withoutTokens returns a request without all that may be a token in its headers.
func withoutTokens(r *http.Request, cookie string) *http.Request {
	bare := r.WithContext(r.Context())
	bare.Header = r.Header.Clone()
	h := bare.Header
	keep := func(name string, values []string) {
		if h.Del(name); len(values) > 0 {
			h[name] = values
		}
	}
	keep("Authorization", slices.DeleteFunc(h["Authorization"], func(value string) bool {
		scheme, _, _ := strings.Cut(value, " ")
		return strings.EqualFold(scheme, "Bearer")
	}))
	var offered []string
	for protocol := range handshake.Tokens(h["Sec-Websocket-Protocol"]) {
		if !strings.HasPrefix(protocol, bearerProtocol) {
			offered = append(offered, protocol)
		}
	}
	keep("Sec-Websocket-Protocol", offered)
	withoutCookie(bare, cookie)
	return bare
}

// withoutCookie takes a cookie out of a request, if it has a name.
func withoutCookie(r *http.Request, name string) {
	had := r.Cookies()
	kept := slices.DeleteFunc(slices.Clone(had), func(c *http.Cookie) bool { return c.Name == name })
	if name == "" || len(kept) == len(had) {
		return
	}
	r.Header.Del("Cookie")
	for _, c := range kept {
		r.AddCookie(c)
	}
}

// ask has the Authenticator say who a client is.
func (s *Server) ask(ctx context.Context, trust *AuthConfig, c auth.Credentials) (id *auth.Identity, err error) {
	if c.Token != "" {
		defer func() { s.metrics.authenticated(err) }()
	}
	if len(c.Token) > maxToken {
		return nil, &auth.Error{Code: "bad_token", Message: fmt.Sprintf("the token has %d bytes, and a token may have %d", len(c.Token), maxToken)}
	}
	ctx, cancel := context.WithTimeout(ctx, trust.Timeout)
	defer cancel()
	begun := time.Now()
	id, err = s.authenticate(ctx, trust.Authenticator, c)
	var refused *auth.Error
	switch {
	case errors.As(err, &refused):
		return nil, &auth.Error{Code: refused.Code, Message: without(c.Token, refused.Message)}
	case err != nil:
		if now, last := time.Now().UnixNano(), s.unavailable.Load(); ctx.Err() != context.Canceled && now-last > int64(sayEvery) && s.unavailable.CompareAndSwap(last, now) {
			s.log.Error("nobody can tell who clients are", "error", without(c.Token, err.Error()))
		}
		return nil, errUnavailable
	case id == nil && c.Token != "":
		return nil, errUnknownToken
	case id == nil:
		return nil, nil
	}
	if id.Issued.After(begun) {
		// By a clock that is ahead. Who revokes the subject from now on means it too.
		now := *id
		now.Issued, id = begun, &now
	}
	switch {
	case s.revoked.has(id):
		return nil, errRevokedToken
	case !id.Expires.IsZero() && time.Until(id.Expires) <= 0:
		return nil, errExpiredToken
	}
	if err := checkIdentity(id); err != nil {
		s.log.Error("an identity is refused", "error", err)
		return nil, errUnavailable
	}
	return id, nil
}

func (s *Server) authenticate(ctx context.Context, a auth.Authenticator, c auth.Credentials) (id *auth.Identity, err error) {
	defer func() {
		if p := recover(); p != nil {
			// The token may be in its text in whatever form. There is none in the stack.
			id, err = nil, fmt.Errorf("the Authenticator panicked with a %T, which is not shown since the token may be in it\n%s", p, debug.Stack())
		}
	}()
	return a.Authenticate(ctx, c)
}

// without returns a text without the token, also as URLs have it.
func without(token, text string) string {
	for _, form := range []string{token, url.QueryEscape(token), url.PathEscape(token)} {
		if form != "" {
			text = strings.ReplaceAll(text, form, "(the token)")
		}
	}
	return text
}

// checkIdentity returns nil if others can be told of who it is.
func checkIdentity(id *auth.Identity) error {
	if len(id.Subject) > maxSubject || strings.ContainsFunc(id.Subject, unicode.IsControl) {
		return fmt.Errorf("a subject of %d bytes: it may have %d, and no control characters", len(id.Subject), maxSubject)
	}
	return checkName(id.Name)
}

var (
	errUnavailable   = errorf("auth_unavailable", "who you are cannot be found out at the moment; try again soon")
	errUnknownToken  = &auth.Error{Code: "bad_token", Message: "nobody here knows this token"}
	errExpiredToken  = &auth.Error{Code: "token_expired", Message: "the token has expired; get a new one"}
	errRevokedToken  = &auth.Error{Code: "token_revoked", Message: "the token was revoked; get a new one"}
	errOtherSubject  = errorf("other_subject", "the token is somebody else's, and a connection has one owner: open another connection")
	errNobodyAsks    = errorf("no_authentication", "this server asks for no authentication; leave auth out")
	errRequestNobody = errorf("unauthenticated", "requests are for those who said who they are; authenticate first")
)

// visitor returns who speaks from home, the URL's channel, as far as a request
// tells. Empty: it has none. The request it returns knows who it is from, and has no token.
func (s *Server) visitor(r *http.Request, set *settings, home string) (*speaker, *http.Request, error) {
	id, r, err := s.identify(r)
	if err != nil {
		return nil, r, err
	}
	if id != nil {
		r = r.WithContext(auth.NewContext(r.Context(), id))
	}
	// home may be a piece of the request line, which is not to be kept.
	who := &speaker{name: set.name, key: set.key, client: set.client, home: strings.Clone(home)}
	return s.identified(who, id), r, nil
}

// current returns who, as the rules of the moment have him.
func (s *Server) current(who *speaker) *speaker {
	if who.by == s.trust() {
		return who
	}
	return s.identified(who, who.id)
}

// identified returns who, with an identity. Where anybody is asked who he is, a
// name that he only claims is none.
func (s *Server) identified(who *speaker, id *auth.Identity) *speaker {
	trust := s.trust()
	if trust == nil {
		return who
	}
	now := *who
	now.by, now.id, now.grants, now.name = trust, id, trust.Rules.Grants(id), ""
	now.waits, now.until, now.renew = false, time.Time{}, time.Time{}
	if id == nil {
		return &now
	}
	now.name = cmp.Or(id.Name, id.Subject)
	if checkName(now.name) != nil {
		now.name = "" // a subject that is no name
	}
	if !id.Expires.IsZero() {
		// By the monotonic clock, so that nobody goes because the clock was set.
		left := time.Until(id.Expires)
		now.until = time.Now().Add(left)
		now.renew = now.until.Add(-min(renewBefore, max(left/4, 2*s.cfg.tick())))
	}
	return &now
}

// renewBefore is how long before a token expires its owner is asked for another,
// unless it is short-lived: then for a quarter of its life, and time for an answer.
const renewBefore = 30 * time.Second

// expects has who say soon who he is.
func (s *Server) expects(who *speaker) {
	who.waits, who.until = true, time.Now().Add(s.trust().Timeout-s.cfg.tick())
}

// context is what hooks are told about who speaks.
func (who *speaker) context(ctx context.Context) context.Context {
	if who.id == nil {
		return ctx
	}
	return auth.NewContext(ctx, who.id)
}

// expires returns after how many milliseconds who must have another token; 0: never.
func (who *speaker) expires() int {
	if who.until.IsZero() || who.waits {
		return 0
	}
	return max(1, int(time.Until(who.until).Milliseconds()))
}

func (who *speaker) subject() string {
	if who.id == nil {
		return ""
	}
	return who.id.Subject
}

// pendingRules are for one who may do nothing yet but say who it is: a message has
// room for a token of any usual length, and not for more.
var pendingRules = newRules(4 << 10)

// renewed has a session go on as the one whom a token names.
func (s *session) renewed(token string) (*speaker, error) {
	trust := s.server.trust()
	if trust == nil {
		return nil, errNobodyAsks
	}
	id, err := s.server.ask(s.server.life, trust, auth.Credentials{Token: token})
	if err != nil {
		return nil, err
	}
	if id == nil {
		return nil, errUnknownToken // an empty one
	}
	was := s.who.Load()
	if was.id != nil && was.id.Subject != id.Subject {
		return nil, errOtherSubject
	}
	return s.server.identified(was, id), nil
}

// renewEvent asks for another token.
func renewEvent(who *speaker) []byte {
	return event(&protocol.Event{Type: protocol.RenewEvent, Expires: who.expires()})
}
