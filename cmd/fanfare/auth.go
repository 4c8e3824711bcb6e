package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/spf13/pflag"

	"fanfare"
	"fanfare/auth"
)

// authSettings say who is asked who clients are, and what they may do: the
// section auth of the configuration file, and flags for simple cases.
type authSettings struct {
	// Of flags; keys of the file too.
	keys       string
	secretFile string
	jwks       string

	jwt     auth.JWTOptions // without its log
	webhook *auth.WebhookOptions
	cookie  string
	timeout time.Duration
	rules   auth.Rules
}

func (a *authSettings) flags(flags *pflag.FlagSet) {
	as := func(text string) (string, error) { return text, nil }
	flags.Var(&value[string]{&a.keys, "string", as}, "auth-keys", "let in who has a key of this file, as fanfare token makes them")
	flags.Var(&value[string]{&a.secretFile, "string", as}, "auth-jwt-secret-file", "let in who has a JWT that is signed (HS256) with the secret in this file")
	flags.Var(&value[string]{&a.jwks, "string", as}, "auth-jwks", "let in who has a JWT that is signed by a key of the set at this URL")
}

// on reports whether anybody is asked.
func (a *authSettings) on() bool {
	return a.keys != "" || len(a.jwt.Keys)+len(a.jwt.JWKS) > 0 || a.webhook != nil
}

// anonymous reports whether a client may do something of whom nothing is known.
func (a *authSettings) anonymous() bool {
	return !a.on() || len(a.rules) > 0 && !a.rules.Grants(nil).Nothing()
}

// resolve reads the files that flags name, and puts what flags say of JWT in the
// place of what the file does.
func (a *authSettings) resolve() error {
	if a.secretFile != "" || a.jwks != "" {
		a.jwt.Keys, a.jwt.JWKS = nil, nil
	}
	if a.secretFile != "" {
		secret, err := readSecret(a.secretFile)
		key := auth.JWTKey{Secret: secret}
		if err == nil {
			err = key.Check()
		}
		if err != nil {
			return usage(fmt.Errorf("--auth-jwt-secret-file: %w", err))
		}
		if a.jwks != "" {
			return usage(errors.New("--auth-jwt-secret-file and --auth-jwks are two kinds of JWT: the configuration file can have both, with a kid for the secret"))
		}
		a.jwt.Keys = []auth.JWTKey{key}
	}
	if a.jwks != "" {
		if err := auth.CheckJWKS(a.jwks); err != nil {
			return usage(fmt.Errorf("--auth-jwks: %w", err))
		}
		a.jwt.JWKS = []string{a.jwks}
	}
	if a.keys != "" {
		switch _, err := auth.ReadKeys(a.keys); {
		case errors.Is(err, fs.ErrNotExist):
			return usage(fmt.Errorf("there is no file of keys %s: fanfare token --subject ci --file %[1]s makes one", a.keys))
		case errors.As(err, new(*fs.PathError)):
			return usage(fmt.Errorf("--auth-keys: %w", err))
		case err != nil:
			return usage(mistakes(strings.Split(err.Error(), "\n")))
		}
	}
	return nil
}

// readSecret reads a file that has a secret in it, without the line break that
// editors leave at its end.
func readSecret(name string) (string, error) {
	f, err := os.Open(name) // #nosec G304: the operator's file
	if err != nil {
		return "", err
	}
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return string(bytes.TrimRight(secret, "\r\n")), err
}

// facts are the settings by name, as they stand in a log: of a secret, whether it
// changed.
func (a *authSettings) facts(facts map[string]string) {
	var keys, rules []string
	for _, k := range a.jwt.Keys {
		keys = append(keys, strings.TrimSpace(k.ID+" "+cmp.Or(k.Algorithm, "any"))+" "+mark(k.Secret+k.PublicKey))
	}
	for _, u := range a.jwt.JWKS {
		keys = append(keys, "a set "+mark(u))
	}
	for _, r := range a.rules {
		rules = append(rules, fmt.Sprintf("%v may %v in %v", r.Roles, r.Allow, r.Channels))
	}
	all := map[string]string{
		"auth.jwt.keys": strings.Join(keys, ", "), "auth.jwt.issuer": a.jwt.Issuer, "auth.jwt.audience": strings.Join(a.jwt.Audience, ", "),
		"auth.jwt.leeway": said(a.jwt.Leeway, a.jwt.Leeway.String()), "auth.cookie": a.cookie, "auth.timeout": said(a.timeout, a.timeout.String()), "auth.rules": strings.Join(rules, ", "),
	}
	if w := a.webhook; w != nil {
		all["auth.webhook"] = fmt.Sprintf("%s, timeout %v, cache %v and %v, headers %v", mark(w.URL), w.Timeout, w.Cache, w.CacheRefusals, w.Headers)
	}
	for name, value := range all {
		if value != "" {
			facts[name] = value
		}
	}
}

