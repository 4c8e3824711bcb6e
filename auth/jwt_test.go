package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/auth"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"
)

const secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// noon is when the tests are.
var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// pairs are private keys by the algorithm that they are for, made once.
var pairs = sync.OnceValue(func() map[string]crypto.Signer {
	all := make(map[string]crypto.Signer)
	all["RS256"], _ = rsa.GenerateKey(rand.Reader, 2048)
	for algorithm, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		all[algorithm], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	_, all["EdDSA"], _ = ed25519.GenerateKey(rand.Reader)
	for _, same := range []string{"RS384", "RS512", "PS256", "PS384", "PS512"} {
		all[same] = all["RS256"]
	}
	return all
})

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// public is the public half as PEM.
func public(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("PUBLIC KEY", der)
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// sign signs what is given as it is, with an algorithm that need not be what the
// head says.
func sign(t testing.TB, algorithm string, key any, head, payload string) string {
	t.Helper()
	text := b64([]byte(head)) + "." + b64([]byte(payload))
	sig, err := jwt.GetSigningMethod(algorithm).Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

// claims are good ones, with some changed.
func claims(changes ...string) string {
	m := map[string]json.RawMessage{"sub": json.RawMessage(`"alice"`), "exp": fmt.Append(nil, noon.Add(time.Hour).Unix())}
	for _, c := range changes {
		name, value, _ := strings.Cut(c, "=")
		if m[name] = json.RawMessage(value); value == "" {
			delete(m, name)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func newJWT(t testing.TB, o auth.JWTOptions) *auth.JWT {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	j, err := auth.NewJWT(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func ask(j auth.Authenticator, token string) (*auth.Identity, error) {
	return j.Authenticate(context.Background(), auth.Credentials{Token: token})
}

// code is what an answer comes to: ok, none, a refusal's code, or unavailable.
func code(id *auth.Identity, err error) string {
	var refusal *auth.Error
	switch {
	case err == nil && id == nil:
		return "none"
	case err == nil:
		return "ok"
	case id != nil:
		return "an identity and an error"
	case errors.As(err, &refusal):
		return refusal.Code
	}
	return "unavailable"
}

// quiet holds that an error says nothing of the token.
func quiet(t *testing.T, token string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part[:8]) {
			t.Errorf("the error has some of the token: %v", err)
		}
	}
	if len(err.Error()) > 600 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestEveryAlgorithm(t *testing.T) {
	var keys []auth.JWTKey
	tokens := make(map[string]string)
	for algorithm, pair := range pairs() {
		keys = append(keys, auth.JWTKey{ID: algorithm, Algorithm: algorithm, PublicKey: public(t, pair)})
		tokens[algorithm] = sign(t, algorithm, pair, `{"alg":"`+algorithm+`","kid":"`+algorithm+`"}`, claims())
	}
	for _, algorithm := range []string{"HS256", "HS384", "HS512"} {
		keys = append(keys, auth.JWTKey{ID: algorithm, Algorithm: algorithm, Secret: algorithm + secret})
		tokens[algorithm] = sign(t, algorithm, []byte(algorithm+secret), `{"alg":"`+algorithm+`","kid":"`+algorithm+`"}`, claims())
	}
	all := newJWT(t, auth.JWTOptions{Keys: keys})
	for _, key := range keys {
		t.Run(key.Algorithm, func(t *testing.T) {
			if id, err := ask(all, tokens[key.Algorithm]); code(id, err) != "ok" || id.Subject != "alice" {
				t.Errorf("of all keys: %+v, %v", id, err)
			}
			one := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{key}})
			for algorithm, token := range tokens {
				want := "bad_token"
				if algorithm == key.Algorithm {
					want = "ok"
				}
				if id, err := ask(one, token); code(id, err) != want {
					t.Errorf("the key alone says to a token of %s: %+v, %v", algorithm, id, err)
				}
			}
			// Nor does it for another algorithm under its own id.
			for _, other := range keys {
				if other.Algorithm == key.Algorithm {
					continue
				}
				var with any = pairs()[other.Algorithm]
				if other.Secret != "" {
					with = []byte(cmpOr(key.Secret, key.PublicKey))
				}
				token := sign(t, other.Algorithm, with, `{"alg":"`+other.Algorithm+`","kid":"`+key.ID+`"}`, claims())
				if id, err := ask(all, token); code(id, err) != "bad_token" {
					t.Errorf("under its id it lets in %s: %+v, %v", other.Algorithm, id, err)
				}
			}
		})
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestFormsOfPublicKeys(t *testing.T) {
	pair := pairs()["RS256"].(*rsa.PrivateKey)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert := func(key crypto.Signer) string {
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pemOf("CERTIFICATE", der)
	}
	for name, c := range map[string]struct {
		text, algorithm string
	}{
		"PKCS 1":                {pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&pair.PublicKey)), "RS256"},
		"PKIX":                  {public(t, pair) + "\n\n", "RS256"},
		"a certificate of RSA":  {cert(pair), "RS256"},
		"a certificate of EC":   {cert(pairs()["ES384"]), "ES384"},
		"a certificate of Ed25": {cert(pairs()["EdDSA"]), "EdDSA"},
	} {
		j := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{{PublicKey: c.text}}})
		token := sign(t, c.algorithm, pairs()[c.algorithm], `{"alg":"`+c.algorithm+`","kid":"any"}`, claims())
		if id, err := ask(j, token); code(id, err) != "ok" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptionsThatCannotBeMeant(t *testing.T) {
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	pair := pairs()["RS256"].(*rsa.PrivateKey)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	good := auth.JWTKey{ID: "a", Secret: secret}
	one := func(k auth.JWTKey) auth.JWTOptions { return auth.JWTOptions{Keys: []auth.JWTKey{k}} }
	for _, c := range []struct {
		want string
		o    auth.JWTOptions
	}{
		{"there is no key", auth.JWTOptions{}},
		{"a secret or a public key", one(auth.JWTKey{})},
		{"a secret or a public key", one(auth.JWTKey{Secret: secret, PublicKey: public(t, pair)})},
		{"is PEM", one(auth.JWTKey{Secret: public(t, pair), Algorithm: "HS256"})},
		{"must have 32 for HS256", one(auth.JWTKey{Secret: secret[:31]})},
		{"must have 48 for HS384", one(auth.JWTKey{Secret: secret[:47], Algorithm: "HS384"})},
		{"must have 64 for HS512", one(auth.JWTKey{Secret: secret[:63], Algorithm: "HS512"})},
		{"must have 2048", one(auth.JWTKey{PublicKey: public(t, weak)})},
		{"no algorithm here is for", one(auth.JWTKey{PublicKey: public(t, p224)})},
		{`its algorithm is "none"`, one(auth.JWTKey{Secret: secret, Algorithm: "none"})},
		{`its algorithm is "hs256"`, one(auth.JWTKey{Secret: secret, Algorithm: "hs256"})},
		{`its algorithm is "HS256"`, one(auth.JWTKey{PublicKey: public(t, pair), Algorithm: "HS256"})},
		{`its algorithm is "RS256"`, one(auth.JWTKey{Secret: secret, Algorithm: "RS256"})},
		{`its algorithm is "ES256"`, one(auth.JWTKey{PublicKey: public(t, pairs()["ES384"]), Algorithm: "ES256"})},
		{"not PEM", one(auth.JWTKey{PublicKey: "ssh-ed25519 AAAA"})},
		{"give the public half alone", one(auth.JWTKey{PublicKey: pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(pair))})},
		{"each key on its own", one(auth.JWTKey{PublicKey: public(t, pair) + public(t, weak)})},
		{"x509", one(auth.JWTKey{PublicKey: pemOf("CERTIFICATE", []byte("x"))})},
		{"its id (kid)", one(auth.JWTKey{ID: "a\nb", Secret: secret})},
		{"the id \"a\" of another", auth.JWTOptions{Keys: []auth.JWTKey{good, good}}},
		{"is not the only one", auth.JWTOptions{Keys: []auth.JWTKey{good, {Secret: secret}}}},
		{"is not the only one", auth.JWTOptions{Keys: []auth.JWTKey{{Secret: secret}}, JWKS: []string{"https://example.com/"}}},
		{"use https", auth.JWTOptions{JWKS: []string{"http://example.com/keys?token=canary"}}},
		{"use https", auth.JWTOptions{JWKS: []string{"http://127.0.0.1.example.com/keys"}}},
		{"use https", auth.JWTOptions{JWKS: []string{"file://localhost/etc/keys"}}},
		{"is no URL", auth.JWTOptions{JWKS: []string{"https:///keys"}}},
		{"is no URL", auth.JWTOptions{JWKS: []string{"/keys"}}},
	} {
		j, err := auth.NewJWT(c.o)
		if err == nil {
			j.Close()
			t.Errorf("no error, want one that says %q", c.want)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret[:31]) || strings.Contains(err.Error(), "canary") {
			t.Errorf("the error says %q, want %q and no secret", err, c.want)
		}
	}
	if said := fmt.Sprintf("%v %+v", good, auth.JWTOptions{Keys: []auth.JWTKey{good}}); strings.Contains(said, secret) {
		t.Errorf("printed, a key says its secret: %s", said)
	}
	if said, _ := json.Marshal(good); strings.Contains(string(said), secret) {
		t.Errorf("as JSON, a key says its secret: %s", said)
	}
}

// Whatever a stranger makes up is refused, and nothing is fetched for it.
func TestForgeries(t *testing.T) {
	var hits atomic.Int32
	attacker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		fmt.Fprintf(w, `{"keys":[%s]}`, jwk("evil", pairs()["EdDSA"].Public(), ""))
	}))
	defer attacker.Close()

	rs, es := pairs()["RS256"], pairs()["ES256"].(*ecdsa.PrivateKey)
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	j := newJWT(t, auth.JWTOptions{Issuer: "us", Audience: []string{"fanfare", "other"}, Keys: []auth.JWTKey{
		{ID: "hs", Algorithm: "HS256", Secret: secret},
		{ID: "rs", Algorithm: "RS256", PublicKey: public(t, rs)},
		{ID: "es", Algorithm: "ES256", PublicKey: public(t, es)},
		{ID: "ed", Algorithm: "EdDSA", PublicKey: public(t, pairs()["EdDSA"])},
	}})
	with := func(changes ...string) string {
		return claims(append([]string{`iss="us"`, `aud="fanfare"`}, changes...)...)
	}
	hs := func(head, payload string) string { return sign(t, "HS256", []byte(secret), head, payload) }
	const head = `{"alg":"HS256","kid":"hs"}`
	good := hs(head, with())
	parts := strings.Split(good, ".")
	sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
	ed := sign(t, "EdDSA", pairs()["EdDSA"], `{"alg":"EdDSA","kid":"ed"}`, with())

	type forgery struct{ name, token, want string }
	cases := []forgery{
		{"none of them", good, "ok"},
		{"none of them, EdDSA", ed, "ok"},
		{"type JWT", hs(`{"alg":"HS256","kid":"hs","typ":"JWT"}`, with()), "ok"},
		{"type of an access token", hs(`{"alg":"HS256","kid":"hs","typ":"application/at+jwt"}`, with()), "ok"},
		{"several audiences", hs(head, with(`aud=["x","fanfare"]`)), "ok"},

		{"RS256's public key as the secret", sign(t, "HS256", []byte(public(t, rs)), `{"alg":"HS256","kid":"rs"}`, with()), "bad_token"},
		{"the same without its last line end", sign(t, "HS256", []byte(strings.TrimSpace(public(t, rs))), `{"alg":"HS256","kid":"rs"}`, with()), "bad_token"},
		{"ES256's public key as the secret", sign(t, "HS256", []byte(public(t, es)), `{"alg":"HS256","kid":"es"}`, with()), "bad_token"},
		{"signed by HS256, said to be RS256", sign(t, "HS256", []byte(public(t, rs)), `{"alg":"RS256","kid":"rs"}`, with()), "bad_token"},
		{"an empty secret", sign(t, "HS256", []byte{}, head, with()), "bad_token"},
		{"HS512 with the key for HS256", sign(t, "HS512", []byte(secret), `{"alg":"HS512","kid":"hs"}`, with()), "bad_token"},
		{"PS256 with the key for RS256", sign(t, "PS256", rs, `{"alg":"PS256","kid":"rs"}`, with()), "bad_token"},
		{"a stranger's key", sign(t, "EdDSA", stranger, `{"alg":"EdDSA","kid":"ed"}`, with()), "bad_token"},

		{"kid unknown", hs(`{"alg":"HS256","kid":"other"}`, with()), "bad_token"},
		{"kid missing", hs(`{"alg":"HS256"}`, with()), "bad_token"},
		{"kid empty", hs(`{"alg":"HS256","kid":""}`, with()), "bad_token"},
		{"kid a number", hs(`{"alg":"HS256","kid":1}`, with()), "bad_token"},
		{"kid a list", hs(`{"alg":"HS256","kid":["hs"]}`, with()), "bad_token"},
		{"kid null", hs(`{"alg":"HS256","kid":null}`, with()), "bad_token"},
		{"kid of another key", hs(`{"alg":"HS256","kid":"rs"}`, with()), "bad_token"},
		{"kid twice", hs(`{"alg":"HS256","kid":"hs","kid":"hs"}`, with()), "bad_token"},
		{"kid in capitals", hs(`{"alg":"HS256","KID":"hs"}`, with()), "bad_token"},
		{"kid is a path, whose file is empty", sign(t, "HS256", []byte{}, `{"alg":"HS256","kid":"../../../../dev/null"}`, with()), "bad_token"},
		{"kid is SQL", sign(t, "HS256", []byte("a"), `{"alg":"HS256","kid":"x' UNION SELECT 'a'; --"}`, with()), "bad_token"},
		{"kid is an address", hs(`{"alg":"HS256","kid":"`+attacker.URL+`"}`, with()), "bad_token"},
		{"kid is long", hs(`{"alg":"HS256","kid":"`+strings.Repeat("k", 5000)+`"}`, with()), "bad_token"},

		{"alg twice", hs(`{"alg":"none","kid":"hs","alg":"HS256"}`, with()), "bad_token"},
		{"alg missing", hs(`{"kid":"hs"}`, with()), "bad_token"},
		{"alg a number", hs(`{"alg":256,"kid":"hs"}`, with()), "bad_token"},
		{"alg in small letters", hs(`{"alg":"hs256","kid":"hs"}`, with()), "bad_token"},
		{"crit", hs(`{"alg":"HS256","kid":"hs","crit":["exp"]}`, with()), "bad_token"},
		{"crit empty", hs(`{"alg":"HS256","kid":"hs","crit":[]}`, with()), "bad_token"},
		{"not encoded (RFC 7797)", hs(`{"alg":"HS256","kid":"hs","b64":false,"crit":["b64"]}`, with()), "bad_token"},
		{"type of a token for logging out", hs(`{"alg":"HS256","kid":"hs","typ":"logout+jwt"}`, with()), "bad_token"},
		{"type of a proof", hs(`{"alg":"HS256","kid":"hs","typ":"dpop+jwt"}`, with()), "bad_token"},

		{"signature missing", parts[0] + "." + parts[1] + ".", "bad_token"},
		{"signature cut", good[:len(good)-4], "bad_token"},
		{"signature longer", good + "AAAA", "bad_token"},
		{"signature changed", parts[0] + "." + parts[1] + "." + b64(append([]byte{sig[0] ^ 1}, sig[1:]...)), "bad_token"},
		{"signature padded", good + "=", "bad_token"},
		{"signature with line end", good + "\n", "bad_token"},
		{"signature with other bits left over", good[:len(good)-1] + string(good[len(good)-1]+1), "bad_token"},
		{"signature of another token", parts[0] + "." + parts[1] + "." + strings.Split(hs(head, with(`sub="bob"`)), ".")[2], "bad_token"},
		{"claims changed", parts[0] + "." + b64([]byte(with(`sub="admin"`))) + "." + parts[2], "bad_token"},
		{"claims empty", parts[0] + ".." + parts[2], "bad_token"},
		{"claims padded", parts[0] + "." + parts[1] + "=." + parts[2], "bad_token"},
		{"claims nothing", hs(head, ""), "bad_token"},
		{"ES256 of zeros", noughts(with(), 64), "bad_token"},
		{"ES256 of nothing", noughts(with(), 0), "bad_token"},

		{"a JWT in a JWT", hs(`{"alg":"HS256","kid":"hs","cty":"JWT"}`, good), "bad_token"},
		{"claims are a list", hs(head, "["+with()+"]"), "bad_token"},
		{"claims are null", hs(head, "null"), "bad_token"},
		{"something behind the claims", hs(head, with()+"{}"), "bad_token"},
		{"claims not closed", hs(head, strings.TrimSuffix(with(), "}")), "bad_token"},
		{"claims not UTF-8", hs(head, with(`x="`+"\xff"+`"`)), "bad_token"},
		{"a claim twice", hs(head, `{"sub":"bob",`+with()[1:]), "bad_token"},
		{"a claim twice, once escaped", hs(head, `{"su\u0062":"bob",`+with()[1:]), "bad_token"},
		{"a deep claim", hs(head, with(`x=`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000))), "ok"},
		{"a deep claim, not closed", hs(head, `{"x":`+strings.Repeat("[", 4000)), "bad_token"},
		{"a giant", hs(head, with(`x="`+strings.Repeat("x", 9000)+`"`)), "bad_token"},

		{"another issuer", hs(head, with(`iss="them"`)), "bad_token"},
		{"no issuer", hs(head, with(`iss=`)), "bad_token"},
		{"issuers", hs(head, with(`iss=["us"]`)), "bad_token"},
		{"another audience", hs(head, with(`aud="fanfare2"`)), "bad_token"},
		{"no audience", hs(head, with(`aud=`)), "bad_token"},
		{"empty audience", hs(head, with(`aud=[]`)), "bad_token"},
		{"audience in small letters", hs(head, with(`aud=["FANFARE"]`)), "bad_token"},
		{"audience a number", hs(head, with(`aud=[1,"fanfare"]`)), "bad_token"},

		// Others' tokens.
		{"nothing", "", "none"},
		{"a key of ours", "ff_ABCDEFGH_ABCDEFGHIJKLMNOPQRSTUVWXYZ234567A", "none"},
		{"two parts", parts[0] + "." + parts[1], "none"},
		{"four parts", good + "." + parts[2], "none"},
		{"encrypted: five parts", good + "." + parts[1] + "." + parts[2], "none"},
		{"no JSON in the head", b64([]byte("x")) + "." + parts[1] + "." + parts[2], "none"},
		{"a list in the head", b64([]byte(`["alg"]`)) + "." + parts[1] + "." + parts[2], "none"},
		{"an empty head", "." + parts[1] + "." + parts[2], "none"},
		{"a padded head", b64([]byte(`{"alg":"HS256"}`)) + "==." + parts[1] + "." + parts[2], "none"},
		{"a head in the other base64", base64.RawStdEncoding.EncodeToString([]byte(`{"alg":"HS256","x":"???~~~"}`)) + "." + parts[1] + "." + parts[2], "none"},
		{"white space before", " " + good, "none"},
		{"line end in the head", good[:5] + "\r\n" + good[5:], "none"},
		{"dots", "..", "none"},
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", "", " none", "none ", "null", "NoNe\u0000"} {
		text, _ := json.Marshal(map[string]string{"alg": none, "kid": "hs"})
		for _, end := range []string{"", parts[2], "AAAA"} {
			cases = append(cases, forgery{fmt.Sprintf("alg %q signed %q", none, end), b64(text) + "." + b64([]byte(with())) + "." + end, "bad_token"})
		}
	}
	for _, where := range []string{`"jku":"` + attacker.URL + `"`, `"x5u":"` + attacker.URL + `"`,
		`"jwk":` + jwk("ed", stranger.Public(), ""), `"x5c":["MIIB"]`, `"iss":"` + attacker.URL + `"`} {
		for _, kid := range []string{"ed", "evil"} {
			head := `{"alg":"EdDSA","kid":"` + kid + `",` + where + `}`
			cases = append(cases, forgery{where[:5] + " for " + kid, sign(t, "EdDSA", stranger, head, with(`iss="`+attacker.URL+`"`)), "bad_token"})
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			id, err := ask(j, c.token)
			if got := code(id, err); got != c.want {
				t.Errorf("%s (%+v, %v), want %s", got, id, err, c.want)
			}
			quiet(t, c.token, err)
		})
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("%d requests went to where tokens said", n)
	}
}

