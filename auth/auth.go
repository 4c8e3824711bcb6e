// Package auth says who a client is, and what it may do.
//
// Who: an [Authenticator] makes an [Identity] of what a client shows, a token or
// what else its request has. What: [Rules] grant rights in channels to roles, and
// a token can speak for itself; both together are [Grants], which are made once
// for each identity and asked from then on.
//
// Nothing here knows connections. How a token travels, when a connection ends
// whose token has expired, and that every face asks the same question, is the
// server's.
package auth

import (
	"context"
	"net/http"
	"time"
)

// An Identity is who a client is. It does not change once it was returned.
type Identity struct {
	// Subject is who it is, for the server and for revocation; empty: anonymous.
	Subject string
	// Name is who it is for others, in front of what it says and among those who
	// are present: 64 characters at most. Empty: the subject.
	Name string
	// Roles are what rules may name.
	Roles []string
	// Token is the token's own id, by which it alone can be revoked; empty: it has none.
	Token string
	// Issued is when the token was made; zero: it does not say.
	Issued time.Time
	// Expires is when a connection with it ends, any leeway included; zero: never.
	Expires time.Time
	// Allow is what the token itself says: for a right that is a key here it
	// counts alone, and rules do not; so an empty list grants nothing. The
	// patterns are channels' as in rules, $sub included.
	Allow map[Right][]string
	// Limits are other than the server's.
	Limits Limits
}

// Limits are an identity's own; zero: what the server's settings say.
type Limits struct {
	Messages      float64 // a second
	Bytes         float64 // a second
	Subscriptions int     // of a connection
	Connections   int     // of the subject
}

// Credentials are what a client shows.
type Credentials struct {
	// Token is what came as one, by whatever way; empty: none did.
	Token string
	// Request is what the client came by, without the token; nil if the token came
	// in a message of a connection's. It is not to be kept, nor changed.
	Request *http.Request
}

// An Authenticator finds out who a client is. It may be called from many
// goroutines at once, and may block as long as ctx permits: nobody waits but the
// client it is about.
//
// It returns nil without an error for what is none of its business, and then the
// next one is asked, if there are several, and at last a client without a token is
// anonymous. A refusal is an [*Error]; any other error means that nobody can tell
// now who it is, and nobody is let in because of that.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (*Identity, error)
}

// Func is an [Authenticator] that is a function.
type Func func(ctx context.Context, c Credentials) (*Identity, error)

// Authenticate implements [Authenticator].
func (f Func) Authenticate(ctx context.Context, c Credentials) (*Identity, error) { return f(ctx, c) }

// Chain asks one after the other, until one answers or refuses.
type Chain []Authenticator

// Authenticate implements [Authenticator].
func (chain Chain) Authenticate(ctx context.Context, c Credentials) (*Identity, error) {
	for _, a := range chain {
		if id, err := a.Authenticate(ctx, c); id != nil || err != nil {
			return id, err
		}
	}
	return nil, nil
}

// An Error is a refusal. What it says is shown to the client, so it never has
// anything of a token.
type Error struct {
	// Code is for machines: bad_token (no token of ours, or forged), token_expired,
	// token_not_yet, token_revoked, or forbidden (known, and not let in).
	Code string
	// Message is for people: what is wrong, and what to do.
	Message string
}

func (e *Error) Error() string { return "auth: " + e.Message }

type contextKey struct{}

// NewContext returns a context that knows who it is about.
func NewContext(ctx context.Context, id *Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns who the client is that a hook or a handler was called
// about; nil: anonymous, or nobody was asked.
func FromContext(ctx context.Context) *Identity {
	id, _ := ctx.Value(contextKey{}).(*Identity)
	return id
}
