package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// identity makes an identity of a token's claims, whose signature is good.
func (j *JWT) identity(payload []byte) (*Identity, error) {
	m, err := object(payload)
	if err != nil {
		return nil, bad("the token's claims are wrong: %v", err)
	}
	r := reader{members: m}
	id := &Identity{Issued: r.time("iat"), Allow: r.allow(), Limits: r.limits()}
	var named bool
	id.Subject, named = r.text("sub")
	id.Name, _ = r.text("name")
	id.Token, _ = r.text("jti")
	id.Roles, _ = r.texts("roles")
	registered := jwt.RegisteredClaims{}
	registered.Issuer, _ = r.text("iss")
	registered.Audience = r.audience()
	expires, begins := r.time("exp"), r.time("nbf")
	if !expires.IsZero() {
		registered.ExpiresAt = &jwt.NumericDate{Time: expires}
		id.Expires = expires.Add(j.options.Leeway)
	}
	if !begins.IsZero() {
		registered.NotBefore = &jwt.NumericDate{Time: begins}
	}
	if r.err != nil {
		return nil, bad("the token's claims are wrong: %v", r.err)
	}
	switch err := j.validator.Validate(registered); {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return nil, bad("the token was made by another issuer (iss) than the server's")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, bad("the token was made for another audience (aud) than the server")
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, &Error{Code: "token_expired", Message: "the token has expired: get a new one"}
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, &Error{Code: "token_not_yet", Message: "the token does not count yet (nbf): come back later, or set the clock right of who made it"}
	case expires.IsZero():
		return nil, bad("the token does not say when it expires (exp)")
	default:
		return nil, bad("the token's claims iss and aud are not what the server wants")
	}
	switch {
	case id.Subject == "" && (named || !j.options.NoSubject):
		return nil, bad("the token does not say whose it is (sub)")
	case id.check() != nil:
		return nil, bad("the token's claims are wrong: %v", id.check())
	}
	return id, nil
}

// object reads an object of JSON, of which each member is there once, since
// others might count the other one, and which is UTF-8. What it says of errors has
// nothing of data.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil, errors.New("it is no object of JSON")
	}
	m := make(map[string]json.RawMessage)
	for d.More() {
		var value json.RawMessage
		name, err := d.Token()
		if err != nil || d.Decode(&value) != nil {
			return nil, errors.New("it is no object of JSON")
		}
		if _, twice := m[name.(string)]; twice {
			return nil, errors.New("a member is there twice")
		}
		m[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is no object of JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the object of JSON")
	}
	return m, nil
}

// A reader reads claims, whose names count letter by letter, as encoding/json's
// of fields do not. It keeps the first error.
type reader struct {
	members map[string]json.RawMessage
	err     error
}

// read reads a claim into v if it is there. null is not of any type.
func (r *reader) read(name string, v any, kind string) bool {
	raw, ok := r.members[name]
	if ok && (string(raw) == "null" || json.Unmarshal(raw, v) != nil) {
		r.fail(fmt.Errorf("%s must be %s", name, kind))
	}
	return ok
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) text(name string) (s string, ok bool) {
	ok = r.read(name, &s, "a string")
	return s, ok
}

func (r *reader) texts(name string) (all []string, ok bool) {
	ok = r.read(name, &all, "a list of strings")
	return all, ok
}

// audience is a string or several (RFC 7519, section 4.1.3).
func (r *reader) audience() []string {
	if raw := r.members["aud"]; len(raw) > 0 && raw[0] == '[' {
		all, _ := r.texts("aud")
		return all
	}
	if one, ok := r.text("aud"); ok {
		return []string{one}
	}
	return nil
}

// time is seconds since 1970 (RFC 7519, section 2), before the year 10000; zero:
// there is none.
func (r *reader) time(name string) time.Time {
	var seconds float64
	switch {
	case !r.read(name, &seconds, "a number: seconds since 1970"):
		return time.Time{}
	case !(seconds >= 0 && seconds < 253402300800):
		r.fail(fmt.Errorf("%s is no time between 1970 and 9999: it counts seconds since 1970", name))
		return time.Time{}
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9))
}

// allow is what a token grants.
func (r *reader) allow() map[Right][]string {
	all := make(map[Right][]string)
	for _, right := range Rights {
		if patterns, ok := r.texts(right.String()); ok {
			all[right] = patterns
		}
	}
	return spread(all)
}

// limits reads an object of limits, in which one misspelled would be none.
func (r *reader) limits() (l Limits) {
	raw, ok := r.members["limits"]
	if !ok {
		return l
	}
	m, err := object(raw)
	if err != nil {
		r.fail(fmt.Errorf("limits is wrong: %w", err))
		return l
	}
	inner := reader{members: m}
	inner.read("messages", &l.Messages, "a number")
	inner.read("bytes", &l.Bytes, "a number")
	inner.read("subscriptions", &l.Subscriptions, "a whole number")
	inner.read("connections", &l.Connections, "a whole number")
	for _, known := range []string{"messages", "bytes", "subscriptions", "connections"} {
		delete(m, known)
	}
	if len(m) > 0 {
		inner.fail(errors.New("there are messages, bytes, subscriptions and connections"))
	}
	if inner.err != nil {
		r.fail(fmt.Errorf("limits is wrong: %w", inner.err))
	}
	return l
}

// claimsOf is what reading makes an identity of.
func claimsOf(id *Identity, more map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{}
	maps.Copy(c, more)
	for name, s := range map[string]string{"sub": id.Subject, "name": id.Name, "jti": id.Token} {
		if s != "" {
			c[name] = s
		}
	}
	if len(id.Roles) > 0 {
		c["roles"] = id.Roles
	}
	for right, patterns := range id.Allow {
		c[right.String()] = append([]string{}, patterns...) // never null
	}
	limits := map[string]any{}
	for name, n := range map[string]float64{
		"messages": id.Limits.Messages, "bytes": id.Limits.Bytes,
		"subscriptions": float64(id.Limits.Subscriptions), "connections": float64(id.Limits.Connections),
	} {
		if n != 0 {
			limits[name] = n
		}
	}
	if len(limits) > 0 {
		c["limits"] = limits
	}
	issued := id.Issued
	if issued.IsZero() {
		issued = time.Now()
	}
	c["iat"] = issued.Unix()
	if !id.Expires.IsZero() {
		c["exp"] = id.Expires.Unix()
	}
	return c
}
