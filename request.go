package fanfare

import (
	"context"
	"encoding/json"
	"fmt"
)

// A Request is a question of a client that speaks fanfare.v1.
type Request struct {
	Method  string
	Data    json.RawMessage // nil without any
	Channel string          // of the URL that the client came by; empty: /-/connect
	Session string          // as joins and leaves name it
	Name    string          // the client's; empty: nobody in particular
}

// A Handler answers a request with what becomes JSON. An [*Error] is told to the
// client with its code and text, every other error as internal, and the log has it. ctx ends when
// the client is gone, or at Shutdown, which waits for it.
type Handler = func(ctx context.Context, r *Request) (any, error)

// Handle has h answer the requests for a method: up to 16 of a client's at once,
// each on a goroutine of its own. A second call for a method replaces the first;
// nil takes it away. It may be called from any goroutine, at any time.
func (s *Server) Handle(method string, h Handler) {
	if h == nil {
		s.methods.Delete(method)
		return
	}
	s.methods.Store(method, h)
}

// method returns what answers a method; nil: nothing.
func (s *Server) method(name string) Handler {
	h, _ := s.methods.Load(name)
	handle, _ := h.(Handler)
	return handle
}

// answer has handle answer.
func (r *Request) answer(ctx context.Context, handle Handler) (data json.RawMessage, err error) {
	defer recovered("Handle", &err)
	result, err := handle(ctx, r)
	if err != nil {
		return nil, refusal(ctx, "Handle", err)
	}
	if data, err = json.Marshal(result); err != nil {
		return nil, fmt.Errorf("the answer to %.40q cannot be written as JSON: %w", r.Method, err)
	}
	return data, nil
}
