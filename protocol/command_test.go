package protocol_test

import (
	"strings"
	"testing"

	"fanfare/protocol"
)

// A sentence says what is wrong, where, and what would be right.
func TestSentences(t *testing.T) {
	for text, want := range map[string]string{
		``:                                                   `a message is a JSON object, such as {"type":"ping"}`,
		`{"type":"ping",}`:                                   `the message is not JSON: at byte 15 is '}', where a name in quotes should be`,
		`{"type":"ping"`:                                     `the message is not JSON: it ends after 14 bytes, where "," or "}" should follow`,
		`{"type":"pi`:                                        `the message is not JSON: it ends after 11 bytes, where the quote at a string's end should follow`,
		`{"type":"pi` + "\n" + `ng"}`:                        `the message is not JSON: at byte 11 is '\n', where an escape such as \n instead of a control character should be`,
		`{"type":tru}`:                                       `the message is not JSON: at byte 11 is '}', where true should be`,
		`{"type":"ping","x":-é}`:                             `the message is not JSON: at byte 20 is 'é', where a digit should be`,
		`{"type":"ping"} {}`:                                 `the message is not JSON: at byte 16 is '{', where the end should be`,
		"{\"type\":\"\xff\"}":                                `the message is not UTF-8`,
		`{"id":"1"}`:                                         `the message has no type, such as in {"type":"ping"}`,
		`{"type":"speak"}`:                                   `there is no type "speak"; there are subscribe, unsubscribe, publish, history, presence, request, ping and auth`,
		`{"type":"ping","id":7}`:                             `id is 7, and must be a string in quotes`,
		`{"type":"auth","token":["secret"]}`:                 `token must be a string in quotes`,
		`{"type":"ping","id":""}`:                            `id is empty; leave it out instead`,
		`{"type":"history","limit":0}`:                       `limit is 0, and must be a whole number from 1 to 1000`,
		`{"type":"presence","limit":-1}`:                     `limit is -1, and must be a whole number from 0 to 1000`,
		`{"type":"subscribe","presence":1}`:                  `presence is 1, and must be true or false`,
		`{"type":"subscribe","slow":"fast"}`:                 `slow is "fast"; there are catch-up, skip, latest and close`,
		`{"type":"subscribe","since":"now"}`:                 `since: "now" is no position: it is written epoch-offset, as in 1763800000000-42, and 0 means the oldest message kept`,
		`{"type":"request","method":"time"}`:                 `a request needs an id, such as "1", which its response repeats`,
		`{"type":"request","id":"1"}`:                        `a request needs a method, such as "time"`,
		`{"type":"ping","id":"` + long + `"}`:                `id has 200 bytes, and may have 128`,
		`{"type":"publish","key":["` + long + `"],"data":1}`: `key is ["` + long[:38] + `, and must be a string in quotes`,
		`{"type":"ping","x":` + strings.Repeat("[", 300) + "1" + strings.Repeat("]", 300):   `the message is not JSON: at byte 219 it has more than 200 levels of arrays and objects`,
		`{"type":"publish","data":` + strings.Repeat(`{"a":`, 300) + `1`:                    `data: at byte 1025 it has more than 200 levels of arrays and objects`,
		`{"type":"publish","data":` + strings.Repeat(`{"data":`, 5) + `2` + `}}}}}x}`:       `the message is not JSON: at byte 71 is 'x', where "," or "}" should be`,
		`{"type":"publish","data":"` + strings.Repeat(`\"`, 5) + `\u12g4"}`:                 `the message is not JSON: at byte 40 is 'g', where one of the four hexadecimal digits of \u should be`,
		`{"type":"publish","data":"` + strings.Repeat("plain and long ", 5) + "\x00" + `"}`: `the message is not JSON: at byte 101 is '\x00', where an escape such as \n instead of a control character should be`,
	} {
		if _, err := protocol.ParseCommand([]byte(text)); err == nil || err.Message != want || err.Error() != want {
			t.Errorf("%.100s\n got %v\nwant %s", text, err, want)
		}
	}
	for data, want := range map[string]string{
		``:         `there is no data: it may be any JSON value, such as "Hello", 42, null or {"a":1}`,
		`1 2`:      `data: at byte 2 is '2', where its end should be`,
		`Hello`:    `data: at byte 0 is 'H', where a value should be`,
		"\"\xff\"": `data is not UTF-8; send other bytes as base64, with "encoding":"base64"`,
	} {
		if _, _, err := protocol.PayloadOf([]byte(data), ""); err == nil || err.Message != want {
			t.Errorf("%s\n got %v\nwant %s", data, err, want)
		}
	}
	for data, want := range map[string]string{
		`"AAA"`: `data is not base64 (illegal base64 data at input byte 0): it uses A-Z a-z 0-9 + / and = at the end`,
		`{}`:    `with "encoding":"base64" data is a string of base64`,
	} {
		if _, _, err := protocol.PayloadOf([]byte(data), protocol.Encoding); err == nil || err.Message != want {
			t.Errorf("%s\n got %v\nwant %s", data, err, want)
		}
	}
}

var long = strings.Repeat("i", 200)

// A line of many publishes needs no type, and has no other.
func TestParseLine(t *testing.T) {
	for text, want := range map[string]string{
		`{"data":1}`:                      `{"type":"publish","data":1}`,
		`{"id":"7","key":"k","data":"a"}`: `{"type":"publish","id":"7","key":"k","data":"a"}`,
		`{"type":"publish","data":1}`:     `{"type":"publish","data":1}`,
		`{"type":"ping"}`:                 `unknown_type`,
		`{"type":7}`:                      `bad_json`,
		`{"data":1`:                       `bad_json`,
		``:                                `bad_json`,
		`{"key":1,"data":1}`:              `bad_key`,
		`{"encoding":"base64","data":"AA==","x":[1]}`: `{"type":"publish","encoding":"base64","data":"AA=="}`,
	} {
		c, err := protocol.ParseLine([]byte(text))
		got := string(c.Append(nil))
		if err != nil {
			got = err.Code
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// All beginnings of a message are refused, and all of its bytes replaced do no
// harm; so it is with strings of all lengths, of which eight bytes are looked
// at at once.
func TestCutAnywhere(t *testing.T) {
	whole := []byte(`{"type":"publish","id":"é\u00e9\"","channel":"a","data":{"a":[1,-2.5e+3,true,false,null,"x\n"],"b":{}}}`)
	if _, err := protocol.ParseCommand(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		if _, err := protocol.ParseCommand(whole[:i]); err == nil || err.Code != "bad_json" {
			t.Errorf("%s: %v", whole[:i], err)
		}
	}
	for n := range 40 {
		for _, c := range []string{"\x00", "\x1f", `"`, `\`, "\xff", "\x80", "\n"} {
			inner := strings.Repeat("é ", 20)[:n]
			text := []byte(`"` + inner + c + inner + `"`)
			if protocol.IsJSON(text) != isJSON(text) {
				t.Errorf("IsJSON(%q) = %v", text, protocol.IsJSON(text))
			}
		}
	}
}
