package frame

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"fanfare/internal/partner"
)

// conversation is what all partners read and make: each form of the length at
// its edges, fragments, empty ones and torn characters among them, and control
// frames between them.
func conversation() []Frame {
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7 + n)
		}
		return b
	}
	frames := []Frame{
		{Opcode: Text, Fin: true},
		{Opcode: Text, Fin: true, Payload: []byte("grüße, 你好 😀")},
		{Opcode: Ping, Fin: true},
		{Opcode: Ping, Fin: true, Payload: bytesOf(125)},
		{Opcode: Text, Payload: []byte("gr\xC3")},
		{Opcode: Ping, Fin: true, Payload: []byte("between")},
		{Opcode: Continuation},
		{Opcode: Continuation, Fin: true, Payload: []byte("\xBCn")},
		{Opcode: Binary, Payload: bytesOf(1000)},
		{Opcode: Continuation, Payload: bytesOf(70000)},
		{Opcode: Continuation, Fin: true},
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537} {
		frames = append(frames, Frame{Opcode: Binary, Fin: true, Payload: bytesOf(n)})
	}
	return append(frames, Frame{Opcode: Close, Fin: true, Payload: AppendClose(nil, 4321, "tschüß")})
}

func encode(frames []Frame, masked bool) []byte {
	var wire []byte
	key := testKey
	for _, f := range frames {
		h := Header{Opcode: f.Opcode, Fin: f.Fin, Masked: masked, Length: int64(len(f.Payload))}
		if masked {
			key[0]++ // every frame its own
			h.Key = key
		}
		wire = AppendHeader(wire, h)
		at := len(wire)
		wire = append(wire, f.Payload...)
		if masked {
			Mask(wire[at:], key, 0)
		}
	}
	return wire
}

// events joins the fragments: one word for each message and control frame.
func events(frames []Frame) []string {
	var words []string
	var m Message
	var kind Opcode
	for _, f := range frames {
		payload, done := f.Payload, true
		if !f.Opcode.Control() {
			if f.Opcode != Continuation {
				kind = f.Opcode
			}
			f.First = f.Opcode != Continuation
			f.Opcode = kind
			payload, done = m.Add(f)
		}
		if done {
			words = append(words, fmt.Sprintf("%s %x", f.Opcode, payload))
		}
	}
	return words
}

func sameEvents(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: event %d is %.60s, want %.60s", what, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
}

// Python's websockets and Node's ws read our frames as we meant them, and we
// theirs; where there is no mask both write the same bytes.
func TestFramesOfOtherLanguages(t *testing.T) {
	for _, tt := range []struct {
		name    string
		command func(t *testing.T) *exec.Cmd
	}{
		{"python websockets", func(t *testing.T) *exec.Cmd {
			return exec.CommandContext(t.Context(), partner.Python(t), "testdata/partner.py")
		}},
		{"node ws", func(t *testing.T) *exec.Cmd {
			node, path := partner.Node(t)
			cmd := exec.CommandContext(t.Context(), node, "testdata/partner.cjs")
			cmd.Env = append(os.Environ(), "NODE_PATH="+path)
			return cmd
		}},
	} {
		for _, masked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, masked %v", tt.name, masked), func(t *testing.T) {
				type triple = [3]any // opcode, FIN, payload in hex
				frames := conversation()
				want := events(frames)
				wire := encode(frames, masked)
				todo := struct {
					Masked bool     `json:"masked"`
					Wire   string   `json:"wire"`
					Frames []triple `json:"frames"`
				}{Masked: masked, Wire: hex.EncodeToString(wire)}
				for _, f := range frames {
					todo.Frames = append(todo.Frames, triple{int(f.Opcode), f.Fin, hex.EncodeToString(f.Payload)})
				}
				in, err := json.Marshal(todo)
				if err != nil {
					t.Fatal(err)
				}
				cmd := tt.command(t)
				var complaint bytes.Buffer
				cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, &complaint)
				}
				var answer struct {
					Read []triple `json:"read"`
					Made string   `json:"made"`
				}
				if err := json.Unmarshal(out, &answer); err != nil {
					t.Fatalf("%v: %.200s", err, out)
				}
				var read []Frame
				for _, f := range answer.Read {
					payload, err := hex.DecodeString(f[2].(string))
					if err != nil {
						t.Fatal(err)
					}
					read = append(read, Frame{Opcode: Opcode(f[0].(float64)), Fin: f[1].(bool), Payload: payload})
				}
				sameEvents(t, "they read ours", events(read), want)

				made, err := hex.DecodeString(answer.Made)
				if err != nil {
					t.Fatal(err)
				}
				if !masked && !bytes.Equal(made, wire) {
					t.Error("their bytes are not ours")
				}
				for _, cuts := range [][]byte{nil, {250, 3}} {
					got, _, err := pushCut(made, Rules{Masked: masked, Limit: 1 << 20}, cuts)
					if err != nil {
						t.Fatal(err)
					}
					for i := range got.frames {
						if !got.frames[i].First {
							got.frames[i].Opcode = Continuation
						}
					}
					sameEvents(t, "we read theirs", events(got.frames), want)
				}
			})
		}
	}
}

