package fanfare

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"fanfare/broker"
	"fanfare/protocol"
)

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

// A historyPage is a page of a channel's history as clients see it.
type recordPage struct {
	messages []json.RawMessage // records, oldest first
	position Position          // where reading goes on
	gap      bool              // messages after since are no longer kept
	more     bool              // newer messages were left out
}

// history returns a page: the newest messages, or, after since if that is not
// nil, the oldest; limit at most, of 1 to maxLimit.
func (s *Server) history(ctx context.Context, channel string, since *Position, limit int) (recordPage, error) {
	q := broker.Query{Limit: limit, Tail: since == nil}
	if since != nil {
		q.Since = *since
	}
	page, err := s.broker.History(ctx, channel, q)
	if err != nil {
		return recordPage{}, err
	}
	pattern := ""
	if broker.IsPattern(channel) {
		pattern = channel
	}
	out := recordPage{position: page.Position, gap: page.Gap, more: page.More, messages: make([]json.RawMessage, 0, len(page.Messages))}
	for _, m := range page.Messages {
		out.messages = append(out.messages, protocol.AppendMessage(nil, pattern, m))
	}
	return out, nil
}
