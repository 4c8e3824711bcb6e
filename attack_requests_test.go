package fanfare_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
)

// What a request can carry.

// asks sends bytes as a request, and returns the answer's status, head and body.
// Of what goes on it reads what comes in a moment.
func (s *stage) asks(request string, moment time.Duration) (status int, head, body string) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	var raw bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), nil)
	if err != nil {
		s.t.Fatalf("%.200q is answered %q, %v", request, raw.String(), err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode == 200 && resp.ContentLength < 0 {
		conn.SetReadDeadline(time.Now().Add(moment))
	}
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		io.Copy(io.Discard, io.TeeReader(conn, &raw))
		text = raw.Bytes()
	}
	head, _, _ = strings.Cut(raw.String(), "\r\n\r\n")
	return resp.StatusCode, head, string(text)
}

const aMoment = 20 * time.Millisecond

// looks are the requests for a path by which a client may try to read it, or to publish there.
func looks(path string, headers ...string) map[string]string {
	more := strings.Join(append(headers, ""), "\r\n")
	query := path + "?since=0"
	if strings.Contains(path, "?") {
		query = path + "&since=0"
	}
	return map[string]string{
		"WebSocket": upgrade("x", query, headers...),
		"v1":        upgrade("x", query, append(headers, askV1)...),
		"SSE":       "GET " + query + " HTTP/1.1\r\nHost: x\r\n" + asEvents + "\r\n" + more + "\r\n",
		"NDJSON":    "GET " + query + " HTTP/1.1\r\nHost: x\r\n" + asLines + "\r\n" + more + "\r\n",
		"history":   "GET " + query + " HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n" + more + "\r\n",
		"POST":      "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n" + more + "\r\nsmuggle",
	}
}

// Rows 10, 13 and 14: whatever a path is made of, and whatever a client says of
// itself in headers, it comes no nearer to a channel that is not its own.
func TestTricksOnTheWayToAChannel(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Auth: &fanfare.AuthConfig{
			Authenticator: register{"alice": {Subject: "alice"}},
			Rules: auth.Rules{
				{Channels: []string{"open/**"}, Roles: []string{auth.Anonymous}, Allow: auth.Rights},
				{Channels: []string{"vault/**"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights},
			},
		}})
		at := s.publishes("vault/gold", treasure)
		s.publishes("garden", "the newest place is no secret")
		for _, path := range []string{
			"/open/../vault/gold", "/open/%2e%2e/vault/gold", "/open/%2E%2E%2Fvault%2Fgold", "/open/..%2fvault/gold", "/open/..%5cvault%5cgold", "/open\\..\\vault\\gold",
			"/open/./../vault/gold", "/./vault/gold", "//vault/gold", "/vault//gold", "/vault/gold//", "/vault%2fgold", "/%76ault/gold", "/vault/gold%00", "/vault/gold%00/open", "/vault/gold%20",
			"/vault/%c0%ae/gold", "/open/%c0%ae%c0%ae/vault/gold", "/open/%ef%bc%8e%ef%bc%8e/vault/gold", "/vault%c0%afgold", "/vault%ef%bc%8fgold", "/vault/gold;open", "/vault/*", "/**", "/*/gold", "/%2a%2a", "/open/**/../vault/gold",
			"/-/../vault/gold", "/-/connect/../../vault/gold", "/vault/gold?channel=open/x", "/vault/gold?token=&token=", "/vault/gold#/open/x", "/VAULT/gold", "/vault/gold/", "/vault/%67old", "/open/x%0d%0aHost:%20y", "http://y/vault/gold",
		} {
			for how, request := range looks(path) {
				status, head, body := s.asks(request, aMoment)
				if strings.Contains(body+head, treasure) || strings.Contains(head+body, at) || status >= 500 {
					t.Errorf("%s of %s: %d %s\n%s", how, path, status, head, body)
				}
			}
		}
		for _, header := range []string{
			"X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1;proto=https", "X-User: alice", "X-Remote-User: alice", "X-Subject: alice", "X-Roles: admin",
			"X-Original-URL: /open/x", "X-Rewrite-URL: /open/x", "X-HTTP-Method-Override: GET", "Cookie: session=alice; token=alice; user=alice", "Proxy-Authorization: Bearer alice",
			"Authorization: Basic YWxpY2U6YWxpY2U=", "Authorization: Bearer", "Authorization: alice", "Authorization: Bearer  ", "Authorization: Bearer alice,", "Authorization: Bearer alice alice", "Authorization: Bearer \talice\x01",
			"Sec-WebSocket-Protocol: token.alice", "Sec-WebSocket-Protocol: bearer.", "Sec-WebSocket-Protocol: Bearer.alice",
		} {
			for how, request := range looks("/vault/gold", header) {
				if status, head, body := s.asks(request, aMoment); strings.Contains(body+head, treasure) || strings.Contains(head+body, at) || status >= 500 {
					t.Errorf("%s with %s: %d %s\n%s", how, header, status, head, body)
				}
			}
			for _, page := range []string{"/-/revoke", "/-/debug/pprof/", "/-/debug/pprof/heap", "/-/metrics"} {
				if status, head, _ := s.asks("GET "+page+" HTTP/1.1\r\nHost: x\r\n"+header+"\r\n\r\n", 0); status < 400 || status >= 500 {
					t.Errorf("%s with %s: %s", page, header, head)
				}
			}
		}
		if page := s.page("/open/x?limit=1"); len(page.Messages) != 0 {
			t.Errorf("in a channel that nobody published to is %s", page.Messages)
		}
		if _, body := s.fetch("GET", "/vault/gold", "", bearer("alice")); len(body["messages"].([]any)) != 1 {
			t.Errorf("somebody who may not has published: %v", body)
		}
	})
}

