package fanfare_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/internal/frame"
)

// canary is in every token of TestCanary. Who finds it where tokens must not be has
// found a leak.
const canary = "CaNaRy7Zq3W9"

// escaped is a text with every byte escaped as in URLs.
func escaped(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// sings fails if there is anything of the canary in what was found somewhere.
func sings(t *testing.T, where, what string) {
	t.Helper()
	plain, err := url.PathUnescape(what)
	if err != nil {
		plain = what
	}
	for _, text := range []string{what, plain} {
		for _, song := range []string{canary, strings.ToLower(canary), base64.StdEncoding.EncodeToString([]byte(canary)), fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary))} {
			if i := strings.Index(text, song); i >= 0 {
				t.Errorf("%s: the token is in it: ...%.300s", where, text[max(0, i-150):])
				return
			}
		}
	}
}

// A diary is what was logged.
type diary struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

// A gossip is an Authenticator that tells tokens to whoever listens: it does with one
// what the word behind the last dash says. seen has those words that came.
type gossip struct {
	mu   sync.Mutex
	seen map[string]int // guarded by mu
}

func (g *gossip) Authenticate(ctx context.Context, c auth.Credentials) (*auth.Identity, error) {
	if c.Token == "" {
		return nil, nil
	}
	if c.Request != nil && strings.Contains(fmt.Sprintf("%v %+v %v", c.Request, c.Request.URL, c.Request.Context()), canary) {
		return nil, errors.New("the request has the token")
	}
	word := c.Token[strings.LastIndexByte(c.Token, '-')+1:]
	g.mu.Lock()
	g.seen[word]++
	g.mu.Unlock()
	switch word {
	case "good":
		return &auth.Identity{Subject: "ann", Token: "t1", Issued: time.Now()}, nil
	case "root":
		return &auth.Identity{Subject: "root", Roles: []string{auth.Admin}}, nil
	case "expired":
		return &auth.Identity{Subject: "ann", Expires: time.Now().Add(-time.Hour)}, nil
	case "refused":
		return nil, &auth.Error{Code: "bad_token", Message: "the token " + c.Token + " is none of ours"}
	case "error":
		return nil, fmt.Errorf("asking: %w", &url.Error{Op: "Get", URL: "http://users/?t=" + url.QueryEscape(c.Token), Err: errors.New("no answer about " + c.Token)})
	case "panic":
		panic(fmt.Sprintf("%q %v", c.Token, c))
	case "bytes":
		panic([]byte(c.Token))
	}
	return nil, nil
}

// perch is a server with everything in it that may tell tokens, and all that it logs.
func perch(t *testing.T) (*stage, *gossip, *diary) {
	said, asked := &diary{}, &gossip{seen: map[string]int{}}
	tell := func(what string, about ...any) error {
		switch text := fmt.Sprintf("%v %+v", about, about); what {
		case "panics":
			panic(text)
		case "fails":
			return errors.New(text)
		}
		return nil
	}
	s := perform(t, fanfare.Config{
		Auth: &fanfare.AuthConfig{Authenticator: asked, Cookie: "session", Rules: auth.Rules{
			{Channels: []string{"**"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights},
			{Channels: []string{"news"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Subscribe}},
		}},
		Logger: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Hooks: fanfare.Hooks{
			Connect: func(r *http.Request, channel string) error {
				return tell(channel, r, r.Header, r.URL, r.RequestURI, r.Context())
			},
			Subscribe:  func(ctx context.Context, channel, name string) error { return tell(channel, ctx, name) },
			Publish:    func(ctx context.Context, m *fanfare.Message) error { return tell(m.Channel, ctx, m) },
			Disconnect: func(channel, name, reason string) { _ = tell("panics", channel, name, reason) },
		},
	}, func(h *http.Server) { h.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(said, nil), slog.LevelError) })
	return s, asked, said
}

