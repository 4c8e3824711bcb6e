package fanfare

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"fanfare/broker"
	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"
)

// ErrServerClosed is what everything answers once [Server.Shutdown] was called.
var ErrServerClosed = errors.New("fanfare: the server is shutting down")

// ErrTooSlow ends a [Subscription] that lagged too far behind, where the
// policy is Close.
var ErrTooSlow = errors.New("fanfare: the subscription lagged too far behind")

// An Error is a refusal: what a client asked for breaks a rule or a limit.
type Error struct {
	// Code is for machines and stable: bad_channel, bad_name, bad_since,
	// bad_limit, bad_slow, bad_key, bad_text, bad_body, too_big, timeout, bad_method,
	// not_acceptable, not_found, shutting_down, full, internal, and the codes of a
	// refused handshake (bad_origin, bad_version, ...).
	Code string
	// Message is for people: what happened, the limit or rule, and what to do.
	Message string

	status int // of the HTTP answer; 0: what goes with the code
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
	"too_big":        http.StatusRequestEntityTooLarge,
	"timeout":        http.StatusRequestTimeout,
	"internal":       http.StatusInternalServerError,
	"shutting_down":  http.StatusServiceUnavailable,
	"full":           http.StatusServiceUnavailable,
}

// known turns any error into one that may be shown. What is not known to be
// harmless is shown as "internal"; the log has it in full.
func (s *Server) known(err error) *Error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
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
		s.writeJSON(w, refusal.Status, errorBody{errorText{refusal.Code, refusal.Reason}})
		return
	}
	e := s.known(err)
	status := cmp.Or(e.status, statuses[e.Code], http.StatusBadRequest)
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(descriptors.RetryAfter))
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
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client may be gone; nobody is left to tell
}
