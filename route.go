package fanfare

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fanfare/broker"
	"fanfare/internal/handshake"
	"fanfare/web"
)

// One URL is one channel; what answers depends on how one asks:
//
//	a WebSocket upgrade            the live channel (plain.go)
//	POST                           publishes the body
//	GET, Accept: text/html         a page that speaks in this channel
//	GET, Accept: application/json  a page of history; also for */* and no Accept
//
// What begins with /-/ is the server's own.

// positionHeader, in a handshake's response, is the position at which the
// connection begins to read. With the value "pong" in the request it asks for
// each message's position, in a Pong behind it.
const positionHeader = "Fanfare-Position"

// maxName is the longest name of a client in characters.
const maxName = 64

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Also where nobody wants the body: net/http reads what a handler left of
		// it before it answers, and would wait for ever. Where a middleware hides
		// the connection, its server's timeouts must do.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.MessageTimeout))
	}
	path := strings.Trim(r.URL.Path, "/")
	if path == "-" || strings.HasPrefix(path, "-/") {
		s.serveOwn(w, r, strings.TrimPrefix(path, "-/"))
		return
	}
	if path == "" {
		path = lobby
	}
	if err := CheckChannel(path); err != nil {
		s.refuse(w, err)
		return
	}
	switch {
	case s.closing.Load():
		s.refuse(w, ErrServerClosed)
	case handshake.IsUpgrade(r):
		s.serveWebSocket(w, r, path)
	case r.Method == http.MethodPost:
		s.servePost(w, r, path)
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		s.serveGet(w, r, path)
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Allow", allowed)
		s.refuse(w, errorf("bad_method", "a channel answers %s", allowed))
	}
}

const allowed = "GET, HEAD, POST, OPTIONS"

// serveOwn answers what begins with /-/.
func (s *Server) serveOwn(w http.ResponseWriter, r *http.Request, what string) {
	switch what {
	case "healthz", "readyz":
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			s.refuse(w, errorf("bad_method", "/-/%s answers GET and HEAD", what))
			return
		}
		if what == "readyz" && s.closing.Load() {
			s.refuse(w, ErrServerClosed)
			return
		}
		s.writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	default:
		s.refuse(w, errorf("not_found", "the server has nothing at /-/%.80s; it has /-/healthz and /-/readyz", what))
	}
}

// servePost publishes the body.
func (s *Server) servePost(w http.ResponseWriter, r *http.Request, channel string) {
	if err := handshake.CheckOrigin(r, s.now.Load().Origins); err != nil {
		s.refuse(w, err)
		return
	}
	set, err := settingsOf(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	body, err := s.readBody(w, r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	m := &Message{Channel: channel, Sender: set.name, Key: set.key, Binary: isBinary(r.Header.Get("Content-Type")), Payload: body}
	if err := s.cfg.Hooks.mayPublish(r.Context(), m); err != nil {
		s.refuse(w, err)
		return
	}
	pos, err := s.Publish(r.Context(), m)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.writeJSON(w, http.StatusOK, struct {
		Channel  string `json:"channel"`
		Position string `json:"position"`
	}{channel, pos.String()})
}

// readBody reads a message, which must neither be too large nor take for ever:
// ServeHTTP has set the deadline.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxMessage)))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return nil, errorf("too_big", "the body is larger than a message may be: %d bytes", s.cfg.MaxMessage)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errorf("timeout", "a message must be complete within %v", s.cfg.MessageTimeout)
	case err != nil:
		return nil, errorf("bad_body", "the body did not arrive whole: %v", err)
	}
	return body, nil
}

// isBinary reports whether a body of this type is a binary message. All
// others are texts: curl -d says that what it sends is a form.
func isBinary(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	kind, _, _ := strings.Cut(media, "/")
	return media == "application/octet-stream" || kind == "image" || kind == "audio" || kind == "video"
}

// serveGet answers with the face that the request accepts best.
func (s *Server) serveGet(w http.ResponseWriter, r *http.Request, channel string) {
	switch accepted(r.Header["Accept"], "application/json", "text/html") {
	case "text/html":
		web.Serve(w, r, channel)
	case "application/json":
		w.Header().Add("Vary", "Accept")
		s.serveHistory(w, r, channel)
	default:
		w.Header().Add("Vary", "Accept")
		s.refuse(w, errorf("not_acceptable", "a channel can be had as application/json (history), as text/html (a page), or live over a WebSocket"))
	}
}

