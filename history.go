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

// recall asks the broker for history: of a pattern's, for what who may read, as if
// there were nothing else. Nil is the program, which may read everything.
func (s *Server) recall(ctx context.Context, channel string, q broker.Query, who *speaker) (broker.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	if who == nil || !broker.IsPattern(channel) || who.grants.May(auth.History, channel) {
		return s.ofBroker(ctx, channel, q)
	}
	return s.recallParts(ctx, who.grants.Within(auth.History, channel), q)
}

func (s *Server) ofBroker(ctx context.Context, channel string, q broker.Query) (broker.Page, error) {
	began := time.Now()
	page, err := s.broker.History(ctx, channel, q)
	s.metrics.answered(historyOperation, began, err)
	return page, err
}

// newest returns the broker's newest place, whatever channel it is of.
func (s *Server) newest(ctx context.Context) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	page, err := s.ofBroker(ctx, nowhere, broker.Query{Limit: 1, Tail: true})
	return page.Position, err
}

// nowhere is a pattern that no channel fits.
const nowhere = "-/*"

// recallParts is recall, of several patterns at once.
func (s *Server) recallParts(ctx context.Context, parts []string, q broker.Query) (page broker.Page, err error) {
	// What comes meanwhile can be in one part and not yet in another, so it waits
	// for the next page; and so does what is behind the end of a part that has more.
	if page.Position, err = s.newest(ctx); err != nil {
		return broker.Page{}, err
	}
	end := page.Position.Offset
	for _, part := range parts {
		p, err := s.ofBroker(ctx, part, q)
		if err != nil {
			return broker.Page{}, err
		}
		if p.More {
			end = min(end, p.Position.Offset)
		}
		page.Gap, page.More = page.Gap || p.Gap, page.More || p.More
		page.Messages = append(page.Messages, p.Messages...)
	}
	slices.SortFunc(page.Messages, func(a, b *Message) int { return cmp.Compare(a.Position.Offset, b.Position.Offset) })
	page.Messages = slices.CompactFunc(page.Messages, func(a, b *Message) bool { return a.Position == b.Position }) // parts may overlap
	page.Messages = slices.DeleteFunc(page.Messages, func(m *Message) bool { return m.Position.Offset > end })
	switch limit, n := cmp.Or(q.Limit, broker.MaxPage), len(page.Messages); {
	case n <= limit:
	case q.Tail || q.Limit == 0:
		page.Messages, page.Gap = page.Messages[n-limit:], page.Gap || q.Limit == 0
	default:
		page.Messages, page.More = page.Messages[:limit], true
	}
	if n := len(page.Messages); n > 0 {
		page.Position = page.Messages[n-1].Position
	}
	return page, nil
}

// history returns a page: the newest messages, or, after since if that is not
// nil, the oldest; limit at most, of 1 to maxLimit. Of a pattern's it has what who
// may read.
func (s *Server) history(ctx context.Context, channel string, since *Position, limit int, who *speaker) (historyPage, error) {
	q := broker.Query{Limit: limit, Tail: since == nil}
	if since != nil {
		q.Since = *since
	}
	page, err := s.recall(ctx, channel, q, who)
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
	var held *asker
	if err == nil {
		held = s.asker(r, who)
		err = held.may(r)
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
	held.spend(answerCost(len(body)), 0)
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