// exchange says something on a connection of its own, and returns what is answered:
// to the end, or of an answer that goes on the head.
func (s *stage) exchange(text string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// The server may answer and close before it has read all of it.
	_, _ = io.WriteString(conn, text)
	var answer bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		answer.Write(buf[:n])
		head, _, whole := strings.Cut(answer.String(), "\r\n\r\n")
		switch {
		case err != nil:
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				s.t.Fatalf("no end of the answer to %.300q: %.400q", text, answer.String())
			}
			return answer.String()
		case whole && (strings.Contains(head, " 101 ") || strings.Contains(head, "event-stream") || strings.Contains(head, "ndjson")):
			return answer.String()
		}
	}
}

// tokenWays are how a token comes with a request: what is added to the query, and headers.
var tokenWays = map[string]func(token string) (query, headers string){
	"header": func(token string) (string, string) { return "", "Authorization: Bearer " + token + "\r\n" },
	"headers": func(token string) (string, string) {
		return "", "authorization: bearer  " + token + "\r\nAuthorization: Bearer " + token + "\r\n"
	},
	"subprotocol": func(token string) (string, string) {
		return "", "Sec-WebSocket-Protocol: fanfare.v1, bearer." + token + "\r\n"
	},
	"only bearer":   func(token string) (string, string) { return "", "Sec-WebSocket-Protocol: bearer." + token + "\r\n" },
	"query":         func(token string) (string, string) { return "token=" + token, "" },
	"escaped":       func(token string) (string, string) { return "since=0&%74oke%6E=" + escaped(token), "" },
	"twice":         func(token string) (string, string) { return "token=" + token + "&limit=1&token=" + token, "" },
	"badly escaped": func(token string) (string, string) { return "token=%zz" + token, "" },
	"cookie": func(token string) (string, string) {
		return "", "Origin: http://HOST\r\nCookie: a=b; session=" + token + "\r\n"
	},
	"cookie of a bad": func(token string) (string, string) {
		return "", "Origin: http://evil.example\r\nCookie: session=" + token + "\r\n"
	},
	"everywhere": func(token string) (string, string) {
		return "token=" + token, "Authorization: Bearer\r\nCookie: session=" + token + "\r\nSec-WebSocket-Protocol: bearer." + token + "\r\n"
	},
}

// openings are beginnings of requests, of which PATH gets a query, and headers.
var openings = []string{
	"GET /news HTTP/1.1\r\n",
	"GET /news HTTP/1.1\r\nAccept: text/html\r\n",
	"GET /news HTTP/1.1\r\nAccept: text/event-stream\r\n",
	"GET /fails HTTP/1.1\r\nAccept: application/x-ndjson\r\n",
	"GET /panics HTTP/1.1\r\nAccept: text/event-stream\r\n",
	"HEAD /panics HTTP/1.1\r\nAccept: text/event-stream\r\n",
	"HEAD /news HTTP/1.1\r\n",
	"OPTIONS /news HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\n",
	"POST /news HTTP/1.1\r\nContent-Length: 2\r\n",
	"POST /panics HTTP/1.1\r\nContent-Length: 2\r\n",
	"POST /fails HTTP/1.1\r\nContent-Length: 2\r\n",
	"PATCH /news HTTP/1.1\r\nContent-Length: 2\r\n",
	"GET /bad//name HTTP/1.1\r\n",
	"GET /-/nothing HTTP/1.1\r\n",
	"GET /-/metrics HTTP/1.1\r\n",
	"GET /-/debug/pprof/goroutine HTTP/1.1\r\n",
	"POST /-/revoke HTTP/1.1\r\nContent-Length: 2\r\n",
	"GET /news HTTP/1.1\r\nUPGRADE",
	"GET /panics HTTP/1.1\r\nUPGRADE",
	"GET /fails HTTP/1.1\r\nUPGRADE",
	"GET /-/connect HTTP/1.1\r\nUPGRADE",
}

