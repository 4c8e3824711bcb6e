package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare/auth"
	"fanfare/websocket"
)

const goodSecret = "0123456789abcdef0123456789abcdef"

// What the section auth can say, and how it may be written.
func TestFileSaysWhoIsAsked(t *testing.T) {
	got, err := configured(t, `
auth:
  jwt:
    keys:
      - {kid: k1, alg: HS256, secret: "`+goodSecret+`"}     # or public_key: | PEM, or jwks: URL
      - kid: k2
        public_key: |
          -----BEGIN PUBLIC KEY-----
          MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
          -----END PUBLIC KEY-----
      - jwks: https://login.example.com/jwks
    issuer: me
    audience: fanfare
    leeway: 0
  webhook: {url: "https://u:p@app.example.com/who", timeout: 1s, cache: 0s, headers: [Cookie, X-A]}
  cookie: session
  timeout: 3s
  rules:
    - {channels: [news/**, "inbox/$sub"], role: anonymous, allow: subscribe}
    - {channels: ["**"], roles: [a, b], allow: [publish, history]}
`)
	if err != nil {
		t.Fatal(err)
	}
	a := got.auth
	if len(a.jwt.Keys) != 2 || a.jwt.Keys[0] != (auth.JWTKey{ID: "k1", Algorithm: "HS256", Secret: goodSecret}) || a.jwt.Keys[1].ID != "k2" || !strings.HasPrefix(a.jwt.Keys[1].PublicKey, "-----BEGIN PUBLIC KEY-----\nMCow") {
		t.Errorf("keys: %#v", a.jwt.Keys)
	}
	if !slices.Equal(a.jwt.JWKS, []string{"https://login.example.com/jwks"}) || a.jwt.Issuer != "me" || !slices.Equal(a.jwt.Audience, []string{"fanfare"}) || a.jwt.Leeway != -1 {
		t.Errorf("jwt: %+v", a.jwt)
	}
	if !reflect.DeepEqual(a.webhook, &auth.WebhookOptions{URL: "https://u:p@app.example.com/who", Timeout: time.Second, Cache: -1, Headers: []string{"Cookie", "X-A"}}) {
		t.Errorf("webhook: %+v", a.webhook)
	}
	want := auth.Rules{
		{Channels: []string{"news/**", "inbox/$sub"}, Roles: []string{"anonymous"}, Allow: []auth.Right{auth.Subscribe}},
		{Channels: []string{"**"}, Roles: []string{"a", "b"}, Allow: []auth.Right{auth.Publish, auth.History}},
	}
	if a.cookie != "session" || a.timeout != 3*time.Second || !reflect.DeepEqual(a.rules, want) || !a.on() || !a.anonymous() {
		t.Errorf("%+v", a)
	}
	// A log tells what is said, and of secrets only whether they changed.
	facts := got.facts()
	next := *got
	next.auth.jwt.Keys = slices.Clone(a.jwt.Keys)
	next.auth.jwt.Keys[0].Secret += "x"
	if said := changes(facts, next.facts()); !strings.HasPrefix(said, "auth.jwt.keys: k1 HS256 #") || strings.Contains(said, ";") {
		t.Errorf("another secret is told as %s", said)
	}
	if all := fmt.Sprint(facts); strings.Contains(all, goodSecret) || strings.Contains(all, "u:p") || !strings.Contains(all, "[anonymous] may [subscribe] in [news/** inbox/$sub]") {
		t.Errorf("the facts are %s", all)
	}

	// Flags stand instead of what the file says.
	flagged, err := configured(t, "auth:\n  jwt: {keys: [{alg: HS256, secret: "+goodSecret+"}], issuer: me}\n  cookie: c", "--auth-jwks=https://a.example/jwks")
	if err == nil {
		err = flagged.auth.resolve()
	}
	if err != nil || len(flagged.auth.jwt.Keys) != 0 || !slices.Equal(flagged.auth.jwt.JWKS, []string{"https://a.example/jwks"}) || flagged.auth.jwt.Issuer != "me" || flagged.auth.cookie != "c" {
		t.Errorf("%+v %v", flagged, err)
	}
	if s, err := configured(t, "auth: {rules: [{channels: a, roles: x, allow: publish}]}", "--auth-jwks=https://a.example/jwks"); err != nil || s.auth.resolve() != nil || len(s.auth.rules) != 1 || s.auth.anonymous() {
		t.Errorf("rules in the file, and who is asked in a flag: %v", err)
	}
}

