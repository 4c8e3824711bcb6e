package frame

import (
	"bytes"
	"fmt"
	"testing"
)

// A read of 64 KiB from a client, full of frames of one size.
func BenchmarkParser(b *testing.B) {
	for _, op := range []Opcode{Binary, Text} {
		for _, n := range []int{16, 128, 16 << 10} {
			b.Run(fmt.Sprintf("%s/%d", op, n), func(b *testing.B) {
				one := AppendMasked(nil, op, true, testKey, bytes.Repeat([]byte("x"), n))
				wire := bytes.Repeat(one, max(1, 64<<10/len(one)))
				// The parser unmasks in place: with a key of zeros that changes
				// nothing, and the same bytes can be pushed again.
				for at := 0; at < len(wire); at += len(one) {
					head := len(one) - n
					Mask(wire[at+head:at+len(one)], testKey, 0)
					clear(wire[at+head-4 : at+head])
				}
				var p Parser
				var h ignore
				b.SetBytes(int64(len(wire)))
				b.ReportAllocs()
				for b.Loop() {
					if err := p.Push(wire, &fromClient, &h); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(h.frames), "ns/frame")
			})
		}
	}
}

func BenchmarkMask(b *testing.B) {
	for _, n := range []int{16, 128, 16 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Mask(buf, testKey, 1)
			}
		})
	}
}

func BenchmarkUTF8(b *testing.B) {
	for _, tt := range []struct{ name, text string }{{"ascii", "the quick brown fox "}, {"greek", "κόσμε"}, {"chinese", "你好世界"}, {"emoji", "😀🎉"}} {
		b.Run(tt.name, func(b *testing.B) {
			text := bytes.Repeat([]byte(tt.text), 16<<10/len(tt.text))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				var u UTF8
				if !u.Write(text) {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	room := make([]byte, 0, MaxHeader)
	for b.Loop() {
		AppendHeader(room, Header{Opcode: Text, Fin: true, Length: 128})
	}
}