// Tokens are nowhere but where they were shown: not in a log, whatever hooks and the
// Authenticator do, nor on a page for operators, nor in an answer.
func TestCanary(t *testing.T) {
	for _, word := range []string{"good", "root", "expired", "refused", "unknown", "error", "panic", "bytes", "giant"} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			s, asked, said := perch(t)
			token := canary + "." + canary + "-" + word
			if word == "giant" {
				token = canary + strings.Repeat("x", 9<<10)
			}
			for name, way := range tokenWays {
				query, headers := way(token)
				headers = strings.ReplaceAll(headers, "HOST", s.addr())
				for _, opening := range openings {
					text := opening
					if query != "" {
						text = strings.Replace(text, " HTTP/", "?"+query+" HTTP/", 1)
					}
					before, upgrades := strings.CutSuffix(text, "UPGRADE")
					if upgrades {
						text = before + "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
					} else {
						text += "Connection: close\r\n"
					}
					answer := s.exchange(text + "Host: " + s.addr() + "\r\n" + headers + "\r\n{}")
					if !strings.HasPrefix(answer, "HTTP/1.1 ") {
						t.Errorf("%q by %s is answered with %.100q", opening, name, answer)
					}
					sings(t, fmt.Sprintf("what answers %q by %s", opening, name), answer)
				}
			}
			s.speakToken(t, token)
			asked.mu.Lock()
			seen := asked.seen[word]
			asked.mu.Unlock()
			if word != "giant" && seen == 0 {
				t.Error("the Authenticator was never asked")
			}
			if word == "good" { // what is there only as long as somebody is
				for _, way := range []string{"header", "query"} {
					query, headers := tokenWays[way](token)
					p := s.join("/chat?"+query, strings.TrimSpace("X: y\r\n"+headers))
					defer p.leave()
				}
				defer s.join("/chat").conn.Close()
			}
			s.inspect(t)
			expected := []string{"connection ended", "access was revoked"}
			switch word {
			case "good", "root":
				expected = append(expected, "the hook Connect panicked", "the hook Connect: ", "the hook Publish panicked", "the hook Publish: ",
					"the hook Subscribe panicked", "the hook Disconnect panicked")
			case "error":
				expected = append(expected, "no answer about (the token)")
			case "panic":
				expected = append(expected, "panicked with a string, which")
			case "bytes":
				expected = append(expected, "panicked with a []uint8, which")
			}
			for _, text := range expected {
				eventually(t, "the log has "+text, func() bool { return strings.Contains(said.String(), text) })
			}
			if strings.Contains(said.String(), "the request has the token") {
				t.Error("the Authenticator was shown a request with the token in it")
			}
			sings(t, "the log", said.String())
		})
	}
}

// speakToken shows a token over connections that are there already, plain and
// fanfare.v1, and finds it nowhere in what is answered.
func (s *stage) speakToken(t *testing.T, token string) {
	t.Helper()
	texts := []string{
		`{"type":"auth","token":"` + token + `"}`,
		`{"token":"` + token + `","id":"1","type":"auth"}`,
		`{"type":"auth","token":["` + token + `"]}`,
		`{"type":"auth","token":"` + token + `","other":1e999}`,
		`{"type":"auth","token":"` + token,
		`{"type":"\u0061uth","token":"` + token + `"}`,
		`{"type":"subscribe","channel":"panics","token":"` + token + `"}`,
		`{"type":"publish","channel":"fails","data":1,"token":"` + token + `"}`,
	}
	for _, path := range []string{"/chat", "/news"} {
		for _, protocol := range []string{"fanfare.plain", "fanfare.v1"} {
			for first, text := range texts {
				p := s.join(path, "Sec-WebSocket-Protocol: "+protocol)
				if path == "/news" && protocol == "fanfare.plain" && first >= 4 {
					p.leave() // what is no command is a message, and read by those who may
					continue
				}
				all := bytes.NewBufferString(fmt.Sprint(p.head))
				// All in one write: the server may end the connection at any of them.
				var b []byte
				for _, text := range append([]string{text}, texts[:4]...) {
					b = frame.AppendMasked(b, frame.Text, true, testKey, []byte(text))
				}
				for _, text := range []string{`{"type":"subscribe","channel":"panics"}`, `{"type":"publish","channel":"panics","data":1}`} {
					if protocol == "fanfare.v1" {
						b = frame.AppendMasked(b, frame.Text, true, testKey, []byte(text))
					}
				}
				p.raw(frame.AppendMasked(b, frame.Close, true, testKey, frame.AppendClose(nil, frame.NormalClosure, "")))
				p.conn.SetReadDeadline(time.Now().Add(patience))
				_, err := io.Copy(all, p.r)
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					t.Errorf("after %.60q the connection has no end", text)
				}
				sings(t, fmt.Sprintf("what answers %.60q over %s", text, protocol), all.String())
				p.conn.Close()
			}
		}
	}
}