// Rows 8 and 11: nothing of a request stands in the head of its answer: no
// line that it made up, and no token; and a token is not in the body either.
func TestNothingComesBackInTheHead(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Auth: &fanfare.AuthConfig{
			Authenticator: register{"canary-good": {Subject: "alice"}}, Cookie: "session",
		}})
		const canary = "canary"
		check := func(what, request string, secret bool) {
			t.Helper()
			moment := time.Duration(0)
			if secret {
				moment = aMoment
			}
			status, head, body := s.asks(request, moment)
			if strings.Contains(strings.ToLower(head), canary) || secret && strings.Contains(body, canary) || status >= 500 {
				t.Errorf("%s: %d\n%s\n\n%s", what, status, head, body)
			}
		}
		for _, name := range []string{
			"Authorization", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin", "Cookie", "Last-Event-ID",
			"Idempotency-Key", "Content-Type", "Content-Encoding", "Accept", "Fanfare-Position", "X-Forwarded-For", "Access-Control-Request-Method", "Access-Control-Request-Headers", "Connection", "Upgrade",
		} {
			for _, value := range []string{
				"a\r\n X-Canary: folded", "a\n X-Canary: folded", "a\nX-Canary: bare", "a\rX-Canary: bare", "a\x00X-Canary: nul", "%0d%0aX-Canary:1", "\\r\\nX-Canary: 1",
				"fanfare.v1, canary", "bearer.canary, fanfare.plain", "http://canary.example", "permessage-deflate; canary=1", "b" + strings.Repeat(" ", 8000) + "canary",
				"session=canary", "Bearer canary", "\"canary\"", "text/plain; charset=canary",
			} {
				for how, request := range looks("/room", name+": "+value) {
					check(fmt.Sprintf("%s with %s: %.60q", how, name, value), request, false)
				}
			}
		}
		for _, path := range []string{"/room?name=%0d%0aX-Canary:1", "/room%0d%0aX-Canary:1", "/room?since=canary", "/room?slow=canary", "/room?limit=canary", "/room?client=canary-canary-canary", "/-/canary", "/-/connect?name=canary"} {
			for how, request := range looks(path) {
				check(how+" of "+path, request, false)
			}
		}
		for _, token := range []string{"canary-good", "canary-bad"} {
			for how, request := range looks("/room?token=" + token) {
				check(how+" with a token in the query", request, true)
			}
			for how, request := range looks("/room?%74oken=" + token) {
				check(how+" with a token in the query, written otherwise", request, true)
			}
			for _, header := range []string{bearer(token), "Sec-WebSocket-Protocol: bearer." + token + ", fanfare.plain", "Cookie: session=" + token} {
				for how, request := range looks("/room", header) {
					check(how+" with "+header, request, true)
				}
			}
		}
	})
}

