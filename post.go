package fanfare

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"

	"fanfare/internal/handshake"
)

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
