package fanfaretest

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"fanfare/auth"
)

// Tokens knows the tokens that it gave: an [auth.Authenticator] for tests of what
// clients may do, and of what becomes of them when they may not any more.
//
//	var tokens fanfaretest.Tokens
//	srv := fanfaretest.NewServer(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: &tokens}})
//	alice := tokens.Give(auth.Identity{Subject: "alice", Expires: time.Now().Add(time.Minute)})
//
// Zero is ready to use, and its methods may be called from any goroutine.
type Tokens struct {
	mu    sync.Mutex // guards the following
	given map[string]auth.Identity
}

// Give returns a new token for somebody. Its id, and when it was issued, are made up
// if the identity does not say them.
func (t *Tokens) Give(id auth.Identity) (token string) {
	token = rand.Text()
	if id.Token == "" {
		id.Token = "id-" + token[:8]
	}
	if id.Issued.IsZero() {
		id.Issued = time.Now()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given == nil {
		t.given = make(map[string]auth.Identity)
	}
	t.given[token] = id
	return token
}

// Authenticate implements [auth.Authenticator]. Who has no token is anonymous.
func (t *Tokens) Authenticate(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
	if c.Token == "" {
		return nil, nil
	}
	t.mu.Lock()
	id, known := t.given[c.Token]
	t.mu.Unlock()
	switch {
	case !known:
		return nil, &auth.Error{Code: "bad_token", Message: "this token was not given by this test"}
	case !id.Expires.IsZero() && !time.Now().Before(id.Expires):
		return nil, &auth.Error{Code: "token_expired", Message: "the token has expired"}
	}
	return &id, nil
}
