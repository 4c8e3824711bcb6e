package fanfare_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/frame"
)

// Every way in, to every face, with every set of rights. Whatever somebody comes
// by, he gets what he may and nothing else; and where he may not, the answer
// is the same, byte for byte, whether the channel is full of life or was never heard of.

// rights are a set: bit n is auth.Rights[n].
type rightSet uint8

func (k rightSet) has(r auth.Right) bool { return k>>r&1 == 1 }

func (k rightSet) list() (all []auth.Right) {
	for _, r := range auth.Rights {
		if k.has(r) {
			all = append(all, r)
		}
	}
	return all
}

func (k rightSet) String() string { return fmt.Sprint(k.list()) }

const everything rightSet = 15

// A way is how somebody says who he is, or fails to.
type way struct {
	name  string
	token func(k rightSet) string
	// known says that a token that is good makes him known.
	known bool
	code  string // that a token which is no good is refused with; empty: it is as if none had come
	how   string // header, subprotocol, query, cookie, first
	// thorough says that it is tried with every set of rights.
	thorough bool
}

func good(rightSet) string { return "good" }

var ways = []way{
	{name: "no token", how: "none", thorough: true},
	{name: "header", token: good, known: true, how: "header", thorough: true},
	{name: "subprotocol", token: good, known: true, how: "subprotocol"},
	{name: "query", token: good, known: true, how: "query"},
	{name: "cookie of our own page", token: good, known: true, how: "cookie"},
	{name: "cookie of who knows which page", token: good, how: "bare cookie"},
	{name: "first message", token: good, known: true, how: "first", thorough: true},
	{name: "a token that says its rights itself", token: func(k rightSet) string { return fmt.Sprintf("own-%d", k) }, known: true, how: "header", thorough: true},
	{name: "the same, in a first message", token: func(k rightSet) string { return fmt.Sprintf("own-%d", k) }, known: true, how: "first"},
	{name: "a bad token", token: func(rightSet) string { return "bad" }, code: "bad_token", how: "header"},
	{name: "a bad token in the query", token: func(rightSet) string { return "bad" }, code: "bad_token", how: "query"},
	{name: "a bad token in a first message", token: func(rightSet) string { return "bad" }, code: "bad_token", how: "first"},
	{name: "an expired token", token: func(rightSet) string { return "expired" }, code: "token_expired", how: "header"},
	{name: "an expired token in a first message", token: func(rightSet) string { return "expired" }, code: "token_expired", how: "first"},
}

// A trial is one way, to one channel, with one set of rights there.
type trial struct {
	*stage
	way
	web     http.RoundTripper
	broker  broker.Broker
	k       rightSet
	lively  bool // the channel is full of life; else it was never heard of
	channel string
	number  int // of what is published
}

// rights are what the trial's client has in the channel.
func (c *trial) rights() rightSet {
	if c.known || strings.HasPrefix(c.channel, "open") && c.code == "" {
		return c.k
	}
	return 0
}

// request returns path and headers.
func (c *trial) request(path string, websocket bool, headers ...string) (string, []string) {
	token := ""
	if c.token != nil {
		token = c.token(c.k)
	}
	switch c.how {
	case "header":
		headers = append(headers, bearer(token))
	case "subprotocol":
		found := slices.IndexFunc(headers, func(h string) bool { return strings.HasPrefix(h, "Sec-WebSocket-Protocol: ") })
		if found < 0 {
			headers, found = append(headers, "Sec-WebSocket-Protocol: fanfare.plain"), len(headers)
		}
		headers = slices.Clone(headers)
		headers[found] += ", bearer." + token
	case "query":
		join := "?"
		if strings.Contains(path, "?") {
			join = "&"
		}
		path += join + "token=" + token
	case "cookie":
		headers = append(headers, "Cookie: session="+token, "Origin: http://"+c.addr())
	case "bare cookie":
		if websocket { // what is only read, no page is shown that did not come from us
			headers = append(headers, "Cookie: session="+token)
		}
	}
	return path, headers
}

// An account is what became of a trial at a face: what the client achieved, and
// what it was told, word for word.
type account struct {
	got  map[string]bool
	told string
}