// salt is another in each process, so that a mark says nothing but whether a
// secret is the same as before.
var salt = rand.Text()

func mark(secret string) string {
	sum := sha256.Sum256([]byte(salt + secret))
	return fmt.Sprintf("#%x", sum[:2])
}

// An asker finds out who clients are, as settings say.
type asker struct {
	of    authSettings
	chain auth.Chain
	keys  *auth.Keys // nil: there is no file of them
	all   []io.Closer
}

// ask has what the settings name found out from now on, until end.
func (a *authSettings) ask(log *slog.Logger) (*asker, error) {
	asks := &asker{of: *a}
	if a.keys != "" {
		keys, err := auth.OpenKeys(a.keys, log)
		if err != nil {
			return nil, err
		}
		if len(keys.IDs()) == 0 {
			log.Warn("there is no key in the file yet, so nobody can come in with one: fanfare token makes them", "file", a.keys)
		}
		asks.keys, asks.chain, asks.all = keys, append(asks.chain, keys), append(asks.all, keys)
	}
	if len(a.jwt.Keys)+len(a.jwt.JWKS) > 0 {
		options := a.jwt
		options.Log = log
		jwt, err := auth.NewJWT(options)
		if err != nil {
			asks.end()
			return nil, err
		}
		asks.chain, asks.all = append(asks.chain, jwt), append(asks.all, jwt)
	}
	if a.webhook != nil { // the last, since it has something to say of every token
		options := *a.webhook
		options.Log = log
		hook, err := auth.NewWebhook(options)
		if err != nil {
			asks.end()
			return nil, err
		}
		asks.chain, asks.all = append(asks.chain, hook), append(asks.all, hook)
	}
	return asks, nil
}

func (asks *asker) end() {
	for _, a := range asks.all {
		_ = a.Close()
	}
}

// serves reports whether settings want nobody else asked than now are, so that
// what is known of keys and sessions stays known.
func (asks *asker) serves(a *authSettings) bool {
	was, now := asks.of, *a
	for _, s := range []*authSettings{&was, &now} {
		s.rules, s.cookie, s.timeout = nil, "", 0
	}
	return reflect.DeepEqual(was, now)
}

// config is what the settings mean to fanfare.New.
func (asks *asker) config(a *authSettings) *fanfare.AuthConfig {
	return &fanfare.AuthConfig{Authenticator: asks.chain, Rules: a.rules, Cookie: a.cookie, Timeout: a.timeout}
}

// guard ends the connections of keys that are removed from the file from now on,
// and of those that was had and are not there any more.
func (asks *asker) guard(server *fanfare.Server, was *asker, log *slog.Logger) {
	revoke := func(ids []string) {
		for _, id := range ids {
			if _, err := server.Revoke(context.Background(), fanfare.Revocation{Token: id}); err != nil {
				log.Error("the connections of a removed key cannot be ended", "key", id, "error", err)
			}
		}
	}
	var now []string
	if asks.keys != nil {
		asks.keys.OnRemove(revoke)
		now = asks.keys.IDs()
	}
	if was != nil && was.keys != nil {
		revoke(slices.DeleteFunc(was.keys.IDs(), func(id string) bool { return slices.Contains(now, id) }))
	}
}