// Row 10: another site's page does not act with the cookies of whoever visits it.
func TestOtherPeoplesPages(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Origins: []string{"https://app.example.com"}, Auth: &fanfare.AuthConfig{
			Authenticator: register{"good": {Subject: "alice"}}, Cookie: "session",
		}})
		at := s.publishes("room", treasure)
		host := s.addr()
		for _, c := range []struct {
			origin string
			let    bool
		}{
			{"https://evil.example", false}, {"https://app.example.com.evil.example", false}, {"https://evilapp.example.com", false}, {"https://app.example.com@evil.example", false},
			{"null", false}, {"http://app.example.com", false}, {"https://app.example.com:444", false}, {"ftp://" + host, false}, {"http://" + host + ".evil.example", false},
			{"http://" + host + "@evil.example", false}, {"http://127.0.0.1:1", false}, {"file://", false}, {"chrome-extension://" + host, false}, {"http://" + host + "/", false}, {"", false}, {"//" + host, false},
			{"https://app.example.com\r\nOrigin: https://evil.example", false},
			{"https://app.example.com", true}, {"HTTPS://APP.example.com:443", true}, {"http://" + host, true},
		} {
			p, resp, err := s.tryJoin("/room?since=0", "Cookie: session=good", "Origin: "+c.origin)
			if err != nil {
				t.Fatal(err)
			}
			if c.let != (resp.StatusCode == http.StatusSwitchingProtocols) || !c.let && resp.StatusCode != http.StatusForbidden {
				t.Errorf("a page of %q is answered %s", c.origin, resp.Status)
			}
			if c.let {
				p.leave()
			}
			status, _, body := s.asks("POST /room HTTP/1.1\r\nHost: "+host+"\r\nCookie: session=good\r\nOrigin: "+c.origin+"\r\nContent-Length: 1\r\n\r\nx", 0)
			if c.let != (status == 200) || !c.let && status != 403 {
				t.Errorf("a page of %q posts, and is answered %d %s", c.origin, status, body)
			}
		}
		// Whoever sends a cookie and no origin may be anybody's page: it is nobody.
		p := s.join("/room?since=0", "Cookie: session=good")
		if p.head.Get("Fanfare-Position") != "" {
			t.Error("who has a cookie and no origin is let in at", at)
		}
		p.say("x")
		if code, _ := p.closed(); code != 4401 {
			t.Errorf("closed with %d", code)
		}
		if status, _, _ := s.asks("POST /room HTTP/1.1\r\nHost: "+host+"\r\nCookie: session=good\r\nContent-Length: 1\r\n\r\nx", 0); status != 401 {
			t.Errorf("a POST with a cookie and no origin is answered %d", status)
		}
	})
}

// Row 5: a thousand who never say who they are are gone when their time is over,
// and have cost little until then.
func TestStrangersByTheThousand(t *testing.T) {
	const strangers, timeout = 1000, 2 * time.Second
	bothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: register{}, Timeout: timeout}})
		all := make([]*person, strangers)
		for i := range all {
			path, headers := "/room", []string{"X-Speaks: plain"}
			if i%2 == 1 {
				path, headers = "/-/connect", []string{askV1}
			}
			p, resp, err := meet(t, s.addr(), path, headers...)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v %v", resp, err)
			}
			defer p.conn.Close()
			all[i] = p
		}
		last := time.Now()
		if n := s.Stats().Channels; n != 0 {
			t.Errorf("for those whom nobody knows there are %d channels", n)
		}
		for _, p := range all {
			if code, reason := p.closed(); code != 4401 || reason == "" {
				t.Fatalf("a stranger is closed with %d %q", code, reason)
			}
		}
		if took := time.Since(last); took > timeout+late {
			t.Errorf("the last of them was there for %v", took)
		}
	})
}