var noHeaders = regexp.MustCompile(`(?m)^(Date|Content-Length): .*\n`)

// treasure was said in every lively channel before.
const treasure = "treasure"

// http asks over HTTP, and returns the answer: all of it, or, of one that goes on, as far as
// a message that is published when it has begun.
func (c *trial) http(method, path, body string, headers ...string) account {
	c.t.Helper()
	path, headers = c.request(path, method == "POST", headers...)
	req, err := http.NewRequest(method, c.url(path), strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	resp, err := c.web.RoundTrip(req.WithContext(ctx))
	if err != nil {
		c.t.Fatalf("%s %s %q: %v", method, path, headers, err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if media := resp.Header.Get("Content-Type"); method == "GET" && resp.StatusCode == 200 && (strings.Contains(media, "event-stream") || strings.Contains(media, "ndjson")) {
		marker := c.marks()
		buf := make([]byte, 4<<10)
		for !strings.Contains(text.String(), marker) {
			n, err := resp.Body.Read(buf)
			text.Write(buf[:n])
			if err != nil {
				c.t.Fatalf("%s %s: %v after %s", method, path, err, text.String())
			}
		}
	} else if _, err := io.Copy(&text, resp.Body); err != nil {
		c.t.Fatal(err)
	}
	var head strings.Builder
	_ = resp.Header.Write(&head)
	return c.account(resp.StatusCode == 200 || resp.StatusCode == 204, fmt.Sprintln(resp.StatusCode), head.String(), text.String())
}

func (c *trial) account(let bool, told ...string) account {
	a := account{got: map[string]bool{}, told: strings.Join(told, "\n")}
	for what, is := range map[string]bool{
		"in": let, "history": strings.Contains(a.told, treasure), "live": strings.Contains(a.told, "marker-"), "members": strings.Contains(a.told, `"name":"host"`) || strings.Contains(a.told, `"count":`),
	} {
		if is {
			a.got[what] = true
		}
	}
	a.told = noHeaders.ReplaceAllString(strings.ReplaceAll(strings.ReplaceAll(a.told, "\r", ""), c.channel, "CHANNEL"), "")
	return a
}

// marks publishes something that nobody said before.
func (c *trial) marks() string {
	c.number++
	marker := fmt.Sprintf("marker-%d.", c.number)
	c.publishes(c.channel, marker)
	return marker
}

// socket comes by a WebSocket, says something, closes, and returns what it was told until the end.
func (c *trial) socket(path string, v1 bool, said ...string) account {
	c.t.Helper()
	var headers []string
	if v1 {
		headers = []string{askV1}
	}
	path, headers = c.request(path, true, headers...)
	p, resp, err := meet(c.t, c.addr(), path, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	defer p.conn.Close()
	var head strings.Builder
	_ = resp.Header.Write(&head)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		return c.account(false, fmt.Sprintln(resp.StatusCode), head.String(), string(body))
	}
	told := []string{"101", head.String()}
	code := frame.Code(0)
	// hear hears up to a text that has one of these in it, or to the end.
	hear := func(upTo ...string) {
		for code == 0 {
			op, payload, err := p.next()
			switch {
			case err != nil:
				c.t.Fatalf("%v after %q", err, told)
			case op == frame.Close:
				var reason string
				code, reason, _ = frame.ParseClose(payload)
				told = append(told, fmt.Sprintf("closed %d %s", code, reason))
				p.conn.Write(masked(frame.Close, true, ""))
			case op == frame.Text:
				text := session.ReplaceAllString(stamped.ReplaceAllString(string(payload), "$1"), "")
				told = append(told, text)
				if slices.ContainsFunc(upTo, func(s string) bool { return strings.Contains(text, s) }) {
					return
				}
			}
		}
	}
	if v1 {
		hear("welcome")
	}
	if c.how == "first" {
		p.say(`{"type":"auth","id":"auth","token":"` + c.token(c.k) + `"}`)
		hear("* welcome", `"id":"auth"`)
	}
	for _, text := range said {
		if code == 0 {
			p.conn.Write(masked(frame.Text, true, text))
			switch {
			case v1:
				hear(`"id":"it"`)
			case c.rights()&(1<<toRead|1<<toPublish) == 0:
				hear() // who may neither is closed for it
			}
		}
	}
	if code == 0 {
		if c.lively {
			c.marks()
		}
		p.conn.Write(masked(frame.Close, true, "\x03\xe8"))
		hear()
	}
	return c.account(code == frame.NormalClosure, told...)
}

var (
	session = regexp.MustCompile(`"session":"[^"]*",?`)
	stamped = regexp.MustCompile(`^\[\d\d:\d\d:\d\d\] (\* )`)
)

// An aspect is what is asked of a channel, and what it brings: what is in got is there
// if the client has all of the rights.
type aspect struct {
	name string
	web  bool // over HTTP
	ask  func(c *trial) account
	got  map[string][]auth.Right
}

func whole(rs ...auth.Right) []auth.Right { return rs }

const (
	toPublish = auth.Publish
	toRead    = auth.Subscribe
	toMeet    = auth.Presence
	toRecall  = auth.History
)

// unsaid is a text that nobody said before.
func (c *trial) unsaid() string {
	c.number++
	return fmt.Sprintf("word-%d.", c.number)
}

// published reports in an account whether a text was published.
func (c *trial) published(text string, a account) account {
	page, err := c.broker.History(c.t.Context(), c.channel, broker.Query{Limit: 10, Tail: true})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range page.Messages {
		if strings.Contains(string(m.Payload), text) {
			a.got["published"] = true
		}
	}
	return a
}

// command is a face of fanfare.v1: one command over /-/connect.
func command(name, say string, got map[string][]auth.Right) aspect {
	return aspect{name: "v1 " + name, got: got, ask: func(c *trial) account {
		text := c.unsaid()
		say := strings.NewReplacer("CHANNEL", c.channel, "TEXT", text).Replace(say)
		a := c.published(text, c.socket("/-/connect", true, say))
		delete(a.got, "in")
		if strings.Contains(a.told, `"type":"ok","id":"it"`) {
			a.got["in"] = true
		}
		return a
	}}
}

func get(name, accept, suffix string, method string, got map[string][]auth.Right) aspect {
	return aspect{name: name, web: true, got: got, ask: func(c *trial) account {
		path := "/" + c.channel
		if suffix == "*" {
			path = path[:strings.LastIndex(path, "/")] + "/*?since=0"
		} else {
			path += suffix
		}
		return c.http(method, path, "", "Accept: "+accept)
	}}
}

func post(name, media, body string) aspect {
	return aspect{name: name, web: true, got: map[string][]auth.Right{"in": whole(toPublish), "published": whole(toPublish)}, ask: func(c *trial) account {
		text := c.unsaid()
		return c.published(text, c.http("POST", "/"+c.channel, strings.ReplaceAll(body, "TEXT", text), "Content-Type: "+media))
	}}
}

var (
	reading = map[string][]auth.Right{"in": whole(toRead), "live": whole(toRead), "history": whole(toRead, toRecall)}
	paging  = map[string][]auth.Right{"in": whole(toRecall), "history": whole(toRecall), "live": whole(toRecall), "members": whole(toRecall, toMeet)}
	coming  = map[string][]auth.Right{"live": whole(toRead), "history": whole(toRead, toRecall), "published": whole(toPublish)}
)

var aspects = []aspect{
	{name: "WebSocket, plain", got: coming, ask: func(c *trial) account {
		text := c.unsaid()
		return c.published(text, c.socket("/"+c.channel+"?since=0", false, text))
	}},
	{name: "WebSocket, v1", got: coming, ask: func(c *trial) account {
		text := c.unsaid()
		return c.published(text, c.socket("/"+c.channel+"?since=0", true, `{"type":"publish","id":"it","data":"`+text+`"}`))
	}},
	command("subscribe", `{"type":"subscribe","id":"it","channel":"CHANNEL","since":"0"}`, reading),
	command("subscribe to a pattern", `{"type":"subscribe","id":"it","channel":"CHANNEL/**"}`, map[string][]auth.Right{"in": whole(toRead)}),
	command("subscribe with presence", `{"type":"subscribe","id":"it","channel":"CHANNEL","presence":true}`,
		map[string][]auth.Right{"in": whole(toRead, toMeet), "live": whole(toRead, toMeet), "members": whole(toRead, toMeet)}),
	command("publish", `{"type":"publish","id":"it","channel":"CHANNEL","data":"TEXT"}`, map[string][]auth.Right{"in": whole(toPublish), "published": whole(toPublish)}),
	command("history", `{"type":"history","id":"it","channel":"CHANNEL","since":"0","limit":1}`, map[string][]auth.Right{"in": whole(toRecall), "history": whole(toRecall)}),
	command("presence", `{"type":"presence","id":"it","channel":"CHANNEL"}`, map[string][]auth.Right{"in": whole(toMeet), "members": whole(toMeet)}),
	get("SSE", "text/event-stream", "?since=0", "GET", reading),
	get("SSE of a pattern", "text/event-stream", "*", "GET", reading),
	get("NDJSON", "application/x-ndjson", "?since=0", "GET", reading),
	get("HEAD of SSE", "text/event-stream", "", "HEAD", map[string][]auth.Right{"in": whole(toRead)}),
	get("history", "application/json", "?since=0&limit=1000", "GET", paging),
	get("HEAD of history", "application/json", "", "HEAD", map[string][]auth.Right{"in": whole(toRecall)}),
	get("OPTIONS", "*/*", "", "OPTIONS", map[string][]auth.Right{"in": nil}),
	post("POST", "text/plain", "TEXT"),
	post("POST of many", "application/x-ndjson", `{"data":"TEXT"}`+"\n"),
}

// An owner of tokens that say themselves what they grant.
type owners struct{}

func (owners) Authenticate(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
	switch {
	case c.Token == "good":
		return &auth.Identity{Subject: "good"}, nil
	case c.Token == "host":
		return &auth.Identity{Subject: "host", Roles: []string{"host"}}, nil
	case c.Token == "expired":
		return nil, &auth.Error{Code: "token_expired", Message: "the token has expired"}
	case strings.HasPrefix(c.Token, "own-"):
		var k rightSet
		if _, err := fmt.Sscanf(c.Token, "own-%d", &k); err != nil {
			return nil, nil
		}
		id := &auth.Identity{Subject: c.Token, Allow: map[auth.Right][]string{}}
		for _, r := range auth.Rights {
			id.Allow[r] = nil
			if k.has(r) {
				id.Allow[r] = []string{"all/**"}
			}
		}
		return id, nil
	}
	return nil, nil
}

func TestEveryWayToEveryFace(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		kept := broker.NewMemory(&broker.MemoryOptions{History: 1000, HistoryAge: time.Hour, HistoryBytes: 16 << 20})
		rules := auth.Rules{
			{Channels: []string{"**"}, Roles: []string{"host"}, Allow: auth.Rights},
			{Channels: []string{"all/**"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights},
			{Channels: []string{"nothing"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Publish}}, // so that nobody has to wait at /-/connect
		}
		for k := everything; k > 0; k-- {
			rules = append(rules,
				auth.Rule{Channels: []string{fmt.Sprintf("area%d/**", k)}, Roles: []string{auth.Authenticated}, Allow: k.list()},
				auth.Rule{Channels: []string{fmt.Sprintf("open%d/**", k)}, Roles: []string{auth.Anonymous}, Allow: k.list()})
		}
		s := perform(t, fanfare.Config{Broker: kept, History: 1000, HistoryBytes: 16 << 20, Auth: &fanfare.AuthConfig{Authenticator: owners{}, Rules: rules, Cookie: "session"}})
		host := s.join("/-/connect", askV1, bearer("host"))
		host.event()
		areas := []string{"all"}
		for k := range everything + 1 {
			areas = append(areas, fmt.Sprintf("area%d", k), fmt.Sprintf("open%d", k))
		}
		for _, area := range areas {
			wants(t, host.ask(`{"type":"subscribe","id":"%s","channel":"%s/live"}`, area, area), "ok", area, "")
			s.publishes(area+"/live", treasure)
			host.event()
		}
		go func() { // who is there does not read all of it
			for {
				if _, _, err := host.next(); err != nil {
					return
				}
			}
		}()
		defer host.conn.Close()
		web := &http.Transport{DisableCompression: true}
		defer web.CloseIdleConnections()
		asked, refused := 0, 0
		for _, way := range ways {
			for k := range everything + 1 {
				if !way.thorough && k != 0 && k != 6 && k != everything {
					continue // rights were looked at; here it is about the way
				}
				area := fmt.Sprintf("area%d", k)
				if strings.HasPrefix(way.name, "a token that says") || strings.HasPrefix(way.name, "the same") {
					area = "all"
				}
				in := []string{area}
				if way.how == "none" || way.how == "bare cookie" {
					in = append(in, fmt.Sprintf("open%d", k))
				}
				for _, area := range in {
					for _, f := range aspects {
						if f.web && (way.how == "first" || way.how == "subprotocol") || way.how == "bare cookie" && f.name != "POST" && f.web {
							continue
						}
						c := &trial{stage: s, way: way, web: web, broker: kept, k: k, lively: true, channel: area + "/live", number: asked * 4}
						a := f.ask(c)
						asked++
						if c.judge(f, a) {
							refused++
							void := *c
							void.lively, void.channel = false, area+"/void"
							if b := f.ask(&void); b.told != a.told {
								t.Errorf("%s, %s, %v in %s: of a channel that lives one is told\n%s\nand of one that nobody ever heard of\n%s", way.name, f.name, k, area, a.told, b.told)
							}
						}
						if t.Failed() {
							t.FailNow()
						}
					}
				}
			}
		}
		t.Logf("%d were asked, and %d refused", asked, refused)
		for _, area := range areas {
			if page, err := kept.History(t.Context(), area+"/void", broker.Query{Limit: 1}); err != nil || len(page.Messages) > 0 {
				t.Errorf("in %s/void, where nobody may, is %v %v", area, page.Messages, err)
			}
		}
	})
}

// judge holds an account against the rights, and reports whether nothing was granted.
func (c *trial) judge(f aspect, a account) (refused bool) {
	c.t.Helper()
	rights, granted := c.rights(), false
	want := map[string]bool{}
	for what, needs := range f.got {
		has := !slices.ContainsFunc(needs, func(r auth.Right) bool { return !rights.has(r) })
		granted = granted || has
		if has {
			want[what] = true
		}
	}
	got := maps.Clone(a.got)
	if _, in := f.got["in"]; !in { // a WebSocket ends in good order also of who may nothing there
		delete(got, "in")
	}
	where := fmt.Sprintf("%s, %s, %v in %s", c.name, f.name, rights, c.channel)
	if !maps.Equal(got, want) {
		c.t.Errorf("%s: he got %v and should %v; he was told\n%s", where, got, want, a.told)
	}
	if granted {
		return false
	}
	for _, secret := range []string{treasure, "marker-", `"host"`, "Fanfare-Position: ", `"position"`} {
		if strings.Contains(a.told, secret) {
			c.t.Errorf("%s: he is told of %s:\n%s", where, secret, a.told)
		}
	}
	expected := ""
	switch {
	case c.code != "" && c.how != "first" && strings.Contains(f.name, "HEAD"):
		expected = "401\n"
	case c.code != "" && c.how != "first":
		expected = `401\n.*"code":"` + c.code
	case c.code != "" && !strings.HasPrefix(f.name, "v1 "):
		expected = "closed 4401 "
	case c.known && c.how == "first" && !strings.HasPrefix(f.name, "v1 "):
		expected = "closed 4403 "
	case c.known && strings.Contains(f.name, "HEAD"):
		expected = "403\n"
	case c.known && !strings.HasPrefix(f.name, "v1 "):
		expected = `403\n.*"code":"forbidden"`
	case c.known:
		expected = `"type":"error","id":"it",.*"code":"forbidden"`
	case f.web && strings.Contains(f.name, "HEAD"):
		expected = "401\n"
	case f.web:
		expected = `401\n.*"code":"unauthenticated"`
	case f.name == "WebSocket, plain":
		expected = "closed 4401 "
	default:
		expected = `"type":"error","id":"it",.*"code":"unauthenticated"`
	}
	if !regexp.MustCompile(`(?s)` + expected).MatchString(a.told) {
		c.t.Errorf("%s: he is refused with\n%s\nand should with %s", where, a.told, expected)
	}
	return true
}
