package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// MaxJWT is the longest token that a [JWT] reads, in bytes.
const MaxJWT = 8 << 10

// JWTOptions say which tokens a [JWT] believes.
type JWTOptions struct {
	// Keys verify signatures. A key that is the only one, sets included, may have
	// no ID; several need one each.
	Keys []JWTKey
	// JWKS are addresses of sets of public keys (RFC 7517): https, or http to a
	// loopback address. They are fetched at once, every Refresh, and when a token
	// names a key that is not known, then as often as one in ten seconds. While an
	// address does not answer, the keys that it gave last count. No address is
	// ever taken from a token.
	JWKS []string
	// Issuer is what iss must say; empty: it is not looked at.
	Issuer string
	// Audience are what aud must name one of; empty: it is not looked at. Then
	// tokens which the same issuer made for other services are let in here as well.
	Audience []string
	// Leeway is how much clocks may differ; 0: 30 s; below: not at all.
	Leeway time.Duration
	// NoExpiry lets in tokens without exp. They count for ever.
	NoExpiry bool
	// NoSubject lets in tokens without sub. Such a client is anonymous but for
	// what the token grants, and can be revoked by the token's id alone.
	NoSubject bool
	// Refresh is how often the sets are fetched; 0: every 5 minutes. As late a
	// key may be believed that was taken out of a set.
	Refresh time.Duration
	// Client fetches the sets; nil: one of its own. Redirects are never followed.
	Client *http.Client
	// Log is told of sets that cannot be fetched; nil: slog.Default().
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// A JWTKey verifies the tokens of one algorithm. It has a Secret or a PublicKey.
type JWTKey struct {
	// ID is what tokens name it by, as kid.
	ID string
	// Algorithm is HS256, HS384, HS512 with a secret; RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384, ES512 or EdDSA with a public key that is one for
	// it. Empty: HS256, RS256, the ES of the curve, or EdDSA.
	Algorithm string
	// Secret is as long as the hash at least (RFC 7518, section 3.2): 32 bytes
	// for HS256, 48 for HS384, 64 for HS512.
	Secret string `json:"-"`
	// PublicKey is PEM: PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE, of which the
	// key alone counts. RSA has 2048 to 8192 bits.
	PublicKey string
}

// String does not say the secret.
func (k JWTKey) String() string { return fmt.Sprintf("key %q (%s)", k.ID, k.Algorithm) }

// A keyID is what a token says about its key. An algorithm is part of it, so that
// a key never verifies for another one.
type keyID struct{ id, algorithm string }

// A JWT believes JSON Web Tokens (RFC 7519) that are signed (RFC 7515) by one of
// its keys. It reads the claims sub, name, roles, publish, subscribe, presence,
// history, limits, jti, iat, exp, nbf, iss and aud, and no other. It may be used
// by many goroutines at once.
type JWT struct {
	options   JWTOptions
	keys      map[keyID]any
	sets      []*keySet
	validator *jwt.Validator
}

// NewJWT returns an [Authenticator], which [JWT.Close] ends. An error says what of
// the options is wrong; that a set of keys cannot be fetched is none.
func NewJWT(o JWTOptions) (*JWT, error) {
	if o.Leeway == 0 {
		o.Leeway = 30 * time.Second
	}
	o.Leeway = max(o.Leeway, 0)
	if o.Refresh <= 0 {
		o.Refresh = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Keys)+len(o.JWKS) == 0 {
		return nil, errors.New("jwt: there is no key: give a secret, a public key or the address of a set of keys")
	}
	j := &JWT{options: o, keys: make(map[keyID]any)}
	ids := make(map[string]bool)
	for i, k := range o.Keys {
		id, key, err := k.parse()
		switch {
		case err != nil:
			return nil, fmt.Errorf("jwt: key %d: %w", i+1, err)
		case ids[k.ID]:
			return nil, fmt.Errorf("jwt: key %d has the id %q of another one", i+1, k.ID)
		case k.ID == "" && len(o.Keys)+len(o.JWKS) > 1:
			return nil, fmt.Errorf("jwt: key %d has no id (kid), and is not the only one", i+1)
		}
		j.keys[id], ids[k.ID] = key, true
	}
	check := []jwt.ParserOption{jwt.WithLeeway(o.Leeway), jwt.WithTimeFunc(o.Now)}
	if !o.NoExpiry {
		check = append(check, jwt.WithExpirationRequired())
	}
	if o.Issuer != "" {
		check = append(check, jwt.WithIssuer(o.Issuer))
	}
	if len(o.Audience) > 0 {
		check = append(check, jwt.WithAudience(o.Audience...))
	}
	j.validator = jwt.NewValidator(check...)
	for _, address := range o.JWKS {
		if err := CheckJWKS(address); err != nil {
			return nil, fmt.Errorf("jwt: %w", err)
		}
	}
	if len(o.JWKS) > 0 && len(o.Audience) == 0 {
		o.Log.Warn("jwt: no audience is set: tokens that the same issuer made for other services are let in here as well")
	}
	for _, address := range o.JWKS {
		j.sets = append(j.sets, newKeySet(address, &o))
	}
	return j, nil
}

// Close ends what fetches sets of keys, and waits for it. Those that are there
// count on.
func (j *JWT) Close() error {
	for _, s := range j.sets {
		s.close()
	}
	return nil
}

// bad is a refusal because of what a token is.
func bad(format string, args ...any) *Error {
	return &Error{Code: "bad_token", Message: fmt.Sprintf(format, args...)}
}

// methods are the algorithms that keys can be for. There is none without a key.
var methods = map[string]jwt.SigningMethod{
	"HS256": jwt.SigningMethodHS256, "HS384": jwt.SigningMethodHS384, "HS512": jwt.SigningMethodHS512,
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": jwt.SigningMethodPS256, "PS384": jwt.SigningMethodPS384, "PS512": jwt.SigningMethodPS512,
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA,
}

// Authenticate implements [Authenticator]. What is not of a signed JWT's shape is
// another one's. Nothing of a token but its head is read before its signature was
// found good.
func (j *JWT) Authenticate(ctx context.Context, c Credentials) (*Identity, error) {
	signed, signature, ok := cutLast(c.Token)
	first, payload, two := strings.Cut(signed, ".")
	if !ok || !two || strings.Contains(payload, ".") {
		return nil, nil
	}
	if len(c.Token) > MaxJWT {
		return nil, bad("the token has %d bytes, and may have %d", len(c.Token), MaxJWT)
	}
	decoded, err := decode(first)
	if err != nil || !json.Valid(decoded) || !strings.HasPrefix(strings.TrimLeft(string(decoded), " \t\r\n"), "{") {
		return nil, nil
	}
	algorithm, kid, err := head(decoded)
	if err != nil {
		return nil, err
	}
	key, err := j.key(ctx, keyID{kid, algorithm})
	if err != nil {
		return nil, err
	}
	sig, err := decode(signature)
	if err != nil || methods[algorithm].Verify(signed, sig, key) != nil {
		return nil, bad("the token's signature is wrong: it was not made with the key that the server knows, or was changed since")
	}
	decoded, err = decode(payload)
	if err != nil {
		return nil, bad("the token's claims are not base64url")
	}
	return j.identity(decoded)
}

// cutLast cuts s at its last dot.
func cutLast(s string) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// decode reads base64url (RFC 7515, section 2). Of each value there is one
// spelling: without padding, without line ends, which Go's decoder would skip, and
// without anything in the bits that are left over.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line end in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// head reads a token's head (RFC 7515, section 4.1). Where it says to find a key
// (jku, jwk, x5u, x5c) is not looked at: whoever made a token up would say it.
func head(data []byte) (algorithm, kid string, err error) {
	m, err := object(data)
	if err != nil {
		return "", "", bad("the token's head is wrong: %v", err)
	}
	r := reader{members: m}
	algorithm, _ = r.text("alg")
	kid, _ = r.text("kid")
	kind, _ := r.text("typ")
	switch {
	case r.err != nil:
		return "", "", bad("the token's head is wrong: %v", r.err)
	case m["crit"] != nil: // must be understood, and nothing of it is (section 4.1.11)
		return "", "", bad("the token's head has crit, and the server knows no extension")
	case methods[algorithm] == nil:
		return "", "", bad("the token says an algorithm (alg) that is not let in; there are %s", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
	}
	// Tokens for logging out, for proofs and the like are signed with the same
	// keys, and say so here (RFC 8725, section 3.11).
	switch strings.TrimPrefix(strings.ToLower(kind), "application/") {
	case "", "jwt", "at+jwt":
		return algorithm, kid, nil
	}
	return "", "", bad("the token is of another type (typ) than JWT")
}

// key returns the key that a token names. One that names none means the only one;
// and the only one may have no name, and then is meant by all.
func (j *JWT) key(ctx context.Context, id keyID) (any, error) {
	key := j.known(id)
	for _, s := range j.sets {
		for round := 0; key == nil && round < 2; round++ { // the first may have to wait for an answer that is old already
			if err := s.renew(ctx); err != nil {
				return nil, err
			}
			key = j.known(id)
		}
	}
	switch {
	case key != nil:
		return key, nil
	case id.id == "":
		return nil, bad("the token does not say by which key (kid) it is signed, and the server has several, or one for another algorithm")
	}
	return nil, bad("the token is signed by a key (kid) that the server does not know, or by another algorithm than the key's")
}

func (j *JWT) known(id keyID) any {
	all := []map[keyID]any{j.keys}
	n := len(j.keys)
	for _, s := range j.sets {
		keys := *s.keys.Load()
		all, n = append(all, keys), n+len(keys)
	}
	for _, keys := range all {
		if key := keys[id]; key != nil && (id.id != "" || n == 1) {
			return key
		}
		for own, key := range keys {
			if n == 1 && own.algorithm == id.algorithm && (own.id == "" || id.id == "") {
				return key
			}
		}
	}
	return nil
}

// Check returns an error that says what is wrong with a key, and nothing of it.
func (k JWTKey) Check() error {
	_, _, err := k.parse()
	return err
}

// parse returns what tokens name a key by, and a []byte or a public key.
func (k JWTKey) parse() (keyID, any, error) {
	var key any
	var err error
	switch {
	case (k.Secret == "") == (k.PublicKey == ""):
		return keyID{}, nil, errors.New("it has a secret or a public key: give one of them")
	case len(k.ID) > maxSubject || !printable(k.ID):
		return keyID{}, nil, fmt.Errorf("its id (kid) is not UTF-8 without control characters of %d bytes at most", maxSubject)
	case k.Secret == "":
		key, err = publicPEM(k.PublicKey)
	case strings.Contains(k.Secret, "-----BEGIN"):
		err = errors.New("its secret is PEM, which is a key of two halves, and what is public is no secret: give it as public_key")
	default:
		key = []byte(k.Secret)
	}
	if err != nil {
		return keyID{}, nil, err
	}
	algorithm, err := algorithmOf(key, k.Algorithm)
	return keyID{k.ID, algorithm}, key, err
}

// publicPEM reads the one key that a text has.
func publicPEM(text string) (any, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("its public key is not PEM, which begins with -----BEGIN PUBLIC KEY-----")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("its public key has something after the end of the first: give each key on its own")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("its public key is PEM of a %.40q: give the public half alone, a PUBLIC KEY", block.Type)
}

// algorithmOf returns the algorithm that a key is for: the wanted one, if it can
// be and is strong enough; if none is wanted, the usual one.
func algorithmOf(key any, wanted string) (string, error) {
	var can []string
	switch k := key.(type) {
	case []byte:
		can = []string{"HS256", "HS384", "HS512"}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return "", fmt.Errorf("its RSA key has %d bits, and must have 2048 to 8192", bits)
		}
		can = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			can = []string{"ES256"}
		case 384:
			can = []string{"ES384"}
		case 521:
			can = []string{"ES512"}
		}
	case ed25519.PublicKey:
		can = []string{"EdDSA"}
	}
	if len(can) == 0 {
		return "", fmt.Errorf("its key is a %T, which no algorithm here is for", key)
	}
	if wanted == "" {
		wanted = can[0]
	}
	if !slices.Contains(can, wanted) {
		return "", fmt.Errorf("its algorithm is %.40q, and its key is for %s", wanted, strings.Join(can, ", "))
	}
	if secret, ok := key.([]byte); ok {
		if least := methods[wanted].(*jwt.SigningMethodHMAC).Hash.Size(); len(secret) < least {
			return "", fmt.Errorf("its secret has %d bytes, and must have %d for %s, or it can be guessed: make a random one, as with openssl rand -base64 %d", len(secret), least, wanted, least)
		}
	}
	return wanted, nil
}

// Sign makes a token that says who id is, with a key that has a secret, and
// further claims, such as iss and aud: for tests, for trying things out, and for
// services that are written in Go. An identity that does not say when it was
// issued is so now; one that does not expire makes a token without exp, which a
// [JWT] refuses unless it was told not to.
func (k JWTKey) Sign(id *Identity, more map[string]any) (string, error) {
	named, secret, err := k.parse()
	if err != nil {
		return "", fmt.Errorf("jwt: the key: %w", err)
	}
	if k.Secret == "" {
		return "", errors.New("jwt: a public key signs nothing: give a secret")
	}
	if err := id.check(); err != nil {
		return "", fmt.Errorf("jwt: %w", err)
	}
	t := jwt.NewWithClaims(methods[named.algorithm], claimsOf(id, more))
	if k.ID != "" {
		t.Header["kid"] = k.ID
	}
	token, err := t.SignedString(secret)
	if err == nil && len(token) > MaxJWT {
		return "", fmt.Errorf("jwt: the token would have %d bytes, and may have %d", len(token), MaxJWT)
	}
	return token, err
}
