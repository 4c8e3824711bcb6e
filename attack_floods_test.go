package fanfare_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare/internal/frame"
)

// mostResident is by how many bytes the server's process may grow during an attack.
const mostResident = 128 << 20

// While anything of this goes on, a hundred honest clients hear all that is said,
// as soon as ever, and newcomers are let in. Afterwards the server holds what it held before.
func TestAttacks(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			o := open(t, transport, "attack")
			v := &village{t: t, outpost: o, born: time.Now(), over: make(chan struct{})}
			before := v.settled()
			c := pitch(t, o.addr)
			v.populate()
			v.observe(500 * time.Millisecond) // what is made once and kept is there after this
			weather := v.observe(500 * time.Millisecond)
			for _, a := range attacks {
				if !a.wire && !fullAttack && transport != bestTransport {
					continue
				}
				t.Run(a.name, func(t *testing.T) { weather = v.besieged(t, c, a, weather) })
			}
			v.leave()
			v.deserted(before, 10<<20)
		})
	}
}

var attacks = []attack{
	{name: "lengths", foes: 8, once: lengths},
	{name: "bombs", foes: 4, once: bomb},
	{name: "talk at full speed", wire: true, foes: 2, crowd: 8, members: true, lasts: true, once: talk},
	{name: "fragments", foes: 4, once: fragments},
	{name: "messages held back", wire: true, foes: 40, crowd: 100, once: held, lasts: true},
	{name: "pings and nobody reads", wire: true, foes: 4, crowd: 16, lasts: true, once: pings},
	{name: "half handshakes", wire: true, foes: 300, crowd: 1000, once: halfHandshake, lasts: true},
	{name: "slow readers", wire: true, foes: 150, crowd: 1000, members: true, once: slowReader, lasts: true},
	{name: "who comes and vanishes", wire: true, foes: 8, once: vanishing},
	{name: "huge heads", foes: 4, once: hugeHead, each: 50 * time.Millisecond},
	{name: "noise", foes: 8, once: noise},
	{name: "commands", foes: 4, members: true, once: commands},
	{name: "posts", foes: 4, once: posts},
	{name: "bad tokens", foes: 4, once: badToken},
	{name: "closes", foes: 8, once: oddClose},
}

// Row 1: lengths that overflow, or are too large, with a mask and without.
func lengths(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	limit := uint64(f.limit())
	c := []struct {
		length uint64
		code   frame.Code
	}{
		{1 << 63, 1002}, {1<<63 + 1, 1002}, {1<<64 - 1, 1002}, {1<<63 - 1, 1009}, {1 << 62, 1009}, {1 << 32, 1009}, {limit + 1, 1009},
	}[f.rnd.IntN(7)]
	head := binary.BigEndian.AppendUint64([]byte{0x82, 0x80 | 127}, c.length)
	if c.length <= 0xFFFF {
		head = binary.BigEndian.AppendUint16([]byte{0x82, 0x80 | 126}, uint16(c.length))
	}
	if f.rnd.IntN(2) == 0 {
		head[1] &^= 0x80
		c.code = frame.ProtocolError // a client's frames are masked
	}
	p.conn.Write(head)
	return f.closed(p, c.code, "")
}

// Row 2: what is small on the wire, and would be 256 MiB behind it (RFC 7692, section 7.2).
func bomb(f *foe) error {
	p, err := f.join("/hostile", "Sec-WebSocket-Extensions: permessage-deflate")
	if err != nil {
		return err
	}
	if got := p.head.Get("Sec-Websocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
		return fmt.Errorf("compression is not agreed on: %q", got)
	}
	payload := bytes.Repeat(mebibyteOfZeros(), []int{1, 32, 256}[f.rnd.IntN(3)])
	const rsv1 = 0x40
	cut := 1 + f.rnd.IntN(len(payload)-1)
	b := frame.AppendMasked(nil, frame.Binary, false, testKey, payload[:cut])
	b[0] |= rsv1
	b = frame.AppendMasked(b, frame.Continuation, true, testKey, payload[cut:])
	if f.rnd.IntN(2) == 0 {
		b = frame.AppendMasked(nil, frame.Binary, true, testKey, payload)
		b[0] |= rsv1
	}
	go p.conn.Write(b)
	return f.closed(p, frame.MessageTooBig, "")
}

// mebibyteOfZeros is one, deflated, in blocks that can be repeated.
var mebibyteOfZeros = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // the level is one
	_, _ = w.Write(make([]byte, 1<<20))
	_ = w.Flush()
	return b.Bytes()
})

// One who says as much as goes through: it is as much as the limits say, and the rest waits.
func talk(f *foe) error {
	p, err := f.join(fmt.Sprintf("/hostile/talk/%d", f.number))
	if err != nil {
		return err
	}
	go f.endures(p)
	for {
		p.conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := p.conn.Write(talkFlood); err != nil {
			return nil
		}
	}
}

var talkFlood = bytes.Repeat(masked(frame.Text, true, "blah"), 100)

