// Package protocol is the conversation fanfare.v1 as pure data: what a client
// and a server say to one another, read from JSON and written as JSON, and how
// a message looks on every face of a channel's URL. It does no I/O and keeps
// no state, so that all its functions may be called from any goroutine.
//
// The law is docs/protocol.md; the vectors in testdata/vectors are its
// examples for machines, which the Go and the browser client's tests read.
//
//   - A [Command] is what a client says: [ParseCommand] is strict about it.
//   - An [Event] is what a server says: [ParseEvent] is lenient about it.
//   - A [Message] is the record of a publication. [AppendMessage] writes it,
//     on one line, from what the broker has.
//   - [PayloadOf] and [DataOf] are the two ways between the JSON of a client
//     and the bytes that a channel keeps.
//
// What does not belong to a conversation's form, such as whether a channel's
// name is good or a message is too big, is the server's to check.
package protocol

// Subprotocol is what a WebSocket client asks for to speak this.
const Subprotocol = "fanfare.v1"

// Encoding is the only encoding of data there is: a string with the bytes of
// a binary message in base64.
const Encoding = "base64"

// MaxLevels is how many levels of arrays and objects a JSON value may have.
// Readers of JSON have limits (jq 256, Python 1,000, Go 10,000), and a page of
// history with one message beyond them could not be read at all.
const MaxLevels = 200

const (
	maxID    = 128  // bytes of an id
	maxKey   = 255  // bytes of a key
	maxLimit = 1000 // messages of a page of history, members of an answer
)

// An Error is why something that was said is refused.
type Error struct {
	Code    string `json:"code"`    // for programs, and stable: docs/protocol.md lists them
	Message string `json:"message"` // a sentence for people: the rule, and what to do
	// Retry is after how many milliseconds the same may be taken; 0: that is not known.
	Retry int `json:"retry,omitempty"`
}

func (e *Error) Error() string { return e.Message }
