package deflate

import (
	"strings"
	"testing"
	"time"
)

func TestAccept(t *testing.T) {
	const fresh = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, tt := range []struct {
		name   string
		header []string
		want   string // the answer; "": none
		keeps  string // the answer with takeover
	}{
		{"nothing", nil, "", ""},
		{"an empty list", []string{" , "}, "", ""},
		{"plain", []string{"permessage-deflate"}, fresh, "permessage-deflate"},
		{"a browser's", []string{"permessage-deflate; client_max_window_bits"}, fresh, "permessage-deflate"},
		{"with a value", []string{"permessage-deflate; client_max_window_bits=12"}, fresh, "permessage-deflate"},
		{"the server's window", []string{"permessage-deflate; server_max_window_bits=12"}, fresh + "; server_max_window_bits=12", "permessage-deflate; server_max_window_bits=12"},
		{"the smallest", []string{"permessage-deflate; server_max_window_bits=8"}, fresh + "; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=8"},
		{"quoted", []string{`permessage-deflate; server_max_window_bits="1\0"`}, fresh + "; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"},
		{"none taken over", []string{"permessage-deflate;server_no_context_takeover;client_no_context_takeover"}, fresh, fresh},
		{"one way", []string{"permessage-deflate; client_no_context_takeover"}, fresh, "permessage-deflate; client_no_context_takeover"},
		{"blanks", []string{"  permessage-deflate \t ; server_max_window_bits \t=\t 15 "}, fresh + "; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"},
		{"another", []string{"x-webkit-deflate-frame"}, "", ""},
		{"behind others", []string{"x-a; b=c, x-d", "permessage-deflate"}, fresh, "permessage-deflate"},
		{"what an object has", []string{"constructor, __proto__; toString"}, "", ""},

		// RFC 7692, sections 7 and 7.1: declined.
		{"an unknown parameter", []string{"permessage-deflate; x"}, "", ""},
		{"twice", []string{"permessage-deflate; client_max_window_bits; client_max_window_bits=10"}, "", ""},
		{"a value too much", []string{"permessage-deflate; server_no_context_takeover=1"}, "", ""},
		{"a value too little", []string{"permessage-deflate; server_max_window_bits"}, "", ""},
		{"too small", []string{"permessage-deflate; server_max_window_bits=7"}, "", ""},
		{"too large", []string{"permessage-deflate; server_max_window_bits=16"}, "", ""},
		{"far too large", []string{"permessage-deflate; client_max_window_bits=99999999999999999999"}, "", ""},
		{"a leading zero", []string{"permessage-deflate; server_max_window_bits=08"}, "", ""},
		{"a sign", []string{"permessage-deflate; server_max_window_bits=+8"}, "", ""},
		{"the next is good", []string{"permessage-deflate; server_max_window_bits=16, permessage-deflate; server_max_window_bits=9, permessage-deflate"},
			fresh + "; server_max_window_bits=9", "permessage-deflate; server_max_window_bits=9"},
	} {
		for takeover, want := range map[bool]string{false: tt.want, true: tt.keeps} {
			p, ok, err := Accept(tt.header, takeover)
			if err != nil || ok != (want != "") || ok && p.String() != want {
				t.Errorf("%s, takeover %v: %q, %v, %v; want %q", tt.name, takeover, p, ok, err, want)
			}
		}
	}
}

