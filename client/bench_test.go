package client

import (
	"context"
	"testing"

	"fanfare"
)

// What a message costs that is published, acknowledged and read by the same
// program, with a hundred under way.
func BenchmarkPublishAndRead(b *testing.B) {
	_, address := serve(b, fanfare.Config{})
	ctx := context.Background()
	c, err := Dial(ctx, "ws://"+address, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	sub, err := c.Subscribe(ctx, "chat", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	data := map[string]string{"type": "chat", "content": "Hello, everybody who is here"}
	var waiting []*Receipt
	for b.Loop() {
		r, err := c.Send("chat", data, nil)
		if err != nil {
			b.Fatal(err)
		}
		if waiting = append(waiting, r); len(waiting) == 100 {
			for _, r := range waiting {
				if _, err := r.Wait(ctx); err != nil {
					b.Fatal(err)
				}
				if _, err := sub.Next(ctx); err != nil {
					b.Fatal(err)
				}
			}
			waiting = nil
		}
	}
}