// Mistakes are told with their place, and without any secret.
func TestBadAuth(t *testing.T) {
	keys := func(entry string) string { return "auth:\n  jwt:\n    keys:\n      - " + entry }
	rule := func(entry string) string { return keys("{secret: "+goodSecret+"}") + "\n  rules:\n    - " + entry }
	hook := func(entry string) string { return "auth:\n  webhook: " + entry }
	for _, c := range []struct{ content, want string }{
		{"auth: {}", "f.yaml:1:7: nobody is said who is asked who clients are: add jwt, keys or webhook"},
		{"auth: yes", "f.yaml:1:7: auth is a list of lines"},
		{"auth:\n", "f.yaml:1:7: auth says nothing: what belongs to it stands on lines below it, which are indented more; there are cookie, jwt"},
		{"auth:\n  jwt:\n  timeout: 3s", "f.yaml:2:7: auth.jwt says nothing: what belongs to it stands on lines below it"},
		{"auth: {webhook: http://localhost}", "f.yaml:1:17: auth.webhook is a list of lines, each a name, a colon and a value; there are cache, "},
		{"auth: {cookie: a}", "f.yaml:1:7: nobody is said who is asked"},
		{"auth: {jwt: {issuer: a}}", "f.yaml:1:13: jwt has no keys: add a list of them"},
		{"auth: {jwts: 1}", `f.yaml:1:8: there is no setting "jwts" here; there are cookie, jwt, keys, rules, timeout, webhook`},
		{"auth: {jwt: {keys: 3}}", "f.yaml:1:20: keys is a list, each of whose entries is such as"},
		{keys("{kid: k1, alg: HS256, secret: canary}"), "f.yaml:4:10: its secret has 6 bytes, and must have 32 for HS256"},
		{keys("{kid: k1, alg: none, secret: " + goodSecret + "}"), `f.yaml:4:10: its algorithm is "none", and its key is for HS256`},
		{keys("{kid: k1, alg: RS256, secret: " + goodSecret + "}"), `f.yaml:4:10: its algorithm is "RS256"`},
		{keys("{kid: k1}"), "f.yaml:4:10: a key has one of secret, secret-file, public_key and jwks; this one has none"},
		{keys("{secret: canary, public_key: x}"), "f.yaml:4:10: a key has one of secret, secret-file, public_key and jwks; this one has secret and public_key"},
		{keys("{kid: a, public_key: canary}"), "f.yaml:4:10: its public key is not PEM"},
		{keys("{kid: a, jwks: 'https://canary@a.example'}"), "f.yaml:4:10: the set at a jwks says kid and alg itself"},
		{keys("{jwks: 'http://u:canary@a.example/'}"), `f.yaml:4:16: jwks: the set of keys at "http://a.example/" comes unprotected`},
		{keys("{secret: [canary]}"), "f.yaml:4:18: secret must be one value; put it into quotes"},
		{keys("{secret: }"), "secret has no value"},
		{keys("{secret-file: none}"), "f.yaml:4:23: secret-file: open none: no such file"},
		{keys("{kid: a, secret: " + goodSecret + "}\n      - {secret: " + goodSecret + "}"), "f.yaml:5:10: a key has no kid, and is not the only one"},
		{keys("{kid: a, secret: " + goodSecret + "}\n      - {kid: a, secret: " + goodSecret + "}"), `f.yaml:5:10: the kid "a" is in line 4 already`},
		{keys("{sekret: canary}"), `f.yaml:4:10: there is no setting "sekret" here; there are alg, jwks, kid, public_key, secret, secret-file`},
		{"auth: {keys: none}", `f.yaml:1:14: keys is "none": open none: no such file`},
		{"auth: {timeout: 5}", `f.yaml:1:17: timeout is "5": a time is written as`},
		{"auth: {cookie: a b}", `f.yaml:1:16: cookie is "a b": it is a cookie's name`},
		{hook("{url: 'http://u:canary@a.example'}"), "sends tokens unprotected to another machine"},
		{hook("{timeout: 1s}"), "f.yaml:2:"},
		{hook("{url: 'https://a.example', headers: 'X-*'}"), "is no header's name"},
		{hook("{url: 'https://a.example', insecure: maybe}"), `insecure is "maybe": it must be true or false`},
		{rule("{roles: a, allow: publish}"), "f.yaml:6:7: this rule says no channels: name patterns, such as chat/**"},
		{rule("{channels: a, allow: publish}"), "f.yaml:6:7: this rule says no roles"},
		{rule("{channels: a, roles: anonymus, allow: publish}"), `f.yaml:6:7: this rule has the role "anonymus": write anonymous`},
		{rule("{channels: a, roles: a}"), "f.yaml:6:7: this rule allows nothing"},
		{rule("{channels: a, roles: a, allow: [publish, write]}"), `f.yaml:6:48: allow is "write": "write" is no right; there are publish, subscribe, presence and history`},
		{rule("{channels: [a, '**/b'], roles: a, allow: publish}"), `f.yaml:6:22: channels is "**/b": "**/b" is no pattern`},
		{rule("{channels: 'a$sub', roles: a, allow: publish}"), "$sub is part of a segment"},
		{rule("{channel: a}"), `there is no setting "channel" here; there are allow, channels, role, roles`},
	} {
		got, err := configured(t, c.content)
		var wrong mistakes
		if got != nil || exitCode(err) != exitUsage || !errors.As(err, &wrong) || len(wrong) != 1 || !strings.Contains(wrong[0], c.want) || !strings.HasPrefix(wrong[0], "f.yaml:") {
			t.Errorf("%q: %v, want %s", c.content, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), goodSecret)) {
			t.Errorf("a secret is in: %v", err)
		}
	}
}