// inspect looks for the canary on all pages that operators have.
func (s *stage) inspect(t *testing.T) {
	t.Helper()
	admin := httptest.NewServer(s.Admin())
	defer admin.Close()
	pages := []string{"/", "/-/metrics", "/-/healthz", "/-/readyz", "/-/debug/pprof/", "/-/debug/pprof/cmdline", "/-/debug/pprof/symbol"}
	for _, profile := range pprof.Profiles() {
		for debug := range 3 {
			pages = append(pages, fmt.Sprintf("/-/debug/pprof/%s?debug=%d", profile.Name(), debug))
		}
	}
	for _, page := range pages {
		resp := askFor(t, "GET", admin.URL+page, "", "Authorization: Bearer "+canary)
		body := resp.body
		if z, err := gzip.NewReader(strings.NewReader(body)); err == nil {
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Errorf("%s: %v", page, err)
			}
			body = string(plain)
		}
		if (resp.status == 200) == (strings.HasSuffix(page, "cmdline") || strings.HasSuffix(page, "symbol")) {
			t.Errorf("%s: %d", page, resp.status)
		}
		sings(t, page, fmt.Sprint(resp.header)+body)
	}
	for _, body := range []string{`{"token":"` + canary + strings.Repeat("x", 40) + `"}`, `{"token":"` + strings.Repeat("x.", 20) + canary + `"}`, `{"token":"` + canary, canary, `{"` + canary + `":1}`} {
		sings(t, "/-/revoke", askFor(t, "POST", admin.URL+"/-/revoke", body, "X: y").body)
	}
}

// What is no request that a handler ever sees is not told either.
func TestCanaryInWhatIsNoRequest(t *testing.T) {
	s, _, said := perch(t)
	for _, text := range []string{
		"GET /news?token=" + canary + "\r\n\r\n",
		"GET /news?token=" + canary + " HTTP/9.9\r\nHost: x\r\n\r\n",
		"GET /news?token=" + canary + " HTTP/1.1\r\n\r\n",
		"GET /%zz?token=" + canary + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nAuthorization Bearer " + canary + "\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + canary + "\x00\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \r\n " + canary + "\r\nConnection: close\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: " + canary + "@x y\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nContent-Length: " + canary + "\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + canary + "\r\n\r\n",
		"GET /news HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + strings.Repeat(canary, 4000) + "\r\n\r\n",
		"POST /news?token=" + canary + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + canary + "\r\n",
		"GET http://x/news?token=" + canary + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"CONNECT x:1?token=" + canary + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"\x16\x03\x01" + canary + "\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + canary,
	} {
		answer := s.exchange(text)
		if !strings.HasPrefix(answer, "HTTP/1.") {
			t.Errorf("%.60q is answered with %q", text, answer)
		}
		sings(t, fmt.Sprintf("what answers %.60q", text), answer)
	}
	sings(t, "the log", said.String())
}