// noughts is a token of ES256 whose signature is so many noughts.
func noughts(claims string, n int) string {
	return b64([]byte(`{"alg":"ES256","kid":"es"}`)) + "." + b64([]byte(claims)) + "." + b64(make([]byte, n))
}

// Of a signature by ES256 (r, s), (r, n−s) is one too, and of a token whose id
// has been revoked there must be no twin with another id.
func TestTwinSignature(t *testing.T) {
	pair := pairs()["ES256"].(*ecdsa.PrivateKey)
	j := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{{PublicKey: public(t, pair)}}})
	token := sign(t, "ES256", pair, `{"alg":"ES256"}`, claims(`jti="one"`))
	i := strings.LastIndexByte(token, '.')
	sig, _ := base64.RawURLEncoding.DecodeString(token[i+1:])
	n := pair.Params().N
	r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
	for name, c := range map[string]struct {
		r, s *big.Int
		want string
	}{
		"as it is": {r, s, "ok"},
		"twin":     {r, new(big.Int).Sub(n, s), "ok"},
		"0, 0":     {new(big.Int), new(big.Int), "bad_token"},
		"r, 0":     {r, new(big.Int), "bad_token"},
		"0, s":     {new(big.Int), s, "bad_token"},
		"n, n":     {n, n, "bad_token"},
		"r, n":     {r, n, "bad_token"},
		"s, r":     {s, r, "bad_token"},
	} {
		made := token[:i+1] + b64(append(c.r.FillBytes(make([]byte, 32)), c.s.FillBytes(make([]byte, 32))...))
		if id, err := ask(j, made); code(id, err) != c.want || id != nil && id.Token != "one" {
			t.Errorf("%s: %+v, %v, want %s", name, id, err, c.want)
		}
	}
}