// auth reads the section auth.
func (f *file) auth(n ast.Node, isGiven func(string) bool, a *authSettings) {
	before := len(f.wrong)
	f.mapping(n, "auth", map[string]func(ast.Node){
		"jwt": func(n ast.Node) { f.jwt(n, &a.jwt) },
		"keys": func(n ast.Node) {
			f.value(n, "keys", func(text string) error {
				_, err := auth.ReadKeys(text)
				if !isGiven("auth-keys") {
					a.keys = text
				}
				return err
			})
		},
		"webhook": func(n ast.Node) { f.webhook(n, a) },
		"cookie": func(n ast.Node) {
			f.value(n, "cookie", func(text string) error {
				a.cookie = text
				if !isToken(text) {
					return errors.New("it is a cookie's name, such as session")
				}
				return nil
			})
		},
		"timeout": func(n ast.Node) { f.duration(n, "timeout", &a.timeout) },
		"rules":   func(n ast.Node) { f.rules(n, &a.rules) },
	})
	if !a.on() && a.secretFile == "" && a.jwks == "" && len(f.wrong) == before {
		f.refuse(n.GetToken(), "nobody is said who is asked who clients are: add jwt, keys or webhook")
	}
}

func (f *file) duration(n ast.Node, name string, into *time.Duration) {
	f.value(n, name, func(text string) (err error) {
		*into, err = duration(text)
		return err
	})
}

// texts reads a text, or a list of them.
func (f *file) texts(n ast.Node, name string, add func(string) error) {
	values := []ast.Node{n}
	if several, ok := n.(*ast.SequenceNode); ok {
		values = several.Values
	}
	for _, v := range values {
		f.value(v, name, add)
	}
}

// secret reads a text that nobody is to see: no error has it in it. It may be of
// several lines.
func (f *file) secret(n ast.Node, name string, set func(string) error) {
	text := ""
	switch n := n.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = n.GetToken().Value
	case *ast.NullNode:
		f.refuse(n.GetToken(), "%s has no value", name)
		return
	default:
		f.refuse(n.GetToken(), "%s must be one value; put it into quotes", name)
		return
	}
	if err := set(text); err != nil {
		f.refuse(n.GetToken(), "%s: %v", name, err)
	}
}

func (f *file) jwt(n ast.Node, into *auth.JWTOptions) {
	f.mapping(n, "auth.jwt", map[string]func(ast.Node){
		"keys":   func(n ast.Node) { f.jwtKeys(n, into) },
		"issuer": func(n ast.Node) { f.value(n, "issuer", func(text string) error { into.Issuer = text; return nil }) },
		"audience": func(n ast.Node) {
			f.texts(n, "audience", func(text string) error { into.Audience = append(into.Audience, text); return nil })
		},
		"leeway": func(n ast.Node) {
			f.value(n, "leeway", func(text string) (err error) {
				if text == "0" || text == "0s" {
					into.Leeway = -1 // zero is: not said
					return nil
				}
				into.Leeway, err = duration(text)
				return err
			})
		},
	})
	if len(into.Keys)+len(into.JWKS) == 0 && len(f.wrong) == 0 {
		f.refuse(n.GetToken(), "jwt has no keys: add a list of them")
	}
}

