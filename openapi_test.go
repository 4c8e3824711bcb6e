package fanfare_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"

	"github.com/getkin/kin-openapi/openapi3"
)

// A description is openapi.yaml, and what of it was seen to be true.
type description struct {
	*openapi3.T
	t    *testing.T
	seen map[string]bool // operation, status and media type of each answer
}

func describe(t *testing.T) *description {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	// An answer may have more fields some day. Today it has those that are named.
	for _, schema := range doc.Components.Schemas {
		strictly(schema)
	}
	return &description{doc, t, map[string]bool{}}
}

func strictly(schema *openapi3.SchemaRef) {
	for _, one := range schema.Value.OneOf {
		strictly(one)
	}
	if schema.Value.Type.Is("object") {
		schema.Value.AdditionalProperties.Has = new(bool)
	}
}

// fits finds that an answer is what the description says of an operation.
func (d *description) fits(name string, op *openapi3.Operation, resp *http.Response, body []byte) {
	d.t.Helper()
	status := fmt.Sprint(resp.StatusCode)
	if op.Responses.Value(status) == nil {
		status = status[:1] + "XX"
	}
	described := op.Responses.Value(status)
	if described == nil {
		d.t.Errorf("%s: %s is answered %s, which is not described: %s", name, op.OperationID, resp.Status, body)
		return
	}
	for header, ref := range described.Value.Headers {
		if resp.Header.Get(header) == "" && ref.Value.Required {
			d.t.Errorf("%s: %s %s lacks the header %s", name, op.OperationID, resp.Status, header)
		}
	}
	media := resp.Header.Get("Content-Type")
	if len(body) == 0 || resp.Request != nil && resp.Request.Method == "HEAD" {
		media = ""
	}
	media, _, _ = mime.ParseMediaType(media)
	d.seen[op.OperationID+" "+status+" "+media] = true
	if media == "" {
		return
	}
	content := described.Value.Content.Get(media)
	if content == nil {
		d.t.Errorf("%s: %s %s is %s, which is not described", name, op.OperationID, resp.Status, media)
		return
	}
	if err := d.checks(content, media, body); err != nil {
		d.t.Errorf("%s: %s %s: %v in\n%s", name, op.OperationID, resp.Status, err, body)
	}
}

// checks holds a body against its schema, or, if it has many items, each of them.
func (d *description) checks(content *openapi3.MediaType, media string, body []byte) error {
	switch media {
	case "application/json":
		return check(content.Schema.Value, body)
	case "application/x-ndjson", "text/event-stream":
		item, _ := content.Extensions["x-item-schema"].(map[string]any)
		ref, _ := item["$ref"].(string)
		schema := d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
		if schema == nil {
			return fmt.Errorf("the items of %s have no schema", media)
		}
		n := 0
		for line := range strings.Lines(string(body)) {
			if media == "text/event-stream" {
				var ok bool
				if line, ok = strings.CutPrefix(line, "data: "); !ok {
					continue
				}
			}
			if err := check(schema.Value, []byte(line)); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return errors.New("there is no item")
		}
	}
	return nil
}

func check(schema *openapi3.Schema, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	return schema.VisitJSON(value, openapi3.MultiErrors())
}

// all lists the operations, and what is described of their answers.
func (d *description) all() map[string]bool {
	all := map[string]bool{}
	for _, item := range d.Paths.Map() {
		for _, op := range item.Operations() {
			for status, resp := range op.Responses.Map() {
				if len(resp.Value.Content) == 0 {
					all[op.OperationID+" "+status+" "] = true
				}
				for media := range resp.Value.Content {
					all[op.OperationID+" "+status+" "+media] = true
				}
			}
		}
	}
	return all
}

// noPatterns is a broker that cannot do them.
type noPatterns struct{ *broker.Memory }

func (b noPatterns) History(ctx context.Context, name string, q broker.Query) (broker.Page, error) {
	if broker.IsPattern(name) {
		return broker.Page{}, broker.ErrNoPatterns
	}
	return b.Memory.History(ctx, name, q)
}

