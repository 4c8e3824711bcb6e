package fanfare

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"

	"fanfare/auth"
)

// servePost publishes the body: as one message, or each of its lines.
func (s *Server) servePost(w http.ResponseWriter, r *http.Request, channel string) {
	set, err := settingsOf(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	what, err := contentOf(r.Header)
	if err != nil {
		s.refuse(w, err)
		return
	}
	id, err := idempotencyKey(r.Header)
	if err != nil {
		s.refuse(w, err)
		return
	}
	who, r, err := s.visitor(r, &set, channel)
	var held *asker
	if err == nil {
		held = s.asker(r, who)
		err = held.may(r)
	}
	if err == nil {
		err = who.may(auth.Publish, channel)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	if what == manyMessages {
		s.servePostMany(w, r, who, held, id)
		return
	}
	body, err := s.readBody(w, r)
	held.spend(0, len(body))
	if err != nil {
		s.refuse(w, err)
		return
	}
	m := &Message{Channel: who.home, Sender: who.name, Key: who.key, Binary: what == binaryMessage, Payload: body, ID: scoped(who.scope(), id)}
	if err := s.allow(r.Context(), m); err != nil {
		s.refuse(w, err)
		return
	}
	pos, err := s.publishAndWait(r.Context(), m, who)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.writeJSON(w, http.StatusOK, struct {
		Channel  string `json:"channel"`
		Position string `json:"position"`
	}{channel, pos.String()})
}

// readBody reads a message, or what there is of it with an error. It must neither be too large nor take for ever:
// ServeHTTP has set the deadline.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.cfg.MaxMessage)))
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		s.reached(byMessageSize, "path", r.URL.Path)
		return body, errorf("too_big", "the body is larger than a message may be: %d bytes", s.cfg.MaxMessage)
	case err != nil:
		return body, s.cutShort(err)
	}
	return body, nil
}

// cutShort says what became of a body that could not be read to its end.
func (s *Server) cutShort(err error) error {
	switch {
	case s.closing.Load():
		return ErrServerClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errorf("timeout", "a message must be complete within %v", s.cfg.MessageTimeout)
	}
	return errorf("bad_body", "the body did not arrive whole: %v", err)
}

// content is what the body of a POST is.
type content int

const (
	textMessage content = iota
	binaryMessage
	manyMessages
)

// manyType is the type of a body that is a JSON value a line.
const manyType = "application/x-ndjson"

// contentOf finds out what a body is. What is neither bytes nor lines is text,
// whatever it is called: curl -d says that what it sends is a form.
func contentOf(h http.Header) (content, error) {
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return 0, errorf("bad_media", "the body is encoded (Content-Encoding: %.40s), and would be published so: send it as it is", coding)
	}
	given := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(given)
	kind, _, _ := strings.Cut(media, "/")
	switch charset := strings.ToLower(params["charset"]); {
	case given == "":
		return textMessage, nil
	case err != nil:
		return 0, errorf("bad_media", "Content-Type is %.80q, which cannot be read (%v); leave it out for a text", given, err)
	case media == manyType:
		return manyMessages, nil
	case media == "application/ndjson", media == "application/jsonl", media == "application/x-jsonlines": // or all of them would be one text
		return 0, errorf("bad_media", "a body that is many messages, a line for each, has the type %s here, and not %s", manyType, media)
	case media == "application/octet-stream", kind == "image", kind == "audio", kind == "video":
		return binaryMessage, nil
	case kind == "multipart":
		return 0, errorf("bad_media", "the body is a form of several parts (%.80s), and a message is the whole body: send one thing as it is, as curl does with --data-binary @FILE", media)
	case charset != "" && charset != "utf-8" && charset != "us-ascii":
		return 0, errorf("bad_media", "the body is a text in %.40s, and a text message is UTF-8; other bytes are published as application/octet-stream", charset)
	}
	return textMessage, nil
}

// idempotencyKey returns what the sender calls what it publishes, or nothing. The
// header's draft has it in quotes, and most people leave them out.
func idempotencyKey(h http.Header) (string, error) {
	given := h["Idempotency-Key"]
	if len(given) == 0 {
		return "", nil
	}
	id := given[0]
	if len(id) > 1 && id[0] == '"' && id[len(id)-1] == '"' {
		id = id[1 : len(id)-1]
	}
	if len(given) > 1 || id == "" || len(id) > maxID {
		return "", errorf("bad_id", "Idempotency-Key must be there once, with 1 to %d bytes: make up another one for each message, and repeat it with the message", maxID)
	}
	return id, nil
}
