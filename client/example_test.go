package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"

	"fanfare"
	"fanfare/client"
)

// server is a server for the examples, which is elsewhere in real life.
func server() (url string, stop func()) {
	srv, err := fanfare.New(fanfare.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		panic(err)
	}
	srv.Handle("greet", func(_ context.Context, r *fanfare.Request) (any, error) { return "Hello, " + r.Name, nil })
	web := httptest.NewServer(srv)
	return web.URL, func() {
		_ = srv.Shutdown(context.Background())
		web.Close()
	}
}

func Example() {
	url, stop := server() // such as ws://localhost:8765
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, url, &client.Options{Name: "alice"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	sub, err := c.Subscribe(ctx, "chat/**", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{"Hello", "Good-bye"} {
		if _, err := c.Publish(ctx, "chat/general", map[string]string{"type": "chat", "content": text}, nil); err != nil {
			fmt.Println(err)
			return
		}
	}
	for m, err := range sub.Messages(ctx) {
		var gap *client.GapError
		if errors.As(err, &gap) {
			fmt.Println("something is missing here:", gap.Reason)
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		var said struct{ Content string }
		if err := m.Decode(&said); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s in %s: %s\n", m.Sender, m.Channel, said.Content)
		if said.Content == "Good-bye" {
			break
		}
	}
	// Output:
	// alice in chat/general: Hello
	// alice in chat/general: Good-bye
}

// A program that keeps the position goes on where it was, also after it was
// started anew.
func ExampleSubscription_Position() {
	url, stop := server()
	defer stop()
	ctx := context.Background()

	position := "0" // from the oldest message kept
	for _, text := range []string{"one", "two"} {
		c, err := client.Dial(ctx, url, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		if _, err := c.Publish(ctx, "log", text, nil); err != nil {
			fmt.Println(err)
		}
		sub, err := c.Subscribe(ctx, "log", &client.SubscribeOptions{Since: position})
		if err != nil {
			fmt.Println(err)
			return
		}
		m, err := sub.Next(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", m.Bytes())
		position = sub.Position()
		c.Close()
	}
	// Output:
	// one
	// two
}

// Send does not wait; receipts tell later how it went.
func ExampleClient_Send() {
	url, stop := server()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	var receipts []*client.Receipt
	for n := range 10 {
		r, err := c.Send("numbers", n, nil)
		if err != nil { // client.ErrFull, for example: wait for the oldest first
			fmt.Println(err)
			return
		}
		receipts = append(receipts, r)
	}
	for _, r := range receipts {
		if _, err := r.Wait(ctx); err != nil {
			fmt.Println(err)
		}
	}
	page, err := c.History(ctx, "numbers", &client.HistoryOptions{Limit: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range page.Messages {
		fmt.Printf("%s\n", m.Data)
	}
	// Output:
	// 7
	// 8
	// 9
}

func ExampleClient_Request() {
	url, stop := server()
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, url, &client.Options{Name: "alice"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	var greeting string
	if err := c.Request(ctx, "greet", nil, &greeting); err != nil {
		fmt.Println(err)
	}
	fmt.Println(greeting)
	err = c.Request(ctx, "insult", nil, nil)
	var refused *client.Error
	fmt.Println(errors.As(err, &refused) && refused.Code == "unknown_method")
	// Output:
	// Hello, alice
	// true
}