// accepted returns which of the offers an Accept header likes best, the
// earlier one if it likes two the same; empty if it accepts none (RFC 9110,
// section 12.5.1).
func accepted(header []string, offers ...string) string {
	if len(header) == 0 {
		return offers[0]
	}
	best, bestQ := "", 0.0
	for _, offer := range offers {
		q, specific := 0.0, -1
		for entry := range strings.SplitSeq(strings.Join(header, ","), ",") {
			media, params, _ := strings.Cut(entry, ";")
			fit := fitness(strings.ToLower(strings.TrimSpace(media)), offer)
			if fit > specific {
				specific, q = fit, quality(params)
			}
		}
		if q > bestQ {
			best, bestQ = offer, q
		}
	}
	return best
}

// fitness is how closely a media range names an offer; -1: not at all.
func fitness(mediaRange, offer string) int {
	kind, _, _ := strings.Cut(offer, "/")
	switch mediaRange {
	case offer:
		return 2
	case kind + "/*":
		return 1
	case "*/*":
		return 0
	}
	return -1
}

func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		if v, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
			q, err := strconv.ParseFloat(v, 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}

// A page of history has defaultLimit messages, or ?limit= up to maxLimit.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// historyPage is a page of history on the wire.
type historyPage struct {
	Channel  string        `json:"channel"`
	Position string        `json:"position"` // where reading goes on
	Gap      bool          `json:"gap"`      // messages after ?since= are no longer kept
	More     bool          `json:"more"`     // the limit left newer messages out
	Messages []wireMessage `json:"messages"` // oldest first
}

// wireMessage is a message in JSON. Data is a JSON object when Type is
// "json", a string when it is "text", and base64 when it is "binary".
type wireMessage struct {
	Position string    `json:"position"`
	Time     time.Time `json:"time"`
	Sender   string    `json:"sender,omitempty"`
	Key      string    `json:"key,omitempty"`
	Type     string    `json:"type"`
	Data     any       `json:"data"`
}

func toWire(m *Message) wireMessage {
	w := wireMessage{Position: m.Position.String(), Time: m.Time.UTC(), Sender: m.Sender, Key: m.Key}
	switch {
	case m.Binary:
		w.Type, w.Data = "binary", base64.StdEncoding.EncodeToString(m.Payload)
	case isTyped(m.Payload):
		w.Type, w.Data = "json", json.RawMessage(m.Payload)
	default:
		w.Type, w.Data = "text", string(m.Payload)
	}
	return w
}

func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request, channel string) {
	set, err := settingsOf(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	q := broker.Query{Limit: defaultLimit, Tail: set.since == nil}
	if set.since != nil {
		q.Since = *set.since
	}
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxLimit {
			s.refuse(w, errorf("bad_limit", "limit is %.40q; it must be a number from 1 to %d", v, maxLimit))
			return
		}
		q.Limit = n
	}
	page, err := s.broker.History(r.Context(), channel, q)
	if err != nil {
		s.refuse(w, err)
		return
	}
	out := historyPage{Channel: channel, Position: page.Position.String(), Gap: page.Gap, More: page.More, Messages: make([]wireMessage, len(page.Messages))}
	for i, m := range page.Messages {
		out.Messages[i] = toWire(m)
	}
	s.writeJSON(w, http.StatusOK, out)
}

// settings are what the query says, on every face of a URL. The strings are
// copies: they live as long as a session or a message, and must not keep the
// request line that they are pieces of.
type settings struct {
	name  string    // ?name=, of who speaks; empty: nobody in particular
	key   string    // ?key=, of what is published; empty: none
	since *Position // ?since=, where reading begins; nil: not said
	slow  Policy    // ?slow=, what becomes of a reader that lags; 0: not said
}

// settingsOf reads them. What a face has no use for must be well-formed all the same.
func settingsOf(r *http.Request) (settings, error) {
	query := r.URL.Query()
	set := settings{name: strings.Clone(query.Get("name")), key: strings.Clone(query.Get("key"))}
	if err := checkName(set.name); err != nil {
		return settings{}, err
	}
	if err := checkKey(set.key); err != nil {
		return settings{}, err
	}
	if v := query.Get("since"); v != "" {
		since, err := broker.ParsePosition(v)
		if err != nil {
			return settings{}, errorf("bad_since", "since: %v", err)
		}
		set.since = &since
	}
	if v := query.Get("slow"); v != "" {
		slow, err := ParsePolicy(v)
		if err != nil {
			return settings{}, errorf("bad_slow", "slow: %v", err)
		}
		set.slow = slow
	}
	return set, nil
}

// checkName returns nil if name can be a client's, or empty.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return errorf("bad_name", "a name must be UTF-8")
	case utf8.RuneCountInString(name) > maxName:
		return errorf("bad_name", "the name has %d characters, and a name may have %d", utf8.RuneCountInString(name), maxName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return errorf("bad_name", "a name may not contain control characters")
	case name != strings.TrimSpace(name):
		return errorf("bad_name", "a name may not begin or end with white space")
	}
	return nil
}
