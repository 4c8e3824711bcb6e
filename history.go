package fanfare

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/protocol"
)

// maxPage is where a page of history ends, in bytes of its messages, unless
// one message alone has more.
const maxPage = 4 << 20

// A historyPage is a page of a channel's history as clients see it.
type historyPage struct {
	messages []json.RawMessage // records, oldest first
	position Position          // where reading goes on
	gap      bool              // messages after since are no longer kept
	more     bool              // newer messages were left out
}

// recallTimeout is how long the broker may take to answer with history.
const recallTimeout = 30 * time.Second

// recall asks the broker for history.
func (s *Server) recall(ctx context.Context, channel string, q broker.Query) (broker.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	began := time.Now()
	page, err := s.broker.History(ctx, channel, q)
	s.metrics.answered(historyOperation, began, err)
	return page, err
}

// history returns a page: the newest messages, or, after since if that is not
// nil, the oldest; limit at most, of 1 to maxLimit. Of a pattern's it has what who
// may read.
func (s *Server) history(ctx context.Context, channel string, since *Position, limit int, who *speaker) (historyPage, error) {
	q := broker.Query{Limit: limit, Tail: since == nil}
	if since != nil {
		q.Since = *since
	}
	page, err := s.recall(ctx, channel, q)
	if err != nil {
		return historyPage{}, err
	}
	pattern := ""
	if broker.IsPattern(channel) {
		pattern = channel
	}
	out := historyPage{position: page.Position, gap: page.Gap, more: page.More, messages: make([]json.RawMessage, 0, len(page.Messages))}
	// What does not fit is left out where the reader can ask for it: at the end
	// of a page after since, or else at the beginning.
	size, last := 0, len(page.Messages)-1
	for i, m := range page.Messages {
		if q.Tail {
			m = page.Messages[last-i]
		}
		if pattern != "" && !who.grants.May(auth.History, m.Channel) {
			continue
		}
		record := protocol.AppendMessage(nil, pattern, m)
		if size += len(record); size > maxPage && len(out.messages) > 0 {
			if !q.Tail {
				out.position, out.more = page.Messages[i-1].Position, true
			}
			break
		}
		out.messages = append(out.messages, record)
	}
	if q.Tail {
		slices.Reverse(out.messages)
	}
	return out, nil
}

// serveHistory answers with a page.
func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request, channel string, set *settings) {
	who, r, err := s.visitor(r, set, channel)
	if err == nil {
		err = s.asker(r, who).may(r)
	}
	if err == nil {
		err = who.mayRead(auth.History, channel)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	page, err := s.history(r.Context(), channel, set.since, cmp.Or(set.limit, defaultLimit), who)
	if err != nil {
		s.refuse(w, err)
		return
	}
	if s.revoked.has(who.id) { // while the broker was asked
		s.refuse(w, errRevokedToken)
		return
	}
	var count *int
	if who.may(auth.Presence, channel) == nil {
		_, n := s.presence(r.Context(), channel, 0)
		count = &n
	}
	body := appendJSON(nil, struct {
		Channel  string `json:"channel"`
		Position string `json:"position"`
		Gap      bool   `json:"gap"`
		More     bool   `json:"more"`
		Count    *int   `json:"count,omitempty"` // for who may know
	}{channel, page.position.String(), page.gap, page.more, count})
	// The messages are JSON already.
	body = append(bytes.TrimSuffix(body, []byte("}\n")), `,"messages":[`...)
	for i, record := range page.messages {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, record...)
	}
	body = append(body, "]}\n"...)
	h := w.Header()
	jsonHeader(h)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	writePage(w, r, body, s.cfg.WriteTimeout)
}

// writePage writes megabytes, perhaps to somebody who does not read. Where the
// program's http.Server has no WriteTimeout, nobody may keep us waiting for
// longer than patience.
func writePage(w http.ResponseWriter, r *http.Request, body []byte, patience time.Duration) {
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.WriteTimeout > 0 {
		_, _ = w.Write(body) // the client may be gone; nobody is left to tell
		return
	}
	control := http.NewResponseController(w)
	for part := range slices.Chunk(body, maxBatch) {
		_ = control.SetWriteDeadline(time.Now().Add(patience))
		if _, err := w.Write(part); err != nil {
			return
		}
	}
	_ = control.Flush() // while the deadline counts
	_ = control.SetWriteDeadline(time.Time{})
}