// What the example says of who is asked can be asked, and says the defaults.
func TestTheExampleAsks(t *testing.T) {
	s, err := withFile(filepath.FromSlash("../../examples/fanfare.yaml"), defaultSettings(), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	asks, err := s.auth.ask(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer asks.end()
	if len(asks.chain) != 2 || len(s.auth.rules) != 4 || s.auth.timeout != 5*time.Second || s.auth.jwt.Leeway != 30*time.Second || !s.auth.anonymous() {
		t.Errorf("%+v", s.auth)
	}
	w := s.auth.webhook
	if w.Timeout != 2*time.Second || w.Cache != 30*time.Second || w.CacheRefusals != 5*time.Second || w.Insecure {
		t.Errorf("of the webhook it does not say the defaults: %+v", w)
	}
}

// minted makes a key, and appends it to a file.
func minted(t *testing.T, file string, args ...string) (token string) {
	t.Helper()
	p := start(t, append([]string{"token", "--file", file}, args...)...)
	token = p.line()
	p.ends(exitFine)
	return token
}

// status is what a server answers to who has a token.
func status(t *testing.T, method, url, token string) int {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

// A server that asks: keys, JWT and sessions open it as far as rules say, others
// do not, and what changes in its files counts for who is there.
func TestServeAsks(t *testing.T) {
	sessions := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("sid"); err != nil || c.Value != "good" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"subject":"carol"}`)
	}))
	defer sessions.Close()
	dir := t.TempDir()
	file, keys, secret := filepath.Join(dir, "f.yaml"), filepath.Join(dir, "keys"), filepath.Join(dir, "secret")
	written(t, secret, goodSecret+"\n")
	sensor := minted(t, keys, "--subject", "sensor", "--publish", "sensors/**", "--subscribe", "")
	bot := minted(t, keys, "--subject", "bot")
	config := func(rules string) string {
		return "grace: 200ms\nauth:\n  keys: " + keys + "\n  jwt: {keys: [{secret-file: " + secret + "}]}\n  webhook: {url: '" + sessions.URL + "', headers: [Cookie]}\n  rules:\n" + rules
	}
	written(t, file, config("    - {channels: [news], roles: [anonymous], allow: [history]}\n    - {channels: ['**'], roles: [authenticated], allow: [publish, subscribe, history]}\n"))
	p := start(t, "token", "jwt", "--secret-file", secret, "--subject", "alice")
	alice := p.line()
	p.ends(exitFine)
	cmd, said, at := daemon(t, "--config", file)

	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", "/news?since=0", "", 200}, {"POST", "/news", "", 401}, {"GET", "/chat?since=0", "", 401}, {"GET", "/-/healthz", "", 200},
		{"POST", "/chat", bot, 200}, {"GET", "/chat?since=0", bot, 200}, {"POST", "/chat", alice, 200},
		{"POST", "/sensors/1", sensor, 200}, {"POST", "/chat", sensor, 403}, {"GET", "/sensors/1?since=0", sensor, 403},
		{"POST", "/chat", bot[:len(bot)-1] + "=", 401}, {"POST", "/chat", alice + "x", 401}, {"POST", "/chat", "guess", 401},
	} {
		if got := status(t, c.method, "http://"+at+c.path, c.token); got != c.want {
			t.Errorf("%s %s with %.11q: %d, want %d", c.method, c.path, c.token, got, c.want)
		}
	}
	for cookie, want := range map[string]int{"sid=good": 101, "sid=bad": 401} {
		conn, resp, err := websocket.Dial(context.Background(), "ws://"+at+"/chat", &websocket.DialOptions{Header: http.Header{"Cookie": {cookie}, "Origin": {"http://" + at}}})
		switch {
		case err == nil && want == 101:
			conn.CloseNow()
		case err == nil || resp == nil || resp.StatusCode != want:
			t.Errorf("%s: %v", cookie, err)
		}
	}

	// A key that is removed: its connection ends.
	conn, _, err := websocket.Dial(context.Background(), "ws://"+at+"/chat", &websocket.DialOptions{Header: http.Header{"Authorization": {"Bearer " + bot}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	start(t, "token", "remove", bot[3:11], "--file", keys).ends(exitFine)
	for err = nil; err == nil; {
		_, _, err = conn.Read(context.Background())
	}
	if websocket.CloseCode(err) != 4403 {
		t.Errorf("who has a key that was removed: %v", err)
	}
	if got := status(t, "POST", "http://"+at+"/chat", bot); got != 401 {
		t.Errorf("the key that was removed: %d", got)
	}

	// Rules that change count at once, and the keys stay.
	written(t, file, config("    - {channels: [news], roles: [authenticated], allow: [history]}\n"))
	hangUp(t, cmd, said, "auth.rules: ")
	for _, c := range []struct {
		path, token string
		want        int
	}{{"/news?since=0", "", 401}, {"/news?since=0", alice, 200}, {"/chat?since=0", alice, 403}} {
		if got := status(t, "GET", "http://"+at+c.path, c.token); got != c.want {
			t.Errorf("with other rules %s: %d, want %d", c.path, got, c.want)
		}
	}
	// Another secret counts after a hang-up too.
	written(t, secret, strings.ToUpper(goodSecret))
	hangUp(t, cmd, said, "auth.jwt.keys: ")
	if got := status(t, "GET", "http://"+at+"/news?since=0", alice); got != 401 {
		t.Errorf("a token signed with the secret that was: %d", got)
	}
	// Whether anybody is asked counts at the next start only.
	written(t, file, "grace: 200ms\n")
	hangUp(t, cmd, said, `msg="a setting takes effect at the next start" setting=auth`, "read the configuration again")
	if got := status(t, "GET", "http://"+at+"/chat?since=0", ""); got != 401 {
		t.Errorf("without the section, of a server that asks: %d", got)
	}
	for _, token := range []string{alice, bot, sensor, goodSecret, "sid=good"} {
		if strings.Contains(said.errs.String(), token) {
			t.Errorf("a secret is in the log: %s", said.errs)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exits(t, cmd); code != exitFine {
		t.Errorf("the exit code is %d", code)
	}
}

// A server that asks may listen for all, and then answers for every name; one for
// this machine does so where nobody may do anything without a token.
func TestServeAsksInPublic(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	minted(t, keys, "--subject", "a")
	rules := filepath.Join(dir, "f.yaml")
	written(t, rules, "auth:\n  keys: "+keys+"\n  rules: [{channels: '**', roles: anonymous, allow: history}]\n")
	for _, c := range []struct {
		args []string
		want int // for a name that is not this machine's
	}{
		{[]string{"--listen", "0.0.0.0:0", "--auth-keys", keys}, 401},
		{[]string{"--listen", "127.0.0.1:0", "--auth-keys", keys}, 401},
		{[]string{"--listen", "0.0.0.0:0", "--config", rules}, 200},
		{[]string{"--listen", "127.0.0.1:0", "--config", rules}, 421},
	} {
		cmd, _, at := daemon(t, c.args...)
		req, err := http.NewRequest(http.MethodGet, "http://"+at+"/x?since=0", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%v: %d, want %d", c.args, resp.StatusCode, c.want)
		}
		_ = cmd.Process.Kill()
	}
}