// Row 3: fragments without end, of a byte or of nothing, are so many and no more.
func fragments(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	payload := []string{"x", ""}[f.rnd.IntN(2)]
	go func() {
		p.conn.Write(masked(frame.Text, false, payload))
		more := bytes.Repeat(masked(frame.Continuation, false, payload), 1<<10)
		for range 1 << 10 {
			if _, err := p.conn.Write(more); err != nil {
				return
			}
		}
	}()
	return f.closed(p, frame.MessageTooBig, fmt.Sprintf("%d fragments", max(128, f.limit()/64)))
}

// Row 3 too: almost a whole message, and then silence, is held for a while and no longer.
func held(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	const parts = 4
	op := frame.Binary
	for i := range parts { // without a mask to speak of: it is the server that is to work
		size := f.limit()/parts - i/(parts-1)
		if _, err := p.conn.Write(append(frame.AppendHeader(nil, frame.Header{Opcode: op, Masked: true, Length: int64(size)}), zeros[:size]...)); err != nil {
			return err
		}
		op = frame.Continuation
	}
	return f.endures(p)
}

var zeros = make([]byte, attackLimit)

// endures waits for the end of the siege, or of the connection; either is right.
func (f *foe) endures(p *person) error {
	defer p.conn.Close()
	p.conn.SetReadDeadline(time.Time{})
	io.Copy(io.Discard, p.r)
	return nil
}

// Row 4: pings, and what comes back is not read.
func pings(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	defer p.conn.Close()
	p.conn.(*net.TCPConn).SetReadBuffer(8 << 10)
	many := 20_000
	if fullAttack {
		many = 400_000
	}
	for range many / pingsAtOnce {
		if _, err := p.conn.Write(pingFlood); err != nil {
			return nil // it is cut off, or the siege is over
		}
	}
	return nil
}

const pingsAtOnce = 500

var pingFlood = bytes.Repeat(masked(frame.Ping, true, strings.Repeat("p", 125)), pingsAtOnce)

// Row 6: handshakes that stay half done.
func halfHandshake(f *foe) error {
	p, err := f.dial()
	if err != nil {
		return err
	}
	request := upgrade(f.addr, "/hostile")
	io.WriteString(p.conn, request[:1+f.rnd.IntN(len(request)-4)])
	return f.endures(p)
}

// Readers of much who read nothing of it.
func slowReader(f *foe) error {
	if f.number == 0 { // who is heard
		p, err := f.join("/loud")
		if err != nil {
			return err
		}
		go f.endures(p)
		for b := masked(frame.Binary, true, strings.Repeat("x", 8<<10)); ; {
			if _, err := p.conn.Write(b); err != nil {
				return err
			}
			select {
			case <-f.siege.Done():
				return nil
			case <-time.After(10 * time.Millisecond): // what is said is much, but no flood
			}
		}
	}
	p, err := f.join("/loud?slow=" + []string{"catch-up", "skip", "latest", "close"}[f.rnd.IntN(4)])
	if err != nil {
		return err
	}
	defer p.conn.Close()
	p.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	<-f.siege.Done()
	return nil
}

// Clients who come and are gone, in all the ways there are.
func vanishing(f *foe) error {
	p, err := f.dial()
	if err != nil {
		return err
	}
	request := upgrade(f.addr, "/hostile", bearer("hostile"))
	switch f.rnd.IntN(4) {
	case 0:
		io.WriteString(p.conn, request[:f.rnd.IntN(len(request))])
	case 1:
		io.WriteString(p.conn, request)
	case 2:
		io.WriteString(p.conn, request+string(masked(frame.Text, true, strings.Repeat("x", 1000))))
	}
	reset(p.conn)
	return nil
}