// openapi.yaml and the server say the same: what the one describes the other
// does, every answer of every operation, and nothing else.
func TestOpenAPI(t *testing.T) {
	d := describe(t)
	s := perform(t, fanfare.Config{
		Broker: noPatterns{broker.NewMemory(nil)}, MaxMessage: 200, MessageTimeout: 500 * time.Millisecond, Heartbeat: 50 * time.Millisecond, History: 3,
		Origins: []string{"https://app.example.com"},
		Hooks: fanfare.Hooks{
			Connect: func(r *http.Request, channel string) error {
				switch r.URL.Query().Get("name") {
				case "mallory":
					return &fanfare.Error{Message: "not you"}
				case "trudy":
					return errors.New("something is broken")
				}
				return nil
			},
			Publish: func(_ context.Context, m *fanfare.Message) error {
				if m.Sender == "trudy" {
					return errors.New("something is broken")
				}
				return nil
			},
		},
	})
	positions := []string{s.post("/chat?name=ann&key=k", "hello"), s.post("/chat", `{"a":1}`)}
	s.fetch("POST", "/chat", "\xff", "Content-Type: application/octet-stream")
	s.post("/chat", "one more than is kept")
	wild := perform(t, fanfare.Config{})
	wild.post("/chat/general", "hello")
	gone := perform(t, fanfare.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := gone.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	guarded := perform(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: badges}})
	asRoot, asAnn := []string{"Authorization: Bearer root"}, []string{"Authorization: Bearer ann"}
	const lines = "Content-Type: application/x-ndjson"
	socket := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	old := append(slices.Clone(socket[:3]), "Sec-WebSocket-Version: 8")
	stranger := []string{"Origin: https://evil.example", "Access-Control-Request-Method: POST"}
	long := strings.Repeat("x", 201)
	_, page := s.answer(t, "GET", "/chat", "", "Accept: text/html")
	_, module := s.answer(t, "GET", "/-/fanfare.js", "")
	for _, c := range []struct {
		stage               *stage
		path, method, query string
		body                string
		headers             []string
		status              int
	}{
		{s, "/{channel}", "GET", "", "", nil, 200},
		{s, "/{channel}", "GET", "?since=0&limit=1", "", nil, 200},
		{s, "/{channel}", "GET", "?since=0", "", []string{asEvents}, 200},
		{s, "/{channel}", "GET", "?since=" + positions[0], "", []string{asEvents}, 200},
		{s, "/{channel}", "GET", "?since=7-7&name=bob&key=k&slow=skip&client=0123456789abcdef", "", []string{asLines}, 200},
		{s, "/{channel}", "GET", "", "", []string{asLines, "Last-Event-ID: " + positions[1]}, 200},
		{s, "/{channel}", "GET", "", "", []string{"Accept: text/html"}, 200},
		{s, "/{channel}", "GET", "", "", []string{"Accept: text/html", "If-None-Match: " + page.Get("ETag")}, 304},
		{s, "/{channel}", "GET", "", "", socket, 101},
		{s, "/{channel}", "GET", "", "", old, 426},
		{s, "/{channel}", "GET", "", "", append(socket, stranger[0]), 403},
		{s, "/{channel}", "GET", "?limit=0", "", nil, 400},
		{s, "/{channel}", "GET", "?name=mallory", "", []string{asLines}, 403},
		{s, "/{channel}", "GET", "?name=trudy", "", []string{asEvents}, 500},
		{s, "/{channel}", "GET", "", "", []string{"Accept: image/png"}, 406},
		{s, "/*", "GET", "", "", nil, 501},
		{wild, "/**", "GET", "", "", nil, 200},
		{wild, "/chat/*", "GET", "?since=0", "", []string{asEvents}, 200},
		{wild, "/*/general", "GET", "?since=7-7", "", []string{asLines}, 200},
		{gone, "/{channel}", "GET", "", "", nil, 503},
		{s, "/{channel}", "HEAD", "", "", nil, 200},
		{s, "/{channel}", "HEAD", "", "", []string{asEvents}, 200},
		{s, "/{channel}", "HEAD", "?slow=fast", "", nil, 400},
		{gone, "/{channel}", "HEAD", "", "", []string{asLines}, 503},
		{s, "/{channel}", "POST", "", "hello", nil, 200},
		{s, "/{channel}", "POST", "", "hello", []string{"Idempotency-Key: 1"}, 200},
		{s, "/{channel}", "POST", "", "hello!", []string{"Idempotency-Key: 1"}, 422},
		{s, "/{channel}", "POST", "", `{"data":1,"id":"2","key":"k"}` + "\n" + `{"data":"AA==","encoding":"base64"}` + "\n" + `{"data":`, []string{lines}, 200},
		{s, "/{channel}", "POST", "", "\xff", nil, 400},
		{s, "/{channel}", "POST", "", "hello", stranger[:1], 403},
		{s, "/*", "POST", "", "hello", nil, 405},
		{s, "/{channel}", "POST", "", long, nil, 413},
		{s, "/{channel}", "POST", "", "hello", []string{"Content-Encoding: gzip"}, 415},
		{s, "/{channel}", "POST", "?name=trudy", "hello", nil, 500},
		{gone, "/{channel}", "POST", "", "hello", nil, 503},
		{s, "/{channel}", "OPTIONS", "", "", nil, 204},
		{s, "/{channel}", "OPTIONS", "", "", stranger, 403},
		{gone, "/{channel}", "OPTIONS", "", "", nil, 503},
		{s, "/-/connect", "GET", "", "", append(socket, askV1), 101},
		{s, "/-/connect", "GET", "", "", socket, 400},
		{s, "/-/connect", "GET", "", "", append(socket, askV1, stranger[0]), 403},
		{s, "/-/connect", "GET", "", "", nil, 426},
		{gone, "/-/connect", "GET", "", "", append(socket, askV1), 503},
		{s, "/-/fanfare.js", "GET", "", "", nil, 200},
		{s, "/-/fanfare.js", "GET", "", "", []string{"If-None-Match: " + module.Get("ETag")}, 304},
		{s, "/-/fanfare.js", "HEAD", "", "", nil, 200},
		{s, "/-/healthz", "GET", "", "", nil, 200},
		{s, "/-/healthz", "HEAD", "", "", nil, 200},
		{s, "/-/readyz", "GET", "", "", nil, 200},
		{s, "/-/readyz", "HEAD", "", "", nil, 200},
		{gone, "/-/readyz", "GET", "", "", nil, 503},
		{gone, "/-/readyz", "HEAD", "", "", nil, 503},
		{s, "/-/metrics", "GET", "", "", nil, 200},
		{s, "/-/metrics", "HEAD", "", "", nil, 200},
		{guarded, "/-/debug/pprof/{profile}", "HEAD", "", "", asRoot, 200},
		{guarded, "/-/debug/pprof/{profile}", "HEAD", "", "", asAnn, 403},
		{guarded, "/-/metrics", "GET", "", "", nil, 401},
		{guarded, "/-/metrics", "GET", "", "", asAnn, 403},
		{guarded, "/-/metrics", "GET", "", "", asRoot, 200},
		{guarded, "/-/revoke", "POST", "", `{"subject":"bob"}`, asRoot, 200},
		{guarded, "/-/revoke", "POST", "", `{}`, asRoot, 400},
		{guarded, "/-/revoke", "POST", "", `{"subject":"bob"}`, nil, 401},
		{guarded, "/-/revoke", "POST", "", `{"subject":"bob"}`, asAnn, 403},
		{s, "/-/revoke", "POST", "", `{"subject":"bob"}`, nil, 403},
		{guarded, "/-/debug/pprof/{profile}", "GET", "", "", asRoot, 200},
		{guarded, "/-/debug/pprof/{profile}", "GET", "?debug=1", "", asRoot, 200},
		{guarded, "/-/debug/pprof/{profile}", "GET", "", "", nil, 401},
		{guarded, "/-/debug/pprof/{profile}", "GET", "", "", asAnn, 403},
		{guarded, "/-/debug/pprof/none", "GET", "", "", asRoot, 404},
	} {
		name := fmt.Sprint(c.method, " ", c.path, c.query, " ", c.headers)
		item := d.Paths.Value(c.path)
		if strings.HasPrefix(c.path, "/-/debug/pprof/") {
			item = d.Paths.Value("/-/debug/pprof/{profile}")
		} else if item == nil {
			item = d.Paths.Value("/{channel}")
		}
		op := item.GetOperation(c.method)
		if op == nil {
			t.Errorf("%s is not described", name)
			continue
		}
		resp, _ := c.stage.answer(t, c.method, strings.NewReplacer("{channel}", "chat", "{profile}", "heap").Replace(c.path)+c.query, c.body, c.headers...)
		body := resp.read
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d: %s", name, resp.Status, c.status, body)
		}
		d.fits(name, op, resp.Response, body)
	}
	// A body that takes too long, which no client of Go's sends.
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	d.fits("a slow body", d.Paths.Value("/{channel}").Post, resp, body)

	// The last words.
	for _, accept := range []string{asEvents, asLines} {
		s := perform(t, fanfare.Config{})
		l := s.listen("/chat", accept)
		go s.Shutdown(ctx)
		body, err := io.ReadAll(l.body)
		if err != nil || !strings.Contains(string(body), "bye") {
			t.Fatalf("%q %v", body, err)
		}
		l.conn.Close()
		d.fits("a shutdown", d.Paths.Value("/{channel}").Get, &http.Response{StatusCode: 200, Header: l.head}, body)
	}
	for described := range d.all() {
		if !d.seen[described] {
			t.Errorf("openapi.yaml describes %q, and the server was not seen to answer so", described)
		}
	}
}

