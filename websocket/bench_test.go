package websocket

import (
	"context"
	"fmt"
	"testing"
)

// What one message there and back costs, both ends in this process.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{128, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := dial(b, serve(b, nil, echo), nil)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			data := make([]byte, size)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Write(ctx, Binary, data); err != nil {
					b.Fatal(err)
				}
				if _, _, err := c.Read(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Sixteen writers on one connection share system calls.
func BenchmarkConcurrentWrite(b *testing.B) {
	drained := make(chan struct{})
	c := dial(b, serve(b, nil, func(c *Conn) {
		defer close(drained)
		for range c.Messages(context.Background()) {
		}
	}), nil)
	ctx := context.Background()
	data := make([]byte, 128)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Write(ctx, Binary, data); err != nil {
				b.Error(err)
				return
			}
		}
	})
	_ = c.Close(testContext(b), NormalClosure, "")
	<-drained
}