func (f *file) jwtKeys(n ast.Node, into *auth.JWTOptions) {
	entries, ok := n.(*ast.SequenceNode)
	if !ok {
		f.refuse(n.GetToken(), "keys is a list, each of whose entries is such as - {kid: k1, alg: HS256, secret: ...}")
		return
	}
	lines := map[string]int{}
	for _, entry := range entries.Values {
		var key auth.JWTKey
		var sources []string
		jwks, at := "", entry.GetToken()
		from := func(source string, set func(string) error) func(ast.Node) {
			return func(n ast.Node) {
				sources = append(sources, source)
				f.secret(n, source, set)
			}
		}
		before := len(f.wrong)
		if m, ok := entry.(*ast.MappingNode); ok && len(m.Values) > 0 {
			at = m.Values[0].Key.GetToken()
		}
		f.mapping(entry, "a key", map[string]func(ast.Node){
			"kid":    func(n ast.Node) { f.value(n, "kid", func(text string) error { key.ID = text; return nil }) },
			"alg":    func(n ast.Node) { f.value(n, "alg", func(text string) error { key.Algorithm = text; return nil }) },
			"secret": from("secret", func(text string) error { key.Secret = text; return nil }),
			"secret-file": from("secret-file", func(text string) (err error) {
				key.Secret, err = readSecret(text)
				return err
			}),
			"public_key": from("public_key", func(text string) error { key.PublicKey = text; return nil }),
			"jwks":       from("jwks", func(text string) error { jwks = text; return auth.CheckJWKS(text) }),
		})
		switch line, twice := lines[key.ID]; {
		case len(f.wrong) > before:
			continue
		case len(sources) != 1:
			f.refuse(at, "a key has one of secret, secret-file, public_key and jwks; this one has %s", cmp.Or(strings.Join(sources, " and "), "none"))
		case jwks != "" && (key.ID != "" || key.Algorithm != ""):
			f.refuse(at, "the set at a jwks says kid and alg itself: leave them out here")
		case jwks != "":
			into.JWKS = append(into.JWKS, jwks)
			continue
		case key.ID == "" && len(entries.Values) > 1:
			f.refuse(at, "a key has no kid, and is not the only one: without it nobody can tell which is meant")
		case twice:
			f.refuse(at, "the kid %.40q is in line %d already", key.ID, line)
		default:
			if err := key.Check(); err != nil {
				f.refuse(at, "%v", err)
			}
		}
		lines[key.ID] = at.Position.Line
		into.Keys = append(into.Keys, key)
	}
}

func (f *file) webhook(n ast.Node, a *authSettings) {
	var o auth.WebhookOptions
	before := len(f.wrong)
	whether := func(n ast.Node, name string, into *time.Duration) {
		f.value(n, name, func(text string) (err error) {
			if text == "0" || text == "0s" {
				*into = -1
				return nil
			}
			*into, err = duration(text)
			return err
		})
	}
	f.mapping(n, "auth.webhook", map[string]func(ast.Node){
		"url":            func(n ast.Node) { f.secret(n, "url", func(text string) error { o.URL = text; return nil }) },
		"timeout":        func(n ast.Node) { f.duration(n, "timeout", &o.Timeout) },
		"cache":          func(n ast.Node) { whether(n, "cache", &o.Cache) },
		"cache-refusals": func(n ast.Node) { whether(n, "cache-refusals", &o.CacheRefusals) },
		"headers": func(n ast.Node) {
			f.texts(n, "headers", func(text string) error { o.Headers = append(o.Headers, text); return nil })
		},
		"insecure": func(n ast.Node) {
			f.value(n, "insecure", func(text string) (err error) {
				o.Insecure, err = yesOrNo(text)
				return err
			})
		},
	})
	if len(f.wrong) > before {
		return
	}
	hook, err := auth.NewWebhook(o)
	if err != nil {
		f.refuse(n.GetToken(), "%s", strings.TrimPrefix(err.Error(), "webhook: "))
		return
	}
	_ = hook.Close()
	a.webhook = &o
}

func (f *file) rules(n ast.Node, into *auth.Rules) {
	entries, ok := n.(*ast.SequenceNode)
	if !ok {
		f.refuse(n.GetToken(), "rules is a list, each of whose entries is such as - {channels: [chat/**], roles: [authenticated], allow: [publish, subscribe]}")
		return
	}
	for _, entry := range entries.Values {
		var rule auth.Rule
		role := func(n ast.Node) {
			f.texts(n, "roles", func(text string) error { rule.Roles = append(rule.Roles, text); return nil })
		}
		before := len(f.wrong)
		f.mapping(entry, "a rule", map[string]func(ast.Node){
			"channels": func(n ast.Node) {
				f.texts(n, "channels", func(text string) error {
					rule.Channels = append(rule.Channels, text)
					return auth.CheckPattern(text)
				})
			},
			"role": role, "roles": role,
			"allow": func(n ast.Node) {
				f.texts(n, "allow", func(text string) error {
					right, err := auth.ParseRight(text)
					rule.Allow = append(rule.Allow, right)
					return err
				})
			},
		})
		if err := (auth.Rules{rule}).Check(); err != nil && len(f.wrong) == before {
			f.refuse(entry.GetToken(), "this %s", strings.TrimPrefix(strings.Replace(err.Error(), "rule 1", "rule", 1), " "))
		}
		*into = append(*into, rule)
	}
}