func TestClaims(t *testing.T) {
	j := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{{Secret: secret}}})
	many := func(n int) string { return `["` + strings.Repeat(`a","`, n-1) + `a"]` }
	for _, c := range []struct{ change, want string }{ // want: in the error's text; empty: none
		{`sub=`, "(sub)"}, {`sub=""`, "(sub)"}, {`sub=1`, "sub must be"}, {`sub=null`, "sub must be"}, {`sub=["a"]`, "sub must be"},
		{`sub="` + strings.Repeat("é", 127) + `"`, ""}, {`sub="` + strings.Repeat("é", 128) + `"`, "the subject"},
		{`sub="a\nb"`, "the subject"}, {`sub="a\u0000"`, "the subject"}, {`sub="\ud800"`, "the subject"}, {`sub="\u009f"`, "the subject"},
		{`sub="../../x"`, ""}, {`sub="*"`, ""},
		{`name="Alice Ä."`, ""}, {`name=" Alice"`, "the name"}, {`name="` + strings.Repeat("é", 64) + `"`, ""},
		{`name="` + strings.Repeat("é", 65) + `"`, "the name"}, {`name="a\u001b[31m"`, "the name"}, {`name={}`, "name must be"},
		{`roles=["admin","moderator"]`, ""}, {`roles="admin"`, "roles must be"}, {`roles=[1]`, "roles must be"}, {`roles=null`, "roles must be"},
		{`roles=[""]`, "a role"}, {`roles=["a\nb"]`, "a role"}, {`roles=` + many(256), ""}, {`roles=` + many(257), "257 roles"},
		{`publish=["chat/*","$sub/x","a/**"]`, ""}, {`publish=[]`, ""}, {`publish="chat"`, "publish must be"}, {`publish=[null]`, "publish"},
		{`publish=["a//b"]`, "publish"}, {`subscribe=["x$sub"]`, "subscribe"}, {`subscribe=["**/a"]`, "subscribe"}, {`presence=[".."]`, "presence"},
		{`history=["-/metrics"]`, "history"}, {`history=` + many(256), ""}, {`history=` + many(257), "257 patterns"}, {`subscribe=null`, "subscribe must be"},
		{`limits={"messages":1.5,"bytes":1e6,"subscriptions":3,"connections":2}`, ""}, {`limits={}`, ""}, {`limits=[]`, "limits is wrong"},
		{`limits=null`, "limits is wrong"}, {`limits={"messages":-1}`, "a limit"}, {`limits={"messages":1e300}`, "a limit"},
		{`limits={"messages":1e999}`, "messages must be"}, {`limits={"messages":"5"}`, "messages must be"}, {`limits={"subscriptions":1.5}`, "subscriptions must be"},
		{`limits={"message":5}`, "limits is wrong"}, {`limits={"bytes":1,"bytes":2}`, "limits is wrong"},
		{`jti="x"`, ""}, {`jti=1`, "jti must be"}, {`jti="` + strings.Repeat("x", 256) + `"`, "the token's id"}, {`jti="a\tb"`, "the token's id"},
		{`iat=99999999999`, ""}, {`iat="now"`, "iat must be"}, {`iat=-1`, "iat is no time"},
		{`exp=`, "(exp)"}, {`exp="1893499200"`, "exp must be"}, {`exp=-1`, "exp is no time"}, {`exp=1e300`, "exp is no time"}, {`exp=1e999`, "exp must be"},
		{`exp=null`, "exp must be"}, {`exp=true`, "exp must be"}, {`exp=0`, "has expired"}, {`exp=253402300799`, ""}, {`exp=2e10`, ""},
		{`nbf=-1`, "nbf is no time"}, {`nbf="0"`, "nbf must be"}, {`nbf=0`, ""}, {`nbf=1.5`, ""},
		{`iss="anybody"`, ""}, {`iss=1`, "iss must be"}, {`aud="anybody"`, ""}, {`aud={}`, "aud must be"},
		{`Sub="bob"`, ""}, {`EXP=0`, ""}, // are other claims
	} {
		token := sign(t, "HS256", []byte(secret), `{"alg":"HS256"}`, claims(c.change))
		id, err := ask(j, token)
		switch {
		case c.want == "" && (err != nil || id == nil):
			t.Errorf("%.80s: %v", c.change, err)
		case c.want == "" && !strings.HasPrefix(c.change, "sub=") && id.Subject != "alice":
			t.Errorf("%.80s: it is %q", c.change, id.Subject)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%.80s: %+v, %v; want %s", c.change, id, err, c.want)
		}
		quiet(t, token, err)
	}

	token := sign(t, "HS256", []byte(secret), `{"alg":"HS256"}`, `{"sub":"alice","name":"Alice","roles":["r"],"jti":"t1","iat":1.5,"exp":1906545600.5,
		"publish":["p"],"subscribe":["s/**"],"history":[],"limits":{"messages":1.5,"bytes":2,"subscriptions":3,"connections":4},"other":{"x":1}}`)
	id, err := ask(j, token)
	want := &auth.Identity{
		Subject: "alice", Name: "Alice", Roles: []string{"r"}, Token: "t1", Issued: time.Unix(1, 5e8), Expires: time.Unix(1906545630, 5e8),
		Allow:  map[auth.Right][]string{auth.Publish: {"p"}, auth.Subscribe: {"s/**"}, auth.Presence: {"s/**"}, auth.History: {}},
		Limits: auth.Limits{Messages: 1.5, Bytes: 2, Subscriptions: 3, Connections: 4},
	}
	if err != nil || !reflect.DeepEqual(id, want) {
		t.Errorf("%+v, %v, want %+v", id, err, want)
	}

	free := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{{Secret: secret}}, NoExpiry: true, NoSubject: true})
	if id, err := ask(free, sign(t, "HS256", []byte(secret), `{"alg":"HS256"}`, `{}`)); err != nil || id.Subject != "" || !id.Expires.IsZero() {
		t.Errorf("without sub and exp, where both may be missing: %+v, %v", id, err)
	}
	for _, wrong := range []string{`{"sub":""}`, `{"exp":5}`} {
		if id, err := ask(free, sign(t, "HS256", []byte(secret), `{"alg":"HS256"}`, wrong)); err == nil {
			t.Errorf("%s is let in as %+v", wrong, id)
		}
	}
}

