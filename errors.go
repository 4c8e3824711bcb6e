package fanfare

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"
	"fanfare/protocol"
)

// ErrServerClosed is what everything answers once [Server.Shutdown] was called.
var ErrServerClosed = errors.New("fanfare: the server is shutting down")

// ErrTooSlow ends a [Subscription] that lagged too far behind, where the
// policy is Close.
var ErrTooSlow = errors.New("fanfare: the subscription lagged too far behind")

// An Error is a refusal: what a client asked for breaks a rule or a limit.
type Error struct {
	// Code is for machines and stable: those of docs/protocol.md, which lists
	// those that are over HTTP only, too.
	Code string
	// Message is for people: what happened, the limit or rule, and what to do.
	Message string

	status int           // of the HTTP answer; 0: what goes with the code
	retry  time.Duration // after which it makes sense to try again; 0: not said
}

func (e *Error) Error() string { return "fanfare: " + e.Message }

func errorf(code, format string, a ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, a...)}
}

// statuses are the HTTP statuses of error codes; what is not here is 400.
var statuses = map[string]int{
	"not_found":      http.StatusNotFound,
	"bad_method":     http.StatusMethodNotAllowed,
	"not_acceptable": http.StatusNotAcceptable,
	"bad_media":      http.StatusUnsupportedMediaType,
	"id_reused":      http.StatusUnprocessableEntity,
	"no_patterns":    http.StatusNotImplemented,
	"too_big":        http.StatusRequestEntityTooLarge,
	"timeout":        http.StatusRequestTimeout,

	"unauthenticated":  http.StatusUnauthorized,
	"bad_token":        http.StatusUnauthorized,
	"token_expired":    http.StatusUnauthorized,
	"token_not_yet":    http.StatusUnauthorized,
	"token_revoked":    http.StatusUnauthorized,
	"forbidden":        http.StatusForbidden,
	"auth_unavailable": http.StatusServiceUnavailable,
	"rate_limited":     http.StatusTooManyRequests,

	"too_many_connections": http.StatusTooManyRequests,

	"internal":      http.StatusInternalServerError,
	"shutting_down": http.StatusServiceUnavailable,
	"full":          http.StatusServiceUnavailable,
}

// known turns any error into one that may be shown. What is not known to be
// harmless is shown as "internal"; the log has it in full.
// Each is counted.
func (s *Server) known(err error) *Error {
	e := s.shown(err)
	s.metrics.refused(e.Code)
	return e
}

func (s *Server) shown(err error) *Error {
	var known *Error
	var said *protocol.Error
	var who *auth.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &said):
		return &Error{Code: said.Code, Message: said.Message}
	case errors.As(err, &who):
		return &Error{Code: cmp.Or(who.Code, "bad_token"), Message: strings.ToValidUTF8(who.Message, "\uFFFD")}
	case errors.Is(err, ErrServerClosed), errors.Is(err, broker.ErrClosed):
		return &Error{Code: "shutting_down", Message: "the server is shutting down; try again in a moment"}
	case errors.Is(err, broker.ErrIDReused):
		return &Error{Code: "id_reused", Message: "this id was another message's not long ago; choose an id for each message, and repeat it only with the same message"}
	case errors.Is(err, broker.ErrNoPatterns):
		return &Error{Code: "no_patterns", Message: "this server's broker cannot read patterns; name each channel"}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: "timeout", Message: "the request ended before it was answered; what it asked for may have happened"}
	}
	s.log.Error("internal error", "error", err)
	return &Error{Code: "internal", Message: "something went wrong in the server; its log has more"}
}

// refuse answers a request with an error: as JSON, with the status of its code.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	h := w.Header()
	var refusal *handshake.Refusal
	if errors.As(err, &refusal) {
		for name, values := range refusal.Header {
			h[name] = values
		}
		s.metrics.refused(refusal.Code)
		s.writeJSON(w, refusal.Status, errorBody{errorText{refusal.Code, refusal.Reason}})
		return
	}
	e := s.known(err)
	status := cmp.Or(e.status, statuses[e.Code], http.StatusBadRequest)
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.retry+time.Second-1)/time.Second)))
	} else if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(descriptors.RetryAfter))
	}
	switch {
	case status != http.StatusUnauthorized:
	case e.Code == "unauthenticated":
		h.Set("WWW-Authenticate", "Bearer") // RFC 6750, section 3
	default:
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if status == http.StatusServiceUnavailable {
		h.Set("Connection", "close")
	}
	s.writeJSON(w, status, errorBody{errorText{e.Code, e.Message}})
}

type errorBody struct {
	Error errorText `json:"error"`
}

type errorText struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (s *Server) writeJSON(w http.ResponseWriter, status int, v any) {
	jsonHeader(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(appendJSON(nil, v)) // the client may be gone; nobody is left to tell
}

// appendJSON appends v, which can be written as JSON, and the end of the line.
func appendJSON(dst []byte, v any) []byte {
	b := bytes.NewBuffer(dst)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // into memory: it does not fail
	return b.Bytes()
}

func jsonHeader(h http.Header) {
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
}

// liveHeader is for answers that go on. Proxies are asked not to collect them.
func liveHeader(h http.Header, contentType string) {
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
}