// echoGorilla and echoCoder send messages back in fragments as small as their
// buffers, until the other side closes.
func echoGorilla(conn *gorilla.Conn) {
	defer conn.Close()
	for {
		kind, r, err := conn.NextReader()
		if err != nil {
			return
		}
		w, err := conn.NextWriter(kind)
		if err != nil {
			return
		}
		if _, err := io.Copy(w, r); err != nil {
			return
		}
		if err := w.Close(); err != nil {
			return
		}
	}
}

func echoCoder(ctx context.Context, conn *coder.Conn) {
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			return
		}
		w, err := conn.Writer(ctx, kind)
		if err != nil {
			return
		}
		if _, err := io.Copy(w, r); err != nil {
			return
		}
		if err := w.Close(); err != nil {
			return
		}
	}
}

// speak sends the conversation over conn and reads until the peer's close
// frame: every message comes back, and every ping is answered.
func speak(t *testing.T, conn net.Conn, arrived io.Reader, weAreClient bool) {
	t.Helper()
	sent := conversation()
	writing := make(chan error, 1)
	go func() {
		_, err := conn.Write(encode(sent, weAreClient))
		writing <- err
	}()
	rules := Rules{Masked: !weAreClient, Limit: 1 << 20}
	var p Parser
	c := &collect{parser: &p}
	buf := make([]byte, 5000)
	for len(c.frames) == 0 || c.frames[len(c.frames)-1].Opcode != Close {
		n, err := arrived.Read(buf)
		if err := p.Push(buf[:n], &rules, c); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatalf("%v after %d frames, before the close frame", err, len(c.frames))
		}
	}
	if err := <-writing; err != nil {
		t.Fatal(err)
	}
	fragments := 0
	var messages, pongs []string
	for i, f := range c.frames {
		if !f.First {
			c.frames[i].Opcode = Continuation
			fragments++
		}
	}
	for _, e := range events(c.frames) {
		if word, ok := strings.CutPrefix(e, "pong "); ok {
			pongs = append(pongs, word)
		} else if !strings.HasPrefix(e, "close ") {
			messages = append(messages, e)
		}
	}
	var wantMessages, wantPongs []string
	for _, e := range events(sent) {
		if word, ok := strings.CutPrefix(e, "ping "); ok {
			wantPongs = append(wantPongs, word)
		} else if !strings.HasPrefix(e, "close ") {
			wantMessages = append(wantMessages, e)
		}
	}
	sameEvents(t, "messages", messages, wantMessages)
	sameEvents(t, "pongs", pongs, wantPongs)
	if code, _, err := ParseClose(c.frames[len(c.frames)-1].Payload); err != nil || code != 4321 {
		t.Errorf("the peer closed with %d, %v", code, err)
	}
	if fragments == 0 {
		t.Error("the peer sent no fragments, so they are not tested")
	}
}

// deadline keeps a broken peer from hanging the test.
func deadline(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// gorilla/websocket and coder/websocket, as servers and as clients, echo the
// conversation over a socket.
func TestFramesOfGoLibraries(t *testing.T) {
	defer goleak.VerifyNone(t)
	servers := map[string]http.HandlerFunc{
		"gorilla": func(w http.ResponseWriter, r *http.Request) {
			up := gorilla.Upgrader{WriteBufferSize: 300}
			conn, err := up.Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			echoGorilla(conn)
		},
		"coder": func(w http.ResponseWriter, r *http.Request) {
			conn, err := coder.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			echoCoder(r.Context(), conn)
		},
	}
	for name, handler := range servers {
		t.Run(name+" is the server", func(t *testing.T) {
			srv := httptest.NewServer(handler)
			defer srv.Close()
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			deadline(t, conn)
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v", resp, err)
			}
			speak(t, conn, r, true)
		})
	}
	clients := map[string]func(ctx context.Context, url string) error{
		"gorilla": func(ctx context.Context, url string) error {
			dialer := gorilla.Dialer{WriteBufferSize: 300}
			conn, _, err := dialer.DialContext(ctx, url, nil)
			if err == nil {
				echoGorilla(conn)
			}
			return err
		},
		"coder": func(ctx context.Context, url string) error {
			conn, _, err := coder.Dial(ctx, url, nil)
			if err == nil {
				echoCoder(ctx, conn)
			}
			return err
		},
	}
	for name, dial := range clients {
		t.Run(name+" is the client", func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dialled := make(chan error, 1)
			go func() { dialled <- dial(ctx, "ws://"+l.Addr().String()) }()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				conn.Close()
				if err := <-dialled; err != nil {
					t.Error(err)
				}
			}()
			deadline(t, conn)
			r := bufio.NewReader(conn)
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			speak(t, conn, r, false)
		})
	}
}

// The conversation is one that the parser itself accepts, unchanged.
func TestConversationIsValid(t *testing.T) {
	frames := conversation()
	got, code := model(encode(frames, true), fromClient)
	if code != 0 || len(got) != len(frames) {
		t.Fatalf("%d frames of %d, %v", len(got), len(frames), code)
	}
	if !slices.ContainsFunc(got, func(f Frame) bool { return len(f.Payload) == 65536 }) {
		t.Error("no frame has a length of 64 bits")
	}
}