// Row 7: heads that are too large are refused, and cost little.
func hugeHead(f *foe) error {
	p, err := f.dial()
	if err != nil {
		return err
	}
	defer p.conn.Close()
	much := []string{
		"X: " + strings.Repeat("x", 8<<20) + "\r\n",
		strings.Repeat("X: y\r\n", 4000),
		"Sec-WebSocket-Protocol: " + strings.Repeat("a,", 100_000) + "\r\n",
		"Sec-WebSocket-Extensions: " + strings.Repeat("permessage-deflate; server_max_window_bits=99999, ", 1000) + "x\r\n",
		"Authorization: Bearer " + strings.Repeat("e", 100_000) + "\r\n",
		"Cookie: " + strings.Repeat("a=b; ", 10_000) + "\r\n",
	}[f.rnd.IntN(6)]
	request := upgrade(f.addr, "/hostile")
	go io.WriteString(p.conn, request[:len(request)-2]+much+"\r\n") // the answer comes before all of it is read
	p.conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(p.r, nil)
	switch {
	case err != nil: // what of it was never read resets the connection, and may do so before the answer is
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	case resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge:
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// Bytes of no meaning.
func noise(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	b := make([]byte, 2+f.rnd.IntN(8<<10))
	for i := range b {
		b[i] = byte(f.rnd.Uint32())
	}
	if f.rnd.IntN(2) == 0 {
		b[0], b[1] = 0x81+byte(f.rnd.IntN(2)), 0x80|126
	}
	p.conn.Write(b)
	p.conn.(*net.TCPConn).CloseWrite()
	return f.endures(p)
}

// Row 14: commands that are too much of something. Each is answered with an error.
func commands(f *foe) error {
	p, err := f.join("/-/connect", askV1)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	const mega = attackLimit
	said := []string{
		`{"type":"publish","id":"x","channel":"c","data":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`,
		`{"type":"publish","id":"x","channel":"c","data":` + strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000) + `}`,
		strings.Repeat(`{"type":"subscribe","channel":"c"}`, mega/40),
		"[" + strings.Repeat(`{"type":"subscribe","channel":"c"},`, mega/40) + "{}]",
		`{"type":"subscribe","id":"x","channel":"` + strings.Repeat("a", mega) + `"}`,
		`{"type":"subscribe","id":"x","channel":"` + strings.Repeat("a/", mega/2) + `**"}`,
		`{"type":"` + strings.Repeat("\\u0000", mega/6) + `"}`,
		strings.Repeat(" ", mega),
	}
	for range 4 {
		text := said[f.rnd.IntN(len(said))]
		if _, err := p.conn.Write(masked(frame.Text, true, text)); err != nil {
			return err
		}
		for answered := false; !answered; {
			op, payload, err := p.next()
			switch {
			case err != nil:
				return fmt.Errorf("%.60s: %w", text, err)
			case op == frame.Close:
				return fmt.Errorf("%.60s is closed with %q", text, payload)
			}
			answered = bytes.HasPrefix(payload, []byte(`{"type":"error"`))
		}
	}
	return nil
}

// One who posts as much as goes through.
func posts(f *foe) error {
	p, err := f.dial()
	if err != nil {
		return err
	}
	defer p.conn.Close()
	who := ""
	if !f.stranger {
		who = bearer("hostile") + "\r\n"
	}
	for range 20 {
		fmt.Fprintf(p.conn, "POST /hostile/post HTTP/1.1\r\nHost: x\r\n%sContent-Length: 100\r\n\r\n%s", who, strings.Repeat("x", 100))
		p.conn.SetReadDeadline(time.Now().Add(patience))
		resp, err := http.ReadResponse(p.r, nil)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		switch resp.StatusCode {
		case http.StatusOK, http.StatusUnauthorized, http.StatusTooManyRequests:
		default:
			return fmt.Errorf("answered %s", resp.Status)
		}
	}
	return nil
}

// Row 12: tokens that are none, by every way.
func badToken(f *foe) error {
	token := fmt.Sprintf("eyJhbGciOiJub25lIn0.%x.", f.rnd.Uint64())
	headers, path := []string{"X-Nothing: 1"}, "/hostile"
	switch f.rnd.IntN(4) {
	case 0:
		headers = []string{bearer(token)}
	case 1:
		headers = []string{"Sec-WebSocket-Protocol: fanfare.v1, bearer." + token}
	case 2:
		path += "?token=" + token
	case 3:
		p, resp, err := meet(nil, f.addr, path)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("a stranger is told %v %v", resp, err)
		}
		p.conn.Write(masked(frame.Text, true, `{"type":"auth","token":"`+token+`"}`))
		return f.closed(p, 4401, "")
	}
	p, resp, err := meet(nil, f.addr, path, headers...)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusUnauthorized || strings.Contains(string(body), token) {
		return fmt.Errorf("a bad token is answered %s %s", resp.Status, body)
	}
	return nil
}

// Row 17: closes that are none, and what comes behind one.
func oddClose(f *foe) error {
	p, err := f.join("/hostile")
	if err != nil {
		return err
	}
	c := []struct {
		payload string
		code    frame.Code
	}{
		{"", frame.NoStatus}, {"\x03\xe8", 1000}, {"\x0b\xb8", 3000}, {"\x0f\xa0bye", 4000},
		{"x", 1002}, {"\x00\x00", 1002}, {"\x03\xed", 1002}, {"\x03\xe7", 1002}, {"\x13\x88", 1002}, {"\xff\xff", 1002}, {"\x03\xe8\xff", 1007},
	}[f.rnd.IntN(11)]
	behind := strings.Repeat(string(masked(frame.Close, true, "\x03\xe8"))+string(masked(frame.Text, true, "not heard")), 100)
	p.conn.Write(append(masked(frame.Close, true, c.payload), behind...))
	defer p.conn.Close()
	for {
		op, payload, err := p.next()
		switch {
		case err != nil:
			return err
		case op == frame.Text && !bytes.HasPrefix(payload, []byte("{")):
			return fmt.Errorf("heard behind a close: %q", payload)
		case op != frame.Close:
			continue
		case c.code == frame.NoStatus && len(payload) == 0:
			return nil
		}
		code, _, err := frame.ParseClose(payload)
		if err != nil || code != c.code && c.code != frame.NoStatus {
			return fmt.Errorf("%q is answered %q (%v)", c.payload, payload, err)
		}
		return nil
	}
}