// What is no list of extensions fails the handshake, at either end (RFC 6455, section 9.1).
func TestMalformedExtensions(t *testing.T) {
	for _, bad := range []string{
		"permessage-deflate;", "permessage-deflate; =1", "permessage-deflate x", "=", ";", "permessage-deflate; a=",
		`permessage-deflate; a="`, `permessage-deflate; a="\`, `permessage-deflate; a=""`, `permessage-deflate; a="b c"`, `permessage-deflate; a="b"c`,
		"permessage-deflate; a=b=c", "permessage-deflate; a;; b", "perm\u00e9ssage", "a/b", "a\x00", `"permessage-deflate"`,
	} {
		if p, ok, err := Accept([]string{bad}, false); err == nil {
			t.Errorf("offered %q: %v, %v", bad, p, ok)
		}
		if p, ok, err := Check([]string{bad}, false); err == nil {
			t.Errorf("answered %q: %v, %v", bad, p, ok)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		answer   string
		takeover bool
		want     Params
		says     string // the error
	}{
		{"permessage-deflate", true, Params{}, ""},
		{"permessage-deflate", false, Params{}, "leaves out"},
		{"permessage-deflate; server_no_context_takeover", false, Params{ServerNoTakeover: true, ClientNoTakeover: true}, ""},
		{"permessage-deflate; server_no_context_takeover", true, Params{ServerNoTakeover: true}, ""},
		{"permessage-deflate; client_no_context_takeover; client_max_window_bits=9; server_max_window_bits=10", true, Params{ClientNoTakeover: true, ClientBits: 9, ServerBits: 10}, ""},
		{"permessage-deflate; client_max_window_bits", true, Params{}, "from 8 to 15"},
		{"permessage-deflate; server_max_window_bits", true, Params{}, "from 8 to 15"},
		{"permessage-deflate; server_max_window_bits=99999", true, Params{}, "from 8 to 15"},
		{"permessage-deflate; client_no_context_takeover=x", true, Params{}, "has a value"},
		{"permessage-deflate; x", true, Params{}, "unknown"},
		{"permessage-deflate; server_no_context_takeover; server_no_context_takeover", true, Params{}, "twice"},
		{"permessage-deflate, permessage-deflate", true, Params{}, "not offered"},
		{"x-other", true, Params{}, "not offered"},
		{"", true, Params{}, "no list"},
	} {
		p, ok, err := Check([]string{tt.answer}, tt.takeover)
		if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) || tt.says == "" && (err != nil || !ok || p != tt.want) {
			t.Errorf("%q, takeover %v: %+v, %v, %v; want %+v, %q", tt.answer, tt.takeover, p, ok, err, tt.want, tt.says)
		}
	}
	if p, ok, err := Check(nil, false); ok || err != nil {
		t.Errorf("no answer: %v, %v, %v", p, ok, err)
	}
}

// What one end offers the other can accept, and its answer passes.
func TestOfferIsAccepted(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, server := range []bool{false, true} {
			p, ok, err := Accept([]string{Offer(client)}, server)
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			q, ok, err := Check([]string{p.String()}, client)
			if err != nil || !ok || q != p {
				t.Errorf("client %v, server %v: %v became %v, %v", client, server, p, q, err)
			}
		}
	}
}

// Time is linear in the header's size, whatever is in it.
func TestHostileHeaders(t *testing.T) {
	for name, one := range map[string]string{
		"blanks": " ", "commas": ",", "semicolons": ";", "offers": "permessage-deflate,", "parameters": "a;a=b;",
		"quotes": `a;b="`, "backslashes": `\`, "the same parameter": "permessage-deflate; client_max_window_bits;",
	} {
		for _, before := range []string{"", "permessage-deflate", `permessage-deflate; a="`} {
			header := []string{before + strings.Repeat(one, (1<<20)/len(one)) + "x"}
			begin := time.Now()
			_, _, _ = Accept(header, false)
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("1 MiB of %s behind %q took %v", name, before, took)
			}
		}
	}
}

func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"permessage-deflate; client_max_window_bits", `permessage-deflate; server_max_window_bits="1\0", x`, "a;b=c,,d", Offer(false)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		p, ok, err := Accept([]string{header}, true)
		if ok && err != nil {
			t.Fatal(ok, err)
		}
		if !ok {
			return
		}
		// The answer is made of our words only, and can be read.
		q, ok, err := Check([]string{p.String()}, true)
		if !ok || err != nil || p != q {
			t.Fatalf("%q became %v, %v, %v", p, q, ok, err)
		}
	})
}