func TestClocksDiffer(t *testing.T) {
	for _, c := range []struct {
		leeway   time.Duration
		exp, nbf time.Duration // from now on
		want     string
	}{
		{0, time.Second, 0, "ok"},
		{0, -29 * time.Second, 0, "ok"},
		{0, -30 * time.Second, 0, "token_expired"},
		{0, -10 * time.Minute, 0, "token_expired"},
		{0, time.Hour, 30 * time.Second, "ok"},
		{0, time.Hour, 31 * time.Second, "token_not_yet"},
		{0, time.Hour, 10 * time.Minute, "token_not_yet"},
		{time.Minute, -59 * time.Second, time.Minute, "ok"},
		{time.Minute, -60 * time.Second, 0, "token_expired"},
		{-1, time.Second, 0, "ok"},
		{-1, 0, 0, "token_expired"},
		{-1, time.Hour, time.Second, "token_not_yet"},
	} {
		j := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{{Secret: secret}}, Leeway: c.leeway})
		id, err := ask(j, sign(t, "HS256", []byte(secret), `{"alg":"HS256"}`,
			claims(fmt.Sprintf("exp=%d", noon.Add(c.exp).Unix()), fmt.Sprintf("nbf=%d", noon.Add(c.nbf).Unix()))))
		if got := code(id, err); got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
		if id != nil && !id.Expires.After(noon) {
			t.Errorf("%+v: let in, and has expired at %v", c, id.Expires)
		}
	}
}

