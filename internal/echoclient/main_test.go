package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fanfare/websocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// suite is a small server that tests clients: three cases, of which the
// second breaks the protocol's manners by hanging up and the third is closed with 1001.
type suite struct {
	sync.Mutex
	passed  map[string]bool
	reports int
}

func (s *suite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.Lock()
	defer s.Unlock()
	switch r.URL.Path {
	case "/getCaseCount":
		_ = conn.Write(ctx, websocket.Text, []byte("3"))
		_, _, _ = conn.Read(ctx) // to the client's close
	case "/runCase":
		n := r.URL.Query().Get("case")
		for i := range 10 {
			want := fmt.Sprintf("case %s message %d", n, i)
			if conn.Write(ctx, websocket.Text, []byte(want)) != nil {
				return
			}
			if _, got, err := conn.Read(ctx); err != nil || string(got) != want {
				return
			}
		}
		s.passed[n+" as "+r.URL.Query().Get("agent")] = true
		switch n {
		case "2":
			_ = conn.CloseNow()
		case "3":
			_ = conn.Close(ctx, websocket.GoingAway, "")
		default:
			_ = conn.Close(ctx, websocket.NormalClosure, "")
		}
	case "/updateReports":
		if r.URL.Query().Get("agent") == "us & them" {
			s.reports++
		}
		_ = conn.Close(ctx, websocket.NormalClosure, "")
	}
}

func TestPlaysTheSuitesClient(t *testing.T) {
	s := &suite{passed: map[string]bool{}}
	srv := httptest.NewServer(s)
	defer srv.Close()
	if err := run(context.Background(), srv.URL, "us & them"); err != nil {
		t.Fatal(err)
	}
	s.Lock()
	defer s.Unlock()
	for n := 1; n <= 3; n++ {
		if !s.passed[fmt.Sprint(n, " as us & them")] {
			t.Errorf("case %d was not echoed", n)
		}
	}
	if s.reports != 1 {
		t.Errorf("%d reports", s.reports)
	}
}

func TestSaysWhyItCannotGoOn(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	if err := run(context.Background(), srv.URL, "x"); err == nil {
		t.Error("a server that is no suite was played")
	}
}