// answered is an answer with as much of its body as is said at once.
type answered struct {
	*http.Response
	read []byte
}

// answer makes a request. Of an answer that goes on it reads what there is until
// a heartbeat.
func (s *stage) answer(t *testing.T, method, path, body string, headers ...string) (answered, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answered{Response: resp}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return a, resp.Header
	}
	if resp.Header.Get("Fanfare-Position") == "" || method == "HEAD" {
		if a.read, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return a, resp.Header
	}
	for r := bufio.NewReader(resp.Body); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == ": \n" || line == "{\"type\":\"heartbeat\"}\n" && len(a.read) > 0 {
			return a, resp.Header
		}
		a.read = append(a.read, line...)
		if bytes := string(a.read); strings.HasPrefix(line, "data: ") || strings.Contains(bytes, "\n{") {
			return a, resp.Header
		}
	}
}

// What is not described is not answered: no method, no form, no setting.
func TestOpenAPIIsComplete(t *testing.T) {
	d := describe(t)
	s := perform(t, fanfare.Config{})
	for path, item := range d.Paths.Map() {
		url := strings.ReplaceAll(path, "{channel}", "chat")
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			resp, _ := s.answer(t, method, url, "")
			described := item.GetOperation(method) != nil
			if described == (resp.StatusCode == http.StatusMethodNotAllowed) {
				t.Errorf("%s %s: %s, and that it is described is %v", method, path, resp.Status, described)
			}
			if allowed := resp.Header.Get("Allow"); !described && strings.Count(allowed, ",")+1 != len(item.Operations()) {
				t.Errorf("%s %s: allowed are %s, and described %d methods", method, path, allowed, len(item.Operations()))
			}
		}
	}
	if resp, _ := s.answer(t, "GET", "/-/else", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("what is not described under /-/: %s", resp.Status)
	}

	channel := d.Paths.Value("/{channel}")
	forms := channel.Get.Responses.Status(200).Value.Content
	for _, media := range []string{
		"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/xml", "application/cbor", "application/octet-stream",
		"text/html", "text/event-stream", "text/plain", "text/csv", "image/png", "application/xhtml+xml", "application/problem+json",
	} {
		resp, _ := s.answer(t, "HEAD", "/chat", "", "Accept: "+media)
		if answers := resp.StatusCode == http.StatusOK; answers != (forms[media] != nil) || answers && !strings.HasPrefix(resp.Header.Get("Content-Type"), media) {
			t.Errorf("Accept: %s: %s, %s", media, resp.Status, resp.Header.Get("Content-Type"))
		}
	}
	for media := range channel.Post.RequestBody.Value.Content {
		resp, _ := s.answer(t, "POST", "/chat", "{}", "Content-Type: "+strings.ReplaceAll(media, "*", "x"))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("a body of the type %s: %s", media, resp.Status)
		}
	}

	// The settings are those that settings.go reads, and each is checked.
	source, err := os.ReadFile("settings.go")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]bool{}
	for _, found := range regexp.MustCompile(`query\.Get\("(\w+)"\)`).FindAllSubmatch(source, -1) {
		read[string(found[1])] = true
	}
	for _, op := range []*openapi3.Operation{channel.Get, channel.Head, channel.Post} {
		for name := range read {
			if op.Parameters.GetByInAndName("query", name) == nil {
				t.Errorf("%s: ?%s= is read, and not described", op.OperationID, name)
			}
		}
		for _, p := range op.Parameters {
			if p.Value.In != "query" {
				continue
			}
			if !read[p.Value.Name] {
				t.Errorf("%s: ?%s= is described, and not read", op.OperationID, p.Value.Name)
			}
			if resp, _ := s.answer(t, "GET", "/chat?"+p.Value.Name+"=%00", ""); resp.StatusCode != http.StatusBadRequest && p.Value.Name != "key" {
				t.Errorf("?%s=%%00: %s", p.Value.Name, resp.Status)
			}
		}
	}
}