// What is signed is read again.
func TestSign(t *testing.T) {
	text := rapid.StringMatching(`[a-zé/*$ ]{1,20}[a-z]`)
	patterns := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a/b", "a/*", "**", "inbox/$sub"}), 0, 3)
	key := auth.JWTKey{ID: "k", Algorithm: "HS384", Secret: secret}
	j := newJWT(t, auth.JWTOptions{Keys: []auth.JWTKey{key, {ID: "other", Secret: secret}}, Leeway: -1, Issuer: "me"})
	rapid.Check(t, func(t *rapid.T) {
		id := &auth.Identity{
			Subject: text.Draw(t, "subject"), Name: strings.TrimSpace(text.Draw(t, "name")), Token: text.Draw(t, "token"),
			Issued:  time.Unix(rapid.Int64Range(0, noon.Unix()).Draw(t, "issued"), 0),
			Expires: noon.Add(time.Duration(rapid.IntRange(1, 1e6).Draw(t, "expires")) * time.Second).Local(),
			Allow:   map[auth.Right][]string{},
			Limits:  auth.Limits{Messages: rapid.Float64Range(0, 1e9).Draw(t, "messages"), Subscriptions: rapid.IntRange(0, 9).Draw(t, "subscriptions")},
		}
		id.Roles = append(id.Roles, rapid.SliceOfN(text, 0, 3).Draw(t, "roles")...)
		for _, right := range auth.Rights {
			id.Allow[right] = patterns.Draw(t, right.String())
		}
		token, err := key.Sign(id, map[string]any{"iss": "me", "sub": "not me"})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ask(j, token); err != nil || !reflect.DeepEqual(got, id) {
			t.Fatalf("signed %+v, read %+v, %v", id, got, err)
		}
	})
	for want, sign := range map[string]func() (string, error){
		"a public key": func() (string, error) {
			return auth.JWTKey{PublicKey: public(t, pairs()["EdDSA"])}.Sign(&auth.Identity{}, nil)
		},
		"must have 32": func() (string, error) { return auth.JWTKey{Secret: "short"}.Sign(&auth.Identity{}, nil) },
		"the subject":  func() (string, error) { return key.Sign(&auth.Identity{Subject: "\n"}, nil) },
		"may have 8192": func() (string, error) {
			return key.Sign(&auth.Identity{Subject: "a"}, map[string]any{"x": strings.Repeat("x", 8000)})
		},
	} {
		if token, err := sign(); err == nil || token != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// jwk is a public key of a set, with more members.
func jwk(kid string, key crypto.PublicKey, more string) string {
	m := map[string]string{"kid": kid}
	switch k := key.(type) {
	case *rsa.PublicKey:
		maps.Copy(m, map[string]string{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())})
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		maps.Copy(m, map[string]string{"kty": "EC", "crv": k.Params().Name, "x": b64(point[1 : 1+half]), "y": b64(point[1+half:])})
	case ed25519.PublicKey:
		maps.Copy(m, map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(k)})
	}
	text, _ := json.Marshal(m)
	return strings.TrimSuffix(string(text), "}") + more + "}"
}

// A publisher has a set of keys at an address.
type publisher struct {
	*httptest.Server
	answer atomic.Pointer[http.HandlerFunc]
	hits   atomic.Int32
}

func publish(t testing.TB, keys ...string) *publisher {
	p := new(publisher)
	p.set(keys...)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.hits.Add(1)
		(*p.answer.Load())(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) set(keys ...string) {
	p.do(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"keys":[%s]}`, strings.Join(keys, ","))
	})
}

func (p *publisher) do(answer http.HandlerFunc) { p.answer.Store(&answer) }

// edKey is a key of a publisher's.
type edKey struct {
	kid     string
	private ed25519.PrivateKey
}

func newEd(kid string) edKey {
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	return edKey{kid, private}
}

func (k edKey) jwk() string { return jwk(k.kid, k.private.Public(), "") }

func (k edKey) token(t testing.TB) string {
	return sign(t, "EdDSA", k.private, `{"alg":"EdDSA","kid":"`+k.kid+`"}`, claims())
}

// A clock goes when it is told to.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return noon.Add(time.Duration(c.ahead.Load())) }

// Keys change while a thousand come, of which every one is let in, and the
// address is asked a few times only.
func TestRotation(t *testing.T) {
	old := newEd("k0")
	p := publish(t, old.jwk())
	var now clock
	j := newJWT(t, auth.JWTOptions{JWKS: []string{p.URL}, Now: now.now})
	for round := range 3 {
		fresh := newEd(fmt.Sprintf("k%d", round+1))
		p.set(old.jwk(), fresh.jwk())
		before, tokens := p.hits.Load(), []string{old.token(t), fresh.token(t)}
		now.ahead.Add(int64(30 * time.Second))
		var refused atomic.Int32
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				if id, err := ask(j, tokens[i%2]); code(id, err) != "ok" {
					refused.Add(1)
				}
			})
		}
		all.Wait()
		if n := refused.Load(); n > 0 {
			t.Errorf("round %d: %d of 1000 were refused", round, n)
		}
		if n := p.hits.Load() - before; n > 4 {
			t.Errorf("round %d: the address was asked %d times", round, n)
		}
		old = fresh
	}
}

func TestFloodOfUnknownKeys(t *testing.T) {
	known := newEd("known")
	p := publish(t, known.jwk())
	var now clock
	j := newJWT(t, auth.JWTOptions{JWKS: []string{p.URL}, Now: now.now})
	flood := func() {
		var all sync.WaitGroup
		for i := range 300 {
			all.Go(func() {
				token := edKey{fmt.Sprintf("unknown%d", i), known.private}.token(t)
				if id, err := ask(j, token); code(id, err) != "bad_token" {
					t.Errorf("unknown: %+v, %v", id, err)
				}
				if id, err := ask(j, known.token(t)); code(id, err) != "ok" {
					t.Errorf("known: %+v, %v", id, err)
				}
			})
		}
		all.Wait()
	}
	flood()
	if n := p.hits.Load(); n > 4 {
		t.Errorf("300 unknown keys had the address asked %d times", n)
	}
	// How many of those four were used is chance: tokens that come together wait for one answer.
	now.ahead.Add(int64(10 * time.Second))
	flood()
	if n := p.hits.Load(); n > 5 {
		t.Errorf("with 300 more, ten seconds later, it was asked %d times in all", n)
	}
}

// When the address does not answer, what is known counts on, and nobody can tell
// about the rest. A set that is empty is one from which all were taken.
func TestAddressFails(t *testing.T) {
	known, other := newEd("known"), newEd("other")
	p := publish(t, known.jwk())
	elsewhere := publish(t, other.jwk())
	var now clock
	var log bytes.Buffer
	var mu sync.Mutex
	j := newJWT(t, auth.JWTOptions{
		JWKS: []string{strings.Replace(p.URL, "://", "://user:canary1@", 1) + "/keys?key=canary2"}, Now: now.now,
		Log: slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return log.Write(b) }), nil)),
	})
	step := func(what, ofKnown, ofOther string) {
		t.Helper()
		now.ahead.Add(int64(time.Minute))
		if id, err := ask(j, other.token(t)); code(id, err) != ofOther {
			t.Errorf("%s: the other key is %s: %v", what, code(id, err), err)
		}
		if id, err := ask(j, known.token(t)); code(id, err) != ofKnown {
			t.Errorf("%s: the known key is %s: %v", what, code(id, err), err)
		}
	}
	step("all is well", "ok", "bad_token")
	for what, answer := range map[string]http.HandlerFunc{
		"an error":   func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) },
		"no JSON":    func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") },
		"no list":    func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{}") },
		"cut":        func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"keys":[`+other.jwk()) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"too much":   func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"keys":[],"x":"%02000000d"}`, 1) },
		"hanging up": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"half a body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "99")
			fmt.Fprint(w, `{"keys":[]}`)
		},
	} {
		p.do(answer)
		step(what, "ok", "unavailable")
	}
	p.set(known.jwk(), other.jwk())
	step("well again", "ok", "ok")
	p.set()
	now.ahead.Add(int64(time.Minute))
	if id, err := ask(j, newEd("third").token(t)); code(id, err) != "bad_token" {
		t.Errorf("of an empty set: %v", err)
	}
	step("all taken", "bad_token", "bad_token")
	if n := elsewhere.hits.Load(); n > 0 {
		t.Errorf("a redirect was followed")
	}
	mu.Lock()
	defer mu.Unlock()
	if said := log.String(); !strings.Contains(said, "cannot fetch the set of keys") || strings.Contains(said, "canary") {
		t.Errorf("the log says: %s", said)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// Who waits for keys waits no longer than he wants, and closing does not wait.
func TestAddressHangs(t *testing.T) {
	p := publish(t)
	asked := make(chan struct{}, 8)
	p.do(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	j := newJWT(t, auth.JWTOptions{JWKS: []string{p.URL}})
	<-asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	id, err := j.Authenticate(ctx, auth.Credentials{Token: newEd("a").token(t)})
	if code(id, err) != "unavailable" || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", id, err)
	}
	begun := time.Now()
	j.Close()
	j.Close()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}
	if id, err := ask(j, newEd("a").token(t)); id != nil || err == nil {
		t.Errorf("closed: %+v, %v", id, err)
	}
}

// Sets are fetched again without anybody who asks for it.
func TestRefresh(t *testing.T) {
	first, second := newEd("first"), newEd("second")
	p := publish(t, first.jwk())
	j := newJWT(t, auth.JWTOptions{JWKS: []string{p.URL}, Refresh: time.Millisecond})
	if id, err := ask(j, first.token(t)); code(id, err) != "ok" {
		t.Fatal(err)
	}
	served := make(chan struct{})
	p.do(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"keys":[%s]}`, second.jwk())
		select {
		case served <- struct{}{}:
		case <-r.Context().Done():
		}
	})
	for range 2 { // who asks the second time has read the first answer
		select {
		case <-served:
		case <-time.After(30 * time.Second):
			t.Fatal("it is not fetched again")
		}
	}
	p.set(second.jwk())
	if id, err := ask(j, first.token(t)); code(id, err) != "bad_token" {
		t.Errorf("a key that was taken out is %s: %v", code(id, err), err)
	}
	if id, err := ask(j, second.token(t)); code(id, err) != "ok" {
		t.Errorf("the new key: %v", err)
	}
}

func TestKeysOfASet(t *testing.T) {
	rs, weak := pairs()["RS256"].(*rsa.PrivateKey), new(rsa.PrivateKey)
	weak, _ = rsa.GenerateKey(rand.Reader, 1024)
	es := pairs()["ES256"].(*ecdsa.PrivateKey)
	ed := pairs()["EdDSA"]
	keys := []string{
		`null`, `5`, `{}`, `{"kty":"new"}`, `{"kty":"oct","kid":"oct","k":"` + b64([]byte(secret)) + `"}`,
		`{"kty":"oct","kid":"octalg","alg":"HS256","k":"` + b64([]byte(secret)) + `"}`,
		jwk("weak", weak.Public(), ""),
		jwk("enc", rs.Public(), `,"use":"enc"`),
		jwk("sign", rs.Public(), `,"key_ops":["sign"]`),
		jwk("noops", rs.Public(), `,"key_ops":[]`),
		jwk("hs", rs.Public(), `,"alg":"HS256"`),
		jwk("none", rs.Public(), `,"alg":"none"`),
		jwk("oaep", rs.Public(), `,"alg":"RSA-OAEP"`),
		jwk("escurve", es.Public(), `,"alg":"ES384"`),
		strings.Replace(jwk("off", es.Public(), ""), `"y":"`, `"y":"AQAA`, 1),
		jwk("rs", rs.Public(), `,"use":"sig","key_ops":["verify"],"x5u":"http://127.0.0.1:1/","x5c":["nonsense"]`),
		jwk("rs512", rs.Public(), `,"alg":"RS512"`),
		jwk("es", es.Public(), ""),
		jwk("both", rs.Public(), ""), jwk("both", es.Public(), ""),
		jwk("ed", ed.Public(), `,"alg":"EdDSA","d":"`+b64(make([]byte, 32))+`"`),
		jwk("", ed.Public(), ""),
	}
	p := publish(t, keys...)
	var now clock
	j := newJWT(t, auth.JWTOptions{JWKS: []string{p.URL}, Now: now.now})
	for _, c := range []struct {
		kid, algorithm string
		key            any
		want           string
	}{
		{"oct", "HS256", []byte(secret), "bad_token"}, {"octalg", "HS256", []byte(secret), "bad_token"},
		{"weak", "RS256", weak, "bad_token"}, {"enc", "RS256", rs, "bad_token"}, {"sign", "RS256", rs, "bad_token"}, {"noops", "RS256", rs, "bad_token"},
		{"hs", "RS256", rs, "bad_token"}, {"none", "RS256", rs, "bad_token"}, {"oaep", "RS256", rs, "bad_token"},
		{"hs", "HS256", rs.N.Bytes(), "bad_token"}, {"hs", "HS256", []byte(public(t, rs)), "bad_token"}, {"rs", "HS256", []byte(public(t, rs)), "bad_token"},
		{"escurve", "ES256", es, "bad_token"}, {"off", "ES256", es, "bad_token"}, {"", "EdDSA", ed, "bad_token"},
		{"rs", "RS256", rs, "ok"}, {"rs", "RS384", rs, "bad_token"}, {"rs512", "RS512", rs, "ok"}, {"rs512", "RS256", rs, "bad_token"},
		{"es", "ES256", es, "ok"}, {"both", "RS256", rs, "ok"}, {"both", "ES256", es, "ok"}, {"both", "EdDSA", ed, "bad_token"}, {"ed", "EdDSA", ed, "ok"},
	} {
		token := sign(t, c.algorithm, c.key, `{"alg":"`+c.algorithm+`","kid":"`+c.kid+`"}`, claims())
		if id, err := ask(j, token); code(id, err) != c.want {
			t.Errorf("%s with %s: %+v, %v, want %s", c.kid, c.algorithm, id, err, c.want)
		}
	}

	// One key in all needs no name, on either side.
	alone := newJWT(t, auth.JWTOptions{JWKS: []string{publish(t, jwk("", ed.Public(), "")).URL}})
	for _, head := range []string{`{"alg":"EdDSA"}`, `{"alg":"EdDSA","kid":"x"}`} {
		if id, err := ask(alone, sign(t, "EdDSA", ed, head, claims())); code(id, err) != "ok" {
			t.Errorf("%s, of the only key: %v", head, err)
		}
	}
	// A key of one's own is not replaced by one of a set.
	own := newEd("own")
	mixed := newJWT(t, auth.JWTOptions{
		Keys: []auth.JWTKey{{ID: "own", PublicKey: public(t, own.private)}}, JWKS: []string{publish(t, newEd("own").jwk()).URL},
	})
	if id, err := ask(mixed, own.token(t)); code(id, err) != "ok" {
		t.Errorf("a key of one's own beside a set: %v", err)
	}
}

// Nothing but what was signed is let in, whatever it looks like, and who is let in
// is somebody who can be.
func FuzzToken(f *testing.F) {
	j := newJWT(f, auth.JWTOptions{Keys: []auth.JWTKey{{Secret: secret}}})
	f.Add(`{"alg":"HS256"}`, claims(), "")
	f.Add(`{"alg":"HS256","crit":["x"]}`, claims(`roles=["a"]`, `limits={"bytes":1}`, `publish=["a/$sub"]`), "x")
	f.Add(`{"alg":"none"}`, `{"sub":"a","exp":1e99}`, "..")
	f.Fuzz(func(t *testing.T, head, payload, garbage string) {
		id, err := ask(j, sign(t, "HS256", []byte(secret), head, payload))
		if code(id, err) == "unavailable" || err != nil && id != nil {
			t.Fatalf("%+v, %v", id, err)
		}
		if id != nil {
			if len(id.Subject) == 0 || len(id.Subject) > 255 || !id.Expires.After(noon) || slices.Contains(id.Roles, "") {
				t.Fatalf("let in: %+v", id)
			}
			new(auth.Rules).Grants(id).May(auth.Publish, "a")
		}
		text := b64([]byte(head)) + "." + b64([]byte(payload))
		for _, forged := range []string{garbage, text + "." + garbage, text + "." + b64([]byte(garbage)), garbage + "." + text} {
			if id, _ := ask(j, forged); id != nil {
				t.Fatalf("%q is let in as %+v", forged, id)
			}
		}
	})
}
